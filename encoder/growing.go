package encoder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
)

// growBytes is the least that must arrive between two looks at a source.
const growBytes = 4 << 20

// begin plans what has arrived of a source that tells its frames only as they come, or
// waits for its end. The beginning of a file is never a reason to refuse it.
func (e *Encoder) begin(ctx context.Context, t Task, in *input, l probe.Layout) error {
	there := in.Readable()
	p, err := e.beginning(ctx, t, in, l, there)
	if ferr := in.Err(); ferr != nil || ctx.Err() != nil {
		return errors.Join(ferr, context.Cause(ctx))
	}
	if err == nil {
		err = t.GrowPlan(ctx, p, e.growsAt(in, p))
		if !errors.Is(err, catalog.ErrState) {
			return err
		}
	}
	e.log.Info("not planned yet", "asset", t.Asset, "run", t.RunName(), "readable", there, "reason", err)
	if errors.Is(err, plan.ErrShort) {
		return t.Await(ctx, in.Needed(2*there))
	}
	return t.Await(ctx, in.Size())
}

func (e *Encoder) beginning(ctx context.Context, t Task, in *input, l probe.Layout, there int64) (catalog.Plan, error) {
	profile, err := e.profile(ctx, t)
	if err != nil {
		return catalog.Plan{}, err
	}
	url := in.stretch(l, l.Head, there)
	src, err := e.prober.Probe(ctx, url, in.Size())
	if err != nil {
		return catalog.Plan{}, err
	}
	if !src.Fit() {
		return catalog.Plan{}, probe.ErrUnfit
	}
	frames, next, err := e.prober.Frames(ctx, url, in, l, l.Head, there, *src.Video)
	if err != nil {
		return catalog.Plan{}, err
	}
	if frames, err = e.prober.Shown(ctx, url, *src.Video, frames); err != nil {
		return catalog.Plan{}, err
	}
	return plan.Begin(src, false, plan.Growth{Layout: l, Next: next}, frames, profile, e.currentSpeed())
}

// growsAt is how many bytes must be there for about another task.
func (e *Encoder) growsAt(in *input, p catalog.Plan) int64 {
	needs := in.Readable() + growBytes
	var run plan.Run
	var spec plan.VideoTrack
	if json.Unmarshal(p.Encoder, &run) == nil && json.Unmarshal(p.Tracks[0].Encoder, &spec) == nil && run.Growth != nil {
		g, tl := run.Growth, spec.Timeline
		if seconds := float64(tl.At(g.Last)) / float64(tl.Scale); seconds > 0 {
			task := float64(run.Params.MaxChunk * run.Params.SegmentSeconds)
			needs = max(needs, g.Next+int64(float64(g.Next)/seconds*task))
		}
	}
	return in.Needed(needs)
}

// grow goes on with a plan that grows.
func (e *Encoder) grow(ctx context.Context, t Task, in *input, p catalog.Plan) error {
	switch p.State {
	case catalog.PlanGrowing:
	case catalog.PlanOffered:
		return e.remuxOn(ctx, t, in, p)
	default:
		return t.Finish(ctx) // an earlier attempt's answer was lost
	}
	p, err := e.grown(ctx, t, in, p)
	if ferr := in.Err(); ferr != nil || ctx.Err() != nil {
		return errors.Join(ferr, context.Cause(ctx))
	}
	if errors.Is(err, plan.ErrChanged) || errors.Is(err, probe.ErrUnfit) {
		return &probe.InputError{Code: probe.CodeChanged, Detail: err.Error()}
	}
	switch {
	case err != nil:
		return in.blame(err)
	case p.State == catalog.PlanGrowing:
		return t.GrowPlan(ctx, p, e.growsAt(in, p))
	}
	if err := e.tooLong(p); err != nil {
		return err
	}
	return t.CommitPlan(ctx, p)
}

// remuxOn goes on with a plan that grows while its source is remuxed.
func (e *Encoder) remuxOn(ctx context.Context, t Task, in *input, p catalog.Plan) error {
	var run plan.Run
	if err := json.Unmarshal(p.Encoder, &run); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	src, err := e.prober.Probe(ctx, in.url, in.Size())
	if err == nil && src.Video == nil {
		err = errors.New("the source has lost its picture")
	}
	if err == nil {
		err = e.remuxing(ctx, t, in, src, run, &p)
	}
	return in.blame(err)
}

func (e *Encoder) grown(ctx context.Context, t Task, in *input, p catalog.Plan) (catalog.Plan, error) {
	var run plan.Run
	if err := json.Unmarshal(p.Encoder, &run); err != nil {
		return p, fmt.Errorf("plan: %w", err)
	}
	g := run.Growth
	if g == nil {
		return p, errors.New("the plan isn't one that grows")
	}
	there := in.Readable()
	var whole *probe.Source
	if there == in.Size() {
		src, err := e.prober.Probe(ctx, in.url, in.Size())
		if err != nil {
			return p, err
		}
		whole = &src
	}
	if there <= g.Next && whole == nil {
		return p, nil
	}
	frames, next, err := e.prober.Frames(ctx, in.stretch(g.Layout, g.Next, there), in, g.Layout, g.Next, there, g.Video)
	if err != nil {
		return p, err
	}
	e.log.Info("more of the source is known", "asset", t.Asset, "run", t.RunName(), "readable", there, "frames", len(frames), "complete", whole != nil)
	return plan.Extend(p, frames, next, whole)
}
