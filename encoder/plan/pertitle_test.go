package plan

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/hls"
)

// Complexities as measured, of 1080p.
var (
	slides = Complexity{Windows: 2, Small: Bits{0.226, 0.00065}, SmallPixels: 129600, Fine: Bits{0.116, 0.00124}, FinePixels: 2073600, PeakKey: 3.39, PeakFrame: 2.74}
	film   = Complexity{Windows: 2, Small: Bits{1.042, 0.0374}, SmallPixels: 129600, Fine: Bits{0.489, 0.0238}, FinePixels: 2073600, PeakKey: 1.27, PeakFrame: 2.52}
	noise  = Complexity{Windows: 2, Small: Bits{0.72, 0.28}, SmallPixels: 129600, Fine: Bits{2.76, 2.65}, FinePixels: 2073600, PeakKey: 1.1, PeakFrame: 1.1}
	black  = Complexity{Windows: 2, Small: Bits{0.002, 0.0001}, SmallPixels: 129600, Fine: Bits{0.002, 0.0001}, FinePixels: 2073600, PeakKey: 1, PeakFrame: 1}
)

func TestPerTitle(t *testing.T) {
	heights := Default(2).Rungs
	for _, c := range []struct {
		name          string
		width, height int
		complexity    Complexity
		fixed         int64
		change        func(*PerTitle)
		want          string
	}{
		{"slides", 1920, 1080, slides, 0, nil, "v1080@1500 v480@357"},
		{"film", 1920, 1080, film, 0, nil, "v1080@5176 v720@2662 v480@1369 v360@800 v240@400"},
		{"noise", 1920, 1080, noise, 0, nil, "v1080@6000 v720@3000 v480@1400 v360@800 v240@400"},
		{"noise may take more", 1920, 1080, noise, 0, func(p *PerTitle) { p.MaxRate = 1.5 }, "v1080@9000 v720@4500 v480@2100 v360@1200 v240@600"},
		{"nothing to see", 1920, 1080, black, 0, nil, "v1080@1500 v480@350"},
		{"a floor", 1920, 1080, black, 0, func(p *PerTitle) { p.MinRate = 0.5 }, "v1080@3000 v360@400"},
		{"nothing is alike", 1920, 1080, slides, 0, func(p *PerTitle) { p.Merge = 1 }, "v1080@1500 v720@750 v480@357"},
		{"a heavy copy", 1920, 1080, slides, 5e6, nil, "v1080@1500 v720@750 v480@357"},
		{"two rungs", 640, 360, slides, 0, nil, "v360@800 v240@400"},
		{"one rung", 426, 240, slides, 0, nil, "v240@400"},
		{"not measured", 1920, 1080, Complexity{Missing: "too slow"}, 0, nil, "v1080@6000 v720@3000 v480@1400 v360@800 v240@400"},
		{"not asked for", 1920, 1080, slides, 0, func(p *PerTitle) { *p = PerTitle{} }, "v1080@6000 v720@3000 v480@1400 v360@800 v240@400"},
		{"larger than measured on", 3840, 2160, slides, 0, nil, "v2160@4500 v1440@2500 v1080@1500 v480@357"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Default(2)
			if c.change != nil {
				c.change(&p.PerTitle)
			}
			rungs, _ := perTitle(Ladder(c.width, c.height, 30, heights), 30, c.complexity, p, c.fixed)
			var got []string
			for _, r := range rungs {
				got = append(got, fmt.Sprintf("%s@%d", r.ID, r.MaxRate/1000))
			}
			require.Equal(t, c.want, strings.Join(got, " "))
		})
	}
}

func drawBits(t *rapid.T, name string) Bits {
	return Bits{Key: math.Exp(rapid.Float64Range(-8, 2).Draw(t, name+" key")), Frame: math.Exp(rapid.Float64Range(-12, 2).Draw(t, name+" frame"))}
}

