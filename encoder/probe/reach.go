package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"time"
)

// arriving reports whether the end of a file isn't there yet.
func arriving(f File) bool { return readable(f) < f.Size() }

func readable(f File) int64 {
	if a, ok := f.(interface{ Readable() int64 }); ok {
		return a.Readable()
	}
	return f.Size()
}

// Head looks at the first bytes of a file that is arriving: whether what they are
// tells where everything else will be, and how many must be there for that. Only
// an MP4 or QuickTime file with its index in front does.
func Head(ctx context.Context, f File) (needs int64, ok bool, err error) {
	var h [16]byte
	there := readable(f)
	for at, boxes := int64(0), 0; boxes < 100; boxes++ {
		if at+16 > there {
			return at + 16, at+16 <= f.Size(), nil
		}
		if _, err := f.ReadAt(ctx, h[:], at); err != nil && !errors.Is(err, io.EOF) {
			return 0, false, err
		}
		size := int64(binary.BigEndian.Uint32(h[:4]))
		if size == 1 {
			size = int64(binary.BigEndian.Uint64(h[8:]))
		}
		kind := string(h[4:8])
		known := slices.Contains([]string{"ftyp", "moov", "free", "skip", "wide", "pnot", "uuid", "styp", "sidx"}, kind)
		if !known || size < 8 || size > f.Size()-at {
			return 0, false, nil
		}
		at += size
		if kind == "moov" {
			return at, size <= maxMoov, nil
		}
	}
	return 0, false, nil
}

// reach is how much of the file must be there for parts of it to be decoded.
type reach struct {
	size int64
	// pts of the video's frames in the order of decoding, and the end of what lies
	// up to each.
	pts, ends []int64
	// others is, for each second, the end of what other tracks have until then.
	others []int64
	// until is the time of the first frame that couldn't be decoded when the file was indexed.
	until int64
}

// reorder is how many frames after a frame a decoder may want before it shows it:
// those it reorders, and those it works on side by side.
const reorder = 64

// Needs is how much of the file must be there to decode the video's frames before
// each of the given times, in its time base and ascending; nil when all was there
// when it was indexed.
func (x Index) Needs(times []int64) []int64 {
	if x.reach == nil {
		return nil
	}
	last := make([]int, len(times))
	for n, pts := range x.reach.pts {
		// A frame is needed for every time after it, so for the first such.
		i, found := slices.BinarySearch(times, pts)
		if found {
			i++
		}
		if i < len(times) {
			last[i] = max(last[i], n)
		}
	}
	out := make([]int64, len(times))
	for i := range times {
		if i > 0 {
			last[i] = max(last[i], last[i-1])
		}
		n := last[i] + reorder
		if n >= len(x.reach.ends) {
			out[i] = x.reach.size
		} else {
			out[i] = x.reach.ends[n]
		}
	}
	return out
}

// NeedsOthers is how much must be there for what other tracks have before a time
// since the beginning; 0 when all was there.
func (x Index) NeedsOthers(until time.Duration) int64 {
	if x.reach == nil {
		return 0
	}
	n := int(math.Ceil(until.Seconds()))
	if n < 0 || n >= len(x.reach.others) {
		return x.reach.size
	}
	return x.reach.others[n]
}

// Arriving says that not all of the file was there when it was indexed.
func (x Index) Arriving() bool { return x.reach != nil }

// Until is the end of what could be decoded when the file was indexed.
func (x Index) Until() int64 {
	if x.reach == nil {
		return x.End
	}
	return min(x.reach.until, x.End)
}

func reachOf(m movie, video *track, f File) (*reach, error) {
	size, there := f.Size(), readable(f)
	r := &reach{size: size, until: math.MaxInt64}
	var err error
	if r.ends, err = video.reach(size); err != nil {
		return nil, err
	}
	offsets, dts := newOffsets(video.ctts), int64(0)
	shift, _, _ := edit(video, m.scale)
	video.samples(func(delta int64) bool {
		r.pts = append(r.pts, dts+offsets.next()+shift)
		dts += delta
		return len(r.pts) < len(r.ends)
	})
	for n := len(r.pts) - 1; n >= 0 && (n+reorder >= len(r.ends) || r.ends[n+reorder] > there); n-- {
		r.until = min(r.until, r.pts[n])
	}
	for _, t := range m.tracks {
		if t == video || t.stts == nil || t.scale <= 0 || len(t.chunks) == 0 {
			continue
		}
		ends, err := t.reach(size)
		if err != nil {
			r.others = nil // all must be there
			break
		}
		at, n := int64(0), 0
		t.samples(func(delta int64) bool {
			if n >= len(ends) {
				return false
			}
			second := at/t.scale + 1
			if second < 0 || second > maxSeconds {
				return false
			}
			for int64(len(r.others)) <= second {
				r.others = append(r.others, 0)
			}
			r.others[second] = max(r.others[second], ends[n])
			at += delta
			n++
			return true
		})
	}
	for i := 1; i < len(r.others); i++ {
		r.others[i] = max(r.others[i], r.others[i-1])
	}
	return r, nil
}

// maxSeconds bounds what is known of other tracks: a day.
const maxSeconds = 86_400

// samples calls fn with the duration of each sample until it returns false.
func (t *track) samples(fn func(delta int64) bool) {
	for i, count := range t.stts.SampleCount[:min(len(t.stts.SampleCount), len(t.stts.SampleTimeDelta))] {
		for range count {
			if !fn(int64(t.stts.SampleTimeDelta[i])) {
				return
			}
		}
	}
}

// reach is, for each sample, the end of the file's part that holds it and all
// samples before it.
func (t *track) reach(size int64) ([]int64, error) {
	if t.stsc == nil || t.stsz == nil || len(t.stsc.Entries) == 0 {
		return nil, errNoTables
	}
	total := int(t.stsz.SampleNumber)
	if t.stsz.SampleUniformSize == 0 {
		total = len(t.stsz.SampleSize)
	}
	// Sound without frames has a sample for each moment.
	if total > maxSamples {
		return nil, errNoTables
	}
	ends := make([]int64, 0, total)
	entry, high := 0, int64(0)
	for c, at := range t.chunks {
		for entry+1 < len(t.stsc.Entries) && int64(t.stsc.Entries[entry+1].FirstChunk) <= int64(c)+1 {
			entry++
		}
		if at >= uint64(size) {
			return nil, errNoTables
		}
		end := int64(at)
		for range t.stsc.Entries[entry].SamplesPerChunk {
			if len(ends) == total {
				break
			}
			n := uint32(len(ends)) + 1
			sample := int64(t.stsz.SampleUniformSize)
			if sample == 0 {
				sample = int64(t.stsz.SampleSize[n-1])
			}
			if end += sample; end > size {
				return nil, errNoTables
			}
			high = max(high, end)
			ends = append(ends, high)
		}
	}
	if len(ends) < total || total == 0 {
		return nil, errNoTables
	}
	return ends, nil
}

// maxSamples bounds what is computed for one track: a day of AAC has four million.
const maxSamples = 16_000_000
