package plan

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/hls"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestLadder(t *testing.T) {
	heights := Default(2).Rungs
	for _, c := range []struct {
		name          string
		width, height int
		fps           float64
		want          string
	}{
		{"1080p", 1920, 1080, 30, "v1080 1920x1080@40 v720 1280x720@31 v480 852x480@31 v360 640x360@30 v240 426x240@21"},
		{"1080p60", 1920, 1080, 60, "v1080 1920x1080@42 v720 1280x720@32 v480 852x480@31 v360 640x360@31 v240 426x240@30"},
		{"cinema", 1920, 800, 24, "v1080 1920x800@40 v720 1280x532@31 v480 852x356@30 v360 640x266@21 v240 426x178@13"},
		{"portrait", 1080, 1920, 30, "v1080 1080x1920@40 v720 720x1280@31 v480 480x852@31 v360 360x640@30 v240 240x426@21"},
		{"square", 480, 480, 30, "v480 480x480@30 v360 360x360@21 v240 240x240@13"},
		{"dvd", 768, 576, 25, "v576 768x576@31 v480 640x480@30 v360 480x360@21 v240 320x240@13"},
		{"just above", 1930, 1088, 30, "v1088 1930x1088@42 v720 1276x720@31 v480 850x480@31 v360 638x360@30 v240 426x240@21"},
		{"small", 160, 120, 15, "v120 160x120@12"},
		{"odd", 321, 181, 30, "v181 320x180@13"},
		{"tiny", 1, 1, 25, "v1 2x2@11"},
		{"larger than the ladder", 7680, 4320, 30, "v2160 3840x2160@51 v1440 2560x1440@50 v1080 1920x1080@40 v720 1280x720@31 v480 852x480@31 v360 640x360@30 v240 426x240@21"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			for i, r := range Ladder(c.width, c.height, c.fps, heights) {
				if i > 0 {
					got += " "
				}
				got += fmt.Sprintf("%s %dx%d@%d", r.ID, r.Width, r.Height, r.Level)
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestLadderNeverUpscales(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, h := rapid.IntRange(2, 8192).Draw(t, "w"), rapid.IntRange(2, 8192).Draw(t, "h")
		rungs := Ladder(w, h, rapid.Float64Range(1, 60).Draw(t, "fps"), Default(2).Rungs)
		require.NotEmpty(t, rungs)
		for i, r := range rungs {
			require.Zero(t, r.Width%2+r.Height%2)
			require.LessOrEqual(t, r.Width, w)
			require.LessOrEqual(t, r.Height, h)
			if r.Width > 64 && r.Height > 64 {
				require.InEpsilon(t, float64(w)/float64(h), float64(r.Width)/float64(r.Height), 0.04, "%+v of %d × %d", r, w, h)
			}
			if i > 0 {
				require.Less(t, r.MaxRate, rungs[i-1].MaxRate)
			}
		}
	})
}

func TestChunkLengths(t *testing.T) {
	for _, c := range []struct {
		segments int
		speed    float64
		want     []int
	}{
		{1, 2, []int{1}},
		{5, 2, []int{1, 2, 2}},
		{100, 9, []int{1, 2, 4, 8, 16, 30, 30, 9}},
		{20, 1.5, []int{1, 1, 2, 3, 4, 6, 3}},
		{12, 0.3, []int{1, 1, 1, 1, 2, 2, 3, 1}},
	} {
		require.Equal(t, c.want, chunkLengths(c.segments, 30, c.speed, func(int) int64 { return 0 }), "%d segments at %v", c.segments, c.speed)
	}
	// Every seventh segment starts with a keyframe of the source.
	require.Equal(t, []int{1, 2, 4, 7, 14, 28, 28, 16}, chunkLengths(100, 30, 9, func(s int) int64 { return int64(s % 7) }))
}

func TestJoinedChunksMakeTasks(t *testing.T) {
	for _, c := range []struct {
		lengths []int
		waited  bool
		want    []bool
	}{
		{[]int{1, 2, 4, 8, 16, 30, 30, 9}, true, []bool{false, false, true, true, true, false, false, false}},
		{[]int{1, 2, 4}, true, []bool{false, false, true}},
		{[]int{1, 2, 3}, true, []bool{false, true, true}},
		{[]int{1, 2, 4, 8, 16, 30, 3}, false, []bool{false, true, true, true, false, false, false}},
		{[]int{1}, true, []bool{false}},
	} {
		require.Equal(t, c.want, joined(c.lengths, 30, 6, c.waited), "%v", c.lengths)
	}
	require.Equal(t, []bool{false, false, true}, joined([]int{1, 2, 2}, 4, 6, true), "one task can't do it")
}

// TestChunksKeepAhead: encoded one after another at the predicted speed, every
// chunk is complete before a viewer who began after the first gets there.
func TestChunksKeepAhead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		speed := rapid.Float64Range(1.25, 4).Draw(t, "speed")
		lengths := chunkLengths(rapid.IntRange(1, 2000).Draw(t, "segments"), 30, speed, func(s int) int64 { return int64(s % 5) })
		start, done := 0, float64(lengths[0])/speed
		began := done
		for _, n := range lengths[1:] {
			start += lengths[0]
			lengths = lengths[1:]
			done += float64(n) / speed
			require.LessOrEqual(t, done, began+float64(start)+1e-9)
		}
	})
}

