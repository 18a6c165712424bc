package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
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

// Frames counts the decoded frames of the first video stream of a file or URL.
func Frames(t *testing.T, input string) int {
	t.Helper()
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
