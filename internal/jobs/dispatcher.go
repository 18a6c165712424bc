package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/sleep"
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

	fair map[lane]*fair
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
	d.fair = map[lane]*fair{}
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
			_ = sleep.For(ctx, awayPause) // the loop sees that ctx has ended
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

// lane is work that waits for the same workers: of a class, and pinned to a
// region or, with none, for anyone. Each has a window of its own, so that work
// pinned to a region without workers holds up nobody else.
type lane struct {
	class  catalog.Class
	pinned string
}

func (l lane) subject(home string) string {
	if l.pinned != "" {
		return jobSubject(l.class, l.pinned, true)
	}
	return jobSubject(l.class, home, false)
}

// dispatch fills every window once.
func (d *Dispatcher) dispatch(ctx context.Context) error {
	slots, err := d.Catalog.WorkerSlots(ctx, workersWithin)
	if err != nil {
		return err
	}
	total := 0
	for _, n := range slots {
		total += n
	}
	for _, class := range catalog.Classes {
		waiting, underWay, err := d.Catalog.Backlog(ctx, class, lostAfter, max(minWindow, windowPerSlot*total))
		if err != nil {
			return err
		}
		lanes := map[lane][]catalog.WaitingTask{}
		for _, t := range waiting {
			l := lane{class, pinnedRegion(t)}
			lanes[l] = append(lanes[l], t)
		}
		for l, tasks := range lanes {
			window := windowPerSlot * total
			if l.pinned != "" {
				window = windowPerSlot * slots[l.pinned]
			}
			if d.fair[l] == nil {
				d.fair[l] = &fair{}
			}
			for _, t := range d.fair[l].pick(tasks, max(minWindow, window)-underWay[l.pinned]) {
				if err := d.send(ctx, l, t); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (d *Dispatcher) send(ctx context.Context, l lane, t catalog.WaitingTask) error {
	// The id is the same when this is repeated after a crash: one message.
	id := fmt.Sprintf("%s/%d", t.ID, t.Dispatch+1)
	home := t.Region
	if !slices.Contains(d.Regions, home) {
		home = d.Regions[0] // its home has left the table
	}
	if err := d.Conn.publish(ctx, l.subject(home), []byte(t.ID), id); err != nil {
		return err
	}
	if err := d.Catalog.MarkDispatched(ctx, t, l.pinned); err != nil {
		return err
	}
	d.Metrics.dispatch(l.class)
	return nil
}

// pinnedRegion is where a pinned task is offered: in its home region first, then
// in the other allowed ones in turn as messages get lost. Empty: anywhere.
func pinnedRegion(t catalog.WaitingTask) string {
	if len(t.Pinned) == 0 {
		return ""
	}
	at := max(slices.Index(t.Pinned, t.Region), 0)
	return t.Pinned[(at+t.Dispatch)%len(t.Pinned)]
}
