package plan

import (
	"fmt"
	"math"
	"slices"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/probe"
)

// How a source is measured: some frames from each of a few keyframes on. A
// window of 1080p costs a quarter of a second of one CPU, most of it decoding.
const (
	windowFrames = 12
	maxWindows   = 4
	// A window for each of windowSeconds, and fewer where pictures are large or the worker is
	// slow: so many as are predicted to take lookSeconds, but fewWindows in any case. A
	// source's pixel takes as long as windowCost pixels encoded.
	windowSeconds = 10
	largePicture  = 2560 * 1440
	fewWindows    = 2
	lookSeconds   = 0.6
	windowCost    = 0.6
	// smallPixels is the size of the small picture, that of 270 lines.
	smallPixels = 480 * 270
	// A picture of fewer than leastPixels is too near to the small one.
	leastPixels = 3 * smallPixels
	// maxKeyGap is the longest time without a place to look at, in seconds.
	maxKeyGap = 30
	// measurePreset is x264's for it: faster ones save hardly anything beside decoding.
	measurePreset = "veryfast"
)

// shrinking is the least power by which a pixel takes more in pictures smaller than
// the small one: there is no grain left in them, and edges come closer. Between
// 360 and 240 lines it was 0.2 to 0.6 on the samples of bench/pertitle.
const shrinking = 0.25

// maxRatio bounds what a source's own sizes may say of it.
const maxRatio = 50

// Bits are bits per pixel at the profile's CRF, of a keyframe and of a frame
// after it.
type Bits struct {
	Key   float64 `json:"key"`
	Frame float64 `json:"frame"`
}

// Complexity is what a source's picture takes at constant quality.
type Complexity struct {
	// Windows is how many places were looked at.
	Windows int `json:"windows,omitempty"`
	// Small is of pictures of SmallPixels, Fine of parts of pictures in their own
	// size, FinePixels in all: typical ones of the whole source.
	Small       Bits  `json:"small"`
	SmallPixels int64 `json:"small_pixels,omitempty"`
	Fine        Bits  `json:"fine"`
	FinePixels  int64 `json:"fine_pixels,omitempty"`
	// PeakKey and PeakFrame are how many times that the largest keyframe and the
	// busiest segment take.
	PeakKey   float64 `json:"peak_key,omitempty"`
	PeakFrame float64 `json:"peak_frame,omitempty"`
	// Missing says why nothing was measured; empty when it was.
	Missing string `json:"missing,omitempty"`
}

// at is what pictures of a size take: the bits of a pixel follow a power of the
// size, through what was measured.
func (c Complexity) at(pixels float64) Bits {
	larger := math.Log(float64(c.FinePixels) / float64(c.SmallPixels))
	size := math.Log(pixels / float64(c.SmallPixels))
	through := func(small, fine float64) float64 {
		// Larger pictures never take fewer bits in all: tiles can miss what moves.
		power := max(math.Log(fine/small)/larger, -1)
		if size < 0 {
			power = min(power, -shrinking)
		}
		return small * math.Exp(power*size)
	}
	return Bits{Key: through(c.Small.Key, c.Fine.Key), Frame: through(c.Small.Frame, c.Fine.Frame)}
}

// rates of a rung in bit/s: on the average, and in the busiest segment.
func (c Complexity) rates(pixels, fps float64, segment int) (typical, peak float64) {
	b := c.at(pixels)
	seconds := float64(segment)
	after := max(0, seconds*fps-1)
	typical = pixels * (b.Key + after*b.Frame) / seconds
	key := b.Key * c.PeakKey
	peak = pixels * (key + after*b.Frame*c.PeakFrame) / seconds
	// A keyframe has to fit into the buffer, which holds a second and isn't full.
	return typical, max(peak, pixels*key/bufferFill)
}

// bufferFill is how much of its buffer x264 may spend at once.
const bufferFill = 0.8