func TestTimelineIsExact(t *testing.T) {
	tl := NewTimeline(1001, 30000, 7)
	require.EqualValues(t, 30000, tl.Scale)
	require.EqualValues(t, 2002, tl.At(9))
	tl = NewTimeline(1, 25, 0)
	require.EqualValues(t, 10000, tl.Scale)
	require.EqualValues(t, 400, tl.At(1))
}

// index makes n frames of num/den seconds in a time base of 1/base.
func index(n int, base, num, den int64) *probe.Index {
	x := &probe.Index{}
	for i := range n {
		x.PTS = append(x.PTS, 500+(int64(i)*num*base+den/2)/den)
		if i%48 == 0 {
			x.Keys = append(x.Keys, x.PTS[i])
		}
	}
	x.End = 500 + (int64(n)*num*base+den/2)/den
	return x
}

func source(width, height int, base int64, rate hls.Rational) probe.Source {
	return probe.Source{Format: "mov,mp4", Video: &probe.Video{Width: width, Height: height, TimeBase: hls.Rational{Num: 1, Den: base}, FrameRate: rate},
		Audio: []probe.Audio{{Stream: 1, Codec: "aac", Channels: 2, Language: "en"}, {Stream: 2, Codec: "aac", Channels: 6, Language: "de", Title: "Kommentar", Default: true}}}
}

func TestPlanGolden(t *testing.T) {
	for name, c := range map[string]struct {
		src   probe.Source
		index *probe.Index
		speed float64
	}{
		"1080p30":   {source(1920, 1080, 15360, hls.Rational{Num: 30, Den: 1}), index(300, 15360, 1, 30), 400e6},
		"2160p2997": {source(3840, 2160, 30000, hls.Rational{Num: 30000, Den: 1001}), index(200, 30000, 1001, 30000), 200e6},
		"240p120":   {source(426, 240, 15360, hls.Rational{Num: 120, Den: 1}), index(900, 15360, 1, 120), 400e6},
		"audio":     {probe.Source{Format: "mp3", Duration: 90 * time.Second, Audio: []probe.Audio{{Codec: "mp3", Channels: 1}}}, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Make(c.src, c.index, Complexity{}, Default(2), Speed{Pixels: c.speed})
			require.NoError(t, err)
			got, err := json.MarshalIndent(p, "", " ")
			require.NoError(t, err)
			path := filepath.Join("testdata", name+".json")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(path, append(got, '\n'), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.JSONEq(t, string(want), string(got))
		})
	}
}

