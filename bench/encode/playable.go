package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/bench/proc"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
)

const (
	// viewerWatches is how long a viewer follows the encode, from the first picture on.
	viewerWatches = 30 * time.Second
	// endWithin is how long a deleted asset's encode may go on.
	endWithin = 10 * time.Second
)

// first is how a video begins for whoever waits for it.
type first struct {
	// playable is from the upload's acknowledgement to the first parts.
	playable time.Duration
	// lead is the least that was published ahead of a viewer who began then, in
	// seconds of video; watched is for how long they were followed.
	lead    float64
	watched time.Duration
	// ended is from the asset's deletion until no ffmpeg ran.
	ended time.Duration
	// before is what the time until playable went to.
	before []string
}

// firsts prints how long videos of several lengths take to be playable.
func firsts(ctx context.Context, o options, p *pipeline, dir string, out io.Writer) error {
	fmt.Fprintln(out, "| Source | Length | Playable after | Least lead of a viewer | Followed for | ffmpeg ended after deletion | Until playable |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|")
	of := []kind{{"H.264, 1080p30", o.source, containers["mp4"]}, {"VP9, 1080p24", o.vp9, containers["mp4"]}}
	if len(o.unindexed) > 0 {
		var err error
		if of, err = unindexed(ctx, o, dir); err != nil {
			return err
		}
	}
	for _, s := range of {
		for _, length := range o.lengths {
			file := filepath.Join(dir, "long")
			if err := repeat(ctx, s.source, file, length, s.container...); err != nil {
				return err
			}
			f, err := p.first(ctx, file)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", s.name, length, err)
			}
			fmt.Fprintf(out, "| %s | %s | %.2f s | %.1f s | %.0f s | %.2f s | %s |\n", s.name, length, f.playable.Seconds(), f.lead, f.watched.Seconds(), f.ended.Seconds(), strings.Join(f.before, ", "))
			if err := os.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// kind of source.
type kind struct {
	name, source string
	container    []string
}

// unindexed are sources whose container has no index, of ten seconds.
func unindexed(ctx context.Context, o options, dir string) ([]kind, error) {
	var out []kind
	for _, k := range []struct {
		short, name  string
		encode, kind []string
	}{
		{"flv", "FLV, H.264, 1080p30", []string{"-c", "copy"}, []string{"-f", "flv"}},
		{"avi", "AVI, MPEG-4, 1080p30", []string{"-c:v", "mpeg4", "-b:v", "6M", "-bf", "2", "-c:a", "libmp3lame"}, []string{"-f", "avi"}},
		{"ts", "MPEG-TS, MPEG-2, 1080i", []string{"-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-b:v", "10M", "-bf", "2", "-g", "15", "-c:a", "mp2"}, []string{"-f", "mpegts"}},
		{"ps", "MPEG-PS, MPEG-2, 1080i", []string{"-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-b:v", "8M", "-maxrate", "9M", "-bufsize", "2M", "-bf", "2", "-g", "15", "-c:a", "mp2"}, []string{"-f", "vob"}},
		{"asf", "ASF, WMV 8, 1080p30", []string{"-c:v", "wmv2", "-b:v", "8M", "-c:a", "wmav2", "-ac", "2"}, []string{"-f", "asf"}},
	} {
		if !slices.Contains(o.unindexed, k.short) {
			continue
		}
		file := filepath.Join(dir, "short-"+strconv.Itoa(len(out))+".mkv")
		args := append([]string{"-v", "error", "-nostdin", "-y", "-i", o.source, "-t", "10", "-map", "0:v:0", "-map", "0:a:0"}, k.encode...)
		if b, err := exec.CommandContext(ctx, "ffmpeg", append(args, file)...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make a source of %s: %w: %s", k.name, err, b)
		}
		out = append(out, kind{k.name, file, k.kind})
	}
	return out, nil
}

// containers are what ffmpeg is told for each.
var containers = map[string][]string{
	"mp4":        {"-f", "mp4", "-movflags", "+faststart"},
	"fragmented": {"-f", "mp4", "-movflags", "+frag_keyframe+empty_moov"},
	"mpegts":     {"-f", "mpegts"},
	"matroska":   {"-f", "matroska"},
	"webm":       {"-f", "webm", "-c:a", "libopus"},
}

// repeat makes a file of the given length from a short one, without encoding its picture.
func repeat(ctx context.Context, source, file string, length time.Duration, container ...string) error {
	args := []string{"-v", "error", "-nostdin", "-y", "-stream_loop", "-1", "-i", source,
		"-t", strconv.FormatFloat(length.Seconds(), 'f', 3, 64), "-map", "0:v:0", "-map", "0:a:0?", "-c", "copy"}
	loop := exec.CommandContext(ctx, "ffmpeg", append(append(args, container...), file)...)
	if b, err := loop.CombinedOutput(); err != nil {
		return fmt.Errorf("make a source of %s: %w: %s", length, err, b)
	}
	return nil
}

// first uploads a file, follows the encode for a while and deletes the asset.
func (p *pipeline) first(ctx context.Context, file string) (f first, err error) {
	asset, upload, err := p.upload(ctx, file)
	if err != nil {
		return f, err
	}
	if err := p.remember(ctx); err != nil {
		return f, err
	}
	cpu, err := cpuByName()
	if err != nil {
		return f, err
	}
	start := time.Now()
	if _, err := p.cat.FinishUpload(ctx, upload); err != nil {
		return f, err
	}
	a, err := p.await(ctx, asset, catalog.Playable, catalog.Ready)
	if err != nil {
		return f, err
	}
	f.playable = time.Since(start)
	if f.before, err = p.stages(ctx); err != nil {
		return f, err
	}
	after, err := cpuByName()
	if err != nil {
		return f, err
	}
	for name, v := range after {
		if d := v - cpu[name]; d >= 10*proc.Tick {
			f.before = append(f.before, fmt.Sprintf("%s %.1f s CPU", name, d.Seconds()))
		}
	}
	began := time.Now()
	f.lead = 1e9
	for f.watched < viewerWatches {
		tracks, err := p.published(ctx, a)
		if err != nil {
			return f, err
		}
		f.watched = time.Since(began)
		for _, t := range tracks {
			if !t.whole {
				f.lead = min(f.lead, t.seconds-f.watched.Seconds())
			}
		}
		if !slices.ContainsFunc(tracks, func(t publishedTrack) bool { return !t.whole }) {
			break // no viewer can overtake it any more
		}
		select {
		case <-ctx.Done():
			return f, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	if f.lead == 1e9 {
		f.lead = 0
	}
	deleted := time.Now()
	if err := p.cat.DeleteAsset(ctx, owner, asset); err != nil {
		return f, err
	}
	err = untilIdle(ctx)
	f.ended = time.Since(deleted)
	return f, err
}

// untilIdle waits until no ffmpeg runs.
func untilIdle(ctx context.Context) error {
	for began := time.Now(); ; {
		running, err := cpuByName()
		_, encodes := running["ffmpeg"]
		switch {
		case err != nil || !encodes:
			return err
		case time.Since(began) > endWithin:
			return fmt.Errorf("ffmpeg runs %s after its asset was deleted", endWithin)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// publishedTrack is how much of a track can be watched.
type publishedTrack struct {
	seconds float64
	whole   bool
}

// published are the tracks that playback began with.
func (p *pipeline) published(ctx context.Context, a catalog.Asset) ([]publishedTrack, error) {
	pl, err := p.cat.RunPlan(ctx, a.ID, a.CurrentRun)
	if err != nil {
		return nil, err
	}
	var out []publishedTrack
	for _, t := range pl.Tracks {
		if t.Late || t.Kind == hls.Text {
			continue
		}
		records, err := p.cat.CommittedChunks(ctx, a.ID, a.CurrentRun, t.ID)
		if err != nil {
			return nil, err
		}
		var pt publishedTrack
		// In order, without gaps: what comes after one isn't published.
		slices.SortFunc(records, func(x, y hls.Record) int { return x.Chunk - y.Chunk })
		for i, r := range records {
			if r.Chunk != i {
				break
			}
			for _, rendition := range r.Renditions {
				for _, s := range rendition.Segments {
					pt.seconds += float64(s.Duration) / float64(r.Timescale)
				}
				break // all have the same
			}
			pt.whole = r.Last
		}
		out = append(out, pt)
	}
	return out, nil
}
