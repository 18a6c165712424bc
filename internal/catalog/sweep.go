package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
)

// sweepBatch bounds what one call looks at; the next call goes on.
const sweepBatch = 100

// lostFailure is how a task ends whose workers kept dying.
var lostFailure = Failure{Code: InternalFailure, Detail: "its workers stopped without a word, several times"}

// RequeueExpired queues tasks again whose lease ran out more than grace ago,
// counting a failure, and fails those that have used up their attempts together
// with their runs. It returns how many of each there were.
func (c *Catalog) RequeueExpired(ctx context.Context, grace time.Duration) (requeued, failed int, err error) {
	var exhausted []db.Task
	err = c.direct(ctx, "requeue expired tasks", func(ctx context.Context, q *db.Queries) error {
		ids, err := q.RequeueExpired(ctx, grace, MaxFailures, sweepBatch)
		if err != nil {
			return err
		}
		requeued = len(ids)
		exhausted, err = q.ExpiredForGood(ctx, grace, MaxFailures, sweepBatch)
		return err
	})
	for _, t := range exhausted {
		// Fenced by the attempt: a worker that came back meanwhile keeps its task.
		ferr := c.Fail(ctx, taskOf(t), lostFailure)
		if ferr == nil {
			failed++
		} else if !errors.Is(ferr, ErrFenced) {
			err = errors.Join(err, ferr)
		}
	}
	return requeued, failed, err
}

// DeadTask is a task that failed for good through no fault of its source.
type DeadTask struct {
	Task
	Failure Failure
}

// Unburied returns dead tasks that MarkBuried wasn't called for.
func (c *Catalog) Unburied(ctx context.Context) ([]DeadTask, error) {
	var out []DeadTask
	err := c.direct(ctx, "dead tasks", func(ctx context.Context, q *db.Queries) error {
		rows, err := q.Unburied(ctx, sweepBatch)
		for _, r := range rows {
			out = append(out, DeadTask{Task: taskOf(r), Failure: Failure{Code: r.ErrorCode, Detail: r.ErrorDetail}})
		}
		return err
	})
	return out, err
}

// MarkBuried notes that a dead task was told to the dead letters.
func (c *Catalog) MarkBuried(ctx context.Context, task string) error {
	return c.direct(ctx, "bury "+task, func(ctx context.Context, q *db.Queries) error { return q.MarkBuried(ctx, task) })
}

// UploadExpired is the code of assets whose upload wasn't finished in time.
const UploadExpired = "upload-expired"

// uploadRest is how long a complete upload may wait for whoever took its last
// part to mark it.
const uploadRest = 5 * time.Second

// FinishUploads finishes uploads that are complete and were not marked so,
// because the process that took the last part died right after: the creator was
// told of every byte. It returns how many there were.
func (c *Catalog) FinishUploads(ctx context.Context) (int, error) {
	var ids []string
	err := c.direct(ctx, "unfinished uploads", func(ctx context.Context, q *db.Queries) error {
		var err error
		// Each part sets the expiry anew.
		ids, err = q.UnfinishedUploads(ctx, UploadExpiry-uploadRest, sweepBatch)
		return err
	})
	n := 0
	for _, id := range ids {
		_, ferr := c.FinishUpload(ctx, id)
		if ferr == nil {
			n++
		} else if !errors.Is(ferr, ErrState) && !errors.Is(ferr, ErrNotFound) {
			err = errors.Join(err, ferr)
		}
	}
	return n, err
}

// ExpireUploads fails the assets of uploads that rested for too long and
// returns how many there were.
func (c *Catalog) ExpireUploads(ctx context.Context) (int, error) {
	var ids []string
	err := c.direct(ctx, "expired uploads", func(ctx context.Context, q *db.Queries) error {
		var err error
		ids, err = q.ExpiredUploads(ctx, sweepBatch)
		return err
	})
	n := 0
	for _, id := range ids {
		ferr := c.FailUpload(ctx, id, Failure{Code: UploadExpired, Detail: fmt.Sprintf("The upload got no data for %v. Upload the file again.", UploadExpiry)})
		if ferr == nil {
			n++
		} else if !errors.Is(ferr, ErrState) && !errors.Is(ferr, ErrNotFound) {
			err = errors.Join(err, ferr)
		}
	}
	return n, err
}

