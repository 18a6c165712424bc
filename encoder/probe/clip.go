package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"
)

// Movie is what the header of an MP4 or QuickTime file tells of its samples. A header
// of hours takes longer to read than a picture takes to decode, and every process
// reads all of it: Clip makes one that lists only what a process is to see.
type Movie struct {
	ftyp, moov []byte
	movie      movie
	size       int64
}

// ReadMovie reads f's header; it must be there. It returns nil for files whose
// header can't be shortened, for other containers too.
func ReadMovie(ctx context.Context, f File) (*Movie, error) {
	ftyp, moov, err := findMoov(ctx, f)
	if errors.Is(err, errNoTables) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := parseMoov(moov)
	if err != nil || m.fragmented {
		return nil, nil
	}
	return &Movie{ftyp: ftyp, moov: moov, movie: m, size: f.Size()}, nil
}

// Bytes is about what a Movie takes in memory.
func (m *Movie) Bytes() int64 {
	if m == nil {
		return 0
	}
	return 4 * int64(len(m.moov))
}

// Span is a stretch of a stream: what is wanted to decode its frames shown from From
// to before To, in the stream's time base, from the keyframe before on.
type Span struct {
	Stream   int
	From, To int64
}

// Everything is the span of a whole stream.
func Everything(stream int) Span { return Span{stream, math.MinInt64, math.MaxInt64} }

// Around is the span of a length of time, with a second before and after; in a
// stream without keyframes, or with many.
func (m *Movie) Around(stream int, from, length time.Duration) Span {
	if m == nil || stream < 0 || stream >= len(m.movie.tracks) {
		return Everything(stream)
	}
	scale := float64(m.movie.tracks[stream].scale)
	return Span{stream, int64((from - time.Second).Seconds() * scale), int64((from + length + time.Second).Seconds() * scale)}
}

// Of every stream its beginning stays, which tells decoders and demuxers what they deal with.
const (
	clipHead    = 4 // seconds
	clipHeadMin = 128
	clipHeadMax = 1024
)

// clipBytes is the least a header must have to be worth shortening.
const clipBytes = 32 << 10

// Clip returns the head of a file that shows the beginning of all streams, and the
// spans. What follows it is the whole of the movie's file. Every sample keeps its
// times: the one before a gap lasts until its end. It returns nil where that can't
// be had or isn't worth while.
func (m *Movie) Clip(spans ...Span) []byte {
	if len(m.moov) < clipBytes {
		return nil
	}
	return m.clip(spans)
}

func (m *Movie) clip(spans []Span) []byte {
	c := clipper{}
	for i, t := range m.movie.tracks {
		var of []Span
		for _, s := range spans {
			if s.Stream == i {
				of = append(of, s)
			}
		}
		tables, ok := t.clip(m.movie.scale, of)
		if !ok {
			return nil
		}
		c.tables = append(c.tables, tables)
	}
	out := append(slices.Clone(m.ftyp), c.box(m.moov)...)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = append(out, "mdat"...)
	out = binary.BigEndian.AppendUint64(out, uint64(m.size)+16)
	shift := uint64(len(out))
	for _, at := range c.offsets {
		at += len(m.ftyp)
		n := int(binary.BigEndian.Uint32(out[at+12:]))
		for i := range n {
			o := out[at+16+8*i:]
			binary.BigEndian.PutUint64(o, binary.BigEndian.Uint64(o)+shift)
		}
	}
	return out
}

// tables are a track's, shortened.
type tables struct {
	stts, ctts, stss, stsz, stsc []byte
	// co64 takes the place of stco, too.
	co64 []byte
	// whole says that all but the offsets stays.
	whole bool
}

// clipper copies a moov box with other tables.
type clipper struct {
	tables []tables
	track  int
	// offsets are where co64 boxes are in the copy.
	offsets []int
}

// box is a copy of b, a box parseMoov has walked through.
func (c *clipper) box(b []byte) []byte {
	c.track = -1
	out := append([]byte(nil), b[:8]...)
	out = c.children(out, b[8:])
	binary.BigEndian.PutUint32(out, uint32(len(out)))
	return out
}

