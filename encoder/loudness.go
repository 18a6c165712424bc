package encoder

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
)

// loudnessLimit ends sampling that hangs; the track is then left as it is.
const loudnessLimit = 30 * time.Second

// Bounds of the gain in dB. Less than minGain isn't heard, and a sample isn't
// more exact; what is quieter than silence isn't raised.
const (
	minGain = 0.5
	maxGain = 20.0
	silence = -60.0
)

// ceiling is the highest true peak of what is raised, in dBTP.
const ceiling = -1.0

// gain is what brings a track to its target.
type gain struct {
	dB float64
	// limit says that without a limiter peaks could exceed the ceiling.
	limit bool
}

// gain measures a track and returns what brings it to its target. The same
// source gives the same gain, so a task that takes over joins at the same
// level. A track that can't be measured is left as it is: it is heard all the same.
func (e *Encoder) gain(ctx context.Context, t Task, in *input, spec plan.AudioTrack, length time.Duration, run plan.Run) (gain, error) {
	asItIs := gain{limit: spec.Mixed}
	if spec.Loudness == 0 {
		return asItIs, nil
	}
	began := time.Now()
	defer func() { e.metrics.stage("loudness", time.Since(began)) }()
	whole := spec.LoudnessMeasure == plan.LoudnessWhole
	limits, least := e.soundLimits(), minGain
	var args []string
	if whole {
		limits.Wall, least = wall(length, 1), 0
		args = soundOf(in, spec, 0).LoudnessArgs()
	} else {
		limits.Wall = e.loudnessLimit
		args = sample(in, spec, length, run).Args()
	}
	level, err := measure(ctx, ffmpeg.Command{Name: "ffmpeg", Args: args, Outputs: 1, Limits: limits})
	var child *ffmpeg.Error
	switch {
	case ctx.Err() != nil:
		return gain{}, context.Cause(ctx)
	case in.Err() != nil || in.Missing() != nil:
		return gain{}, errors.Join(in.Err(), in.Missing())
	case whole && errors.As(err, &child) && child.Reason != ffmpeg.ReasonExit && !t.again():
		return gain{}, err // the worker may be at fault
	case errors.As(err, &child) || errors.Is(err, ffmpeg.ErrNoLoudness):
		e.log.Warn("loudness can't be measured, the track keeps its level", "task", t.ID, "asset", t.Asset, "error", err)
		return asItIs, nil
	case err != nil:
		return gain{}, err
	}
	return gainFor(level, spec, least), nil
}

// sample chooses what of a track is measured.
func sample(in *input, spec plan.AudioTrack, length time.Duration, run plan.Run) ffmpeg.Loudness {
	l := ffmpeg.Loudness{Stream: spec.Stream, Length: plan.LoudnessWindow}
	if length <= plan.LoudnessShort && len(run.Parts) == 0 {
		l.Windows = []ffmpeg.LoudnessWindow{{URL: in.part(probe.Everything(spec.Stream))}}
		l.Length = 0
		return l
	}
	if g := run.Growth; g != nil && len(run.Parts) == 0 {
		t := plan.NewTimeline(spec.Num, spec.Den, spec.Zero)
		for _, b := range g.Sampled(t, length, l.Length, plan.LoudnessWindows) {
			l.Windows = append(l.Windows, ffmpeg.LoudnessWindow{URL: in.stretch(g.Layout, b.From, b.To), Start: -1})
		}
		return l
	}
	zero := spec.Zero * spec.Num * 1_000_000 / spec.Den
	n := plan.LoudnessWindows
	if !run.Seekable {
		n = 1 // the beginning is what can be reached in time
		l.Length = plan.LoudnessWindow * plan.LoudnessWindows
	}
	for i := range n {
		at := time.Duration(max(0, zero)+(length.Microseconds()-l.Length.Microseconds())*int64(i)/int64(n)) * time.Microsecond
		l.Windows = append(l.Windows, ffmpeg.LoudnessWindow{URL: in.part(in.movie.Around(spec.Stream, at, l.Length)), Start: at})
	}
	return l
}

// measure runs a measurement, which may write more than is worth keeping.
func measure(ctx context.Context, c ffmpeg.Command) (ffmpeg.Level, error) {
	proc, err := ffmpeg.Start(ctx, c)
	if err != nil {
		return ffmpeg.Level{}, err
	}
	level, rerr := ffmpeg.ParseLoudness(proc.Output(0))
	if rerr != nil && !errors.Is(rerr, ffmpeg.ErrNoLoudness) {
		proc.Kill(rerr)
	}
	perr := proc.Wait()
	if perr == nil || errors.Is(perr, rerr) {
		return level, rerr
	}
	return level, perr
}

// gainFor is the gain in steps of a tenth of a dB, none below the least. Peaks exceed the
// ceiling where a track is raised, or has become louder by what was mixed into it.
func gainFor(level ffmpeg.Level, spec plan.AudioTrack, least float64) gain {
	g := math.Round((spec.Loudness-level.Integrated)*10) / 10
	g = min(max(g, -maxGain), maxGain)
	if level.Integrated < silence || math.Abs(g) < least {
		g = 0
	}
	return gain{dB: g, limit: (g > 0 || spec.Mixed) && level.Peak+g > ceiling}
}