// unusedExpiry is how long an asset may wait for its upload to begin.
const unusedExpiry = 7 * 24 * time.Hour

// ExpireUnused fails assets that nobody began to upload anything to for too long, and
// returns how many there were.
func (c *Catalog) ExpireUnused(ctx context.Context) (int, error) {
	var ids []string
	err := c.direct(ctx, "unused assets", func(ctx context.Context, q *db.Queries) error {
		var err error
		ids, err = q.Unused(ctx, unusedExpiry, sweepBatch)
		return err
	})
	n := 0
	for _, id := range ids {
		ferr := c.write(ctx, "expire "+id, func(q *db.Queries) error {
			a, err := lockOwned(ctx, q, "", id)
			if err != nil {
				return err
			}
			// Once more, under the lock.
			switch _, err := q.UploadOfAsset(ctx, id); {
			case err == nil || State(a.State) != Waiting:
				return ErrState
			case !errors.Is(err, errNoRows):
				return err
			}
			return failAsset(ctx, q, a, 0, Failure{Code: UploadExpired, Detail: fmt.Sprintf("Nothing was uploaded for %v. Upload the file as a new asset.", unusedExpiry)})
		})
		if ferr == nil {
			n++
		} else if !errors.Is(ferr, ErrState) && !errors.Is(ferr, ErrNotFound) {
			err = errors.Join(err, ferr)
		}
	}
	return n, err
}

// Cleanup is a claimed clean-up task: every object below Prefixes is to go.
type Cleanup struct {
	Asset    string
	Prefixes []string
	task     db.Task
	spec     cleanupSpec
}

// cleanupLease is longer than one pass of deleting may take.
const cleanupLease = 2 * time.Minute

// ClaimCleanup takes the next clean-up that is due; nil when none is.
func (c *Catalog) ClaimCleanup(ctx context.Context, worker string) (*Cleanup, error) {
	var cl Cleanup
	err := c.direct(ctx, "claim clean-up", func(ctx context.Context, q *db.Queries) error {
		var err error
		cl.task, err = q.ClaimCleanup(ctx, worker, cleanupLease)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(cl.task.Spec, &cl.spec); err != nil {
		return nil, fmt.Errorf("clean-up %s: %w", cl.task.ID, err)
	}
	cl.Asset, cl.Prefixes = cl.task.Asset, cl.spec.Prefixes
	return &cl, nil
}

// EndCleanup notes how a pass of a clean-up ended. After a failure it is due
// again after a pause, however often; after success at its next pass, if any.
func (c *Catalog) EndCleanup(ctx context.Context, cl *Cleanup, failure error) error {
	if failure == nil && len(cl.spec.Passes) == 0 {
		return c.fenced(ctx, "finish "+cl.task.ID, func(ctx context.Context, q *db.Queries) (int64, error) {
			return q.FinishTask(ctx, cl.task.ID, cl.task.Attempt)
		})
	}
	p := db.RequeueCleanupParams{ID: cl.task.ID, Attempt: cl.task.Attempt, Failures: cl.task.Failures}
	spec := cl.spec
	if failure == nil {
		p.Delay, spec.Passes = spec.Passes[0], spec.Passes[1:]
	} else {
		p.Failures, p.Detail = p.Failures+1, failure.Error()
		p.Delay = min(time.Second<<min(p.Failures, 8), 2*time.Minute)
	}
	var err error
	if p.Spec, err = json.Marshal(spec); err != nil {
		return err
	}
	return c.direct(ctx, "requeue "+cl.task.ID, func(ctx context.Context, q *db.Queries) error { return q.RequeueCleanup(ctx, p) })
}

// Forget removes rows nobody needs any more: events sent a day ago, workers
// gone for an hour, idempotency keys a week old.
func (c *Catalog) Forget(ctx context.Context) error {
	return c.direct(ctx, "forget old rows", func(ctx context.Context, q *db.Queries) error {
		if _, err := q.ForgetSent(ctx); err != nil {
			return err
		}
		if err := q.ForgetIdempotencyKeys(ctx); err != nil {
			return err
		}
		return q.ForgetWorkers(ctx)
	})
}
