package encoder

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
)

// fourRungs is a ladder that per-title encoding can shorten.
func fourRungs(o *Options) { o.Profile.Rungs = []int{720, 480, 360, 240} }

// patient has time for measuring on machines that do much else.
func patient(b *bench) *bench {
	b.complexityLimit = time.Minute
	return b
}

// perTitleOf plans a source and returns what was concluded from it.
func perTitleOf(t *testing.T, b *bench) plan.PerTitleRun {
	t.Helper()
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	var run plan.Run
	decodeJSON(t, b.board.plan.Encoder, &run)
	require.NotNil(t, run.PerTitle)
	return *run.PerTitle
}

// still is a slide that stays for d seconds.
func still(seconds string) []string {
	return []string{"-f", "lavfi", "-i", "smptehdbars=s=1280x720:r=30:d=" + seconds, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-pix_fmt", "yuv420p"}
}

// confetti changes everywhere all the time.
func confetti(seconds string) []string {
	return []string{"-f", "lavfi", "-i", "life=s=320x180:r=30:mold=10:ratio=0.3:seed=7:death_color=#C83232:life_color=#00ff00,scale=1280:720:flags=neighbor", "-t", seconds,
		"-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-pix_fmt", "yuv420p"}
}

// TestPerTitleFollowsTheSource: simple sources get fewer rungs under lower caps,
// complex ones the ordinary ladder; what comes out keeps to what is declared.
func TestPerTitleFollowsTheSource(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args    []string
		ids     []string
		simpler bool
	}{
		"simple":  {still("4"), []string{"v720", "v480"}, true},
		"complex": {confetti("4"), []string{"v720", "v480", "v360", "v240"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := patient(newBench(t, makeFile(t, "source.mp4", c.args...), fourRungs))
			title := perTitleOf(t, b)
			require.Empty(t, title.Complexity.Missing)
			require.Positive(t, title.Complexity.Windows)
			require.Len(t, title.Rungs, 4)
			p := b.encode(t)
			var again plan.Run
			decodeJSON(t, p.Encoder, &again)
			require.Equal(t, title, *again.PerTitle, "the same source gives the same ladder")
			var ids []string
			for _, r := range p.Tracks[0].Renditions {
				ids = append(ids, r.ID)
				peak, _ := catalog.Measure(records(b, "v0"), r.ID, p.Target)
				require.Positive(t, peak)
				require.LessOrEqual(t, peak, r.Bandwidth)
				require.Len(t, packets(t, b.joined(t, "v0", r.ID)), 120)
			}
			require.Equal(t, c.ids, ids)
			require.Equal(t, c.simpler, title.Rungs[0].MaxRate < title.Rungs[0].Ordinary)
			checkRecords(t, b, "v0")
		})
	}
}

// records of a track, in order, up to the first that isn't there.
func records(b *bench, track string) []hls.Record {
	var out []hls.Record
	for i := 0; ; i++ {
		r, ok := b.board.chunks[track][i]
		if !ok {
			return out
		}
		out = append(out, r)
	}
}

// TestPerTitleIsTheRuns, not the worker's: one with another profile goes on alike.
func TestPerTitleIsTheRuns(t *testing.T) {
	t.Parallel()
	a := patient(newBench(t, makeFile(t, "source.mp4", still("5")...), func(o *Options) { fourRungs(o); divided(o) }))
	perTitleOf(t, a)
	require.NoError(t, a.Handle(t.Context(), a.task(catalog.KindVideo, "v0", 0, 1)))
	b := newBenchBytes(t, []byte("x"), func(o *Options) { o.Profile.PerTitle = plan.PerTitle{} })
	b.Encoder.store, b.store, b.board = a.store, a.store, a.board
	for i, c := range a.board.plan.Tracks[0].Chunks {
		if i > 0 && !c.Joined {
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", i, 1)))
		}
	}
	for _, r := range a.board.plan.Tracks[0].Renditions {
		require.Len(t, packets(t, a.joined(t, "v0", r.ID)), 150) // joined wants one init
	}
	require.Len(t, a.board.plan.Tracks[0].Renditions, 2)
}

