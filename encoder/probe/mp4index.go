package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/Eyevinn/mp4ff/mp4"

	"github.com/meridian-video/meridian/internal/hls"
)

// errNoTables: the sample tables don't tell what ffmpeg would show; read the packets.
var errNoTables = errors.New("sample tables are not usable")

// maxMoov bounds the movie header; twelve hours at 60 frames per second need about 40 MB.
const maxMoov = 256 << 20

// maxFtyp bounds the list of what a file is compatible with.
const maxFtyp = 4 << 10

// track is what the index needs of one track.
type track struct {
	id    uint32
	scale int64
	elst  *mp4.ElstBox
	stts  *mp4.SttsBox
	ctts  *mp4.CttsBox
	stss  *mp4.StssBox
	stsz  *mp4.StszBox
	stsc  *mp4.StscBox
	// chunks are where chunks of media begin in the file.
	chunks []uint64
	// framed tracks are of pictures or sound; odd ones have boxes that only ffmpeg understands.
	framed, odd bool
}

// movie is what the index needs of a moov box.
type movie struct {
	scale      uint32
	fragmented bool
	tracks     []*track
}

// readMP4 builds the index from the sample tables of a QuickTime or MP4 file.
func readMP4(ctx context.Context, f File, v Video) (Index, error) {
	_, b, err := findMoov(ctx, f)
	if err != nil {
		return Index{}, err
	}
	m, err := parseMoov(b)
	if err != nil {
		return Index{}, err
	}
	if m.fragmented {
		return Index{}, fmt.Errorf("%w: fragmented MP4", ErrRemux)
	}
	for _, t := range m.tracks {
		if len(t.chunks) > 0 && slices.Max(t.chunks) >= uint64(f.Size()) {
			return Index{}, bad(CodeTruncated, "the file ends before the media its index describes: it was cut off")
		}
	}
	for _, t := range m.tracks {
		if int(t.id) == v.TrackID {
			x, err := fromTables(t, m.scale, v)
			if err == nil && arriving(f) {
				x.reach, err = reachOf(m, t, f)
			}
			return x, err
		}
	}
	return Index{}, errNoTables
}