// Windows are the places of a source to measure at, as commands without a URL, and
// why there are none. In each of equal parts of the source it is the keyframe
// after which the file spends most. Of a file that is arriving they are in the part that
// is there.
func Windows(src probe.Source, x probe.Index, p Profile, speed Speed) (windows []ffmpeg.Complexity, missing string) {
	if src.Video == nil || !p.PerTitle.Enabled {
		return nil, "the profile doesn't ask for it"
	}
	v := *src.Video
	w, h := v.Display()
	pixels := int64(v.Width) * int64(v.Height)
	t := NewTimeline(v.TimeBase.Num, v.TimeBase.Den, x.PTS[0])
	_, fps := frameRate(v, x, t, p.MaxFrameRate)
	every := keepEvery(fps, p)
	switch {
	case len(Ladder(w, h, fps, p.Rungs)) <= leastRungs:
		return nil, fmt.Sprintf("there are no more than %d rungs", leastRungs)
	case pixels < leastPixels || v.Width < ffmpeg.MinMosaicWidth || v.Height < ffmpeg.MinMosaicHeight:
		return nil, "the picture is small"
	case len(x.Sizes) != len(x.PTS):
		return nil, "the sizes of the source's frames aren't known"
	case longestGap(x, t) > maxKeyGap*t.Scale:
		return nil, fmt.Sprintf("keyframes are more than %d s apart", maxKeyGap)
	}
	length := float64(t.At(x.End)) / float64(t.Scale)
	n := min(1+int(length/windowSeconds), maxWindows)
	if pixels > largePicture {
		n = min(n, fewWindows)
	}
	affordable := lookSeconds * speed.Pixels / (windowCost * windowFrames * float64(pixels))
	n = min(n, max(int(min(affordable, maxWindows)), fewWindows))
	scale := math.Sqrt(float64(smallPixels) / float64(pixels))
	base := ffmpeg.Complexity{Stream: v.Stream, Width: v.Width, Height: v.Height,
		SmallWidth: even(int(math.Round(float64(v.Width) * scale))), SmallHeight: even(int(math.Round(float64(v.Height) * scale))),
		Frames: windowFrames, Every: every, ToneMap: v.HDR, Untagged: v.Untagged, Preset: measurePreset, CRF: p.CRF}
	for _, key := range busiest(x, t, n, windowFrames*every) {
		c := base
		c.Start, c.SeekMicros = key, seeks(x.Keys, key, t)[0]
		if key == x.PTS[0] {
			c.SeekMicros = -1
		}
		windows = append(windows, c)
	}
	if len(windows) == 0 {
		return nil, "no keyframe is followed by enough frames"
	}
	return windows, ""
}

// WindowSpan is what a window needs of its stream.
func WindowSpan(x probe.Index, w ffmpeg.Complexity) probe.Span {
	i, _ := slices.BinarySearch(x.PTS, w.Start)
	span := probe.Span{Stream: w.Stream, From: w.Start, To: math.MaxInt64}
	if i += w.Frames*w.Every + windowSlack; i < len(x.PTS) {
		span.To = x.PTS[i]
	}
	return span
}

// windowSlack is some frames more than a window has.
const windowSlack = 16

// longestGap is the longest time from one keyframe to the next, or the end.
func longestGap(x probe.Index, t Timeline) int64 {
	gap, last := int64(0), int64(0)
	for _, k := range x.Keys {
		gap, last = max(gap, t.At(k)-last), t.At(k)
	}
	return max(gap, t.At(x.End)-last)
}

// busiest chooses a keyframe in each of n equal parts: the one whose next frames
// are the largest. Parts without one, or with too few frames after it, are left out.
func busiest(x probe.Index, t Timeline, n, frames int) []int64 {
	var out []int64
	best, part := int64(-1), -1
	until := x.Until()
	for _, k := range x.Keys {
		i, found := slices.BinarySearch(x.PTS, k)
		// Shorter ones are for sources that are no longer.
		end := min(i+frames, len(x.PTS))
		if !found || end < i+2 || (end < i+frames && i > 0) || x.PTS[end-1] >= until {
			continue
		}
		sum := int64(0)
		for _, s := range x.Sizes[i+1 : end] {
			sum += int64(s)
		}
		at := int(t.At(k) * int64(n) / t.At(until))
		switch {
		case at != part:
			out, part, best = append(out, k), at, sum
		case sum > best:
			out[len(out)-1], best = k, sum
		}
	}
	return out
}

// Measured is what a window took.
type Measured struct {
	Small, Fine Bits
}

// NewMeasured turns sizes into bits per pixel.
func NewMeasured(w ffmpeg.Complexity, small, tiles ffmpeg.Encoded) Measured {
	bits := func(e ffmpeg.Encoded, pixels int) Bits {
		return Bits{Key: float64(8*e.Key) / float64(pixels), Frame: float64(8*e.Rest) / float64(pixels) / float64(e.Frames)}
	}
	return Measured{Small: bits(small, w.SmallWidth*w.SmallHeight), Fine: bits(tiles, ffmpeg.MosaicWidth*ffmpeg.MosaicHeight)}
}

