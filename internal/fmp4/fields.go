package fmp4

import (
	"bytes"
	"encoding/binary"

	"github.com/Eyevinn/mp4ff/avc"
	"github.com/Eyevinn/mp4ff/bits"
	"github.com/Eyevinn/mp4ff/mp4"
)

// Fields tells frames from fields in an H.264 track: of interlaced pictures each field may be
// a sample of its own, and two make one frame.
type Fields struct {
	sets map[uint]*avc.SPS
	// open is the field that another one may follow, in the sample before.
	open *field
}

// field is what a slice's header says of its picture.
type field struct {
	number      uint
	bottom, idr bool
}

// NewFields is nil, which tells of none, where a track can't have fields.
func NewFields(moov *mp4.MoovBox) *Fields {
	c := avcConfiguration(moov)
	if c == nil {
		return nil
	}
	byID := map[uint]*avc.SPS{}
	for _, nal := range c.SPSnalus {
		if sps, err := avc.ParseSPSNALUnit(nal, false); err == nil && !sps.FrameMbsOnlyFlag {
			byID[uint(sps.ParameterID)] = sps
		}
	}
	if len(byID) == 0 {
		return nil
	}
	f := &Fields{sets: map[uint]*avc.SPS{}}
	for _, nal := range c.PPSnalus {
		r := bits.NewEBSPReader(bytes.NewReader(nal[min(1, len(nal)):]))
		id, of := r.ReadExpGolomb(), r.ReadExpGolomb()
		if sps := byID[of]; r.AccError() == nil && sps != nil {
			f.sets[id] = sps
		}
	}
	return f
}

// Second says whether a sample, one after the other in the order of decoding, is the second
// field of the frame that began with the one before (ITU-T H.264, 3.30 and 7.4.1.2.4).
func (f *Fields) Second(sample []byte) bool {
	if f == nil {
		return false
	}
	before := f.open
	f.open = nil
	var now *field
	for len(sample) >= 4 {
		size := binary.BigEndian.Uint32(sample)
		if sample = sample[4:]; uint64(size) > uint64(len(sample)) {
			return false
		}
		slice, part := f.slice(sample[:size])
		sample = sample[size:]
		if !part {
			continue
		}
		if slice == nil || now != nil && now.bottom != slice.bottom {
			return false // a frame, or both of its fields
		}
		now = slice
	}
	if now != nil && before != nil && before.number == now.number && before.bottom != now.bottom && !now.idr {
		return true
	}
	f.open = now
	return false
}

// slice reads the beginning of a slice's header (7.3.3), which is part of a picture; the field
// is nil where that is a frame.
func (f *Fields) slice(nal []byte) (of *field, part bool) {
	if len(nal) < 2 {
		return nil, false
	}
	kind := avc.GetNaluType(nal[0])
	if kind != avc.NALU_NON_IDR && kind != avc.NALU_IDR {
		return nil, false
	}
	r := bits.NewEBSPReader(bytes.NewReader(nal[1:min(len(nal), 33)]))
	r.ReadExpGolomb() // first_mb_in_slice
	r.ReadExpGolomb() // slice_type
	sps := f.sets[r.ReadExpGolomb()]
	if sps == nil {
		return nil, true
	}
	if sps.SeparateColourPlaneFlag {
		r.Read(2)
	}
	number := r.Read(int(sps.Log2MaxFrameNumMinus4) + 4)
	if fields := r.ReadFlag(); !fields {
		return nil, true
	}
	bottom := r.ReadFlag()
	if r.AccError() != nil {
		return nil, true
	}
	return &field{number, bottom, kind == avc.NALU_IDR}, true
}