func (c *clipper) children(out, b []byte) []byte {
	for len(b) >= 8 {
		size := int(binary.BigEndian.Uint32(b))
		kind := string(b[4:8])
		if kind == "trak" {
			c.track++
		}
		if slices.Contains(containers, kind) {
			at := len(out)
			out = c.children(append(out, b[:8]...), b[8:size])
			binary.BigEndian.PutUint32(out[at:], uint32(len(out)-at))
		} else {
			out = c.leaf(out, kind, b[:size])
		}
		b = b[size:]
	}
	return out
}

func (c *clipper) leaf(out []byte, kind string, b []byte) []byte {
	if c.track < 0 {
		return append(out, b...)
	}
	t := c.tables[c.track]
	if kind == "stco" || kind == "co64" {
		c.offsets = append(c.offsets, len(out))
		return append(out, t.co64...)
	}
	if t.whole {
		return append(out, b...)
	}
	switch kind {
	case "stts":
		b = t.stts
	case "ctts":
		b = t.ctts
	case "stss":
		b = t.stss
	case "stsz":
		b = t.stsz
	case "stsc":
		b = t.stsc
	case "sdtp", "sbgp", "sgpd":
		// Hints; groups that say more make a track unfit.
		return out
	}
	return append(out, b...)
}

// unclippable boxes say of samples what isn't understood here.
var unclippable = []string{"stz2", "stps", "stdp", "padb", "subs", "saiz", "saio", "senc", "stsh"}

// clip makes the tables that are left of t when it shows its beginning and spans.
func (t *track) clip(movieScale uint32, spans []Span) (tables, bool) {
	if t.odd || len(t.chunks) == 0 || t.stsc == nil || len(t.stsc.Entries) == 0 {
		return tables{}, false
	}
	n := t.count()
	if n > maxSamples {
		return tables{}, false
	}
	// Sound without frames has a sample for each moment, in tables of a few bytes.
	single := t.stts != nil && len(t.stts.SampleTimeDelta) > 0 && t.stts.SampleTimeDelta[0] <= 1
	if !t.framed || single || n == 0 {
		out := tables{whole: true, co64: fullBox("co64", uint32(len(t.chunks)))}
		for _, o := range t.chunks {
			out.co64 = binary.BigEndian.AppendUint64(out.co64, o)
		}
		return out, closeBox(out.co64)
	}
	for i := range t.stsc.Entries {
		if t.stsc.GetSampleDescriptionID(i+1) != t.stsc.GetSampleDescriptionID(1) {
			return tables{}, false
		}
	}
	keep, ok := t.keep(movieScale, spans)
	if !ok {
		return tables{}, false
	}
	return t.shorten(keep, t.stsc.GetSampleDescriptionID(1))
}

// count is how many samples there are.
func (t *track) count() int {
	switch {
	case t.stsz == nil:
		return 0
	case t.stsz.SampleUniformSize > 0:
		return int(t.stsz.SampleNumber)
	}
	return len(t.stsz.SampleSize)
}

// stretch are samples, from 0, without the last.
type stretch struct{ from, to int }

// keep is which samples stay: distinct stretches in order.
func (t *track) keep(movieScale uint32, spans []Span) ([]stretch, bool) {
	shift, _, ok := edit(t, movieScale)
	if !ok || t.stts == nil || t.scale <= 0 {
		return nil, false
	}
	wanted := make([]stretch, len(spans)+1)
	sync := t.syncs()
	offsets, dts, i, n := newOffsets(t.ctts), int64(0), 0, t.count()
	t.samples(func(delta int64) bool {
		if i >= n {
			return false
		}
		pts, key := dts+offsets.next()+shift, sync(i)
		if i < clipHeadMin || i < clipHeadMax && dts < clipHead*t.scale {
			wanted[0].to = i + 1
		}
		for k, s := range spans {
			w := &wanted[k+1]
			if key && pts <= s.From {
				w.from = i
			}
			if pts < s.To {
				w.to = i + 1
			}
		}
		dts += delta
		i++
		return true
	})
	if i != n {
		return nil, false
	}
	slices.SortFunc(wanted, func(a, b stretch) int { return a.from - b.from })
	var out []stretch
	for _, w := range wanted {
		switch last := len(out) - 1; {
		case w.to <= w.from:
		case last >= 0 && w.from <= out[last].to:
			out[last].to = max(out[last].to, w.to)
		default:
			out = append(out, w)
		}
	}
	return out, true
}

