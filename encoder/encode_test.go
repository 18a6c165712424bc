package encoder

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/cli"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/testenv"
)

// workerEnv makes this program a worker, for tests that end one's process.
const workerEnv = "MERIDIAN_TEST_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		mountSmallDisk()
		os.Exit(cli.Main(os.Args[1:], &struct {
			Encoder Command `cmd:""`
		}{}))
	}
	// Many wait for leases and other processes: as many tests at a time as there are
	// processors would leave these idle.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m,
		// The S3 client's idle connections, which it has no way to close.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"))
}

// packets are the presentation times of a file's first stream, in its time base, sorted.
func packets(t testing.TB, data []byte) []int64 {
	t.Helper()
	path := filepath.Join(t.TempDir(), "joined.mp4")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	out, err := exec.CommandContext(t.Context(), "ffprobe", "-v", "error", "-show_entries", "packet=pts", "-of", "csv=p=0", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	var pts []int64
	for _, l := range trimLines(string(out)) {
		n, err := strconv.ParseInt(l, 10, 64)
		require.NoError(t, err)
		pts = append(pts, n)
	}
	slices.Sort(pts)
	return pts
}

// decoded counts the frames a decoder shows.
func decoded(t testing.TB, data []byte) int {
	t.Helper()
	path := filepath.Join(t.TempDir(), "joined.mp4")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	out, err := exec.CommandContext(t.Context(), "ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	n, err := strconv.Atoi(trimLines(string(out))[0])
	require.NoError(t, err, "%s", out)
	return n
}

func TestEncodeFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file          string
		frames        int64
		width, height int
		audio         int
		// long rows are those of which other tests decode every frame: TestShortFilm,
		// TestWorkersOnTheRealQueue and TestEncodedAnew.
		long bool
	}{
		{"bbb-1080p30.mp4", 300, 640, 360, 1, true},
		{"small-426x240-27s.mp4", 816, 426, 240, 1, true},
		{"bbb-rotated-180.mov", 49, 426, 240, 1, false},
		{"vp9-in-mp4.mp4", 24, 640, 360, 1, false},
		{"chaplin-mp3audio.mp4", 241, 640, 360, 1, false},
		{"bikes-noaudio.mp4", 250, 640, 272, 0, true},
		{"no-duration.webm", 74, 640, 360, 1, false},
	} {
		t.Run(c.file, func(t *testing.T) {
			if c.long {
				testenv.Long(t)
			}
			b := newBench(t, mediaFile(c.file), nil)
			p := b.encode(t)
			require.Equal(t, c.frames, p.Frames)
			video := p.Tracks[0]
			require.Equal(t, hls.Video, video.Kind)
			require.Equal(t, c.width, video.Renditions[0].Width)
			require.Equal(t, c.height, video.Renditions[0].Height)
			require.Len(t, p.Tracks, 1+c.audio)
			for _, r := range video.Renditions {
				data := b.joined(t, video.ID, r.ID)
				pts := packets(t, data)
				require.Len(t, pts, int(c.frames))
				require.Zero(t, pts[0])
				require.Less(t, pts[len(pts)-1], video.Chunks[len(video.Chunks)-1].End)
				require.Equal(t, int(c.frames), decoded(t, data))
			}
			checkRecords(t, b, video.ID)
			for _, tr := range p.Tracks[1:] {
				checkRecords(t, b, tr.ID)
				pts := packets(t, b.joined(t, tr.ID, tr.Renditions[0].ID))
				for i, v := range pts {
					require.EqualValues(t, i*1024, v)
				}
				length := float64(len(pts)) * 1024 / plan.SampleRate
				require.InDelta(t, plan.Duration(p).Seconds(), length, 0.15)
			}
		})
	}
}

// watched is a claim whose commits are looked at.
type watched struct {
	*claim
	commit func(catalog.ChunkCommit)
}

func (w watched) CommitChunk(ctx context.Context, ch catalog.ChunkCommit) error {
	w.commit(ch)
	return w.claim.CommitChunk(ctx, ch)
}

// TestShortFilm is encoded by one process, which publishes the first chunk while it
// goes on, and then makes way for other films. Whoever takes over after that has the
// rest to do.
func TestShortFilm(t *testing.T) {
	t.Parallel()
	b := newBench(t, mediaFile("bbb-1080p30.mp4"), func(o *Options) { o.Profile.Preset = "medium" })
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	chunks := b.board.plan.Tracks[0].Chunks
	require.Greater(t, len(chunks), 2)
	for _, c := range chunks[1:] {
		require.True(t, c.Joined)
	}
	lost := errors.New("the lease is lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	first := b.task(catalog.KindVideo, "v0", 0, 1)
	first.Class = catalog.First
	c := first.Claim.(*claim)
	first.Claim = watched{c, func(ch catalog.ChunkCommit) {
		require.True(t, ch.More)
		if ch.Record.Chunk > 0 {
			require.True(t, c.drained.Load())
			cancel(lost)
		}
	}}
	require.ErrorIs(t, b.Handle(ctx, first), lost)
	require.Contains(t, b.board.chunks["v0"], 0)
	require.NotContains(t, b.board.chunks["v0"], len(chunks)-1)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", 0, 2)))
	checkRecords(t, b, "v0")
	require.Equal(t, 1, b.board.chunks["v0"][0].Attempt)
	require.Equal(t, 2, b.board.chunks["v0"][len(chunks)-1].Attempt)
	require.Equal(t, 300, decoded(t, b.joined(t, "v0", "v360")))
}

// checkRecords asserts that a track's records join without gap and end.
func checkRecords(t testing.TB, b *bench, track string) {
	t.Helper()
	records := b.board.chunks[track]
	at := int64(0)
	for i := range len(records) {
		r := records[i]
		require.Equal(t, at, r.Start, "chunk %d", i)
		at = r.End()
		require.Equal(t, i == len(records)-1, r.Last)
	}
	require.NotEmpty(t, records)
}