// Estimate concludes from windows to the source, which spent its own bytes where
// it is busy: what windows took is to all of it as what the source took there is
// to all of the source (a ratio estimate; Cochran, Sampling Techniques, ch. 6).
// windows and measured have the same order, at least one of each.
func Estimate(src probe.Source, x probe.Index, p Profile, windows []ffmpeg.Complexity, measured []Measured) Complexity {
	c := Complexity{Windows: len(windows), SmallPixels: int64(windows[0].SmallWidth) * int64(windows[0].SmallHeight),
		FinePixels: int64(src.Video.Width) * int64(src.Video.Height)}
	s := newSpending(src, x, p.SegmentSeconds)
	var keys, frames, smallKey, smallFrame, fineKey, fineFrame mean
	var own []mean
	for i, w := range windows {
		at, _ := slices.BinarySearch(x.PTS, w.Start)
		keys.add(float64(x.Sizes[at]))
		var after mean
		for n := at + 1; n < min(at+w.Frames*w.Every, len(x.PTS)); n++ {
			if !s.key[n] {
				after.add(float64(x.Sizes[n]))
				frames.add(float64(x.Sizes[n]))
			}
		}
		own = append(own, after)
		smallKey.add(measured[i].Small.Key)
		smallFrame.add(measured[i].Small.Frame)
		fineKey.add(measured[i].Fine.Key)
		fineFrame.add(measured[i].Fine.Frame)
	}
	key, frame := ratio(s.keys.value(), keys.value()), ratio(s.frames.value(), frames.value())
	c.Small = Bits{Key: smallKey.value() * key, Frame: smallFrame.value() * frame}
	c.Fine = Bits{Key: fineKey.value() * key, Frame: fineFrame.value() * frame}
	// The busiest segment is the source's, or that of a window which took more for
	// a byte of the source than others: a source of constant rate tells nothing.
	c.PeakKey, c.PeakFrame = ratio(s.largestKey, s.keys.value()), ratio(s.largest, s.segment)
	for i, m := range measured {
		at, _ := slices.BinarySearch(x.PTS, windows[i].Start)
		segment, size := ratio(s.from(at), s.segment), ratio(s.frames.value(), own[i].value())
		c.PeakKey = max(c.PeakKey, ratio(m.Small.Key, c.Small.Key), ratio(m.Fine.Key, c.Fine.Key))
		c.PeakFrame = max(c.PeakFrame, ratio(m.Small.Frame, c.Small.Frame)*size*segment, ratio(m.Fine.Frame, c.Fine.Frame)*size*segment)
	}
	c.PeakKey, c.PeakFrame = max(c.PeakKey, 1), min(max(c.PeakFrame, 1), maxRatio)
	return c
}

// spending is where a source spent its bytes.
type spending struct {
	x       probe.Index
	t       Timeline
	seconds int64
	key     []bool
	// keys and frames are the sizes of all keyframes and of all other frames.
	keys, frames mean
	largestKey   float64
	// segment is what a segment's frames take in the mean, largest at most, without
	// keyframes.
	segment, largest float64
}

func newSpending(src probe.Source, x probe.Index, seconds int) *spending {
	s := &spending{x: x, t: NewTimeline(src.Video.TimeBase.Num, src.Video.TimeBase.Den, x.PTS[0]), seconds: int64(seconds), key: make([]bool, len(x.PTS))}
	for _, k := range x.Keys {
		if i, found := slices.BinarySearch(x.PTS, k); found {
			s.key[i] = true
		}
	}
	span, from := 0.0, 0
	for i, size := range x.Sizes {
		if s.key[i] {
			s.keys.add(float64(size))
			s.largestKey = max(s.largestKey, float64(size))
			continue
		}
		s.frames.add(float64(size))
		span += float64(size)
		for ; !s.within(from, i); from++ {
			if !s.key[from] {
				span -= float64(x.Sizes[from])
			}
		}
		s.largest = max(s.largest, span)
	}
	segments := float64(s.t.At(x.End)) / float64(s.t.Scale) / float64(seconds)
	s.segment = s.frames.sum / max(1, segments)
	return s
}

// within says that frame i is less than a segment's length after frame from.
func (s *spending) within(from, i int) bool {
	return s.t.At(s.x.PTS[i])-s.t.At(s.x.PTS[from]) < s.seconds*s.t.Scale
}

// from is what a segment that began with a frame would take.
func (s *spending) from(at int) float64 {
	sum := 0.0
	for i := at; i < len(s.x.PTS) && s.within(at, i); i++ {
		if !s.key[i] {
			sum += float64(s.x.Sizes[i])
		}
	}
	return sum
}

// ratio of two sizes within bounds; 1 when one isn't known.
func ratio(a, b float64) float64 {
	if a <= 0 || b <= 0 {
		return 1
	}
	return min(max(a/b, 1.0/maxRatio), maxRatio)
}

// mean of what was added.
type mean struct {
	sum float64
	n   int
}

func (m *mean) add(v float64) { m.sum, m.n = m.sum+v, m.n+1 }

func (m *mean) value() float64 {
	if m.n == 0 {
		return 0
	}
	return m.sum / float64(m.n)
}
