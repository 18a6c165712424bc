package encoder

import (
	"errors"
	"io"

	"github.com/meridian-video/meridian/internal/fmp4"
)

// fragments is a stream of samples, one segment at a time.
type fragments interface {
	Next() ([]fmp4.Sample, error)
}

// maxCopied bounds a copied segment: what a source may put into two seconds.
const maxCopied = 64 << 20

var errCopied = errors.New("copied segment is too large")

// regroup joins the fragments of a copied stream, one for each of its
// keyframes, into segments.
type regroup struct {
	from fragments
	// starts are twice the times at which segments after the first begin, between
	// the frames before and after, in the stream's own time; first is the time of
	// the first frame wanted: what comes before it is left out.
	starts []int64
	first  int64
	held   []fmp4.Sample
	end    error
}

// Next returns the samples of the next segment.
func (r *regroup) Next() ([]fmp4.Sample, error) {
	for r.end == nil {
		samples, err := r.from.Next()
		if err != nil {
			r.end = err
			break
		}
		at := samples[0].PTS
		if len(r.held) == 0 {
			if at >= r.first {
				r.held = samples
			}
			continue
		}
		if len(r.starts) > 0 && 2*at > r.starts[0] {
			r.starts = r.starts[1:]
			out := r.held
			r.held = samples
			return out, nil
		}
		r.held = append(r.held, samples...)
		size := 0
		for _, s := range r.held {
			size += len(s.Data)
		}
		if size > maxCopied {
			r.end = errCopied
			return nil, r.end
		}
	}
	if errors.Is(r.end, io.EOF) && len(r.held) > 0 {
		out := r.held
		r.held = nil
		return out, nil
	}
	return nil, r.end
}
