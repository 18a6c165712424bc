package ffmpeg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// maxPicture bounds one small picture, and a description of a program.
const maxPicture = 1 << 20

// x264 tells its version and options with the first picture it writes.
var x264Version = regexp.MustCompile(`x264 - core ([0-9A-Za-z .+-]{1,60}?) - H\.264`)

// Build names what encodes here: ffmpeg, and the x264 it uses, which distributions replace
// without it.
func Build(ctx context.Context, l Limits) (string, error) {
	out, err := Run(ctx, Command{Name: "ffprobe", Limits: l,
		Args: []string{"-hide_banner", "-loglevel", "error", "-show_program_version", "-of", "json", "-o", OutputPath(0)}}, maxPicture)
	if err != nil {
		return "", fmt.Errorf("ask ffprobe for its version: %w", err)
	}
	var said struct {
		Program struct {
			Version string `json:"version"`
		} `json:"program_version"`
	}
	if err := json.Unmarshal(out, &said); err != nil || said.Program.Version == "" {
		return "", errors.Join(errors.New("ffprobe doesn't tell its version"), err)
	}
	args := append(common(), "-f", "lavfi", "-i", "color=s=64x64", "-frames:v", "1", "-c:v", "libx264", "-preset", "ultrafast", "-f", "h264", OutputPath(0))
	picture, err := Run(ctx, Command{Name: "ffmpeg", Limits: l, Args: args}, maxPicture)
	if err != nil {
		return "", fmt.Errorf("encode a picture: %w", err)
	}
	m := x264Version.FindSubmatch(picture)
	if m == nil {
		return "", errors.New("x264 doesn't tell its version")
	}
	return fmt.Sprintf("ffmpeg %s, x264 %s", said.Program.Version, m[1]), nil
}

// A second of a test pattern.
const (
	patternWidth, patternHeight = 1280, 720
	patternFrames               = 30
)

// EncodePattern encodes a second of a test pattern into nothing. It returns how many pixels
// that were, and the processor time they took.
func EncodePattern(ctx context.Context, l Limits, preset string, crf, threads int) (pixels float64, cpu time.Duration, err error) {
	args := append(common(), "-f", "lavfi", "-i", fmt.Sprintf("testsrc2=size=%dx%d:rate=%d", patternWidth, patternHeight, patternFrames),
		"-frames:v", strconv.Itoa(patternFrames), "-c:v", "libx264", "-preset", preset, "-crf", strconv.Itoa(crf), "-threads", strconv.Itoa(threads), "-f", "null", "-")
	p, err := Start(ctx, Command{Name: "ffmpeg", Limits: l, Args: args})
	if err != nil {
		return 0, 0, err
	}
	if err := p.Wait(); err != nil {
		return 0, 0, fmt.Errorf("encode a test pattern: %w", err)
	}
	return patternWidth * patternHeight * patternFrames, p.CPU(), nil
}
