package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/Eyevinn/mp4ff/mp4"
)

// errNoTables: the sample tables don't tell what ffmpeg would show; read the packets.
var errNoTables = errors.New("sample tables are not usable")

// maxMoov bounds the movie header; twelve hours at 60 frames per second need about 40 MB.
const maxMoov = 256 << 20

// readMP4 builds the index from the sample tables of a QuickTime or MP4 file.
func readMP4(ctx context.Context, f File, v Video) (Index, error) {
	moov, err := findMoov(ctx, f)
	if err != nil {
		return Index{}, err
	}
	if moov.Mvex != nil {
		return Index{}, fmt.Errorf("%w: fragmented MP4", ErrRemux)
	}
	for _, t := range moov.Traks {
		if t.Tkhd == nil || int(t.Tkhd.TrackID) != v.TrackID || moov.Mvhd == nil {
			continue
		}
		if t.Mdia == nil || t.Mdia.Mdhd == nil || t.Mdia.Minf == nil || t.Mdia.Minf.Stbl == nil {
			return Index{}, errNoTables
		}
		if err := complete(t.Mdia.Minf.Stbl, f.Size()); err != nil {
			return Index{}, err
		}
		return fromTables(t, moov.Mvhd.Timescale, v)
	}
	return Index{}, errNoTables
}

// findMoov walks the top-level boxes.
func findMoov(ctx context.Context, f File) (*mp4.MoovBox, error) {
	var h [16]byte
	for at, boxes := int64(0), 0; at+8 <= f.Size() && boxes < 10_000; boxes++ {
		n, err := f.ReadAt(ctx, h[:min(16, f.Size()-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		size := int64(binary.BigEndian.Uint32(h[:4]))
		switch {
		case size == 1 && n == 16:
			size = int64(binary.BigEndian.Uint64(h[8:]))
		case size == 0:
			size = f.Size() - at
		}
		if size < 8 || size > f.Size()-at {
			return nil, errNoTables
		}
		if string(h[4:8]) == "moov" {
			if size > maxMoov {
				return nil, errNoTables
			}
			b := make([]byte, size)
			if _, err := f.ReadAt(ctx, b, at); err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
			return decodeMoov(b)
		}
		at += size
	}
	return nil, errNoTables
}

func decodeMoov(b []byte) (moov *mp4.MoovBox, err error) {
	// The parser is made for well-formed files; ours come from anyone.
	defer func() {
		if recover() != nil {
			moov, err = nil, errNoTables
		}
	}()
	box, err := mp4.DecodeBox(0, bytes.NewReader(b))
	if err != nil {
		return nil, errNoTables
	}
	moov, ok := box.(*mp4.MoovBox)
	if !ok {
		return nil, errNoTables
	}
	return moov, nil
}

// complete refuses a file whose tables point behind its end.
func complete(s *mp4.StblBox, size int64) error {
	var last uint64
	if s.Stco != nil {
		for _, o := range s.Stco.ChunkOffset {
			last = max(last, uint64(o))
		}
	}
	if s.Co64 != nil {
		for _, o := range s.Co64.ChunkOffset {
			last = max(last, o)
		}
	}
	if last >= uint64(size) {
		return bad(CodeTruncated, "the file ends before the media its index describes: it was cut off")
	}
	return nil
}

func fromTables(t *mp4.TrakBox, movieScale uint32, v Video) (Index, error) {
	stbl, scale := t.Mdia.Minf.Stbl, int64(t.Mdia.Mdhd.Timescale)
	stts := stbl.Stts
	if stts == nil || (v.TimeBase != Rational{1, scale}) || len(stts.SampleCount) != len(stts.SampleTimeDelta) {
		return Index{}, errNoTables
	}
	shift, end, ok := edit(t, movieScale, scale)
	if !ok {
		return Index{}, errNoTables
	}
	offsets := newOffsets(stbl.Ctts)
	sync := map[uint32]bool{}
	if stbl.Stss != nil {
		for _, n := range stbl.Stss.SampleNumber {
			sync[n] = true
		}
	}
	var b indexBuilder
	dts, n := int64(0), uint32(0)
	for i, count := range stts.SampleCount {
		delta := int64(stts.SampleTimeDelta[i])
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
			if err := b.add(pts, delta, stbl.Stss == nil || sync[n]); err != nil {
				return Index{}, err
			}
		}
	}
	if len(v.first) == 0 || len(b.pts) == 0 {
		return Index{}, errNoTables
	}
	return b.index(v)
}

// edit returns what to add to media times and the last time shown. Only an
// optional pause followed by one plain edit is understood here.
func edit(t *mp4.TrakBox, movieScale uint32, scale int64) (shift, end int64, ok bool) {
	if t.Edts == nil || len(t.Edts.Elst) == 0 {
		return 0, maxTime, true
	}
	if movieScale == 0 || len(t.Edts.Elst) != 1 {
		return 0, 0, false
	}
	entries := t.Edts.Elst[0].Entries
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