// TestComplexityOfStrangeSources is measured as well.
func TestComplexityOfStrangeSources(t *testing.T) {
	t.Parallel()
	x264 := []string{"-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"}
	input := func(graph string, more ...string) []string {
		return append([]string{"-f", "lavfi", "-i", graph}, more...)
	}
	for name, args := range map[string][]string{
		"hdr.mp4": input("testsrc2=s=1280x720:r=30:d=1.5", "-vf", "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le",
			"-color_trc", "smpte2084", "-color_primaries", "bt2020", "-colorspace", "bt2020nc"),
		"portrait.mkv":    input("testsrc2=s=720x1280:r=24000/1001:d=1.5", x264...),
		"interlaced.mp4":  input("testsrc2=s=1280x720:r=25:d=1.5", append([]string{"-flags", "+ilme+ildct", "-x264-params", "tff=1"}, x264...)...),
		"remuxed.ts":      input("testsrc2=s=1280x720:r=25:d=1.5", x264...),
		"odd.mp4":         input("testsrc2=s=1283x719:r=25:d=1.5", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv444p"),
		"fast.mp4":        input("testsrc2=s=1280x720:r=120:d=1", x264...),
		"intra.mov":       input("testsrc2=s=1280x720:r=25:d=1", "-c:v", "prores", "-profile:v", "0"),
		"late-start.mp4":  input("testsrc2=s=1280x720:r=25:d=1.5,setpts=PTS+7/TB", append([]string{"-copyts"}, x264...)...),
		"many-groups.mp4": input("testsrc2=s=1280x720:r=25:d=2", append([]string{"-g", "5", "-bf", "2"}, x264...)...),
	} {
		t.Run(name, func(t *testing.T) {
			title := perTitleOf(t, patient(newBench(t, makeFile(t, name, args...), fourRungs)))
			require.Empty(t, title.Complexity.Missing)
			require.Positive(t, title.Complexity.Windows)
			for _, bits := range []plan.Bits{title.Complexity.Small, title.Complexity.Fine} {
				require.InDelta(t, 0.35, bits.Key, 0.34, "bits for a pixel of testsrc2's keyframes")
				require.InDelta(t, 0.2, bits.Frame, 0.2)
			}
		})
	}
}

// TestComplexityMissing: what can't be measured, or not in time, gets the
// ordinary ladder, and its plan says why.
func TestComplexityMissing(t *testing.T) {
	plain := makeFile(t, "source.mp4", append(still("4"), "-movflags", "+faststart")...)
	data, err := os.ReadFile(plain)
	require.NoError(t, err)
	broken := bytes.Clone(data)
	clear(broken[bytes.Index(broken, []byte("mdat"))+4:])
	for name, c := range map[string]struct {
		data    []byte
		limit   time.Duration
		missing string
	}{
		"slow":   {data, time.Nanosecond, "it took longer than 1ns"},
		"broken": {broken, time.Minute, "ffmpeg: exit"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBenchBytes(t, c.data, fourRungs)
			b.complexityLimit = c.limit
			title := perTitleOf(t, b)
			require.Equal(t, c.missing, title.Complexity.Missing)
			require.Empty(t, title.Rungs)
			require.Len(t, b.board.plan.Tracks[0].Renditions, 4)
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		b := newBenchBytes(t, data, fourRungs)
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("lease lost")
		cancel(stop)
		task := b.task(catalog.KindPlan, "", 0, 1)
		in, err := b.open(t.Context(), task, plan.Run{})
		require.NoError(t, err)
		defer in.Close()
		x, err := b.examine(t.Context(), task, in.served, in, b.opt.Profile, nil)
		require.NoError(t, err)
		_, err = b.complexity(ctx, task, in.served, x.source, *x.index, b.opt.Profile)
		require.ErrorIs(t, err, stop)
	})
}
