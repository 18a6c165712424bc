package platform

import (
	"context"
	"fmt"
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

// site is a region of the running platform. Who holds busy may change it.
type site struct {
	region region.Region
	place  place
	busy   chan struct{}

	mu      sync.Mutex
	base    Condition // never Hung or Silent
	since   time.Time
	hung    bool
	silence wan.Direction
	slow    bool
	full    bool
	problem string
	// interrupt ends a start under way; nil if there is none.
	interrupt context.CancelFunc
}

func newSite(r region.Region, p place) *site {
	return &site{region: r, place: p, busy: make(chan struct{}, 1), base: Starting, since: time.Now()}
}

// acquire makes the caller the only one to change the site until release.
func (s *site) acquire(ctx context.Context) (release func(), err error) {
	select {
	case s.busy <- struct{}{}:
		return func() { <-s.busy }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: another operation on it goes on: %w", s.region.Name, ctx.Err())
	}
}

// interruptStart ends a start under way, so that who wants the site gets it.
func (s *site) interruptStart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interrupt != nil {
		s.interrupt()
	}
}

func (s *site) set(base Condition, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base, s.problem, s.since = base, problem, time.Now()
	if base == Killed || base == Stopped {
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
