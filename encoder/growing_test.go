package encoder

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/testenv"
)

// streamed is the dense file in a container that tells its frames as they come.
func streamed(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	dense := filepath.Join(t.TempDir(), "dense.mp4")
	require.NoError(t, os.WriteFile(dense, denseFile(t), 0o600))
	b, err := os.ReadFile(makeFile(t, name, append([]string{"-i", dense, "-map", "0", "-c", "copy"}, args...)...))
	require.NoError(t, err)
	return b
}

// containers whose frames are known only as they come.
var containers = map[string][]string{
	"film.ts":  nil,
	"film.mkv": nil,
	// Fragments that begin anywhere, with several keyframes in each.
	"fragments.mp4": {"-movflags", "+empty_moov", "-frag_duration", "2700000"},
	"film.webm":     {"-vf", "scale=426:240", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "3M", "-minrate", "3M", "-g", "30", "-c:a", "libopus"},
}

// growing are options with tasks of a few seconds.
func growing(o *Options) {
	o.Profile.MaxChunk, o.Profile.Copy, o.Profile.PerTitle.Enabled = 3, false, false
}

// grows makes a source arrive as its plan asks for it, up to most bytes, and does every
// video task as soon as there is one. It returns how many chunks there were before the end.
func (b *bench) grows(t testing.TB, data []byte, most int64) (early int) {
	t.Helper()
	done := map[string]int{}
	for attempt, there := 1, int64(2<<20); ; attempt++ {
		require.Less(t, attempt, 20)
		there = min(there, most)
		b.arrives(data, there)
		b.board.awaited = nil
		require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, attempt)))
		if b.board.plan != nil {
			for _, tr := range b.board.plan.Tracks {
				for i, c := range tr.Chunks {
					if tr.Kind == hls.Video && i >= done[tr.ID] && !c.Joined {
						require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, tr.ID, i, 1)))
					}
				}
				done[tr.ID] = len(tr.Chunks)
			}
		}
		if there == int64(len(data)) || there == most {
			return early
		}
		early = done["v0"]
		require.Len(t, b.board.awaited, 1)
		require.Greater(t, b.board.awaited[0], there)
		there = b.board.awaited[0]
	}
}

// A source that tells its frames only as they come is encoded as it comes, and what
// comes out are the frames and times that come out when all is there from the start.
func TestGrowingEqualsWhole(t *testing.T) {
	t.Parallel()
	for name, args := range containers {
		t.Run(name, func(t *testing.T) {
			if name == "film.webm" || name == "film.mkv" { // TestGrowingUploadCut encodes one in Matroska as it comes
				testenv.Long(t)
			}
			data := streamed(t, name, args...)
			whole := newBenchBytes(t, data, growing)
			require.NoError(t, whole.Handle(t.Context(), whole.task(catalog.KindPlan, "", 0, 1)))
			b := newBenchBytes(t, data, growing)
			early := b.grows(t, data, int64(len(data)))
			require.Greater(t, early, 2, "chunks were encoded before the end")
			p, want := b.board.plan, whole.board.plan
			require.Equal(t, catalog.PlanGrown, p.State)
			require.Equal(t, want.Frames, p.Frames)
			require.InDelta(t, want.DurationMS, p.DurationMS, 40)
			require.Equal(t, want.Target, p.Target)
			require.Len(t, p.Tracks, len(want.Tracks))
			for i, tr := range p.Tracks {
				require.Equal(t, want.Tracks[i].Renditions, tr.Renditions)
				if tr.Kind == hls.Audio {
					require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindAudio, tr.ID, 0, 1)))
					require.NoError(t, whole.Handle(t.Context(), whole.task(catalog.KindAudio, tr.ID, 0, 1)))
				}
				for _, r := range tr.Renditions {
					film := b.joined(t, tr.ID, r.ID)
					if tr.Kind == hls.Video {
						require.EqualValues(t, p.Frames, decoded(t, film))
					} else {
						require.Equal(t, len(whole.board.chunks[tr.ID]), len(b.board.chunks[tr.ID]))
						require.InDelta(t, len(whole.joined(t, tr.ID, r.ID)), len(film), float64(len(film))/50)
					}
				}
				for n := range len(b.board.chunks[tr.ID]) {
					if r := b.board.chunks[tr.ID][n]; n > 0 {
						require.Equal(t, b.board.chunks[tr.ID][n-1].End(), r.Start)
					}
				}
			}
			if name == "film.ts" { // pictures are made when all is there, as of any other film
				require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindExtra, "v0", 0, 1)))
				require.NotEmpty(t, b.board.extras.Posters)
			}
		})
	}
}

// A source that turns out otherwise than it began ends its run.
func TestGrowingChanges(t *testing.T) {
	t.Parallel()
	ts := streamed(t, "film.ts")
	slower, err := os.ReadFile(makeFile(t, "slow.ts", "-f", "lavfi", "-i", "testsrc2=size=160x90:rate=15:duration=30", "-f", "lavfi", "-i", "sine=duration=30",
		"-c:v", "libx264", "-preset", "ultrafast", "-b:v", "3M", "-minrate", "3M", "-maxrate", "3M", "-bufsize", "3M", "-g", "15", "-output_ts_offset", "30"))
	require.NoError(t, err)
	for name, data := range map[string][]byte{
		"times begin anew": slices.Concat(ts, ts),
		"times jump":       slices.Concat(ts[:len(ts)/2/188*188], ts[:len(ts)/4/188*188]),
		"another rate":     slices.Concat(ts, slower),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBenchBytes(t, data, growing)
			b.arrives(data, 4<<20)
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
			require.NotNil(t, b.board.plan)
			require.Equal(t, catalog.PlanGrowing, b.board.plan.State)
			b.arrives(data, int64(len(data)))
			var bad *probe.InputError
			require.ErrorAs(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 2)), &bad)
			require.Equal(t, probe.CodeChanged, bad.Code)
		})
	}
}

// Another worker goes on where a plan was committed, and looking twice changes nothing.
func TestGrowingGoesOn(t *testing.T) {
	t.Parallel()
	data := streamed(t, "film.ts")
	b := newBenchBytes(t, data, growing)
	b.arrives(data, 4<<20)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	require.NotNil(t, b.board.plan)
	first := *b.board.plan
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 2)))
	require.Equal(t, first.Tracks, b.board.plan.Tracks)
	other := newBenchBytes(t, data, growing)
	other.board.plan = &first
	for _, b := range []*bench{b, other} {
		b.arrives(data, int64(len(data)))
		require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 3)))
		require.Equal(t, catalog.PlanGrown, b.board.plan.State)
	}
	require.Equal(t, b.board.plan.Tracks, other.board.plan.Tracks)
	var run plan.Run
	require.NoError(t, json.Unmarshal(b.board.plan.Encoder, &run))
	require.Empty(t, run.Growth.PTS)
}

// Over PostgreSQL, JetStream and two object stores: a source that turns out otherwise
// than it began is ready with the next run.
func TestGrowingChangesOnTheRealQueue(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	ts := streamed(t, "film.ts")
	s := q.send(t, slices.Concat(ts, ts[:len(ts)/8/188*188]))
	q.worker(t, "eu", growing)
	s.until(t, q.cat, 1<<20, 5<<20)
	s.grows(t)
	s.finish(t, q.cat)
	require.Eventually(t, func() bool { return q.asset(t, s.asset).State == catalog.Ready }, 4*time.Minute, lookEvery)
	require.Equal(t, 2, q.asset(t, s.asset).CurrentRun)
}
