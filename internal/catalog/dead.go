package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// deadGrace is how long the source of an asset that failed through no fault of
// its own is kept, for Replay.
const deadGrace = 7 * 24 * time.Hour

// TaskInfo is a task as people look at it.
type TaskInfo struct {
	Task
	// State is "queued", "running", "done", "failed" or "cancelled"; Worker did the last attempt.
	State, Worker string
	// Frames of FramesTotal are done; both are 0 for tasks without video.
	Frames, FramesTotal int64
	// Failure is how the last bad attempt ended; zero when none has.
	Failure            Failure
	CreatedAt          time.Time
	StartedAt, EndedAt *time.Time
}

func infoOf(r db.Task) TaskInfo {
	return TaskInfo{Task: taskOf(r), State: r.State, Worker: r.Worker, Frames: r.Frames, FramesTotal: r.FramesTotal,
		Failure: Failure{Code: r.ErrorCode, Detail: r.ErrorDetail}, CreatedAt: r.CreatedAt, StartedAt: r.StartedAt, EndedAt: r.EndedAt}
}

// Tasks lists tasks of encoders in the given states (any without), of one asset
// or, with none given, of all: at most limit, the ones with the newest news first.
func (c *Catalog) Tasks(ctx context.Context, states []string, asset string, limit int) ([]TaskInfo, error) {
	return c.infos(ctx, "tasks", func(ctx context.Context, q *db.Queries) ([]db.Task, error) {
		return q.Tasks(ctx, nonNil(states), asset, int32(limit))
	})
}

// DeadTasks lists tasks that failed for good through no fault of their source
// and that nobody has decided about, the newest first.
func (c *Catalog) DeadTasks(ctx context.Context, limit int) ([]TaskInfo, error) {
	return c.infos(ctx, "dead tasks", func(ctx context.Context, q *db.Queries) ([]db.Task, error) {
		return q.DeadTasks(ctx, int32(limit))
	})
}

func (c *Catalog) infos(ctx context.Context, what string, list func(context.Context, *db.Queries) ([]db.Task, error)) ([]TaskInfo, error) {
	var out []TaskInfo
	err := c.direct(ctx, what, func(ctx context.Context, q *db.Queries) error {
		rows, err := list(ctx, q)
		out = make([]TaskInfo, len(rows))
		for i, r := range rows {
			out[i] = infoOf(r)
		}
		return err
	})
	return out, err
}

// Replay gives a dead task another chance, and returns the run that is under way
// with it: for extras the same one, else a new run of the asset, from its
// source. ErrState says that the task isn't dead, its source is gone already or
// another run is under way.
func (c *Catalog) Replay(ctx context.Context, task string) (run int, err error) {
	err = c.write(ctx, "replay "+task, func(q *db.Queries) error {
		t, a, err := lockDead(ctx, q, task)
		if err != nil {
			return err
		}
		run = int(t.Run)
		if Kind(t.Kind) == KindExtra {
			_, err := q.ReviveTask(ctx, task)
			return err
		}
		newest, err := q.NewestRun(ctx, a.ID)
		if err != nil {
			return err
		}
		switch RunState(newest.State) {
		case RunFailed, RunCancelled, RunComplete:
		default:
			return fmt.Errorf("%w: run %s of %s is under way already", ErrState, hls.RunName(int(newest.N)), a.ID)
		}
		if State(a.State) == Failed {
			// What is left to be removed is the source: it must be whole.
			n, err := q.CancelCleanup(ctx, cleanupID(a.ID, int(newest.N), whyDead))
			if err != nil {
				return err
			}
			if n == 0 {
				return fmt.Errorf("%w: the source of %s is gone", ErrState, a.ID)
			}
			if _, err := q.ReviveAsset(ctx, a.ID); err != nil {
				return err
			}
			if a, err = q.GetAsset(ctx, a.ID); err != nil {
				return err
			}
		}
		if _, err := q.LayToRest(ctx, task); err != nil {
			return err
		}
		run = int(newest.N) + 1
		if err := startRun(ctx, q, a, run, newest.Profile); err != nil {
			return err
		}
		return emit(ctx, q, a, Event{Type: EventReceived, Run: hls.RunName(run)}, outboxEntry{})
	})
	return run, err
}

