package health

import (
	"fmt"
	"math"
	"math/bits"
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
	// failSuspect is enough to suspect the way there, where all regions fail; they
	// don't come to failHigh in the same moment.
	failSuspect = 0.1
	// A suspicion lasts for suspectFor: behind one bad line regions are at their worst
	// in turns.
	suspectFor = 20 * time.Second

	// A good probe is slow when it takes slowTimes more than probes of the edge usually
	// take, which counts as at least slowLeast and at most slowMost. When slowHigh of
	// the last slowWindow are, over six seconds, slowShed of the edge's viewers go
	// elsewhere: a pause is no reason to. slowSuspect of them are enough to suspect the
	// way there.
	slowTimes, slowShed               = 4, 0.5
	slowLeast, slowMost               = 0.15, 0.3 // seconds
	slowHigh, slowSuspect, slowWindow = 9, 5, 12
	// What is usual rises over riseTau and falls over fallTau.
	riseTau, fallTau = 5 * time.Minute, 10 * time.Second
)

// quality is how well one edge answers probes. The zero value has seen nothing.
type quality struct {
	// bits, the newest lowest; late of good probes alone
	failed, seen, late uint32
	usual              float64 // seconds, 0 until known
	at                 time.Time
}

// observe adds a probe's outcome; took is 0 when it says nothing.
func (q *quality) observe(o outcome, took time.Duration, now time.Time) {
	if o == void {
		return
	}
	q.failed, q.seen = q.failed<<1, q.seen<<1|1
	if o != good {
		q.failed |= 1
		return
	}
	if took <= 0 {
		return
	}
	t := took.Seconds()
	q.late <<= 1
	switch dt := now.Sub(q.at); {
	case q.usual == 0:
		q.usual = t
	case t > q.usual+min(slowMost, max(slowLeast, slowTimes*q.usual)):
		// What is usual is learned from what isn't slow.
		q.late |= 1
	case t > q.usual:
		q.usual += (t - q.usual) * weightOf(dt, riseTau)
	default:
		q.usual += (t - q.usual) * weightOf(dt, fallTau)
	}
	q.at = now
}

// weightOf a value that holds for dt in an average over tau.
func weightOf(dt, tau time.Duration) float64 { return 1 - math.Exp(-dt.Seconds()/tau.Seconds()) }

// lost forgets the failures that end what was observed: they are a loss, and no
// partial failure that goes on when the edge is back.
func (q *quality) lost() {
	n := bits.TrailingZeros32(^q.failed)
	q.failed, q.seen = q.failed>>n, q.seen>>n
}

// flaky reports whether probes failed, and not all of them, before the last n.
func (q *quality) flaky(n int) bool {
	const window = 1<<failWindow - 1
	before, seen := bits.OnesCount32(q.failed>>n&window), bits.OnesCount32(q.seen>>n&window)
	return before >= 2 && before < seen
}

// failing is the share of failed probes among the last, 0 until enough were seen.
func (q *quality) failing() float64 {
	const window = 1<<failWindow - 1
	if q.seen&window != window {
		return 0
	}
	return float64(bits.OnesCount32(q.failed&window)) / failWindow
}

// slow reports whether at least n of the last good probes were late.
func (q *quality) slow(n int) bool { return bits.OnesCount32(q.late&(1<<slowWindow-1)) >= n }

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

// forgive takes a loss back.
func (f *flaps) forgive() { f.penalty = max(0, f.penalty-1) }

// hold reports whether a target that answers again must wait.
func (f *flaps) hold(now time.Time) bool {
	f.decay(now)
	f.held = f.held && f.penalty >= flapFree
	return f.held
}
