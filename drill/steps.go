package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/sleep"
)

// steps makes the faults and undoes them, each at its time. When ctx ends, or a
// step can't be made, all that was made is undone before it returns.
func (x *run) steps(ctx context.Context) error {
	x.o.Steps = make([]score.Happened, len(x.s.Steps))
	active := map[int]target.Fault{}
	var wg sync.WaitGroup
	for i, step := range x.s.Steps {
		wg.Go(func() {
			if sleep.For(ctx, time.Until(x.o.FaultBegan.Add(step.At.Std()))) != nil {
				x.happened(i, func(h *score.Happened) { h.Err = "the drill was interrupted" })
				return
			}
			f, err := x.Desc.Resolve(ctx, step)
			if err != nil {
				x.happened(i, func(h *score.Happened) { h.Err = err.Error() })
				return
			}
			x.one(ctx, i, f, active)
		})
	}
	wg.Wait()
	var errs []error
	for _, h := range x.o.Steps {
		if h.Err != "" {
			errs = append(errs, errors.New(h.Err))
		}
	}
	if ctx.Err() != nil {
		return errors.Join(append(errs, ctx.Err())...)
	}
	slices.SortStableFunc(x.o.Steps, func(a, b score.Happened) int { return cmp.Compare(a.Began.UnixNano(), b.Began.UnixNano()) })
	return nil // that a step failed is in the observations, and fails the run
}

// happened changes what is known of a step.
func (x *run) happened(i int, f func(*score.Happened)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f(&x.o.Steps[i])
}

// mark says which faults there are now.
func (x *run) mark(i int, f target.Fault, there bool, active map[int]target.Fault) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if there {
		active[i] = f
	} else {
		delete(active, i)
	}
	x.fleet.Lost(regionsLost(active, x.Desc)...)
}

func (x *run) one(ctx context.Context, i int, f target.Fault, active map[int]target.Fault) {
	step := x.s.Steps[i]
	x.say("%s", step)
	actx, cancel := context.WithTimeout(ctx, stepTime)
	err := x.Target.Prepare(actx, f)
	began := time.Now()
	x.happened(i, func(h *score.Happened) { h.Fault, h.Began = f, began })
	if step.Heals() {
		x.mark(i, f, true, active)
	}
	if err == nil {
		err = x.Target.Apply(actx, f)
	}
	cancel()
	x.happened(i, func(h *score.Happened) { h.Applied = time.Now() })
	if err != nil {
		x.happened(i, func(h *score.Happened) { h.Err = fmt.Sprintf("%s: %v", f, err) })
		x.say("%s failed: %v", f, err)
	} else {
		x.say("%s done after %.1f s", f, time.Since(began).Seconds())
	}
	if !step.Heals() {
		return
	}
	_ = sleep.For(ctx, time.Until(began.Add(step.For.Std()))) // interrupted: undone at once
	if ctx.Err() != nil {
		f.Clock = 0 // nothing comes after it that would set it right
	}
	// It is undone whatever has become of the drill.
	hctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTime)
	defer cancel()
	x.say("undoing %s", f)
	healing := time.Now()
	x.happened(i, func(h *score.Happened) { h.Healing = healing })
	err = x.Target.Heal(hctx, f)
	x.mark(i, f, false, active)
	x.happened(i, func(h *score.Happened) {
		h.Healed = time.Now()
		if err != nil {
			h.Err = fmt.Sprintf("undo %s: %v", f, err)
		}
	})
	if err != nil {
		x.say("undoing %s failed: %v", f, err)
		return
	}
	x.say("%s undone after %.1f s", f, time.Since(healing).Seconds())
}
