package catalog

import (
	"context"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
)

// WaitingTask is a task as the dispatcher sees it.
type WaitingTask struct {
	ID, Owner string
	// Region is where it is offered first; Pinned, if any, the only regions allowed, or,
	// while workers encode with several builds, those of them where one of its run's is.
	Region string
	Pinned []string
	// Dispatch counts the messages sent for it.
	Dispatch int
	// Frames is its size, 0 if unknown.
	Frames int64
}

// workerSeen is how long after its last beat a worker counts as there when tasks are offered.
const workerSeen = 15 * time.Second

// Backlog returns up to perOwner tasks of each owner and placement that wait for
// a message, oldest first, and how many of the class are under way to a worker,
// by the target of MarkDispatched. A message sent longer than lost ago without
// anyone claiming the task counts as lost.
func (c *Catalog) Backlog(ctx context.Context, class Class, lost time.Duration, perOwner int) (waiting []WaitingTask, underWay map[string]int, err error) {
	underWay = map[string]int{}
	err = c.direct(ctx, "backlog", func(ctx context.Context, q *db.Queries) error {
		sent, err := q.Dispatched(ctx, string(class), lost)
		if err != nil {
			return err
		}
		for _, s := range sent {
			underWay[s.DispatchedTo] = int(s.Tasks)
		}
		rows, err := q.Dispatchable(ctx, db.DispatchableParams{Class: string(class), Lost: lost, Seen: workerSeen, PerOwner: int32(perOwner)})
		if err != nil {
			return err
		}
		waiting = make([]WaitingTask, len(rows))
		for i, r := range rows {
			waiting[i] = WaitingTask{ID: r.ID, Owner: r.Owner, Region: r.Region, Pinned: r.Pinned, Dispatch: int(r.Dispatch), Frames: r.FramesTotal}
		}
		return nil
	})
	return waiting, underWay, err
}

// MarkDispatched notes that message t.Dispatch+1 was sent for a task, to a pinned
// region or, with an empty target, to anyone. If somebody claimed it meanwhile,
// nothing changes.
func (c *Catalog) MarkDispatched(ctx context.Context, t WaitingTask, target string) error {
	return c.direct(ctx, "mark dispatched", func(ctx context.Context, q *db.Queries) error {
		return q.MarkDispatched(ctx, target, t.ID, int32(t.Dispatch))
	})
}

// WorkerSlots is how many tasks the workers seen lately take at once, by region.
func (c *Catalog) WorkerSlots(ctx context.Context, within time.Duration) (map[string]int, error) {
	out := map[string]int{}
	err := c.direct(ctx, "worker slots", func(ctx context.Context, q *db.Queries) error {
		rows, err := q.WorkerSlots(ctx, within)
		for _, r := range rows {
			out[r.Region] = int(r.Slots)
		}
		return err
	})
	return out, err
}

// HoldLease takes or renews a named lease for ttl and reports whether holder
// has it. It spares doing a job twice; nothing may depend on its never being held twice.
func (c *Catalog) HoldLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	var n int64
	err := c.direct(ctx, "lease "+name, func(ctx context.Context, q *db.Queries) error {
		var err error
		n, err = q.HoldLease(ctx, name, holder, ttl)
		return err
	})
	return n > 0, err
}

// DropLease gives a lease up, so that the next holder needn't wait.
func (c *Catalog) DropLease(ctx context.Context, name, holder string) error {
	return c.direct(ctx, "drop lease "+name, func(ctx context.Context, q *db.Queries) error { return q.DropLease(ctx, name, holder) })
}
