package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/sleep"
)

// Deleter removes every object whose key begins with a prefix, in all regions;
// *objects.Store is one.
type Deleter interface {
	DeletePrefix(ctx context.Context, prefix string) error
}

// Janitor sweeps up after what died: leases that ran out, dead letters, uploads
// nobody goes on with, objects of failed and deleted assets, old rows. Every api
// runs one; all may sweep at once. Set the fields, then call Run once.
type Janitor struct {
	Catalog *catalog.Catalog
	Conn    *Conn
	Objects Deleter
	// Name tells janitors apart.
	Name string
	Log  *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

const (
	// sweepEvery is each janitor's; there is one a region.
	sweepEvery = 3 * time.Second
	// sweepPause follows a sweep that failed.
	sweepPause = 5 * time.Second
	// leaseGrace leaves expired tasks to redelivered messages, which come first as a rule.
	leaseGrace  = 10 * time.Second
	forgetEvery = time.Minute
	// stuckAfter is how long a run may be without any progress. Encoders that are
	// away for an evening are waited for.
	stuckAfter = 24 * time.Hour
	// alarmAfter is how old what must end may be before it is complained about.
	alarmAfter    = 15 * time.Minute
	deleteTimeout = 90 * time.Second
	// cleanupsPerSweep keeps one sweep short.
	cleanupsPerSweep = 10
)

// Run sweeps until ctx ends.
func (j *Janitor) Run(ctx context.Context) error {
	if err := j.Conn.Setup(ctx); err != nil {
		return ended(ctx, err)
	}
	var forgotten time.Time
	pause := sweepEvery
	for sleep.For(ctx, pause) == nil {
		err := j.sweep(ctx)
		if time.Since(forgotten) > forgetEvery {
			err = errors.Join(err, j.Catalog.Forget(ctx), j.overdue(ctx))
			forgotten = time.Now()
		}
		pause = sweepEvery
		if err != nil && ctx.Err() == nil {
			pause = sweepPause
			j.Log.Warn("janitor: trying again", "err", err, "in", pause)
		}
	}
	return nil
}

func (j *Janitor) sweep(ctx context.Context) error {
	requeued, failed, err := j.Catalog.RequeueExpired(ctx, leaseGrace)
	j.Metrics.sweep("expired", requeued)
	j.Metrics.sweep("exhausted", failed)

	finished, ferr := j.Catalog.FinishUploads(ctx)
	j.Metrics.sweep("unmarked uploads", finished)
	expired, uerr := j.Catalog.ExpireUploads(ctx)
	j.Metrics.sweep("uploads", expired)
	return errors.Join(err, ferr, uerr, j.bury(ctx), j.cleanUp(ctx))
}

// overdue fails what nothing has become of, and tells how old the rest is.
func (j *Janitor) overdue(ctx context.Context) error {
	stuck, err := j.Catalog.FailStuck(ctx, stuckAfter)
	j.Metrics.sweep("stuck", stuck)
	unused, uerr := j.Catalog.ExpireUnused(ctx)
	j.Metrics.sweep("unused assets", unused)
	list, lerr := j.Catalog.Oldest(ctx)
	if err := errors.Join(err, uerr, lerr); err != nil {
		return err
	}
	j.Metrics.waits(list)
	for _, w := range list {
		// An asset may be playable for as long as its encode takes.
		if w.Oldest > alarmAfter && w.What != "asset playable" && w.What != "task running" && w.What != "dead task" {
			j.Log.Warn("janitor: something waits for too long", "what", w.What, "oldest", w.Oldest.Round(time.Second), "number", w.N)
		}
	}
	return nil
}

// bury tells dead tasks to the DEAD stream.
func (j *Janitor) bury(ctx context.Context) error {
	dead, err := j.Catalog.Unburied(ctx)
	if err != nil {
		return err
	}
	for _, t := range dead {
		j.Log.Error("task failed for good", "task", t.ID, "asset", t.Asset, "attempt", t.Attempt, "detail", t.Failure.Detail)
		if err := j.Conn.deadLetter(ctx, t); err != nil {
			return err
		}
		if err := j.Catalog.MarkBuried(ctx, t.ID); err != nil {
			return err
		}
		j.Metrics.sweep("dead", 1)
	}
	return nil
}

func (j *Janitor) cleanUp(ctx context.Context) error {
	for range cleanupsPerSweep {
		c, err := j.Catalog.ClaimCleanup(ctx, j.Name)
		if err != nil || c == nil {
			return err
		}
		failure := j.remove(ctx, c)
		if failure != nil {
			j.Log.Warn("clean-up: trying again later", "asset", c.Asset, "err", failure)
		}
		if err := j.Catalog.EndCleanup(ctx, c, failure); err != nil && !errors.Is(err, catalog.ErrFenced) {
			return err
		}
		j.Metrics.sweep("cleanup", 1)
	}
	return nil
}

func (j *Janitor) remove(ctx context.Context, c *catalog.Cleanup) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	for _, prefix := range c.Prefixes {
		if err := j.Objects.DeletePrefix(ctx, prefix); err != nil {
			return fmt.Errorf("delete %s: %w", prefix, err)
		}
	}
	return nil
}
