package encoder

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
)

// pictures are the hashes of every decoded frame.
func pictures(t testing.TB, path string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ffmpeg", "-v", "error", "-i", path, "-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-").Output()
	require.NoError(t, err)
	var sums []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "#") {
			fields := strings.Split(line, ",")
			sums = append(sums, strings.TrimSpace(fields[len(fields)-1]))
		}
	}
	return sums
}

// TestCopy: a source that is fit for it is its own highest rung, frame by frame
// and on the same grid as the others, also when taken over in the middle.
func TestCopy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		copy bool
	}{
		"two seconds": {[]string{"-g", "50", "-keyint_min", "50"}, true},
		"one second":  {[]string{"-g", "25", "-keyint_min", "25"}, true},
		"off grid":    {[]string{"-g", "40", "-keyint_min", "40"}, false},
		"open":        {[]string{"-g", "50", "-keyint_min", "50", "-x264-params", "open-gop=1"}, false},
		"ten bit":     {[]string{"-g", "50", "-keyint_min", "50", "-pix_fmt", "yuv420p10le"}, false},
		"heavy":       {[]string{"-g", "50", "-keyint_min", "50", "-qp", "1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=7", "-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-sc_threshold", "0", "-pix_fmt", "yuv420p"}, c.args...)
			file := makeFile(t, "source.mp4", args...)
			b := newBench(t, file, nil)
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
			last := b.board.plan.Tracks[len(b.board.plan.Tracks)-1]
			require.Equal(t, c.copy, last.ID == "vc", "tracks up to %s", last.ID)
			if !c.copy {
				return
			}
			require.Len(t, b.board.plan.Tracks, 2)
			require.Equal(t, "v240", b.board.plan.Tracks[0].Renditions[0].ID)
			p := b.encode(t)
			want := pictures(t, file)
			check := func() {
				path := filepath.Join(t.TempDir(), "copy.mp4")
				require.NoError(t, os.WriteFile(path, b.joined(t, "vc", "v360"), 0o600))
				require.Equal(t, want, pictures(t, path))
				encoded, copied := packets(t, b.joined(t, "v0", "v240")), packets(t, b.joined(t, "vc", "v360"))
				require.Len(t, encoded, len(want))
				// ffprobe shows a stream with reordered frames later by their delay.
				delay := copied[0] - encoded[0]
				for i := range copied {
					require.Equal(t, encoded[i]+delay, copied[i])
				}
				checkRecords(t, b, "vc")
				checkStream(t, b)
			}
			check()
			require.Len(t, p.Tracks[0].Chunks, len(p.Tracks[1].Chunks))
			for n := 1; n < len(p.Tracks[1].Chunks); n++ {
				delete(b.board.chunks["vc"], n)
			}
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "vc", 0, 2)))
			require.Equal(t, 2, b.board.chunks["vc"][1].Attempt)
			check()
		})
	}
}

// TestCopyFallsBack: what can't be copied after all is encoded.
func TestCopyFallsBack(t *testing.T) {
	t.Parallel()
	b := newBench(t, makeFile(t, "source.mp4", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=4", "-c:v", "libx264", "-preset", "veryfast", "-g", "50", "-sc_threshold", "0", "-pix_fmt", "yuv420p"), nil)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	b.board.failures = copyAttempts
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "vc", 0, 3)))
	require.Len(t, packets(t, b.joined(t, "vc", "v360")), 100)
	var spec plan.VideoTrack
	tr, err := trackOf(*b.board.plan, "vc", &spec)
	require.NoError(t, err)
	require.Equal(t, hls.Video, tr.Kind)
	require.Equal(t, "v"+strconv.Itoa(360), spec.Rungs[0].ID)

	off := newBench(t, filepath.Join("..", "testdata", "media", "bikes-noaudio.mp4"), func(o *Options) { o.Profile.Copy = false })
	require.NoError(t, off.Handle(t.Context(), off.task(catalog.KindPlan, "", 0, 1)))
	require.Len(t, off.board.plan.Tracks, 1)
}