// TestPlanCoversEveryFrame over random, also variable, frame rates.
func TestPlanCoversEveryFrame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := &probe.Index{}
		at := rapid.Int64Range(-5000, 5000).Draw(t, "first")
		for range rapid.IntRange(1, 400).Draw(t, "frames") {
			x.PTS = append(x.PTS, at)
			if len(x.PTS)%30 == 1 {
				x.Keys = append(x.Keys, at)
			}
			at += rapid.Int64Range(10, 900).Draw(t, "gap")
		}
		x.End = at
		p, err := Make(source(640, 360, 1000, hls.Rational{}), x, Complexity{}, Default(2), Speed{Pixels: 1e9})
		require.NoError(t, err)
		v := p.Tracks[0]
		var tr VideoTrack
		require.NoError(t, json.Unmarshal(v.Encoder, &tr))
		frames, segment, segments := int64(0), 0, 0
		for _, c := range v.Chunks {
			segments += c.Segments
		}
		next := x.PTS[0]
		for i, c := range v.Chunks {
			var ch Chunk
			require.NoError(t, json.Unmarshal(c.Encoder, &ch))
			require.Equal(t, next, ch.Start)
			require.Equal(t, segment, ch.Segment)
			require.Len(t, ch.Keyframes, c.Segments-1)
			if i > 0 {
				require.Greater(t, ch.Boundary, 2*next-x.End+x.PTS[0])
				require.Less(t, ch.Boundary, 2*ch.Start)
			}
			if i < 2 {
				require.Equal(t, i == 1 && segments <= shortSeconds/2, c.Joined, "the first chunk is a task of its own in all but short films")
			}
			require.Equal(t, i == len(v.Chunks)-1, ch.Last)
			for _, s := range ch.Seeks {
				require.True(t, s == -1 || s <= tr.Timeline.Micros(ch.Start), "seek to %d", s)
			}
			require.EqualValues(t, -1, ch.Seeks[len(ch.Seeks)-1])
			next, segment = ch.End, segment+c.Segments
			frames += c.Frames
		}
		require.Equal(t, x.End, next)
		require.Equal(t, p.Frames, frames)
		kept, last := 0, int64(math.MinInt32)
		for i := 0; i < len(x.PTS); i += tr.Every {
			if x.PTS[i]-last >= tr.Gap {
				kept, last = kept+1, x.PTS[i]
			}
		}
		require.EqualValues(t, kept, frames)
	})
}

// Bursts above the limit are thinned out, and nothing else: wherever a chunk begins, the frames
// that are kept are those that are kept from the beginning.
func TestSpaced(t *testing.T) {
	tl := NewTimeline(1, 1000, 0)
	steady := func(n int, every float64) (out []int64) {
		for i := range n {
			out = append(out, int64(math.Round(float64(i)*every)))
		}
		return out
	}
	for name, pts := range map[string][]int64{"30": steady(300, 1000.0/30), "60, rounded": steady(300, 1000.0/60), "two at once": {0, 40, 41, 80, 120, 160, 200}, "few": {0, 1, 2}} {
		kept, gap := spaced(pts, tl, 60)
		require.Equal(t, pts, kept, name)
		require.Zero(t, gap, name)
	}
	var bursts []int64
	for second := range int64(4) {
		for i := range int64(30) {
			bursts = append(bursts, second*1000+i*2)
		}
		for i := range int64(20) {
			bursts = append(bursts, second*1000+200+i*40)
		}
	}
	kept, gap := spaced(bursts, tl, 60)
	require.EqualValues(t, 15, gap)
	require.Len(t, kept, 4*(4+20))
	require.LessOrEqual(t, fastest(kept, tl), 1000.0/float64(gap))
	for i, at := range kept {
		again := []int64{at}
		for _, p := range bursts {
			if p-again[len(again)-1] >= gap {
				again = append(again, p)
			}
		}
		require.Equal(t, kept[i:], again)
	}
	p, err := Make(source(1280, 720, 1000, hls.Rational{}), &probe.Index{PTS: bursts, Keys: []int64{0}, End: 4000}, Complexity{}, Default(2), Speed{Pixels: 1e12})
	require.NoError(t, err)
	require.EqualValues(t, len(kept), p.Frames)
	var tr VideoTrack
	require.NoError(t, json.Unmarshal(p.Tracks[0].Encoder, &tr))
	require.Equal(t, []any{gap, 1, 60.0}, []any{tr.Gap, tr.Every, p.Tracks[0].Renditions[0].FrameRate.Float()})
}

