package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

// The defaults of an Origin's times.
const (
	// silence is how long a body may make no progress before it is read elsewhere.
	silence = 2 * time.Second
	// paceAfter is the time waited for a body after which its pace is judged, and
	// minPace the least, in bytes a second: a segment must come faster than it plays.
	paceAfter = 2 * time.Second
	minPace   = 64 << 10
	// suspectFor is how long an origin isn't asked for an object it had wrong.
	suspectFor  = time.Minute
	maxSuspects = 2048 // of each generation
)

var (
	// ErrUnavailable: no origin answered. Retry later.
	ErrUnavailable = errors.New("no origin answered")
	// ErrNotHere: the origin is well and hasn't the object now; others may. Unlike
	// cache.ErrNotFound it doesn't mean that there is none.
	ErrNotHere = errors.New("not here")
	errSilent  = errors.New("no progress")
	errSlow    = errors.New("too slow")
	errOther   = errors.New("another representation than the one begun")
	errLeftOut = errors.New("left out after failures")
)

// Origin is one place objects can be read from. All fields but MinPace's
// default are required.
type Origin struct {
	Name string
	// Patience is how long the first byte may take.
	Patience time.Duration
	// Open opens the object from offset to its end; Info.Size is the whole object's.
	// An object that isn't there gives cache.ErrNotFound.
	Open func(ctx context.Context, key string, offset int64) (io.ReadCloser, cache.Info, error)

	times   times
	breaker *gobreaker.TwoStepCircuitBreaker[any]
}

// Events are told what happens; all fields may be nil.
type Events struct {
	// Opened: an origin answered, or failed to with err, after the given time.
	Opened func(origin string, took time.Duration, err error)
	// Hedged: the second origin was asked because the first was late; won says
	// that it answered first.
	Hedged func(won bool)
	// HandedOver: a body begun was read on elsewhere because of err.
	HandedOver func(from string, err error)
}

// Set reads from origins. Safe for concurrent use.
type Set struct {
	events Events
	budget budget
	ctx    context.Context
	cancel context.CancelFunc
	late   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	// suspects until a time, in two generations: the older one goes when the young
	// one is full.
	suspects, suspected map[suspect]time.Time
}

type suspect struct{ key, origin string }

// New returns a set; Close it.
func New(events Events) *Set {
	s := &Set{events: events, suspects: map[suspect]time.Time{}}
	s.budget.tokens = budgetMost
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Add prepares an origin for Open. What it is read for is the caller's choice.
func (s *Set) Add(o *Origin) *Origin {
	o.breaker = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name: o.Name, MaxRequests: 1, Interval: 10 * time.Second, Timeout: time.Second,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 3 },
		IsSuccessful: func(err error) bool { return err == nil },
	})
	return o
}

// State of an origin's breaker: "closed" while it is well, "open" while it is
// left out, "half-open" while it is tried.
func (o *Origin) State() string { return o.breaker.State().String() }

// Usual is the time 95 of 100 answers began within lately; false while too few
// are known.
func (o *Origin) Usual() (time.Duration, bool) { return o.times.usual() }

// Close ends attempts that lost their race and waits for them. Bodies must be
// closed by then.
func (s *Set) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.late.Wait()
}

// Open opens the object at the first of the origins that has it, in their order.
// The body goes on at the others when need be, and is a cache.Rejecter.
func (s *Set) Open(ctx context.Context, key string, offset int64, origins []*Origin) (io.ReadCloser, cache.Info, error) {
	r := &reader{s: s, ctx: ctx, key: key, at: offset, origins: s.trusted(key, origins)}
	s.budget.earn()
	info, err := r.open(nil)
	if err != nil {
		return nil, cache.Info{}, err
	}
	r.first = info
	return r, info, nil
}

// trusted are the origins without those that had the object wrong; all of them
// when that leaves none.
func (s *Set) trusted(key string, origins []*Origin) []*Origin {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.suspects)+len(s.suspected) == 0 {
		return origins
	}
	now := time.Now()
	var out []*Origin
	for _, o := range origins {
		k := suspect{key, o.Name}
		if now.After(s.suspects[k]) && now.After(s.suspected[k]) {
			out = append(out, o)
		}
	}
	if len(out) == 0 {
		return origins
	}
	return out
}

func (s *Set) distrust(key string, o *Origin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.suspects) >= maxSuspects {
		s.suspected, s.suspects = s.suspects, map[suspect]time.Time{}
	}
	s.suspects[suspect{key, o.Name}] = time.Now().Add(suspectFor)
}

// attempt is one origin's answer.
type attempt struct {
	o      *Origin
	hedge  bool
	body   io.ReadCloser
	info   cache.Info
	err    error
	cancel context.CancelCauseFunc
	done   func(error)
}

// drop ends an attempt that isn't read, or no more; err is what it counts as.
func (a *attempt) drop(err error) error {
	if a.body == nil {
		return nil
	}
	a.cancel(context.Canceled)
	a.done(err)
	cerr := a.body.Close()
	a.body = nil
	return cerr
}

// try asks one origin. It ends by its patience, or with the set, not with the
// one who asks: who is late is still measured.
func (s *Set) try(o *Origin, key string, offset int64, hedge bool) attempt {
	a := attempt{o: o, hedge: hedge}
	done, err := o.breaker.Allow()
	if err != nil {
		a.err = fmt.Errorf("%s: %w", o.Name, errLeftOut)
		return a
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	timer := time.AfterFunc(o.Patience, func() { cancel(errSilent) })
	started := time.Now()
	a.body, a.info, a.err = o.Open(ctx, key, offset)
	took := time.Since(started)
	if !timer.Stop() && a.err == nil {
		a.err = errors.Join(errSilent, a.body.Close())
		a.body = nil
	}
	if a.err == nil && a.info.Size < offset {
		a.err = fmt.Errorf("%w: %d were read, and it has %d bytes", errOther, offset, a.info.Size)
		if a.info.Size < 0 {
			a.err = errors.New("it doesn't say how long the object is")
		}
		a.err = errors.Join(a.err, a.body.Close())
		a.body = nil
	}
	if f := s.events.Opened; f != nil {
		f(o.Name, took, a.err)
	}
	if a.err == nil {
		a.cancel, a.done = cancel, done
		o.times.add(took)
		return a
	}
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) && !errors.Is(a.err, errSilent) {
		a.err = errSilent
	}
	cancel(context.Canceled)
	switch {
	case errors.Is(a.err, cache.ErrNotFound), errors.Is(a.err, ErrNotHere):
		o.times.add(took)
		done(nil)
	case s.ctx.Err() != nil:
		done(nil)
	default:
		if errors.Is(a.err, errSilent) {
			o.times.add(took)
		}
		done(a.err)
	}
	a.err = fmt.Errorf("%s: %w", o.Name, a.err)
	return a
}

// verdict is cache.ErrNotFound when an origin said so, ErrUnavailable when none
// answered, and both when one that didn't answer might have it.
func verdict(ctx context.Context, key string, missing bool, errs []error) error {
	silent := slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, cache.ErrNotFound) && !errors.Is(err, ErrNotHere) })
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", key, ctx.Err())
	case missing && silent:
		return fmt.Errorf("%s: %w, but %w: %w", key, cache.ErrNotFound, ErrUnavailable, errors.Join(errs...))
	case missing:
		return fmt.Errorf("%s: %w", key, cache.ErrNotFound)
	default:
		return fmt.Errorf("%s: %w: %w", key, ErrUnavailable, errors.Join(errs...))
	}
}
