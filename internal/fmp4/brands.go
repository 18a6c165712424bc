package fmp4

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// headerBrands are the structural brands of CMAF (ISO/IEC 23000-19, annex A): a header
// names one of them among those it is compatible with. What this package writes is of the
// first.
var headerBrands = []string{"cmfc", "cmf2"}

// segmentBrands are what a segment, a fragment or a chunk of CMAF may call itself.
var segmentBrands = []string{"cmfs", "cmff", "cmfl", "cmfc", "cmf2"}

// CheckHeader returns an error unless an initialisation segment begins with its type, and
// that says that it is a CMAF header.
func CheckHeader(init []byte) error {
	kind, brands, err := typeBox(init)
	switch {
	case err != nil:
		return err
	case kind != "ftyp":
		return fmt.Errorf("%w: begins with %q: want ftyp", ErrMalformed, kind)
	case !named(headerBrands, brands):
		return fmt.Errorf("%w: ftyp with the compatible brands %q: want one of CMAF's, %q", ErrMalformed, brands, headerBrands)
	}
	return nil
}

// CheckSegment returns an error when a media segment has a type that doesn't come first or
// doesn't say that it is one of CMAF. Segments needn't have any.
func CheckSegment(data []byte) error {
	kind, brands, err := typeBox(data)
	switch {
	case err != nil:
		return err
	case kind != "styp":
		// The type of another, or of a whole file, in the middle of one.
		for _, misplaced := range []string{"styp", "ftyp"} {
			if hasBox(data, misplaced) {
				return fmt.Errorf("%w: %s isn't the first box", ErrMalformed, misplaced)
			}
		}
	case !named(segmentBrands, brands):
		return fmt.Errorf("%w: styp with the compatible brands %q: want one of CMAF's, %q", ErrMalformed, brands, segmentBrands)
	}
	return nil
}

func named(wanted, brands []string) bool {
	return slices.ContainsFunc(brands, func(b string) bool { return slices.Contains(wanted, b) })
}

// typeBox is the first box's kind and, if it is a type (ISO/IEC 14496-12, 4.3), the brands
// it is compatible with.
func typeBox(b []byte) (kind string, brands []string, err error) {
	if len(b) < 8 {
		return "", nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	kind = string(b[4:8])
	if kind != "ftyp" && kind != "styp" {
		return kind, nil, nil
	}
	// A header, the major brand and its version, then four bytes each.
	size := int64(binary.BigEndian.Uint32(b))
	if size < 16 || size > int64(len(b)) || size%4 != 0 {
		return kind, nil, fmt.Errorf("%w: %s of %d bytes", ErrMalformed, kind, size)
	}
	for i := int64(16); i < size; i += 4 {
		brands = append(brands, string(b[i:i+4]))
	}
	return kind, brands, nil
}

// hasBox says whether one of the outermost boxes is of a kind; what is cut off has none.
func hasBox(b []byte, kind string) bool {
	for len(b) >= 8 {
		if string(b[4:8]) == kind {
			return true
		}
		size := uint64(binary.BigEndian.Uint32(b))
		if size == 1 && len(b) >= 16 {
			size = binary.BigEndian.Uint64(b[8:])
		}
		if size < 8 || size > uint64(len(b)) {
			return false
		}
		b = b[size:]
	}
	return false
}
