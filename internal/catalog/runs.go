package catalog

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// Run is one encode of an asset.
type Run struct {
	// N counts an asset's runs from 1.
	N       int
	State   RunState
	Profile string
	// Current is the run that is shown.
	Current   bool
	Failure   *Failure
	CreatedAt time.Time
	EndedAt   *time.Time
}

// Name is the run's id in object keys and records.
func (r Run) Name() string { return hls.RunName(r.N) }

// open says that a run is under way.
func (s RunState) open() bool { return s == RunPlanned || s == RunEncoding || s == RunPlayable }

// replacedGrace is how much longer than the film the objects of a replaced run stay: who
// began to watch it goes on, in a session that lasts six hours longer than the film.
const replacedGrace = 7 * time.Hour

func runRow(r db.Run, current *int32) Run {
	out := Run{N: int(r.N), State: RunState(r.State), Profile: r.Profile, Current: current != nil && *current == r.N, CreatedAt: r.CreatedAt, EndedAt: r.EndedAt}
	if r.FailureCode != nil {
		out.Failure = &Failure{Code: *r.FailureCode, Detail: deref(r.FailureDetail)}
	}
	return out
}

// Runs lists an asset's runs, the oldest first.
func (c *Catalog) Runs(ctx context.Context, owner, id string) ([]Run, error) {
	var out []Run
	err := c.read(ctx, "runs of "+id, func(ctx context.Context, q *db.Queries) error {
		a, err := q.GetAsset(ctx, id)
		if err != nil {
			return err
		}
		if a.DeletedAt != nil || owner != "" && a.Owner != owner {
			return ErrNotFound
		}
		rows, err := q.Runs(ctx, id)
		out = make([]Run, len(rows))
		for i, r := range rows {
			out[i] = runRow(r, a.CurrentRun)
		}
		return err
	})
	return out, err
}

// Encode has a ready asset encoded anew from its source, with a profile, or, if that is
// empty, the one it was encoded with. Its run is shown until the new one is complete; one that
// fails or is cancelled changes nothing. ErrState says that the asset isn't ready or another
// run is under way.
func (c *Catalog) Encode(ctx context.Context, owner, id, profile string) (Run, error) {
	var run Run
	err := c.write(ctx, "encode "+id, func(q *db.Queries) error {
		a, err := lockOwned(ctx, q, owner, id)
		if err != nil {
			return err
		}
		if State(a.State) != Ready || a.CurrentRun == nil {
			return fmt.Errorf("%w: asset is %s, only one that is ready is encoded anew", ErrState, a.State)
		}
		newest, err := q.NewestRun(ctx, id)
		if err != nil {
			return err
		}
		if RunState(newest.State).open() {
			return fmt.Errorf("%w: run %s is under way", ErrState, runOf(newest.N))
		}
		current, err := q.GetRun(ctx, id, *a.CurrentRun)
		if err != nil {
			return err
		}
		n := newest.N + 1
		if err := startRun(ctx, q, a, int(n), cmp.Or(profile, current.Profile)); err != nil {
			return err
		}
		row, err := q.GetRun(ctx, id, n)
		if err != nil {
			return err
		}
		run = runRow(row, a.CurrentRun)
		return emit(ctx, q, a, Event{Type: EventEncoding, Run: run.Name()}, outboxEntry{})
	})
	return run, err
}

// CancelRun ends a run that was to replace a ready asset's, and removes what it stored.
// ErrState says that it isn't one, or has ended.
func (c *Catalog) CancelRun(ctx context.Context, owner, id string, run int) error {
	return c.write(ctx, fmt.Sprintf("cancel run %d of %s", run, id), func(q *db.Queries) error {
		a, err := lockOwned(ctx, q, owner, id)
		if err != nil {
			return err
		}
		n := int32(run)
		row, err := q.GetRun(ctx, id, n)
		if err != nil {
			return err
		}
		if State(a.State) != Ready {
			return fmt.Errorf("%w: asset is %s: delete it to end its first encode", ErrState, a.State)
		}
		cancelled, err := q.CancelRun(ctx, id, n)
		if err != nil {
			return err
		}
		// A run that has its last master is shown in a moment.
		if cancelled == 0 || row.Final {
			return fmt.Errorf("%w: run %s is %s", ErrState, runOf(n), row.State)
		}
		if err := q.CancelTasks(ctx, id, &n); err != nil {
			return err
		}
		if err := insertCleanup(ctx, q, a, run, "run", 0, runPrefixes(id, run)...); err != nil {
			return err
		}
		return emit(ctx, q, a, Event{Type: EventCancelled, Run: runOf(n)}, outboxEntry{})
	})
}

// show makes a complete run the one that is shown. What it replaces leaves once nobody who
// began to watch it can be there any more.
func show(ctx context.Context, q *db.Queries, asset string, run int32) error {
	a, err := q.GetAsset(ctx, asset)
	if err != nil {
		return err
	}
	if err := q.MarkReady(ctx, &run, asset); err != nil {
		return err
	}
	old := a.CurrentRun
	if old == nil || *old == run || State(a.State) == Failed {
		return nil
	}
	replaced, err := q.ReplaceRun(ctx, asset, *old)
	if err != nil || replaced == 0 {
		return err
	}
	grace := replacedGrace + time.Duration(deref(a.DurationMs))*time.Millisecond
	return insertCleanup(ctx, q, a, int(*old), "replaced", grace, objects.RunPrefix(asset, runOf(*old)))
}
