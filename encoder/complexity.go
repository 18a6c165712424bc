package encoder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
)

// complexityLimit is the longest a plan waits for its source's complexity. The
// ordinary ladder serves as well, and a viewer may be waiting.
const complexityLimit = 1500 * time.Millisecond

// maxComplexity bounds what a window may write, in bytes.
const maxComplexity = 64 << 10

// complexity measures a source for its ladder. What can't be measured, or not in
// time, gets the ordinary ladder; the plan and the log say so.
func (e *Encoder) complexity(ctx context.Context, t Task, s *served, src probe.Source, index probe.Index, p plan.Profile) (plan.Complexity, error) {
	if src.Video == nil || !p.PerTitle.Enabled {
		return plan.Complexity{}, nil
	}
	windows, missing := plan.Windows(src, index, p, e.currentSpeed())
	if missing != "" {
		e.log.Debug("complexity not measured, the ladder is the ordinary one", "task", t.ID, "asset", t.Asset, "reason", missing)
		return plan.Complexity{Missing: missing}, nil
	}
	began := time.Now()
	defer func() { e.metrics.stage("complexity", time.Since(began)) }()
	limited, cancel := context.WithTimeoutCause(ctx, e.complexityLimit, fmt.Errorf("it took longer than %s", e.complexityLimit))
	defer cancel()
	for i, w := range windows {
		windows[i].URL = s.part(plan.WindowSpan(index, w))
	}
	measured, err := e.measureWindows(limited, windows)
	switch {
	case ctx.Err() != nil:
		return plan.Complexity{}, context.Cause(ctx)
	case err != nil && limited.Err() != nil:
		err = context.Cause(limited)
	}
	if err != nil {
		e.log.Warn("complexity can't be measured, the ladder is the ordinary one", "task", t.ID, "asset", t.Asset, "windows", len(windows), "error", err)
		return plan.Complexity{Missing: reason(err)}, nil
	}
	c := plan.Estimate(src, index, p, windows, measured)
	e.log.Info("complexity measured", "task", t.ID, "asset", t.Asset, "windows", c.Windows, "took", time.Since(began).Round(time.Millisecond))
	return c, nil
}

// reason is an error in the few words a plan keeps.
func reason(err error) string {
	var child *ffmpeg.Error
	if errors.As(err, &child) {
		return child.Name + ": " + child.Reason
	}
	return err.Error()
}

// measureWindows measures windows side by side, in their order. ctx bounds how long
// that takes.
func (e *Encoder) measureWindows(ctx context.Context, windows []ffmpeg.Complexity) ([]plan.Measured, error) {
	out := make([]plan.Measured, len(windows))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, w := range windows {
		g.Go(func() error {
			release, err := e.hold(gctx, windowMemory(w))
			if err != nil {
				return err
			}
			defer release()
			out[i], err = measureWindow(gctx, w, e.opt.Child)
			return err
		})
	}
	return out, g.Wait()
}

func measureWindow(ctx context.Context, w ffmpeg.Complexity, limits ffmpeg.Limits) (plan.Measured, error) {
	b, err := ffmpeg.Run(ctx, ffmpeg.Command{Name: "ffmpeg", Args: w.Args(), Limits: limits}, maxComplexity)
	if err != nil {
		return plan.Measured{}, err
	}
	small, tiles, err := ffmpeg.ParseComplexity(bytes.NewReader(b))
	if err != nil {
		return plan.Measured{}, err
	}
	return plan.NewMeasured(w, small, tiles), nil
}