// findMoov walks the top-level boxes. ftyp is nil if the file doesn't begin with it.
func findMoov(ctx context.Context, f File) (ftyp, moov []byte, err error) {
	var h [16]byte
	read := func(at, size int64) ([]byte, error) {
		b := make([]byte, size)
		if _, err := f.ReadAt(ctx, b, at); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return b, nil
	}
	for at, boxes := int64(0), 0; at+8 <= f.Size() && boxes < 10_000; boxes++ {
		n, err := f.ReadAt(ctx, h[:min(16, f.Size()-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, nil, err
		}
		size := int64(binary.BigEndian.Uint32(h[:4]))
		switch {
		case size == 1 && n == 16:
			size = int64(binary.BigEndian.Uint64(h[8:]))
		case size == 0:
			size = f.Size() - at
		}
		if size < 8 || size > f.Size()-at {
			return nil, nil, errNoTables
		}
		switch kind := string(h[4:8]); {
		case kind == "moov" && size <= maxMoov:
			moov, err = read(at, size)
			return ftyp, moov, err
		case kind == "moov", kind == "ftyp" && size > maxFtyp:
			return nil, nil, errNoTables
		case kind == "ftyp" && at == 0:
			if ftyp, err = read(at, size); err != nil {
				return nil, nil, err
			}
		}
		at += size
	}
	return nil, nil, errNoTables
}

// containers are walked through; of everything else only the leaves named in
// parseMoov are decoded, because sample descriptions and metadata of the field
// take many forms.
var containers = []string{"trak", "mdia", "minf", "stbl", "edts"}

func parseMoov(b []byte) (m movie, err error) {
	// The box parser is made for well-formed files; ours come from anyone.
	defer func() {
		if recover() != nil {
			m, err = movie{}, errNoTables
		}
	}()
	var t *track
	var walk func(b []byte) error
	walk = func(b []byte) error {
		for len(b) >= 8 {
			size := int(binary.BigEndian.Uint32(b))
			if size < 8 || size > len(b) {
				return errNoTables
			}
			kind := string(b[4:8])
			if kind == "trak" {
				if len(m.tracks) >= 1000 {
					return errNoTables
				}
				t = &track{}
				m.tracks = append(m.tracks, t)
			}
			if slices.Contains(containers, kind) {
				if err := walk(b[8:size]); err != nil {
					return err
				}
			} else if err := m.leaf(kind, b[:size], t); err != nil {
				return err
			}
			b = b[size:]
		}
		return nil
	}
	if len(b) < 8 || binary.BigEndian.Uint32(b) == 1 {
		return movie{}, errNoTables
	}
	return m, walk(b[8:])
}

func (m *movie) leaf(kind string, b []byte, t *track) error {
	switch {
	case kind == "mvex":
		m.fragmented = true
		return nil
	case t == nil:
	case kind == "hdlr":
		t.framed = t.framed || len(b) >= 20 && slices.Contains([]string{"vide", "soun"}, string(b[16:20]))
		return nil
	case slices.Contains(unclippable, kind), kind == "sbgp" && len(b) >= 16 && slices.Contains([]string{"rap ", "sync"}, string(b[12:16])):
		t.odd = true
		return nil
	}
	if kind != "mvhd" && (t == nil || !slices.Contains([]string{"tkhd", "mdhd", "elst", "stts", "ctts", "stss", "stsz", "stsc", "stco", "co64"}, kind)) {
		return nil
	}
	box, err := mp4.DecodeBox(0, bytes.NewReader(b))
	if kind == "stsc" && err != nil {
		return nil // only files that are arriving are read with it
	}
	if err != nil {
		return errNoTables
	}
	switch box := box.(type) {
	case *mp4.MvhdBox:
		m.scale = box.Timescale
	case *mp4.TkhdBox:
		t.id = box.TrackID
	case *mp4.MdhdBox:
		t.scale = int64(box.Timescale)
	case *mp4.ElstBox:
		t.elst = box
	case *mp4.SttsBox:
		t.stts = box
	case *mp4.CttsBox:
		t.ctts = box
	case *mp4.StssBox:
		t.stss = box
	case *mp4.StszBox:
		t.stsz = box
	case *mp4.StscBox:
		t.stsc = box
	case *mp4.StcoBox:
		for _, o := range box.ChunkOffset {
			t.chunks = append(t.chunks, uint64(o))
		}
	case *mp4.Co64Box:
		t.chunks = append(t.chunks, box.ChunkOffset...)
	}
	return nil
}

func fromTables(t *track, movieScale uint32, v Video) (Index, error) {
	if t.stts == nil || (v.TimeBase != hls.Rational{Num: 1, Den: t.scale}) || len(t.stts.SampleCount) != len(t.stts.SampleTimeDelta) {
		return Index{}, errNoTables
	}
	shift, end, ok := edit(t, movieScale)
	if !ok {
		return Index{}, errNoTables
	}
	offsets := newOffsets(t.ctts)
	sync := map[uint32]bool{}
	if t.stss != nil {
		for _, n := range t.stss.SampleNumber {
			sync[n] = true
		}
	}
	var b indexBuilder
	dts, n := int64(0), uint32(0)
	for i, count := range t.stts.SampleCount {
		delta := int64(t.stts.SampleTimeDelta[i])
		for range count {
			n++
			pts := dts + offsets.next() + shift
			dts += delta
			// An edit that cuts frames off is ffmpeg's to interpret.
			if pts < min(0, shift) || (shift < 0 && pts < 0) || pts > end || pts > maxTime {
				return Index{}, errNoTables
			}
			if int(n) <= len(v.first) {
				if p := v.first[n-1]; p.PTS == nil || *p.PTS != pts || strings.Contains(p.Flags, "D") {
					return Index{}, errNoTables
				}
			}
			if err := b.add(pts, delta, t.size(n), t.stss == nil || sync[n]); err != nil {
				return Index{}, err
			}
		}
	}
	if len(v.first) == 0 || len(b.pts) == 0 {
		return Index{}, errNoTables
	}
	x, err := b.index(v)
	// An edit may show the last frame for less than its full time.
	if last := x.PTS[len(x.PTS)-1]; err == nil && end > last {
		x.End = min(x.End, end)
	}
	return x, err
}

// size of the n-th sample, from 1; 0 when the tables don't tell.
func (t *track) size(n uint32) int32 {
	size := uint32(0)
	switch {
	case t.stsz == nil:
	case t.stsz.SampleUniformSize > 0:
		size = t.stsz.SampleUniformSize
	case int(n) <= len(t.stsz.SampleSize):
		size = t.stsz.SampleSize[n-1]
	}
	return int32(min(size, math.MaxInt32))
}

// edit returns what to add to media times and the last time shown. Only an
// optional pause followed by one plain edit is understood here.
func edit(t *track, movieScale uint32) (shift, end int64, ok bool) {
	if t.elst == nil || len(t.elst.Entries) == 0 {
		return 0, maxTime, true
	}
	if movieScale == 0 {
		return 0, 0, false
	}
	scale, entries := t.scale, t.elst.Entries
	pause := int64(0)
	if len(entries) == 2 && entries[0].MediaTime == -1 {
		pause = int64(entries[0].SegmentDuration) * scale / int64(movieScale)
		entries = entries[1:]
	}
	if len(entries) != 1 || entries[0].MediaTime < 0 || entries[0].MediaRateInteger != 1 || entries[0].SegmentDuration > maxTime {
		return 0, 0, false
	}
	e := entries[0]
	end = maxTime
	if e.SegmentDuration > 0 {
		end = pause + int64(float64(e.SegmentDuration)*float64(scale)/float64(movieScale))
	}
	return pause - e.MediaTime, end, true
}

// offsets iterates composition offsets run by run.
type offsets struct {
	ctts *mp4.CttsBox
	run  int
	left uint32
}

func newOffsets(c *mp4.CttsBox) *offsets { return &offsets{ctts: c, run: -1} }

func (o *offsets) next() int64 {
	if o.ctts == nil {
		return 0
	}
	for o.left == 0 {
		if o.run+1 >= o.ctts.NrSampleCount() {
			return 0
		}
		o.run++
		o.left = o.ctts.SampleCount(o.run)
	}
	o.left--
	return int64(o.ctts.SampleOffset[o.run])
}
