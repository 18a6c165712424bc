package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

// quality is how near a rung comes to its source.
type quality struct {
	// ssim of luma, 0 to 1; psnr of luma in dB.
	ssim, psnr float64
}

var (
	ssimLine = regexp.MustCompile(`SSIM Y:([0-9.]+)`)
	psnrLine = regexp.MustCompile(`PSNR y:([0-9.]+|inf)`)
)

// compare measures an encode against its source, both in the source's size.
func compare(ctx context.Context, encoded []byte, source, path string) (quality, error) {
	if err := os.WriteFile(path, encoded, 0o600); err != nil {
		return quality{}, err
	}
	graph := "[1:v]setpts=PTS-STARTPTS,format=yuv420p,split=3[r0][r1][r2];[0:v]setpts=PTS-STARTPTS[e];[e][r0]scale2ref=flags=bicubic[s][r];[r]nullsink;" +
		"[s]format=yuv420p,split=2[a][b];[a][r1]ssim[o0];[b][r2]psnr[o1]"
	cmd := exec.CommandContext(ctx, "ffmpeg", "-hide_banner", "-nostats", "-nostdin", "-i", path, "-i", source, "-filter_complex", graph,
		"-map", "[o0]", "-f", "null", "-", "-map", "[o1]", "-f", "null", "-")
	log, err := cmd.CombinedOutput()
	if err != nil {
		return quality{}, fmt.Errorf("compare: %w: %s", err, log[max(0, len(log)-2000):])
	}
	value := func(r *regexp.Regexp) (float64, error) {
		m := r.FindSubmatch(log)
		if m == nil {
			return 0, fmt.Errorf("compare: ffmpeg didn't tell %s", r)
		}
		return strconv.ParseFloat(string(m[1]), 64)
	}
	var q quality
	if q.ssim, err = value(ssimLine); err != nil {
		return quality{}, err
	}
	q.psnr, err = value(psnrLine)
	return q, err
}
