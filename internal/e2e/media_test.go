package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sample(name string) string { return filepath.Join("..", "..", "testdata", "media", name) }

// longer loops a sample by stream copy to the given length in seconds.
func longer(t *testing.T, name string, seconds int) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), strconv.Itoa(seconds)+"s-"+name)
	ff(t, "ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", sample(name), "-t", strconv.Itoa(seconds), "-c", "copy", "-movflags", "+faststart", out)
	return out
}

// withTone adds a sine wave as the audio track of a sample, looped to a length in seconds.
func withTone(t *testing.T, name string, seconds int) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), strconv.Itoa(seconds)+"s-tone-"+name)
	ff(t, "ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", sample(name), "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000",
		"-t", strconv.Itoa(seconds), "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "aac", "-movflags", "+faststart", out)
	return out
}

func ff(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	require.NoError(t, cmd.Run(), "%s\n%s", strings.Join(args, " "), &errOut)
	return out.Bytes()
}

// frames counts the decoded frames of the first video stream of a file or URL.
func frames(t *testing.T, input string) int {
	t.Helper()
	b := ff(t, "ffprobe", "-v", "error", "-select_streams", "v:0", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "json", input)
	var probe struct {
		Streams []struct {
			Frames string `json:"nb_read_frames"`
		} `json:"streams"`
	}
	require.NoError(t, json.Unmarshal(b, &probe))
	require.NotEmpty(t, probe.Streams, "%s has no video", input)
	n, err := strconv.Atoi(probe.Streams[0].Frames)
	require.NoError(t, err)
	return n
}
