package deliver

import (
	"errors"
	"strconv"
	"strings"
)

// Span is a part of an object: Length bytes from Start.
type Span struct{ Start, Length int64 }

// maxRanges is how many ranges a request may ask for; more are answered whole
// (RFC 9110 section 14.2 lets a server ignore Range at any time).
const maxRanges = 16

// ErrRange: no range of the object is among those asked for (416). The header
// has Content-Range by then.
var ErrRange = errors.New("no such range of the object")

// ParseRange reads a Range header for an object of size bytes (RFC 9110 section
// 14.1.2). No spans and no error mean: ignore the header and answer whole, as
// for units we don't know, a syntax error, too many ranges, or ranges that
// overlap so much that the answer would be larger than the object.
func ParseRange(s string, size int64) ([]Span, error) {
	unit, set, ok := strings.Cut(s, "=")
	if !ok || !strings.EqualFold(unit, "bytes") || len(s) > 1024 {
		return nil, nil
	}
	var spans []Span
	var total int64
	given := 0
	for spec := range strings.SplitSeq(set, ",") {
		spec = strings.Trim(spec, " \t")
		if spec == "" {
			continue
		}
		if given++; given > maxRanges {
			return nil, nil
		}
		first, last, ok := strings.Cut(spec, "-")
		if !ok {
			return nil, nil
		}
		var sp Span
		switch {
		case first == "":
			n, ok := parseDigits(last)
			if !ok {
				return nil, nil
			}
			if n == 0 || size == 0 {
				continue
			}
			n = min(n, size)
			sp = Span{size - n, n}
		default:
			start, ok := parseDigits(first)
			if !ok {
				return nil, nil
			}
			end := size - 1
			if last != "" {
				e, ok := parseDigits(last)
				if !ok || e < start {
					return nil, nil
				}
				end = min(end, e)
			}
			if start >= size {
				continue
			}
			sp = Span{start, end - start + 1}
		}
		spans = append(spans, sp)
		total += sp.Length
	}
	switch {
	case given == 0:
		return nil, nil
	case len(spans) == 0:
		return nil, ErrRange
	case len(spans) > 1 && total > size:
		return nil, nil
	}
	return spans, nil
}

// parseDigits reads 1*DIGIT; a number too large for int64 is as large as can be.
func parseDigits(s string) (int64, bool) {
	if s == "" || !digits(s) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1, true
	}
	return n, true
}

// ContentRange is the field's value for a part of size bytes.
func (s Span) ContentRange(size int64) string {
	b := make([]byte, 0, 64)
	b = append(b, "bytes "...)
	b = strconv.AppendInt(b, s.Start, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, s.Start+s.Length-1, 10)
	b = append(b, '/')
	return string(strconv.AppendInt(b, size, 10))
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
