package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// sample is a video to compare on.
type sample struct {
	name string
	// input are ffmpeg's options that make it.
	input []string
}

// samples lists them from simple to complex. The film is a file.
func samples() []sample {
	lavfi := func(graph string) []string { return []string{"-f", "lavfi", "-i", graph, "-t", "10"} }
	return []sample{
		{"slides", lavfi("mandelbrot=s=1920x1080:r=30,trim=end_frame=1,loop=89:1,setpts=N/30/TB[a];smptehdbars=s=1920x1080:r=30:d=3[b];" +
			"testsrc=s=1920x1080:r=30,trim=end_frame=1,loop=89:1,setpts=N/30/TB[c];rgbtestsrc=s=1920x1080:r=30:d=3[d];[a][b][c][d]concat=n=4")},
		{"testsrc2", lavfi("testsrc2=s=1920x1080:r=30")},
		{"film", nil},
		{"confetti", lavfi("life=s=240x135:r=30:mold=10:ratio=0.3:seed=1:death_color=#C83232:life_color=#00ff00,scale=1920:1080:flags=neighbor")},
	}
}

// make writes a sample to dir and returns its path.
func (s sample) make(ctx context.Context, film, dir string) (string, error) {
	if s.input == nil {
		return film, nil
	}
	path := filepath.Join(dir, "source.mp4")
	args := append([]string{"-v", "error", "-nostdin", "-y"}, s.input...)
	args = append(args, "-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p", "-g", "250", "-bf", "2", path)
	if b, err := exec.CommandContext(ctx, "ffmpeg", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("make %s: %w: %s", s.name, err, b)
	}
	return path, nil
}