// TestPerTitleKeepsItsBounds whatever was measured.
func TestPerTitleKeepsItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, h := rapid.IntRange(2, 8192).Draw(t, "w"), rapid.IntRange(2, 8192).Draw(t, "h")
		fps := rapid.Float64Range(1, 60).Draw(t, "fps")
		p := Default(2)
		p.PerTitle = PerTitle{Enabled: true, MinRate: rapid.Float64Range(0.05, 1).Draw(t, "min"), MaxRate: rapid.Float64Range(1, 4).Draw(t, "max"),
			Headroom: rapid.Float64Range(1, 10).Draw(t, "headroom"), Merge: rapid.Float64Range(0.3, 1).Draw(t, "merge")}
		require.NoError(t, p.Validate())
		c := Complexity{Windows: 1, Small: drawBits(t, "small"), Fine: drawBits(t, "fine"), SmallPixels: smallPixels,
			FinePixels: rapid.Int64Range(leastPixels, 1<<26).Draw(t, "pixels"), PeakKey: rapid.Float64Range(1, maxRatio).Draw(t, "peak key"),
			PeakFrame: rapid.Float64Range(1, maxRatio).Draw(t, "peak frame")}
		ordinary := Ladder(w, h, fps, p.Rungs)
		rungs, predictions := perTitle(ordinary, fps, c, p, 0)
		again, _ := perTitle(Ladder(w, h, fps, p.Rungs), fps, c, p, 0)
		require.Equal(t, rungs, again)
		require.Equal(t, ordinary[0].ID, rungs[0].ID, "the highest rung stays")
		require.GreaterOrEqual(t, len(rungs), min(len(ordinary), leastRungs))
		if predictions == nil {
			require.Equal(t, ordinary, rungs)
			return
		}
		low := rungs[len(rungs)-1]
		require.True(t, low.ID == ordinary[len(ordinary)-1].ID || low.Peak() <= ordinary[len(ordinary)-1].Peak(), "a slow line has no rung")
		for i, r := range rungs {
			n := slices.IndexFunc(ordinary, func(o Rung) bool { return o.ID == r.ID })
			require.GreaterOrEqual(t, n, 0)
			o := ordinary[n]
			require.Equal(t, []int{o.Width, o.Height}, []int{r.Width, r.Height})
			require.LessOrEqual(t, float64(r.MaxRate), float64(o.MaxRate)*p.PerTitle.MaxRate+1000)
			require.GreaterOrEqual(t, float64(r.MaxRate), math.Floor(float64(o.MaxRate)*p.PerTitle.MinRate/1000)*1000)
			require.Equal(t, r.MaxRate, predictions[n].MaxRate)
			require.False(t, predictions[n].LeftOut)
			require.LessOrEqual(t, predictions[n].Rate, r.MaxRate)
			require.LessOrEqual(t, predictions[n].Peak, r.Peak())
			if i > 0 {
				require.LessOrEqual(t, r.MaxRate, rungs[i-1].MaxRate)
			}
		}
		// What takes more gets no less.
		harder := c
		k := rapid.Float64Range(1, 20).Draw(t, "harder")
		harder.Small, harder.Fine = Bits{c.Small.Key * k, c.Small.Frame * k}, Bits{c.Fine.Key * k, c.Fine.Frame * k}
		_, more := perTitle(ordinary, fps, harder, p, 0)
		for i := range more {
			require.GreaterOrEqual(t, more[i].MaxRate, predictions[i].MaxRate)
		}
	})
}

// spent is an index whose frames have sizes.
func spent(n int, size func(i int) int32) probe.Index {
	x := *index(n, 15360, 1, 30)
	for i := range n {
		x.Sizes = append(x.Sizes, size(i))
	}
	return x
}

// fast is a worker that isn't short of time.
var fast = Speed{Pixels: 1e9}

