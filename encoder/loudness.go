package encoder

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
)

// How loudness is measured: all of a short track, windows spread evenly over a
// long one. Both take less than a second.
const (
	loudnessWhole   = 90 * time.Second
	loudnessWindow  = 6 * time.Second
	loudnessWindows = 10
	// loudnessLimit ends a measurement that hangs; the track is then left as it is.
	loudnessLimit = 30 * time.Second
)

// Bounds of the gain in dB. Less than minGain isn't heard; what is quieter than
// silence isn't raised.
const (
	minGain = 0.5
	maxGain = 20.0
	silence = -60.0
)

// gain measures a track and returns what brings it to its target, in dB. The
// same source gives the same gain, so a task that takes over joins at the same
// level. A track that can't be measured is left as it is: it is heard all the same.
func (e *Encoder) gain(ctx context.Context, t Task, in *input, spec plan.AudioTrack, length time.Duration, seekable bool) (float64, error) {
	if spec.Loudness == 0 {
		return 0, nil
	}
	began := time.Now()
	defer func() { e.metrics.stage("loudness", time.Since(began)) }()
	l := ffmpeg.Loudness{URL: in.url, Stream: spec.Stream, Length: loudnessWindow}
	if length > loudnessWhole {
		zero := spec.Zero * spec.Num * 1_000_000 / spec.Den
		n := loudnessWindows
		if !seekable {
			n = 1 // the beginning is what can be reached in time
			l.Length = loudnessWindow * loudnessWindows
		}
		for i := range n {
			l.Windows = append(l.Windows, max(0, zero)+(length.Microseconds()-l.Length.Microseconds())*int64(i)/int64(n))
		}
	}
	limits := e.opt.Child
	limits.Wall = loudnessLimit
	out, err := ffmpeg.Run(ctx, ffmpeg.Command{Name: "ffmpeg", Args: l.Args(), Limits: limits}, ffmpeg.MaxLoudnessOutput)
	var loudness float64
	if err == nil {
		loudness, err = ffmpeg.ParseLoudness(out)
	}
	var child *ffmpeg.Error
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case in.Err() != nil:
		return 0, in.Err()
	case errors.As(err, &child) || errors.Is(err, ffmpeg.ErrNoLoudness):
		e.log.Warn("loudness can't be measured, the track keeps its level", "task", t.ID, "asset", t.Asset, "error", err)
		return 0, nil
	case err != nil:
		return 0, err
	}
	return gainFor(loudness, spec.Loudness), nil
}

// gainFor is the gain in dB, in steps of a tenth.
func gainFor(loudness, target float64) float64 {
	g := math.Round((target-loudness)*10) / 10
	if loudness < silence || math.Abs(g) < minGain {
		return 0
	}
	return min(max(g, -maxGain), maxGain)
}
