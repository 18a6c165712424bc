package encoder

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
)

// A preview shows previewMoments of the video, previewTime in all. Its longer
// side has at most previewLong pixels.
const (
	previewMoments = 6
	previewTime    = 4800 * time.Millisecond
	previewLong    = 320
	maxPreview     = 500 << 10
)

// previewTries are qualities and frame rates: the first whose file is small
// enough. The last one is for noise, of which a frame of 320 × 180 then has 10 kB.
var previewTries = []struct{ quality, rate int }{{60, 10}, {30, 10}, {10, 10}, {0, 5}}

// preview joins moments from all over the video, taken from the smallest rung
// that is large enough, into an animation.
func (j *extraJob) preview(pub *publisher) error {
	rung := previewRung(j.spec.Rungs)
	moments := pickMoments(j.segments(rung.ID))
	slot := slices.MaxFunc(moments, func(a, b segmentAt) int { return int(a.duration - b.duration) }).duration
	length := min(slot, int64(previewTime)*j.track.Timescale/int64(time.Second)/int64(len(moments)))
	film, err := j.film(pub.ctx, rung.ID, moments, slot, func(frames []fmp4.Sample) int { return shownBy(frames, length) })
	if err != nil {
		return err
	}
	last := len(moments) - 1
	shown := int64(last)*length + min(length, moments[last].duration)
	url, remove := j.e.server.Add(memoryFile(film))
	defer remove()
	w, h := fit(rung, min(previewLong, max(rung.Width, rung.Height)))
	out, duration, err := j.animate(pub.ctx, ffmpeg.Preview{URL: url, Width: w, Height: h, Slot: slot, Length: length},
		float64(shown)/float64(j.track.Timescale), maxPreview)
	var child *ffmpeg.Error
	switch {
	case errors.Is(err, errLarge) || errors.As(err, &child) && pub.ctx.Err() == nil && j.t.again():
		// Posters are worth having without it.
		j.e.log.Warn("the preview can't be made, it is left out", "task", j.t.ID, "asset", j.t.Asset, "error", err)
		return nil
	case err != nil:
		return err
	}
	j.put(pub, "preview.webp", out)
	j.out.Preview = &hls.Preview{Path: j.name("preview.webp"), Width: w, Height: h, Duration: duration}
	return nil
}

var errLarge = errors.New("too large at every quality")

// animate makes p at the best quality that stays within limit bytes, and tells
// how long it lasts: about the given seconds.
func (j *extraJob) animate(ctx context.Context, p ffmpeg.Preview, seconds float64, limit int) ([]byte, float64, error) {
	for _, try := range previewTries {
		p.Quality, p.Rate = try.quality, try.rate
		p.Frames = max(2, int(math.Round(seconds*float64(try.rate))))
		out, err := j.ffmpeg(ctx, p.Args(), 1)
		if err != nil {
			return nil, 0, err
		}
		if len(out[0]) <= limit {
			return out[0], float64(p.Frames) / float64(p.Rate), nil
		}
	}
	return nil, 0, errLarge
}

// previewRung is the smallest of the rungs, highest first, that needn't be
// enlarged; the highest when none is large enough.
func previewRung(rungs []plan.Rung) plan.Rung {
	for _, r := range slices.Backward(rungs) {
		if max(r.Width, r.Height) >= previewLong {
			return r
		}
	}
	return rungs[0]
}

// pickMoments chooses segments evenly, from the middle of each share: what
// begins with black and ends with credits shows neither.
func pickMoments(all []segmentAt) []segmentAt {
	n := min(previewMoments, len(all))
	out := make([]segmentAt, n)
	for i := range n {
		out[i] = all[(2*i+1)*len(all)/(2*n)]
	}
	return out
}

// shownBy is how many frames, in decode order, show the first length of them:
// frames that a shown one may depend on come with it.
func shownBy(frames []fmp4.Sample, length int64) int {
	n := 1
	for i, f := range frames {
		if f.PTS < frames[0].PTS+length {
			n = i + 1
		}
	}
	return n
}
