package fmp4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/Eyevinn/mp4ff/mp4"
)

// Limits of one box. A fragment is about two seconds of one rung, so these are
// far above what any ladder produces.
const (
	maxHeaderBox = 8 << 20
	maxData      = 256 << 20
)

// ErrMalformed is input that is not what ffmpeg should have written.
var ErrMalformed = errors.New("malformed fragmented MP4")

// Sample is one coded frame.
type Sample struct {
	// PTS, DTS and Duration in the track's timescale; what segmenters are given
	// needs only PTS.
	PTS, DTS, Duration int64
	Sync               bool
	Data               []byte
}

// Reader reads a fragmented MP4 with one track from a pipe.
type Reader struct {
	r    io.Reader
	moov *mp4.MoovBox
}

// NewReader reads from r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Moov returns the movie header; it must come before the first fragment.
func (r *Reader) Moov() (*mp4.MoovBox, error) {
	for r.moov == nil {
		kind, box, err := r.next(maxHeaderBox)
		if err != nil {
			return nil, err
		}
		if kind != "moov" {
			continue
		}
		b, err := mp4.DecodeBox(0, bytes.NewReader(box))
		if err != nil {
			return nil, fmt.Errorf("%w: moov: %w", ErrMalformed, err)
		}
		moov, ok := b.(*mp4.MoovBox)
		if !ok || len(moov.Traks) != 1 || moov.Mvex == nil || moov.Mvex.Trex == nil {
			return nil, fmt.Errorf("%w: moov: want one track and mvex", ErrMalformed)
		}
		r.moov = moov
	}
	return r.moov, nil
}

// Next returns the next fragment's samples in decode order, io.EOF after the last.
func (r *Reader) Next() ([]Sample, error) {
	moov, err := r.Moov()
	if err != nil {
		return nil, noEOF(err)
	}
	var moof *mp4.MoofBox
	var moofSize int
	for {
		limit := maxHeaderBox
		if moof != nil {
			limit = maxData
		}
		kind, box, err := r.next(limit)
		if err != nil {
			if moof != nil {
				err = noEOF(err)
			}
			return nil, err
		}
		switch kind {
		case "moof":
			if err := countSamples(box); err != nil {
				return nil, err
			}
			b, err := mp4.DecodeBox(0, bytes.NewReader(box))
			if err != nil {
				return nil, fmt.Errorf("%w: moof: %w", ErrMalformed, err)
			}
			m, ok := b.(*mp4.MoofBox)
			if !ok || m.Traf == nil || m.Traf.Tfhd == nil || m.Traf.Tfdt == nil {
				return nil, fmt.Errorf("%w: moof: no track fragment", ErrMalformed)
			}
			moof, moofSize = m, len(box)
		case "mdat":
			if moof == nil {
				return nil, fmt.Errorf("%w: mdat without moof", ErrMalformed)
			}
			return samples(moof, moofSize, box, moov.Mvex.Trex)
		}
	}
}

// maxSamples bounds one fragment: two seconds at far more frames than any source has.
const maxSamples = 100_000

// countSamples refuses a fragment that claims more samples than it can hold: a
// run whose samples all have default values needs no bytes for them, and the
// parser would allocate for whatever number it names.
func countSamples(moof []byte) error {
	total := uint64(0)
	var walk func(b []byte, depth int) error
	walk = func(b []byte, depth int) error {
		for len(b) >= 8 {
			size := int(binary.BigEndian.Uint32(b))
			if size < 8 || size > len(b) {
				return fmt.Errorf("%w: box sizes in moof", ErrMalformed)
			}
			switch kind := string(b[4:8]); {
			case kind == "traf" && depth == 0:
				if err := walk(b[8:size], 1); err != nil {
					return err
				}
			case kind == "trun" && size >= 16:
				if total += uint64(binary.BigEndian.Uint32(b[12:])); total > maxSamples {
					return fmt.Errorf("%w: more than %d samples in a fragment", ErrMalformed, maxSamples)
				}
			}
			b = b[size:]
		}
		return nil
	}
	if binary.BigEndian.Uint32(moof) == 1 {
		return fmt.Errorf("%w: moof with a 64-bit size", ErrMalformed)
	}
	return walk(moof[8:], 0)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next reads one whole box.
func (r *Reader) next(limit int) (string, []byte, error) {
	var h [8]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return "", nil, err
	}
	kind := string(h[4:])
	size := int64(binary.BigEndian.Uint32(h[:4]))
	head := h[:]
	if size == 1 {
		var large [8]byte
		if _, err := io.ReadFull(r.r, large[:]); err != nil {
			return "", nil, noEOF(err)
		}
		if v := binary.BigEndian.Uint64(large[:]); v <= maxData {
			size = int64(v)
		}
		head = append(head, large[:]...)
	}
	if size < int64(len(head)) || size > int64(limit) {
		return "", nil, fmt.Errorf("%w: box %q of %d bytes", ErrMalformed, kind, size)
	}
	var box bytes.Buffer
	box.Grow(int(min(size, 1<<20)))
	box.Write(head)
	if _, err := io.CopyN(&box, r.r, size-int64(len(head))); err != nil {
		return "", nil, noEOF(err)
	}
	return kind, box.Bytes(), nil
}

func samples(moof *mp4.MoofBox, moofSize int, mdat []byte, trex *mp4.TrexBox) ([]Sample, error) {
	var out []Sample
	header := 8
	if binary.BigEndian.Uint32(mdat[:4]) == 1 {
		header = 16
	}
	dts := int64(moof.Traf.Tfdt.BaseMediaDecodeTime())
	at := header
	for _, trun := range moof.Traf.Truns {
		trun.AddSampleDefaultValues(moof.Traf.Tfhd, trex)
		if trun.HasDataOffset() {
			at = int(trun.DataOffset) - moofSize
		}
		for _, s := range trun.Samples {
			end := at + int(s.Size)
			if at < header || end > len(mdat) {
				return nil, fmt.Errorf("%w: sample outside mdat", ErrMalformed)
			}
			out = append(out, Sample{PTS: dts + int64(s.CompositionTimeOffset), DTS: dts, Duration: int64(s.Dur), Sync: s.Flags&mp4.NonSyncSampleFlags == 0, Data: mdat[at:end]})
			dts += int64(s.Dur)
			at = end
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: fragment without samples", ErrMalformed)
	}
	return out, nil
}
