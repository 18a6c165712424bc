package e2e

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/meridian-video/meridian/internal/e2e/stack"
)

func sample(name string) string { return filepath.Join("..", "..", "testdata", "media", name) }

// longer loops a sample by stream copy to the given length in seconds.
func longer(t *testing.T, name string, seconds int) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), strconv.Itoa(seconds)+"s-"+name)
	stack.FF(t, "ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", sample(name), "-t", strconv.Itoa(seconds), "-c", "copy", "-movflags", "+faststart", out)
	return out
}

// withTone adds a sine wave as the audio track of a sample, looped to a length in seconds.
func withTone(t *testing.T, name string, seconds int) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), strconv.Itoa(seconds)+"s-tone-"+name)
	stack.FF(t, "ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", sample(name), "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000",
		"-t", strconv.Itoa(seconds), "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "aac", "-movflags", "+faststart", out)
	return out
}
