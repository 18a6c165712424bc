package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meridian-video/meridian/internal/hls/validate"
)

// FF runs a program of the ffmpeg family and returns what it printed.
func FF(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, &errOut)
	}
	return out.Bytes()
}

// Check reads a stream as `meridian hls check --follow` does, every segment included, until
// it has ended, and returns everything that is wrong with it.
func Check(ctx context.Context, master string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	u, err := url.Parse(master)
	if err != nil {
		return err
	}
	report, err := validate.Check(ctx, validate.HTTP{}, u, validate.Options{Follow: true})
	errs := []error{err}
	for _, p := range report.Problems {
		errs = append(errs, errors.New(p.String()))
	}
	if err == nil && (!report.Ended || report.Segments == 0) {
		errs = append(errs, fmt.Errorf("%s: %d segments, ended: %v", master, report.Segments, report.Ended))
	}
	return errors.Join(errs...)
}

// Frames counts the decoded frames of the first video stream of a file or URL. What is
// streamed is checked, too.
func Frames(t *testing.T, input string) int {
	t.Helper()
	if strings.HasPrefix(input, "http") {
		if err := Check(t.Context(), input); err != nil {
			t.Fatal(err)
		}
	}
	b := FF(t, "ffprobe", "-v", "error", "-select_streams", "v:0", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "json", input)
	var probe struct {
		Streams []struct {
			Frames string `json:"nb_read_frames"`
		} `json:"streams"`
	}
	if err := json.Unmarshal(b, &probe); err != nil || len(probe.Streams) == 0 {
		t.Fatalf("%s has no video: %v\n%s", input, err, b)
	}
	n, err := strconv.Atoi(probe.Streams[0].Frames)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