// Discard decides that a dead task stays dead: it is listed no more, and the
// source of its failed asset is removed now.
func (c *Catalog) Discard(ctx context.Context, task string) error {
	return c.write(ctx, "discard "+task, func(q *db.Queries) error {
		t, a, err := lockDead(ctx, q, task)
		if err != nil {
			return err
		}
		if _, err := q.LayToRest(ctx, task); err != nil {
			return err
		}
		if State(a.State) != Failed {
			return nil
		}
		_, err = q.HastenCleanup(ctx, cleanupID(a.ID, int(t.Run), whyDead))
		return err
	})
}

// lockDead locks the asset of a dead task; ErrState if the task isn't dead.
func lockDead(ctx context.Context, q *db.Queries, task string) (db.Task, db.Asset, error) {
	t, err := q.GetTask(ctx, task)
	if err != nil {
		return t, db.Asset{}, err
	}
	a, err := lockOwned(ctx, q, "", t.Asset)
	if err != nil {
		return t, a, err
	}
	// Once more, under the lock.
	if t, err = q.GetTask(ctx, task); err == nil && (t.State != "failed" || t.ErrorCode != InternalFailure) {
		err = fmt.Errorf("%w: task %s is %s, not dead", ErrState, task, t.State)
	}
	return t, a, err
}

// FailStuck fails runs whose tasks made no progress for longer than deadline, and runs that
// have been idle for so long, which wait for nothing and yet aren't complete. It returns how
// many there were. A task of each is dead then, and can be replayed.
func (c *Catalog) FailStuck(ctx context.Context, deadline time.Duration) (int, error) {
	var stuck []db.Task
	err := c.direct(ctx, "stuck tasks", func(ctx context.Context, q *db.Queries) error {
		var err error
		stuck, err = q.StuckTasks(ctx, deadline, sweepBatch)
		return err
	})
	n := 0
	for _, t := range stuck {
		f := Failure{Code: InternalFailure, Detail: fmt.Sprintf("No encoder has worked on it for %v.", deadline)}
		if t.State != "queued" {
			f.Detail = fmt.Sprintf("Nothing has been left to do for it for %v, and it isn't complete.", deadline)
		}
		ferr := c.write(ctx, "fail "+t.ID, func(q *db.Queries) error {
			if _, err := q.LockAsset(ctx, t.Asset); err != nil {
				return err
			}
			failed, err := q.FailStuck(ctx, f.Code, f.Detail, t.ID)
			if err != nil {
				return err
			}
			if failed == 0 {
				return ErrFenced
			}
			return failRun(ctx, q, t.Asset, int(t.Run), f)
		})
		if ferr == nil {
			n++
		} else if !errors.Is(ferr, ErrFenced) {
			err = errors.Join(err, ferr)
		}
	}
	return n, err
}

// WaitingFor is how many things are in a state that must end, and the age of the
// oldest.
type WaitingFor struct {
	// What is "asset received", "asset playable", "task queued", "task running",
	// "idle run", "outbox row", "clean-up" or "dead task".
	What   string
	N      int64
	Oldest time.Duration
}

// Oldest returns what waits; a state of assets or tasks that nothing is in may be missing.
func (c *Catalog) Oldest(ctx context.Context) ([]WaitingFor, error) {
	var out []WaitingFor
	err := c.direct(ctx, "what waits", func(ctx context.Context, q *db.Queries) error {
		rows, err := q.Oldest(ctx)
		for _, r := range rows {
			out = append(out, WaitingFor{What: r.What, N: r.N, Oldest: time.Duration(r.Age * float64(time.Second))})
		}
		return err
	})
	return out, err
}

// runPrefixes are the objects of one run.
func runPrefixes(asset string, run int) []string {
	return []string{objects.WorkPrefix(asset, hls.RunName(run)), objects.RunPrefix(asset, hls.RunName(run))}
}
