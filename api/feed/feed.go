package feed

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/catalog"
)

// Event is an event with its sequence number.
type Event struct {
	catalog.Event
	Seq uint64
}

// Subscription delivers events in order (jobs.Subscription).
type Subscription interface {
	Next(ctx context.Context) (catalog.Event, uint64, error)
	Stop()
}

// Source opens a subscription to everybody's events after a sequence number,
// with 0 those from now on.
type Source func(ctx context.Context, after uint64) (Subscription, error)

const (
	// remembered is how many events a listener may have missed.
	remembered = 4096
	// pending is how many events a listener may be behind.
	pending   = 256
	retryWait = 500 * time.Millisecond
)

// Feed is the process's reader. Run it; Listen from anywhere.
type Feed struct {
	source Source
	log    *slog.Logger

	mu        sync.Mutex
	ring      []Event // oldest first, at most remembered
	since     uint64  // everything after this number is in ring; 0 while nothing is known
	newest    uint64
	listeners map[*Listener]struct{}
	closed    bool
}

// New returns a feed over source.
func New(source Source, log *slog.Logger) *Feed {
	return &Feed{source: source, log: log, listeners: map[*Listener]struct{}{}}
}

// Listener is one listener's queue.
type Listener struct {
	feed *Feed
	want func(catalog.Event) bool
	c    chan Event
}

// Run reads until ctx ends, then ends every listener.
func (f *Feed) Run(ctx context.Context) error {
	defer f.close()
	complained := false
	for ctx.Err() == nil {
		err := f.follow(ctx, func() { complained = false })
		if err != nil && ctx.Err() == nil && !complained {
			complained = true
			f.log.Warn("events: trying again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryWait):
		}
	}
	return nil
}

func (f *Feed) follow(ctx context.Context, connected func()) error {
	f.mu.Lock()
	after := f.newest
	f.mu.Unlock()
	sub, err := f.source(ctx, after)
	if err != nil {
		return err
	}
	defer sub.Stop()
	connected()
	for {
		e, seq, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		f.publish(Event{e, seq})
	}
}

func (f *Feed) publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.newest != 0 && e.Seq <= f.newest {
		return
	}
	if f.since == 0 {
		f.since = e.Seq - 1
	}
	f.newest = e.Seq
	if len(f.ring) == remembered {
		f.since = f.ring[remembered/4-1].Seq
		f.ring = append(f.ring[:0:0], f.ring[remembered/4:]...)
	}
	f.ring = append(f.ring, e)
	for l := range f.listeners {
		if !l.want(e.Event) {
			continue
		}
		select {
		case l.c <- e:
		default:
			f.drop(l)
		}
	}
}

func (f *Feed) drop(l *Listener) {
	if _, ok := f.listeners[l]; ok {
		delete(f.listeners, l)
		close(l.c)
	}
}

func (f *Feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for l := range f.listeners {
		f.drop(l)
	}
}

// ErrClosed is returned by Listen once the feed has ended.
var ErrClosed = errors.New("events have ended: the process is stopping")

// Listen registers a listener for the events want accepts. after is the number
// of the last event it saw, 0 for none: what it missed is in the queue first,
// unless gap says that more was missed than is remembered. seq is where the
// listener stands now. Close it when done.
func (f *Feed) Listen(after uint64, want func(catalog.Event) bool) (l *Listener, seq uint64, gap bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, 0, false, ErrClosed
	}
	l = &Listener{feed: f, want: want, c: make(chan Event, pending)}
	gap = after > f.newest || after < f.since || f.since == 0
	if after > 0 && !gap {
		for _, e := range f.ring {
			if e.Seq <= after || !want(e.Event) {
				continue
			}
			if len(l.c) == pending {
				gap = true
				l.c = make(chan Event, pending)
				break
			}
			l.c <- e
		}
	}
	f.listeners[l] = struct{}{}
	return l, f.newest, gap, nil
}

// C delivers events; it is closed when the listener fell behind or the feed ended.
func (l *Listener) C() <-chan Event { return l.c }

// Close ends the listener.
func (l *Listener) Close() {
	l.feed.mu.Lock()
	defer l.feed.mu.Unlock()
	l.feed.drop(l)
}