// syncs tells of samples asked for in order whether decoding can begin there.
func (t *track) syncs() func(i int) bool {
	if t.stss == nil {
		return func(int) bool { return true }
	}
	next := 0
	numbers := t.stss.SampleNumber
	return func(i int) bool {
		for next < len(numbers) && int64(numbers[next]) <= int64(i) {
			next++
		}
		return next < len(numbers) && int64(numbers[next]) == int64(i)+1
	}
}

// shorten makes tables of the samples kept, each a chunk of its own.
func (t *track) shorten(keep []stretch, description uint32) (tables, bool) {
	var starts []int64
	if starts = t.starts(); len(starts) != t.count() {
		return tables{}, false
	}
	stts, ctts := runs{}, runs{}
	out := tables{stss: fullBox("stss", 0), stsz: fullBox("stsz", 0, 0), stsc: fullBox("stsc", 1, 1, 1, description), co64: fullBox("co64", 0)}
	sync, offsets := t.syncs(), newOffsets(t.ctts)
	i, kept, keys := 0, uint32(0), uint32(0)
	lasts := int64(-1) // of the sample kept last, until the next
	t.samples(func(delta int64) bool {
		if i >= len(starts) {
			return false
		}
		key, offset := sync(i), offsets.next()
		if len(keep) > 0 && i >= keep[0].to {
			keep = keep[1:]
		}
		switch {
		case len(keep) > 0 && i >= keep[0].from:
			if kept > 0 {
				stts.add(lasts)
			}
			lasts = delta
			ctts.add(offset)
			kept++
			if key {
				keys++
				out.stss = binary.BigEndian.AppendUint32(out.stss, kept)
			}
			out.stsz = binary.BigEndian.AppendUint32(out.stsz, uint32(t.size(uint32(i)+1)))
			out.co64 = binary.BigEndian.AppendUint64(out.co64, uint64(starts[i]))
		case kept > 0:
			lasts += delta
		}
		i++
		return true
	})
	if kept == 0 || t.stss != nil && keys == 0 {
		return tables{}, false
	}
	stts.add(lasts)
	if stts.tooLong {
		return tables{}, false
	}
	out.stts, out.ctts = stts.box("stts", 0), ctts.box("ctts", 1)
	put := binary.BigEndian.PutUint32
	put(out.stss[12:], keys)
	put(out.stsz[16:], kept)
	put(out.co64[12:], kept)
	for _, b := range [][]byte{out.stts, out.ctts, out.stss, out.stsz, out.stsc, out.co64} {
		if !closeBox(b) {
			return tables{}, false
		}
	}
	return out, true
}

// starts is where each sample begins in the file.
func (t *track) starts() []int64 {
	total := t.count()
	if total > maxSamples {
		return nil
	}
	out := make([]int64, 0, total)
	entry := 0
	for c, at := range t.chunks {
		for entry+1 < len(t.stsc.Entries) && int64(t.stsc.Entries[entry+1].FirstChunk) <= int64(c)+1 {
			entry++
		}
		for range t.stsc.Entries[entry].SamplesPerChunk {
			if len(out) == total {
				return out
			}
			out = append(out, int64(at))
			at += uint64(t.size(uint32(len(out))))
		}
	}
	return out
}

// runs are equal values in a row.
type runs struct {
	values  []int64
	counts  []uint32
	tooLong bool
}

func (r *runs) add(v int64) {
	r.tooLong = r.tooLong || v > math.MaxInt32
	if n := len(r.values); n > 0 && r.values[n-1] == v {
		r.counts[n-1]++
		return
	}
	r.values, r.counts = append(r.values, v), append(r.counts, 1)
}

func (r *runs) box(kind string, version byte) []byte {
	out := fullBox(kind, uint32(len(r.values)))
	out[8] = version
	for i, v := range r.values {
		out = binary.BigEndian.AppendUint32(out, r.counts[i])
		out = binary.BigEndian.AppendUint32(out, uint32(int32(v)))
	}
	return out
}

// fullBox begins a box of version 0 with some numbers; closeBox writes its size.
func fullBox(kind string, numbers ...uint32) []byte {
	out := append(make([]byte, 4, 64), kind...)
	out = append(out, 0, 0, 0, 0)
	for _, n := range numbers {
		out = binary.BigEndian.AppendUint32(out, n)
	}
	return out
}

func closeBox(b []byte) bool {
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return len(b) <= math.MaxInt32
}