func TestWindows(t *testing.T) {
	even := func(int) int32 { return 1000 }
	src := func(w, h int) probe.Source { return source(w, h, 15360, hls.Rational{Num: 30, Den: 1}) }
	unsized, sparse := spent(300, even), spent(1200, even)
	unsized.Sizes, sparse.Keys = nil, sparse.Keys[:1]
	for _, c := range []struct {
		name    string
		src     probe.Source
		x       probe.Index
		speed   Speed
		want    []int // frames
		missing string
	}{
		{"ten seconds", src(1920, 1080), spent(300, even), fast, []int{0, 192}, ""},
		{"a minute", src(1920, 1080), spent(1800, even), fast, []int{0, 480, 912, 1392}, ""},
		{"where most is spent", src(1920, 1080), spent(300, func(i int) int32 { return int32(1000 + 100*(i%300/96)) }), fast, []int{96, 288}, ""},
		{"4K", src(3840, 2160), spent(1800, even), fast, []int{0, 912}, ""},
		{"slow worker", src(1920, 1080), spent(1800, even), Speed{60e6}, []int{0, 912}, ""},
		{"not so slow", src(1920, 1080), spent(1800, even), Speed{80e6}, []int{0, 624, 1200}, ""},
		{"short", src(1920, 1080), spent(3, even), fast, []int{0}, ""},
		{"one frame", src(1920, 1080), spent(1, even), fast, nil, "no keyframe is followed by enough frames"},
		{"small", src(640, 360), spent(300, even), fast, nil, "there are no more than 2 rungs"},
		{"narrow", src(8192, 90), spent(300, even), fast, nil, "the picture is small"},
		{"no sizes", src(1920, 1080), unsized, fast, nil, "the sizes of the source's frames aren't known"},
		{"few keyframes", src(1920, 1080), sparse, fast, nil, "keyframes are more than 30 s apart"},
	} {
		t.Run(c.name, func(t *testing.T) {
			windows, missing := Windows(c.src, c.x, Default(2), c.speed)
			require.Equal(t, c.missing, missing)
			require.Len(t, windows, len(c.want))
			for i, w := range windows {
				require.Equal(t, c.x.PTS[c.want[i]], w.Start)
				require.Equal(t, c.want[i] == 0, w.SeekMicros == -1)
				require.Zero(t, w.SmallWidth%2+w.SmallHeight%2)
				require.InEpsilon(t, smallPixels, w.SmallWidth*w.SmallHeight, 0.02)
			}
		})
	}
	off := Default(2)
	off.PerTitle.Enabled = false
	windows, missing := Windows(src(1920, 1080), spent(300, even), off, fast)
	require.Empty(t, windows)
	require.NotEmpty(t, missing)
}

// TestEstimateFollowsTheSource: where what is measured is in proportion to what
// the source spent, the estimate of all of it is exact, wherever the windows are.
func TestEstimateFollowsTheSource(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		busy := rapid.Float64Range(0.2, 10).Draw(t, "busy")
		n := rapid.IntRange(60, 900).Draw(t, "frames")
		x := spent(n, func(i int) int32 {
			switch {
			case i%48 == 0:
				return 50_000
			case i > n/2:
				return int32(2000 * busy)
			}
			return 2000
		})
		src := source(1920, 1080, 15360, hls.Rational{Num: 30, Den: 1})
		windows, missing := Windows(src, x, Default(2), fast)
		require.Empty(t, missing)
		const perByte = 1e-5 // bits per pixel for a byte of the source
		var measured []Measured
		for _, w := range windows {
			at, found := slices.BinarySearch(x.PTS, w.Start)
			require.True(t, found)
			sum := 0.0
			for i := at + 1; i < at+w.Frames; i++ {
				sum += float64(x.Sizes[i])
			}
			b := Bits{Key: perByte * float64(x.Sizes[at]), Frame: perByte * sum / float64(w.Frames-1)}
			measured = append(measured, Measured{Small: b, Fine: b})
		}
		c := Estimate(src, x, Default(2), windows, measured)
		total, frames := 0.0, 0
		for i, s := range x.Sizes {
			if i%48 != 0 {
				total, frames = total+float64(s), frames+1
			}
		}
		require.InEpsilon(t, perByte*50_000, c.Fine.Key, 1e-6)
		require.InEpsilon(t, perByte*total/float64(frames), c.Fine.Frame, 1e-6)
		require.GreaterOrEqual(t, c.PeakFrame, 1.0)
		require.GreaterOrEqual(t, c.PeakKey, 1.0)
	})
}

