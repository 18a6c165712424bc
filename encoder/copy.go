package encoder

import (
	"errors"
	"io"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/internal/fmp4"
)

// copyAttempts is how many attempts may fail before a copied rung is encoded:
// the first may be a worker's fault.
const copyAttempts = 2

// copying says whether this attempt copies the source's frames. What couldn't
// be copied is encoded.
func (j *videoJob) copying() bool { return j.spec.Copy && j.t.Failures < copyAttempts }

// copyCommand is the ffmpeg that copies from seek on; offset is what is added to the times of the run.
func (j *videoJob) copyCommand(seek int64) (c ffmpeg.Command, offset int64) {
	tl := j.spec.Timeline
	limits := j.e.opt.Child
	limits.Wall = wall(time.Duration(j.seconds()*float64(time.Second)), 1)
	copied := ffmpeg.Copy{URL: j.url(seek), Stream: j.spec.Stream, SeekMicros: seek, Timescale: tl.Scale}
	if last := j.chunks[len(j.chunks)-1]; !last.Last && seek < 0 {
		// Groups of pictures are closed, so that what is shown before is also first in the file.
		for _, c := range j.chunks {
			copied.Frames += c.frames
		}
	}
	args := copied.Args()
	return ffmpeg.Command{Name: "ffmpeg", Args: args, Outputs: 1, Limits: limits}, (ffmpeg.CopyOffset*tl.Den + tl.Zero) * (tl.Scale / tl.Den)
}

// grouped reads a rung's segments; a copied stream's fragments are joined to them.
func (j *videoJob) grouped(r *fmp4.Reader, offset int64) fragments {
	if !j.copying() {
		return r
	}
	tl := j.spec.Timeline
	g := &regroup{from: r, first: j.chunks[0].start + offset}
	start := func(k int64) {
		// k is twice a source time.
		g.starts = append(g.starts, (k+2*ffmpeg.CopyOffset*tl.Den)*(tl.Scale/tl.Den))
	}
	for i, c := range j.chunks {
		if i > 0 {
			start(c.Boundary)
		}
		for _, k := range c.Keyframes {
			start(k)
		}
	}
	return g
}

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
