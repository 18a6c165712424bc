package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/encoder/plan"
)

// bare encodes with one ffmpeg what the pipeline would.
func bare(ctx context.Context, o options, file, dir string) (result, error) {
	target, err := os.MkdirTemp(dir, "bare-")
	if err != nil {
		return result{}, err
	}
	profile := plan.Default(o.threads)
	for len(profile.Rungs) > 1 && profile.Rungs[0] > o.height {
		profile.Rungs = profile.Rungs[1:]
	}
	rungs := plan.Ladder(1920, 1080, 30, profile.Rungs)
	filter := fmt.Sprintf("[0:v]split=%d", len(rungs))
	var scales, outputs []string
	for i, r := range rungs {
		filter += fmt.Sprintf("[s%d]", i)
		scales = append(scales, fmt.Sprintf("[s%d]scale=%d:%d:flags=bicubic,format=yuv420p[o%d]", i, r.Width, r.Height, i))
		outputs = append(outputs, hlsOutput(fmt.Sprintf("[o%d]", i), filepath.Join(target, r.ID), "-c:v", "libx264", "-preset", profile.Preset,
			"-crf", strconv.Itoa(profile.CRF), "-threads", strconv.Itoa(profile.Threads), "-maxrate", strconv.FormatInt(r.MaxRate, 10),
			"-bufsize", strconv.FormatInt(r.BufferSize, 10), "-profile:v", "high", "-sc_threshold", "0", "-g", "1000000",
			"-force_key_frames", fmt.Sprintf("expr:gte(t,n_forced*%d)", profile.SegmentSeconds))...)
	}
	outputs = append(outputs, hlsOutput("0:a", filepath.Join(target, "audio"), "-c:a", "aac", "-b:a", strconv.FormatInt(profile.AudioBitrate, 10), "-ac", "2", "-ar", strconv.Itoa(plan.SampleRate))...)
	args := append([]string{"-v", "error", "-nostdin", "-i", file, "-filter_complex", filter + ";" + strings.Join(scales, ";")}, outputs...)
	cmd := exec.CommandContext(ctx, "ffmpeg", args...)
	start := time.Now()
	if b, err := cmd.CombinedOutput(); err != nil {
		return result{}, fmt.Errorf("bare ffmpeg: %w: %s", err, b)
	}
	return result{wall: time.Since(start), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, os.RemoveAll(target)
}

func hlsOutput(stream, base string, codec ...string) []string {
	a := append([]string{"-map", stream}, codec...)
	return append(a, "-f", "hls", "-hls_time", "2", "-hls_segment_type", "fmp4", "-hls_playlist_type", "vod",
		"-hls_fmp4_init_filename", filepath.Base(base)+"-init.mp4", "-hls_segment_filename", base+"-%05d.m4s", base+".m3u8")
}
