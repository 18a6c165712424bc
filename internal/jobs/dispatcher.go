package jobs

import (
	"cmp"
	"context"
	"errors"
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
	// total slots of all workers at the last look.
	total    int
	distance catalog.Distance // by questions for slots
	// term is farTerm, or shorter in tests.
	term time.Duration
}

const (
	dispatchPoll = 500 * time.Millisecond
	// dispatchLease is how long another dispatcher waits when the active one dies.
	dispatchLease = 5 * time.Second
	// awayPause is how long it rests after a server didn't answer.
	awayPause = time.Second
	// windowPerSlot is how many messages wait per slot of the workers: enough that
	// nobody idles, and so few that another owner's turn comes after one task.
	windowPerSlot = 1
	minWindow     = 2
	// lostAfter is when a message nobody has claimed counts as lost. A second
	// message for the same task does no harm.
	lostAfter = 90 * time.Second
	// workersWithin is how old a worker's last beat may be.
	workersWithin = 3 * beatEvery
	// maxMarks is how many messages are noted at once as sent.
	maxMarks = 4
	// Every look and every message takes round trips to the leader. A dispatcher
	// farther from it than catalog.FarRTT leaves the lease to a nearer one: it asks half as
	// often, and gives it up for a moment after every farTerm.
	farTerm = 2 * time.Minute
	// rttSamples is over how many questions the shortest counts as the round trip.
	rttSamples = 8
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
	var (
		since, until time.Time // our lease, by our clock, with a margin
		next         time.Time // when to ask for it again
	)
	pause := dispatchPoll
	// rest is for servers that are away: what woke us must not make us hurry.
	rest := func(err error) {
		if ctx.Err() == nil {
			d.Log.Warn("dispatcher: trying again", "err", err, "in", awayPause)
			_ = sleep.For(ctx, awayPause) // the loop sees that ctx has ended
		}
	}
	drop := func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		if err := d.Catalog.DropLease(ctx, lease, d.Name); err != nil {
			d.Log.Warn("dispatcher: the next one waits for the lease to run out", "err", err)
		}
		since, until = time.Time{}, time.Time{}
	}
	if _, _, err := d.look(ctx); err != nil {
		rest(err)
	}
	if d.far() {
		next = time.Now().Add(dispatchLease / 2)
	}
	for {
		select {
		case <-ctx.Done():
			drop(context.WithoutCancel(ctx))
			return nil
		case <-wake:
		case <-time.After(pause):
		}
		now := time.Now()
		if now.After(until) {
			if now.Before(next) {
				pause = next.Sub(now)
				continue
			}
			ok, err := d.Catalog.HoldLease(ctx, lease, d.Name, dispatchLease)
			if err != nil {
				rest(err)
				continue
			}
			if !ok { // another one is active
				since = time.Time{}
				pause = dispatchLease / 4
				if d.far() {
					pause = dispatchLease / 2
				}
				next = now.Add(pause)
				continue
			}
			if since.IsZero() {
				since = now
			}
			pause = dispatchPoll
			until = now.Add(dispatchLease / 2)
		}
		if d.far() && now.Sub(since) > cmp.Or(d.term, farTerm) {
			drop(ctx)
			next = now.Add(dispatchLease / 2)
			continue
		}
		if err := d.dispatch(ctx); err != nil {
			rest(err)
		}
	}
}

// far reports whether the leader is far away.
func (d *Dispatcher) far() bool { return d.distance.Far(rttSamples, 1) }

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

// backlog is what waits for messages, of one class.
type backlog struct {
	waiting  []catalog.WaitingTask
	underWay map[string]int
}

// look asks for the workers' slots and the backlog of every class, all at once:
// the leader may be a quarter of a second away, and each question is one there
// and back.
func (d *Dispatcher) look(ctx context.Context) (slots map[string]int, backlogs []backlog, err error) {
	backlogs = make([]backlog, len(catalog.Classes))
	perOwner := max(minWindow, windowPerSlot*d.total)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		began := time.Now()
		if slots, err = d.Catalog.WorkerSlots(gctx, workersWithin); err == nil {
			d.distance.Note(time.Since(began))
		}
		return err
	})
	for i, class := range catalog.Classes {
		g.Go(func() (err error) {
			b := &backlogs[i]
			b.waiting, b.underWay, err = d.Catalog.Backlog(gctx, class, lostAfter, perOwner)
			return err
		})
	}
	return slots, backlogs, g.Wait()
}

// dispatch fills every window once.
func (d *Dispatcher) dispatch(ctx context.Context) error {
	slots, backlogs, err := d.look(ctx)
	if err != nil {
		return err
	}
	d.total = 0
	for _, n := range slots {
		d.total += n
	}
	var marks errgroup.Group
	marks.SetLimit(maxMarks)
	err = d.fill(ctx, slots, backlogs, func(l lane, t catalog.WaitingTask) {
		marks.Go(func() error {
			if err := d.Catalog.MarkDispatched(ctx, t, l.pinned); err != nil {
				return err
			}
			d.Metrics.dispatch(l.class)
			return nil
		})
	})
	return errors.Join(err, marks.Wait())
}

// fill sends messages, in order, and calls sent after each.
func (d *Dispatcher) fill(ctx context.Context, slots map[string]int, backlogs []backlog, sent func(lane, catalog.WaitingTask)) error {
	for i, class := range catalog.Classes {
		lanes := map[lane][]catalog.WaitingTask{}
		for _, t := range backlogs[i].waiting {
			l := lane{class, pinnedRegion(t)}
			lanes[l] = append(lanes[l], t)
		}
		for l, tasks := range lanes {
			window := windowPerSlot * d.total
			if l.pinned != "" {
				window = windowPerSlot * slots[l.pinned]
			}
			if d.fair[l] == nil {
				d.fair[l] = &fair{}
			}
			for _, t := range d.fair[l].pick(tasks, max(minWindow, window)-backlogs[i].underWay[l.pinned]) {
				if err := d.send(ctx, l, t); err != nil {
					return err
				}
				sent(l, t)
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
	return d.Conn.publish(ctx, l.subject(home), []byte(t.ID), id)
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
