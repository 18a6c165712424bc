package jobs

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/sleep"
)

// Plan, its parts and ChunkCommit are the catalog's: they are stored there.
type (
	Plan        = catalog.Plan
	PlanTrack   = catalog.PlanTrack
	PlanChunk   = catalog.PlanChunk
	ChunkCommit = catalog.ChunkCommit
	Source      = catalog.Source
)

// Task is one claimed attempt of a task, as a Handler gets it. Its methods are
// fenced by the attempt: once another attempt holds the task they return an
// error that is catalog.ErrFenced, and the handler should return it. While
// PostgreSQL is away they try again until ctx ends.
type Task struct {
	catalog.Task
	worker *Worker
	slot   *slot
	frames atomic.Int64
	done   atomic.Bool
}

// CommitPlan ends a plan task with its plan: the run's tasks exist with it.
func (t *Task) CommitPlan(ctx context.Context, p Plan) error {
	err := t.again(ctx, func(ctx context.Context) error { return t.worker.Catalog.CommitPlan(ctx, t.Task, p) })
	if err == nil {
		t.done.Store(true)
	}
	return err
}

// GrowPlan stores a plan that grows. Unless it is offered, the task is given back until its
// source has so many bytes or is complete.
func (t *Task) GrowPlan(ctx context.Context, p Plan, bytes int64) error {
	err := t.again(ctx, func(ctx context.Context) error { return t.worker.Catalog.GrowPlan(ctx, t.Task, p, bytes) })
	if err == nil && p.State != catalog.PlanOffered {
		t.done.Store(true)
	}
	return err
}

// CommitChunk makes an encoded chunk count, whose segments are stored. It ends a
// video task unless More follows; an audio task ends with the record marked Last.
// Afterwards the record is PUT; should that fail, the publisher does it.
func (t *Task) CommitChunk(ctx context.Context, ch ChunkCommit) error {
	var object catalog.Object
	var row int64
	err := t.again(ctx, func(ctx context.Context) error {
		var err error
		object, row, err = t.worker.Catalog.CommitChunk(ctx, t.Task, ch)
		return err
	})
	if err != nil {
		return err
	}
	t.frames.Store(max(t.frames.Load(), ch.Frames))
	if ch.Ends(t.Kind) {
		t.done.Store(true)
	}
	if row == 0 {
		return nil // committed by an earlier call whose answer was lost
	}
	pctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	_, err = t.worker.Objects.Put(pctx, object.Key, objects.Bytes(object.Body), t.Placement)
	if err == nil {
		err = t.worker.Catalog.MarkStored(pctx, row)
	}
	if err != nil {
		t.worker.Log.Warn("record is left to the publisher", "task", t.ID, "key", object.Key, "err", err)
	}
	return nil
}

// CommitExtras ends an extra task with the index of what it has stored.
func (t *Task) CommitExtras(ctx context.Context, x hls.Extras) error {
	err := t.again(ctx, func(ctx context.Context) error { return t.worker.Catalog.CommitExtras(ctx, t.Task, x) })
	if err == nil {
		t.done.Store(true)
	}
	return err
}

// recordTimeout is how long a worker tries to PUT a record itself.
const recordTimeout = 5 * time.Second

// Finish ends a task whose result isn't a plan or a chunk.
func (t *Task) Finish(ctx context.Context) error {
	err := t.again(ctx, func(ctx context.Context) error { return t.worker.Catalog.Finish(ctx, t.Task) })
	if err == nil {
		t.done.Store(true)
	}
	return err
}

// Await gives the task back until its source has so many bytes, or is complete.
// The handler returns nil then.
func (t *Task) Await(ctx context.Context, bytes int64) error {
	err := t.again(ctx, func(ctx context.Context) error { return t.worker.Catalog.Await(ctx, t.Task, bytes) })
	if err == nil {
		t.done.Store(true)
	}
	return err
}

// Progress notes how many frames of the task are done; the next beat tells it.
func (t *Task) Progress(frames int64) { t.frames.Store(max(t.frames.Load(), frames)) }

// Draining says that little work is left: the worker may begin with its next
// task.
func (t *Task) Draining() { t.slot.drain() }

// Source returns the parts of the asset's source.
func (t *Task) Source(ctx context.Context) (Source, error) {
	var s Source
	err := t.again(ctx, func(ctx context.Context) error {
		var err error
		s, err = t.worker.Catalog.Source(ctx, t.Asset)
		return err
	})
	return s, err
}

// Profile returns the name of the profile the run is encoded with.
func (t *Task) Profile(ctx context.Context) (string, error) {
	var name string
	err := t.again(ctx, func(ctx context.Context) error {
		var err error
		name, err = t.worker.Catalog.RunProfile(ctx, t.Asset, t.Run)
		return err
	})
	return name, err
}

// Plan returns the run's plan.
func (t *Task) Plan(ctx context.Context) (Plan, error) {
	var p Plan
	err := t.again(ctx, func(ctx context.Context) error {
		var err error
		p, err = t.worker.Catalog.RunPlan(ctx, t.Asset, t.Run)
		return err
	})
	return p, err
}

// CommittedChunks returns the records of the task's track that count already, in
// order of chunk: an audio task that takes over goes on after them.
func (t *Task) CommittedChunks(ctx context.Context) ([]hls.Record, error) {
	var out []hls.Record
	err := t.again(ctx, func(ctx context.Context) error {
		var err error
		out, err = t.worker.Catalog.CommittedChunks(ctx, t.Asset, t.Run, t.Track)
		return err
	})
	return out, err
}

// again calls f until it gives something else than ErrUnavailable.
func (t *Task) again(ctx context.Context, f func(context.Context) error) error {
	pause := retryMin
	for {
		err := f(ctx)
		if ctx.Err() != nil && err != nil {
			return context.Cause(ctx)
		}
		if !errors.Is(err, catalog.ErrUnavailable) {
			return err
		}
		if sleep.For(ctx, pause) != nil {
			return context.Cause(ctx)
		}
		pause = min(2*pause, retryMax)
	}
}
