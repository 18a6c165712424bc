package health

import (
	"fmt"
	"math"
	"time"
)

// How a region that is overloaded or partly broken sheds viewers: a share of
// them, as much as helps and no more.
const (
	// Above loadHigh the share grows, below loadLow it shrinks, and between them it
	// rests: without the gap viewers would swing between two regions.
	loadHigh = 0.95
	loadLow  = 0.80
	// loadTau smooths the load, against bursts and noise.
	loadTau = 5 * time.Second
	// growth of the share for each second and each unit of load above loadHigh;
	// growthMax bounds it. Sessions already there stay, so load follows slowly.
	growth    = 0.2
	growthMax = 0.05
	// shrink of the share for each second: the way back takes two minutes.
	shrink = 1.0 / 120

	// failures are judged over this many probes of an edge: ten seconds.
	failWindow = 20
	// From failHigh on twice the share of failed probes is shed, at most failMost,
	// until it is below failLow.
	failHigh, failLow, failMost = 0.15, 0.05, 0.9

	// An edge is slow when its good probes take slowTimes what they usually do, and
	// at least slowLeast; slowShed of its viewers then go elsewhere.
	slowTimes, slowShed = 5, 0.5
	slowLeast           = 150 * time.Millisecond
	// fastTau and usualTau smooth the time of good probes.
	fastTau, usualTau = 3 * time.Second, 5 * time.Minute
)

// quality is how well one edge answers probes. The zero value has seen nothing.
type quality struct {
	failed, seen uint32 // bits, the newest lowest
	fast, usual  float64
	at           time.Time
}

// observe adds a probe's outcome.
func (q *quality) observe(o outcome, took time.Duration, now time.Time) {
	if o == void {
		return
	}
	q.failed, q.seen = q.failed<<1, q.seen<<1|1
	if o != good {
		q.failed |= 1
		return
	}
	t := took.Seconds()
	if q.at.IsZero() {
		q.fast, q.usual = t, t
	} else {
		dt := now.Sub(q.at)
		q.fast += (t - q.fast) * weightOf(dt, fastTau)
		// What is usual is learned from what isn't slow already.
		if !q.slow() {
			q.usual += (t - q.usual) * weightOf(dt, usualTau)
		}
	}
	q.at = now
}

// weightOf a value that holds for dt in an average over tau.
func weightOf(dt, tau time.Duration) float64 { return 1 - math.Exp(-dt.Seconds()/tau.Seconds()) }

// failing is the share of failed probes among the last, 0 until enough were seen.
func (q *quality) failing() float64 {
	const window = 1<<failWindow - 1
	if q.seen&window != window {
		return 0
	}
	n := 0
	for b := q.failed & window; b != 0; b &= b - 1 {
		n++
	}
	return float64(n) / failWindow
}

func (q *quality) slow() bool {
	return q.fast > slowTimes*q.usual && q.fast > slowLeast.Seconds()
}

// shedder is one region's share of viewers turned away. The zero value turns
// nobody away.
type shedder struct {
	load   float64 // smoothed
	byLoad float64
	byFail float64
	bySlow float64
	at     time.Time
}

// step takes in what is seen of a region's edges that are up: mean load, and the
// means of failing and slow shares. It returns the share to shed, in steps of a
// sixty-fourth, and why.
func (s *shedder) step(load, failing, slow float64, now time.Time) (float64, string) {
	dt := now.Sub(s.at)
	if s.at.IsZero() || dt > 10*time.Second || dt < 0 {
		dt = 0 // nothing is known of the time between
		s.load = load
	}
	s.at = now
	s.load += (load - s.load) * weightOf(dt, loadTau)
	sec := dt.Seconds()
	switch {
	case s.load > loadHigh:
		s.byLoad = min(1, s.byLoad+min(growthMax, growth*(s.load-loadHigh)+0.002)*sec)
	case s.load < loadLow:
		s.byLoad = max(0, s.byLoad-shrink*sec)
	}
	if failing >= failHigh {
		s.byFail = max(s.byFail, min(failMost, 2*failing))
	} else if failing < failLow {
		s.byFail = max(0, s.byFail-shrink*sec)
	}
	if slow > 0 {
		s.bySlow = max(s.bySlow, slowShed*slow)
	} else {
		s.bySlow = max(0, s.bySlow-shrink*sec)
	}
	share, why := s.byLoad, fmt.Sprintf("load %.2f", s.load)
	if s.byFail > share {
		share, why = s.byFail, fmt.Sprintf("%.0f %% of probes fail", 100*failing)
	}
	if s.bySlow > share {
		share, why = s.bySlow, "answers are slow"
	}
	// Fewer steps, fewer snapshots: viewers are shed by sixty-fourths anyway.
	if share = math.Round(share*64) / 64; share == 0 {
		why = ""
	}
	return share, why
}

// Flap damping (after RFC 2439): each loss adds one to a penalty that halves in
// flapHalf; from flapHold on a target stays down until it is below flapFree.
const (
	flapHalf = time.Minute
	flapHold = 3.5
	flapFree = 2
	flapMost = 8
)

// flaps is a target's penalty.
type flaps struct {
	penalty float64
	held    bool
	at      time.Time
}

func (f *flaps) decay(now time.Time) {
	if !f.at.IsZero() {
		f.penalty *= math.Exp2(-max(0, now.Sub(f.at).Seconds()) / flapHalf.Seconds())
	}
	f.at = now
}

// lost counts a loss.
func (f *flaps) lost(now time.Time) {
	f.decay(now)
	f.penalty = min(flapMost, f.penalty+1)
	f.held = f.held || f.penalty >= flapHold
}

// hold reports whether a target that answers again must wait.
func (f *flaps) hold(now time.Time) bool {
	f.decay(now)
	f.held = f.held && f.penalty >= flapFree
	return f.held
}
