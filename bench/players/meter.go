package main

import (
	"sync"
	"time"
)

const (
	// stallAfter is the least time without progress that a viewer notices.
	stallAfter = 500 * time.Millisecond
	// aSkip is how much more than the time that passed a position must gain to be
	// a skip, in seconds.
	aSkip = 0.4
	// empty is what a stalled player holds at most, in seconds; one that has more and
	// doesn't move is starved of processors, not of media. Browsers stop a little
	// before the end of what they have.
	empty = 0.5
	// progress is the least movement of a position that counts, in seconds.
	progress = 0.01
	// blind is the longest pause between two samples in which the player may be
	// judged: beyond it the machine stood still, or the one who looks.
	blind = 700 * time.Millisecond
)

// sample is where a player is at a time.
type sample struct {
	at       time.Time
	position float64 // seconds
	ahead    float64 // seconds buffered; negative when unknown
}

// meter makes stalls and skips of samples. Its methods may be called concurrently.
type meter struct {
	mu     sync.Mutex
	begun  time.Time // what is before counts for nothing
	last   sample
	moved  time.Time // when the position last moved
	stall  bool
	stalls int
	stood  time.Duration
	frozen time.Duration
	skip   float64
	unseen time.Duration
	ended  bool
	errors []string
}

// begin counts from now on.
func (m *meter) begin(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun, m.moved, m.stall, m.stalls, m.stood, m.frozen, m.skip, m.unseen = at, at, false, 0, 0, 0, 0, 0
}

// add takes the next sample.
func (m *meter) add(s sample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.last
	m.last = s
	if m.ended || before.at.IsZero() || m.begun.IsZero() || s.at.Before(m.begun) {
		m.moved = s.at
		return
	}
	passed := s.at.Sub(before.at)
	if passed > blind {
		m.unseen += passed
		m.moved = m.moved.Add(passed)
	}
	gained := s.position - before.position
	if gained < progress && gained > -progress {
		if s.ahead > empty {
			if still := s.at.Sub(m.moved); still >= stallAfter && passed <= blind {
				m.frozen += passed
			}
			return
		}
		if !m.stall && s.at.Sub(m.moved) >= stallAfter {
			m.stall = true
			m.stalls++
			m.stood += s.at.Sub(m.moved)
		} else if m.stall && passed <= blind {
			m.stood += passed
		}
		return
	}
	// After a stall its whole length is excess, not only since the last sample.
	if more := gained - s.at.Sub(m.moved).Seconds(); more > aSkip && passed <= blind {
		m.skip += gained
	}
	m.moved, m.stall = s.at, false
}

// end says that the film is over; nothing counts after it.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
}

const maxErrors = 20

func (m *meter) fail(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.errors) < maxErrors {
		m.errors = append(m.errors, text)
	}
}

// reading is what a meter shows.
type reading struct {
	sample
	stalls int
	stood  time.Duration
	// frozen is how long it stood although it had what to play.
	frozen time.Duration
	skip   float64
	unseen time.Duration
	// stalled tells that it stands still now.
	stalled, ended bool
	errors         []string
}

func (m *meter) read() reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	return reading{m.last, m.stalls, m.stood, m.frozen, m.skip, m.unseen, m.stall, m.ended, append([]string(nil), m.errors...)}
}
