package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
)

// grown plans a source of a rate, if that is told, whose frames come in several looks; it returns the plan and the
// frames of it, or why there is none.
func grown(t testing.TB, rate hls.Rational, looks [][]probe.Frame) (catalog.Plan, error) {
	src := source(640, 360, 1000, rate)
	profile := Default(1)
	profile.MaxChunk = 5
	layout := probe.Layout{Kind: probe.Matroska, Head: 100}
	next := func(i int) int64 {
		if i+1 < len(looks) {
			return looks[i+1][0].Unit
		}
		last := looks[i][len(looks[i])-1]
		return last.Unit + 1000
	}
	whole := src
	end := int64(0)
	for _, f := range slices.Concat(looks...) {
		end = max(end, f.PTS+f.Duration)
	}
	whole.Duration = time.Duration(end) * time.Millisecond
	p, err := Begin(src, false, Growth{Layout: layout, Next: next(0)}, looks[0], profile, Speed{Pixels: 1e9})
	for i := 1; err == nil && i < len(looks); i++ {
		// As it is stored.
		b, merr := json.Marshal(p)
		require.NoError(t, merr)
		p = catalog.Plan{}
		require.NoError(t, json.Unmarshal(b, &p))
		before := p
		p, err = Extend(p, looks[i], next(i), nil)
		if err == nil {
			for n, tr := range before.Tracks {
				if len(tr.Chunks) > 0 {
					require.Equal(t, tr.Chunks, p.Tracks[n].Chunks[:len(tr.Chunks)], "what is planned stays")
				}
			}
		}
	}
	if err == nil {
		p, err = Extend(p, nil, next(len(looks)-1), &whole)
	}
	return p, err
}

// growsDensely asserts that every frame is in one chunk, which is read where they are.
func growsDensely(t testing.TB, p catalog.Plan, frames []probe.Frame) {
	tl := VideoTrack{}
	require.NoError(t, json.Unmarshal(p.Tracks[0].Encoder, &tl))
	require.EqualValues(t, len(frames), p.Frames)
	for _, tr := range p.Tracks {
		if tr.Kind != hls.Video {
			continue
		}
		at, segment := int64(0), 0
		for i, c := range tr.Chunks {
			var ch Chunk
			require.NoError(t, json.Unmarshal(c.Encoder, &ch))
			require.Equal(t, at, c.Start)
			require.Equal(t, segment, ch.Segment)
			require.Equal(t, i == len(tr.Chunks)-1, ch.Last)
			var pts []int64
			for _, f := range frames {
				if f.PTS >= ch.Start && f.PTS < ch.End {
					pts = append(pts, tl.Timeline.At(f.PTS))
					if f.Unit < ch.Bytes.From || f.Unit >= ch.Bytes.To {
						require.Failf(t, "a frame isn't read", "unit %d of bytes %+v", f.Unit, ch.Bytes)
					}
				}
			}
			slices.Sort(pts)
			require.EqualValues(t, len(pts), c.Frames)
			require.Equal(t, FramesHash(pts), ch.Hash)
			at, segment = c.End, segment+c.Segments
		}
		require.Equal(t, p.DurationMS, at)
	}
}

// maxLooks keeps a fuzzed run short: a plan is written and read anew for each.
const maxLooks = 4

// More frames at a time than anything shows are left out where all is planned at once. A plan
// that grows can't, so there is none; also where all frames together are as many as is told.
func TestGrowBursts(t *testing.T) {
	told := hls.Rational{Num: 25, Den: 1}
	for name, c := range map[string]struct {
		rate  hls.Rational
		burst func(frame int) bool
		want  error
	}{
		"none":             {told, func(int) bool { return false }, nil},
		"at the beginning": {told, func(n int) bool { return n >= 30 && n < 40 }, ErrChanged},
		"no rate is told":  {hls.Rational{}, func(n int) bool { return n >= 30 && n < 40 }, ErrChanged},
		"later":            {told, func(n int) bool { return n >= 1030 && n < 1040 }, ErrChanged},
	} {
		t.Run(name, func(t *testing.T) {
			var frames []probe.Frame
			for n, pts := 0, int64(0); n < 1500; n++ {
				f := probe.Frame{PTS: pts, Duration: 40, Size: 1000, Key: n%25 == 0, Unit: 100 + int64(n/25)*1000}
				if c.burst(n) {
					f.Duration = 2
				}
				pts += f.Duration
				frames = append(frames, f)
			}
			_, err := grown(t, c.rate, [][]probe.Frame{frames[:500], frames[500:]})
			require.ErrorIs(t, err, c.want)
		})
	}
}

// looksOf are frames as bytes tell: how long each is shown, whether it is a keyframe, swapped
// with the one before, begins a unit otherwise than keyframes do as a rule, and whether a look
// ends before it, one of the first.
func looksOf(b []byte) (looks [][]probe.Frame) {
	pts, unit := int64(0), int64(100)
	for i, c := range b {
		f := probe.Frame{PTS: pts, Duration: []int64{40, 40, 33, 500}[c&3], Size: 1000, Key: i == 0 || c&12 == 12}
		begins := f.Key != (c&0x80 != 0) || i == 0
		if begins {
			unit += 1000
		}
		f.Unit = unit
		pts += f.Duration
		if i == 0 || f.Key && begins && c&0x40 != 0 && len(looks) < maxLooks {
			looks = append(looks, nil)
		}
		look := &looks[len(looks)-1]
		*look = append(*look, f)
		if n := len(*look); c&0x30 == 0x30 && !f.Key && n > 2 && !(*look)[n-2].Key {
			a, b := &(*look)[n-2], &(*look)[n-1]
			a.PTS, b.PTS, a.Duration, b.Duration = a.PTS+b.Duration, a.PTS, b.Duration, a.Duration
		}
	}
	return looks
}

// However a source comes, its plan has every frame once, or there is none; and what
// comes at once is planned as what comes in pieces, in other chunks.
func FuzzGrow(f *testing.F) {
	steady := bytes.Repeat(append([]byte{12}, make([]byte, 24)...), 20)
	f.Add(steady)
	looks := slices.Clone(steady)
	for i := 150; i < len(looks); i += 100 {
		looks[i] |= 0x40
	}
	f.Add(looks)
	uneven := bytes.Repeat([]byte{0x4c, 0, 1, 2, 0x30, 0, 0x31, 0, 2, 0x32}, 40)
	f.Add(uneven)
	// Keyframes only, seven in a unit; and units that begin anywhere.
	f.Add(bytes.Repeat(append([]byte{0x4c}, bytes.Repeat([]byte{0x8c}, 6)...), 80))
	f.Add(bytes.Repeat([]byte{0x8c, 0, 0, 0x80, 0, 0x30, 0}, 70))
	f.Add(append(slices.Clone(steady), bytes.Repeat([]byte{3}, 20)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > 600 {
			return
		}
		looks := looksOf(b)
		all := slices.Concat(looks...)
		p, err := grown(t, hls.Rational{}, looks)
		var bad *probe.InputError
		if err != nil {
			require.True(t, errors.Is(err, ErrShort) || errors.Is(err, ErrChanged) || errors.Is(err, probe.ErrUnfit) || errors.As(err, &bad), "%v", err)
		} else {
			growsDensely(t, p, all)
		}
		once, oerr := grown(t, hls.Rational{}, [][]probe.Frame{all})
		if oerr == nil {
			growsDensely(t, once, all)
		}
		if err == nil && oerr == nil {
			require.Equal(t, once.DurationMS, p.DurationMS)
			require.Equal(t, once.Target, p.Target)
		}
	})
}
