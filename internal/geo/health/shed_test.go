package health

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var begin = time.Unix(1_800_000_000, 0)

// TestOverflowSettles: an hour of a region with half again as many viewers as it
// can take, then two hours with few. Viewers stay four minutes on average, so what
// is turned away shows late; load is measured with ten per cent of noise.
func TestOverflowSettles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s shedder
	const stay = 240.0
	watching := 0.6 // of capacity
	share, turns, growing := 0.0, 0, true
	worst, least := 0.0, 1.0
	run := func(demand float64, from, seconds int, check func(second int)) {
		for i := range seconds {
			// Arrivals that would hold demand, less those turned away.
			watching += (demand*(1-share) - watching) / stay
			seen := watching * (1 + 0.1*(2*r.Float64()-1))
			before := share
			share, _ = s.step(seen, 0, 0, begin.Add(time.Duration(from+i)*time.Second))
			if d := share - before; d != 0 && (d > 0) != growing {
				growing = !growing
				turns++
			}
			check(i)
		}
	}
	run(1.5, 0, 3600, func(i int) {
		if i > 1200 {
			worst, least = max(worst, watching), min(least, watching)
		}
	})
	t.Logf("load %.2f to %.2f, share %.2f, %d turns", least, worst, share, turns)
	require.Less(t, worst, 1.02, "overloaded for long")
	require.Greater(t, least, 0.70, "more turned away than needed")
	require.LessOrEqual(t, turns, 12, "viewers swing")
	run(0.5, 3600, 1800, func(int) {})
	require.Zero(t, share, "all come back")
	// Gently: from one step to the next at most a sixty-fourth.
	s = shedder{byLoad: 1}
	last, _ := s.step(0.1, 0, 0, begin)
	for i := range 200 {
		now, _ := s.step(0.1, 0, 0, begin.Add(time.Duration(i+1)*time.Second))
		require.LessOrEqual(t, last-now, 1.0/32)
		last = now
	}
	require.Zero(t, last)
}

// TestNoiseWithinTheGapMovesNobody: an hour of load that swings between the thresholds.
func TestNoiseWithinTheGapMovesNobody(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, started := range []float64{0, 0.25} {
		s := shedder{byLoad: started}
		for i := range 3600 {
			share, _ := s.step(loadLow+0.02+r.Float64()*(loadHigh-loadLow-0.04), 0, 0, begin.Add(time.Duration(i)*time.Second))
			require.Equal(t, started, share)
		}
	}
}

func TestPartialFailureShedsAShare(t *testing.T) {
	var q quality
	var s shedder
	at := begin
	probe := func(n int, o func(i int) outcome, took time.Duration) (share float64, why string) {
		for i := range n {
			at = at.Add(500 * time.Millisecond)
			q.observe(o(i), took, at)
			slow := 0.0
			if q.slow(slowHigh) {
				slow = 1
			}
			share, why = s.step(0.3, q.failing(), slow, at)
		}
		return share, why
	}
	well := func(int) outcome { return good }
	share, _ := probe(600, well, 10*time.Millisecond)
	require.Zero(t, share)
	share, _ = probe(400, func(i int) outcome {
		if i%20 == 0 {
			return bad
		}
		return good
	}, 10*time.Millisecond)
	require.Zero(t, share, "a failure now and then is nothing")
	share, why := probe(60, func(i int) outcome {
		if i%4 == 0 {
			return bad
		}
		return good
	}, 10*time.Millisecond)
	require.InDelta(t, 0.5, share, 0.02, "a quarter fails: half of the viewers go")
	require.Contains(t, why, "25 % of probes fail")
	share, _ = probe(300, well, 10*time.Millisecond)
	require.Zero(t, share, "and come back")
	share, why = probe(30, well, 400*time.Millisecond)
	require.InDelta(t, slowShed, share, 0.02)
	require.Equal(t, "answers are slow", why)
	share, _ = probe(1200, well, 400*time.Millisecond)
	require.InDelta(t, slowShed, share, 0.02, "slow doesn't become usual")
	share, _ = probe(300, well, 12*time.Millisecond)
	require.Zero(t, share)
}

func TestFlapsAreDamped(t *testing.T) {
	var tr tracker
	at := begin
	observe := func(o outcome, n int) {
		for range n {
			at = at.Add(500 * time.Millisecond)
			tr.observe(o, "refused", time.Millisecond, at)
		}
	}
	observe(good, 4)
	changes := 0
	for range 60 { // five minutes of a target that comes and goes
		before := tr.down
		observe(refused, 2)
		if tr.down != before {
			changes++
		}
		before = tr.down
		observe(good, 8)
		if tr.down != before {
			changes++
		}
	}
	require.LessOrEqual(t, changes, 12, "of 120")
	require.True(t, tr.down)
	require.Equal(t, "up and down again and again", tr.why)
	observe(good, 2*60*3)
	require.False(t, tr.down, "well for three minutes")
	// A restart every ten minutes is nothing.
	for range 6 {
		observe(refused, 4)
		require.True(t, tr.down)
		observe(good, 2)
		require.False(t, tr.down)
		observe(good, 1200)
	}
}