// The rate that is announced, and what caps and levels are made for, is the highest there is,
// where that isn't jitter.
func TestFrameRate(t *testing.T) {
	every := func(n int, gap int64) (out []int64) {
		for i := range n {
			out = append(out, int64(i)*gap)
		}
		return out
	}
	variable := every(20, 100) // 10 frames per second, then 50
	for i := range 50 {
		variable = append(variable, 2000+int64(i)*20)
	}
	jitter := every(100, 33)
	for i := range jitter {
		jitter[i] += int64(i%3) * 2 // about 30, of which some follow in 29 ms
	}
	burst := append(every(30, 100), 3000, 3001, 3002, 3003, 3004, 3005, 3100)
	for name, c := range map[string]struct {
		pts  []int64
		base hls.Rational
		want hls.Rational
	}{
		"constant":        {every(100, 40), hls.Rational{Num: 25, Den: 1}, hls.Rational{Num: 25, Den: 1}},
		"constant, told":  {every(300, 33), hls.Rational{Num: 30_000, Den: 1001}, hls.Rational{Num: 1_000_000 / 33, Den: 1000}},
		"variable":        {variable, hls.Rational{}, hls.Rational{Num: 50, Den: 1}},
		"variable, base":  {variable, hls.Rational{Num: 50, Den: 1}, hls.Rational{Num: 50, Den: 1}},
		"jitter":          {jitter, hls.Rational{Num: 30, Den: 1}, hls.Rational{Num: 30, Den: 1}},
		"a burst of them": {burst, hls.Rational{}, hls.Rational{Num: 60, Den: 1}},
		"a few frames":    {every(3, 40), hls.Rational{}, hls.Rational{Num: 25, Den: 1}},
	} {
		x := probe.Index{PTS: c.pts, End: c.pts[len(c.pts)-1] + c.pts[1] - c.pts[0]}
		got, average := frameRate(probe.Video{FrameRate: c.base}, x, NewTimeline(1, 1000, 0), 60)
		require.InEpsilon(t, c.want.Float(), got.Float(), 0.011, name)
		require.LessOrEqual(t, average, got.Float()*1.01, name)
	}
	slow, fast := Ladder(1280, 720, 24, []int{720})[0], Ladder(1280, 720, 50, []int{720})[0]
	src := source(1280, 720, 1000, hls.Rational{})
	p, err := Make(src, &probe.Index{PTS: variable, Keys: []int64{0}, End: 3000}, Complexity{}, Default(2), Speed{Pixels: 1e12})
	require.NoError(t, err)
	var tr VideoTrack
	require.NoError(t, json.Unmarshal(p.Tracks[0].Encoder, &tr))
	require.Equal(t, []any{fast.Level, fast.MaxRate}, []any{tr.Rungs[0].Level, tr.Rungs[0].MaxRate})
	require.NotEqual(t, slow.Level, fast.Level)
}

func TestLongGapIsRefused(t *testing.T) {
	x := &probe.Index{PTS: []int64{0, 3_600_000}, Keys: []int64{0}, End: 3_600_040}
	_, err := Make(source(640, 360, 1000, hls.Rational{}), x, Complexity{}, Default(2), Speed{Pixels: 1e9})
	var bad *probe.InputError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, probe.CodeDamaged, bad.Code)
}

func TestPictureMustLastAsLongAsTheSound(t *testing.T) {
	s := source(640, 360, 1000, hls.Rational{})
	s.Duration = time.Hour
	_, err := Make(s, &probe.Index{PTS: []int64{0}, Keys: []int64{0}, End: 40}, Complexity{}, Default(2), Speed{Pixels: 1e9})
	var bad *probe.InputError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, probe.CodeDamaged, bad.Code)
}

func TestSlowMachineSplitsTheLadder(t *testing.T) {
	p, err := Make(source(1920, 1080, 15360, hls.Rational{Num: 60, Den: 1}), index(600, 15360, 1, 60), Complexity{}, Default(2), Speed{Pixels: 150e6})
	require.NoError(t, err)
	require.Equal(t, "v0", p.Tracks[0].ID)
	require.False(t, p.Tracks[0].Late)
	require.Equal(t, "v1", p.Tracks[1].ID)
	require.True(t, p.Tracks[1].Late)
	require.Equal(t, "v1080", p.Tracks[1].Renditions[0].ID)
	ids := map[string]bool{}
	for _, tr := range p.Tracks {
		for _, r := range tr.Renditions {
			require.False(t, ids[r.ID])
			ids[r.ID] = true
		}
	}
}
