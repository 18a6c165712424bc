package platform

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/wan"
)

// Condition is what is wanted of, or done to, a region as a whole; how its
// processes are, they say themselves.
type Condition string

const (
	// Starting: the platform or `region start` is bringing it up.
	Starting Condition = "starting"
	// Up: its processes run, and crashed ones are restarted.
	Up Condition = "up"
	// Stopped and Killed: nothing of it runs, on purpose.
	Stopped Condition = "stopped"
	Killed  Condition = "killed"
	// Lost: it died by itself and is being brought up again.
	Lost Condition = "lost"
	// Hung: all of it is stopped (SIGSTOP).
	Hung Condition = "hung"
	// Silent: the network loses what is sent to it, by it, or both.
	Silent Condition = "silent"
	// Slow: the network delays or loses some of what is sent to and by it, or has
	// little room for it.
	Slow Condition = "slow"
	// Full: its disk has no room left.
	Full Condition = "full"
)

// site is a region of the running platform. Who holds busy may change it, who holds
// around what is around its processes: its network and its disk.
type site struct {
	region       region.Region
	place        place
	busy, around claim

	mu      sync.Mutex
	base    Condition // never Hung or Silent
	since   time.Time
	hung    bool
	silence wan.Direction
	slow    bool
	full    bool
	problem string
	// interrupt ends a start under way; nil if there is none.
	interrupt context.CancelCauseFunc
	// ending is how many wait for the site to end it.
	ending int
	// losses are how often its agent ended by itself, lost is why it did the last time;
	// nil once it has been brought up again, and reviving says that somebody does that.
	losses   int
	lost     error
	reviving bool
}

// claim is held by one at a time.
type claim chan struct{}

func newSite(r region.Region, p place) *site {
	return &site{region: r, place: p, busy: make(claim, 1), around: make(claim, 1), base: Starting, since: time.Now()}
}

// acquire makes the caller the only one to change what the claim is for, until release.
func (s *site) acquire(ctx context.Context, c claim) (release func(), err error) {
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, refuse(Busy, "%s: another operation on it goes on (%v): try again when it is done", s.region.Name, ctx.Err())
	}
}

// errInterrupted ends a start, so that who wants the site gets it.
var errInterrupted = errors.New("another operation ended the start")

// interruptStarts ends a start under way, and those that begin before over is called.
func (s *site) interruptStarts() (over func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending++
	if s.interrupt != nil {
		s.interrupt(errInterrupted)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ending--
	}
}

// underWay reports whether a start is, which may take minutes.
func (s *site) underWay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.interrupt != nil
}

func (s *site) setInterrupt(interrupt context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupt = interrupt
	if interrupt != nil && s.ending > 0 {
		interrupt(errInterrupted)
	}
}

// loss is how often the site's agent ended by itself, and why it did the last time; nil
// if the site has come up again since.
func (s *site) loss() (times int, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.losses, s.lost
}

// revived ends the revival of a site after so many losses; false if there was another.
func (s *site) revived(losses int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.losses != losses {
		return false
	}
	s.lost, s.reviving = nil, false
	return true
}

func (s *site) set(base Condition, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base, s.problem, s.since = base, problem, time.Now()
	if base == Killed || base == Stopped || base == Lost {
		s.hung = false
	}
}

func (s *site) setHung(hung bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hung, s.since = hung, time.Now()
}

func (s *site) setNetwork(silence wan.Direction, slow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silence, s.slow, s.since = silence, slow, time.Now()
}

func (s *site) setFull(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full, s.since = full, time.Now()
}

// solved forgets the problem of a site that is up.
func (s *site) solved(problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base == Up && s.problem == problem {
		s.problem = ""
	}
}

// view is a snapshot of a site.
type view struct {
	base    Condition
	hung    bool
	silence wan.Direction
	slow    bool
	full    bool
	since   time.Time
	problem string
}

func (s *site) view() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return view{s.base, s.hung, s.silence, s.slow, s.full, s.since, s.problem}
}

func (v view) down() bool { return v.base == Killed || v.base == Stopped }

func (v view) condition() Condition {
	switch {
	case v.down() || v.base == Lost:
		return v.base
	case v.hung:
		return Hung
	case v.silence != 0:
		return Silent
	case v.slow:
		return Slow
	case v.full:
		return Full
	default:
		return v.base
	}
}

// directions are the names of directions, as flags and answers have them.
var directions = map[string]wan.Direction{"in": wan.Inbound, "out": wan.Outbound, "both": wan.BothWays}

func directionName(d wan.Direction) string {
	for name, v := range directions {
		if v == d {
			return name
		}
	}
	return ""
}