// TestEstimateSeesTheBusiestWindow of a source of constant rate.
func TestEstimateSeesTheBusiestWindow(t *testing.T) {
	src, x := source(1920, 1080, 15360, hls.Rational{Num: 30, Den: 1}), spent(300, func(int) int32 { return 9000 })
	windows, _ := Windows(src, x, Default(2), fast)
	require.Len(t, windows, 2)
	c := Estimate(src, x, Default(2), windows, []Measured{{Bits{1, 0.01}, Bits{1, 0.01}}, {Bits{3, 0.03}, Bits{3, 0.03}}})
	require.InEpsilon(t, 2, c.Small.Key, 1e-9)
	require.InEpsilon(t, 0.02, c.Fine.Frame, 1e-9)
	require.InEpsilon(t, 1.5, c.PeakKey, 1e-9)
	require.InDelta(t, 1.5, c.PeakFrame, 0.1)
}

// TestComplexityOfSizes: through what was measured, and never falling in all.
func TestComplexityOfSizes(t *testing.T) {
	near := func(want, got float64) { require.InEpsilon(t, want, got, 1e-9) }
	near(film.Small.Key, film.at(129600).Key)
	near(film.Fine.Frame, film.at(2073600).Frame)
	rapid.Check(t, func(t *rapid.T) {
		c := Complexity{Small: drawBits(t, "small"), Fine: drawBits(t, "fine"), SmallPixels: 129600, FinePixels: 2073600, PeakKey: 2, PeakFrame: 3}
		a, b := rapid.Float64Range(1e3, 1e7).Draw(t, "a"), rapid.Float64Range(1e3, 1e7).Draw(t, "b")
		lowRate, _ := c.rates(min(a, b), 30, 2)
		highRate, peak := c.rates(max(a, b), 30, 2)
		require.LessOrEqual(t, lowRate, highRate*(1+1e-9))
		require.GreaterOrEqual(t, peak, highRate)
	})
}

func TestPlanRecordsPerTitle(t *testing.T) {
	src, x := source(1920, 1080, 15360, hls.Rational{Num: 30, Den: 1}), index(300, 15360, 1, 30)
	p, err := Make(src, x, slides, Default(2), Speed{Pixels: 400e6})
	require.NoError(t, err)
	var run Run
	require.NoError(t, json.Unmarshal(p.Encoder, &run))
	require.Equal(t, slides, run.PerTitle.Complexity)
	require.Len(t, run.PerTitle.Rungs, 5)
	require.True(t, run.PerTitle.Rungs[1].LeftOut)
	var tr VideoTrack
	require.NoError(t, json.Unmarshal(p.Tracks[0].Encoder, &tr))
	require.Len(t, tr.Rungs, 2)
	require.EqualValues(t, run.PerTitle.Rungs[0].MaxRate, tr.Rungs[0].MaxRate)
	for i, r := range p.Tracks[0].Renditions {
		require.Equal(t, tr.Rungs[i].Peak(), r.Bandwidth)
	}

	p, err = Make(src, x, Complexity{Missing: "too slow"}, Default(2), Speed{Pixels: 400e6})
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(p.Encoder, &run))
	require.Equal(t, "too slow", run.PerTitle.Complexity.Missing)
	require.Len(t, p.Tracks[0].Renditions, 5)

	off := Default(2)
	off.PerTitle.Enabled = false
	p, err = Make(src, x, Complexity{}, off, Speed{Pixels: 400e6})
	require.NoError(t, err)
	run = Run{}
	require.NoError(t, json.Unmarshal(p.Encoder, &run))
	require.Nil(t, run.PerTitle)
}

func TestNewMeasured(t *testing.T) {
	m := NewMeasured(ffmpeg.Complexity{SmallWidth: 480, SmallHeight: 270}, ffmpeg.Encoded{Key: 16200, Rest: 32400, Frames: 4}, ffmpeg.Encoded{Key: 17280, Rest: 17280, Frames: 1})
	require.Equal(t, Measured{Small: Bits{1, 0.5}, Fine: Bits{1, 1}}, m)
}
