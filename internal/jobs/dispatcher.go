package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/catalog"
)

// Dispatcher sends messages for waiting tasks. Every api runs one; one of them
// is active at a time. Set the fields, then call Run once.
type Dispatcher struct {
	Catalog *catalog.Catalog
	Conn    *Conn
	// Name tells dispatchers apart; Regions are the names of all regions.
	Name    string
	Regions []string
	Log     *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics

	fair map[catalog.Class]*fair
}

const (
	dispatchPoll = 500 * time.Millisecond
	// dispatchLease is how long another dispatcher waits when the active one dies.
	dispatchLease = 5 * time.Second
	// awayPause is how long it rests after a server didn't answer.
	awayPause = time.Second
	// windowPerSlot is how many messages wait per slot of the workers: enough that
	// nobody idles, few enough that the next owner's turn comes soon.
	windowPerSlot = 2
	minWindow     = 2
	// lostAfter is when a message nobody has claimed counts as lost. A second
	// message for the same task does no harm.
	lostAfter = 90 * time.Second
	// workersWithin is how old a worker's last beat may be.
	workersWithin = 3 * beatEvery
)

// Run dispatches until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) error {
	d.fair = map[catalog.Class]*fair{}
	for _, c := range catalog.Classes {
		d.fair[c] = &fair{}
	}
	if err := d.Conn.Setup(ctx); err != nil {
		return ended(ctx, err)
	}
	wake := make(chan struct{}, 1)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return d.Catalog.Listen(gctx, catalog.TasksChannel, func() {
			select {
			case wake <- struct{}{}:
			default: // a look is due already
			}
		})
	})
	g.Go(func() error { return d.loop(gctx, wake) })
	return g.Wait()
}

func (d *Dispatcher) loop(ctx context.Context, wake <-chan struct{}) error {
	const lease = "dispatcher"
	var until time.Time // our lease, by our clock, with a margin
	pause := dispatchPoll
	// rest is for servers that are away: what woke us must not make us hurry.
	rest := func(err error) {
		if ctx.Err() == nil {
			d.Log.Warn("dispatcher: trying again", "err", err, "in", awayPause)
			sleep(ctx, awayPause)
		}
	}
	for {
		select {
		case <-ctx.Done():
			dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
			defer cancel()
			if err := d.Catalog.DropLease(dctx, lease, d.Name); err != nil {
				d.Log.Warn("dispatcher: the next one waits for the lease to run out", "err", err)
			}
			return nil
		case <-wake:
		case <-time.After(pause):
		}
		if now := time.Now(); now.After(until) {
			ok, err := d.Catalog.HoldLease(ctx, lease, d.Name, dispatchLease)
			if err != nil {
				rest(err)
				continue
			}
			if !ok {
				pause = dispatchLease / 4 // another one is active
				continue
			}
			pause = dispatchPoll
			until = now.Add(dispatchLease / 2)
		}
		if err := d.dispatch(ctx); err != nil {
			rest(err)
		}
	}
}

// dispatch fills the window of every class once.
func (d *Dispatcher) dispatch(ctx context.Context) error {
	slots, err := d.Catalog.WorkerSlots(ctx, workersWithin)
	if err != nil {
		return err
	}
	window := max(minWindow, windowPerSlot*slots)
	for _, class := range catalog.Classes {
		waiting, underWay, err := d.Catalog.Backlog(ctx, class, lostAfter, window)
		if err != nil {
			return err
		}
		for _, t := range d.fair[class].pick(waiting, window-underWay) {
			// The id is the same when this is repeated after a crash: one message.
			id := fmt.Sprintf("%s/%d", t.ID, t.Dispatch+1)
			if err := d.Conn.publish(ctx, d.subject(class, t), []byte(t.ID), id); err != nil {
				return err
			}
			if err := d.Catalog.MarkDispatched(ctx, t); err != nil {
				return err
			}
			d.Metrics.dispatch(class)
		}
	}
	return nil
}

// subject is where a task is offered: in its home region, or, when pinned, in
// each allowed region in turn as messages get lost.
func (d *Dispatcher) subject(class catalog.Class, t catalog.WaitingTask) string {
	if len(t.Pinned) > 0 {
		at := max(slices.Index(t.Pinned, t.Region), 0)
		return jobSubject(class, t.Pinned[(at+t.Dispatch)%len(t.Pinned)], true)
	}
	region := t.Region
	if !slices.Contains(d.Regions, region) {
		region = d.Regions[0] // its home has left the table
	}
	return jobSubject(class, region, false)
}
