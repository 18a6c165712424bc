package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
)

// Timeline maps source times to the run's.
type Timeline struct {
	// Num/Den is the source's time base; Zero the source time that becomes 0.
	Num  int64 `json:"num"`
	Den  int64 `json:"den"`
	Zero int64 `json:"zero"`
	// Scale is units per second of the run's timeline; a multiple of Den, so
	// that every source time maps to a whole number.
	Scale int64 `json:"scale"`
}

// NewTimeline fits a source time base.
func NewTimeline(num, den, zero int64) Timeline {
	t := Timeline{Num: num, Den: den, Zero: zero, Scale: den}
	if den < 1000 {
		t.Scale = den * ((10_000 + den - 1) / den)
	}
	return t
}

// At maps a source time.
func (t Timeline) At(pts int64) int64 { return (pts - t.Zero) * t.Num * (t.Scale / t.Den) }

// Micros is a source time in microseconds, rounded up.
func (t Timeline) Micros(pts int64) int64 {
	return int64(math.Ceil(float64(pts) * float64(t.Num) / float64(t.Den) * 1e6))
}

// PTS is the last source time that Micros makes so many microseconds, or fewer.
func (t Timeline) PTS(micros int64) int64 {
	pts := int64(float64(micros) * float64(t.Den) / float64(t.Num) / 1e6)
	for t.Micros(pts) > micros {
		pts--
	}
	for t.Micros(pts+1) <= micros {
		pts++
	}
	return pts
}

// segmentStarts returns the index of the first frame of every segment: the
// first frame at or after each multiple of seconds. A span without frames
// begins no segment.
func segmentStarts(pts []int64, t Timeline, seconds int) []int {
	var out []int
	next := int64(0)
	step := int64(seconds) * t.Scale
	for i, p := range pts {
		if at := t.At(p); i == 0 || at >= next {
			out = append(out, i)
			next = (at/step + 1) * step
		}
	}
	return out
}

// chunkLengths divides segments into chunks. The first is one segment. Each
// next one is as long as it may be so that, encoded one after another at
// the given speed, it is complete when a viewer who began after the first gets
// to its start; at twice real time that doubles them. A slower encoder can't
// stay ahead, but its chunks still grow, because every chunk has a cost of its own.
//
// preroll, in source time units, is how much is decoded in vain to start at a
// segment: long chunks end where the next one starts cheaply.
func chunkLengths(segments, longest int, speed float64, preroll func(segment int) int64) []int {
	var out []int
	for start := 0; start < segments; {
		n := min(chunkLength(start, longest, speed), segments-start)
		if n >= flexible && start+n < segments {
			best := n
			for shorter := n - 1; shorter >= n-n/4; shorter-- {
				if preroll(start+shorter) < preroll(start+best) {
					best = shorter
				}
			}
			n = best
		}
		out = append(out, n)
		start += n
	}
	return out
}

// chunkLength is the most segments a chunk may have that begins with one of them.
func chunkLength(start, longest int, speed float64) int {
	n := int(math.Floor((min(max(speed, 1.25), 2)-1)*float64(start) + 1))
	return min(max(n, 1), longest)
}

// flexible is from how many segments on a chunk may be up to a quarter shorter.
const flexible = 4

// joined says which chunks are done by the task of the chunk before: as many as
// make a task no longer than the longest chunk, for every process costs its
// start. The first chunk is a task of its own where somebody waits for it, unless there
// are no more than short segments and one task does them all.
func joined(lengths []int, longest, short int, waited bool) []bool {
	out := make([]bool, len(lengths))
	all, total := 0, 0
	for _, n := range lengths {
		all += n
	}
	for i, n := range lengths {
		if out[i] = i > 0 && total+n <= longest && !(i == 1 && waited && all > min(short, longest)); out[i] {
			total += n
		} else {
			total = n
		}
	}
	return out
}

// FramesHash identifies a list of presentation times on the run's timeline.
func FramesHash(pts []int64) string {
	h := sha256.New()
	var b [8]byte
	for _, p := range pts {
		binary.BigEndian.PutUint64(b[:], uint64(p))
		h.Write(b[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
