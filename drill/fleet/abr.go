package fleet

import (
	"math"
	"time"
)

// What hls.js 1.7 does by default (abrEwmaFastVoD, abrEwmaSlowVoD,
// abrEwmaDefaultEstimate, abrBandWidthFactor, abrBandWidthUpFactor, and the
// least duration of its estimator's samples).
const (
	fastHalfLife    = 3.0 // seconds
	slowHalfLife    = 9.0
	defaultEstimate = 500_000 // bits per second
	keepFactor      = 0.95
	upFactor        = 0.7
	leastSample     = 50 * time.Millisecond
)

// average is an exponentially weighted moving average whose weights are seconds.
type average struct{ halfLife, estimate, weight float64 }

func (a *average) add(weight, value float64) {
	old := math.Pow(0.5, weight/a.halfLife)
	a.estimate = value*(1-old) + old*a.estimate
	a.weight += weight
}

// value corrects for the time before the first sample, which counts as zero.
func (a *average) value() float64 {
	return a.estimate / (1 - math.Pow(0.5, a.weight/a.halfLife))
}

// Estimator tells how fast a viewer's line is, from what arrived: the lower of
// a fast and a slow average. The zero value has seen nothing.
type Estimator struct{ fast, slow average }

// Add counts so many bytes that took so long.
func (e *Estimator) Add(bytes int64, took time.Duration) {
	e.fast.halfLife, e.slow.halfLife = fastHalfLife, slowHalfLife
	seconds := max(took, leastSample).Seconds()
	rate := float64(bytes) * 8 / seconds
	e.fast.add(seconds, rate)
	e.slow.add(seconds, rate)
}

// Rate in bits per second.
func (e *Estimator) Rate() float64 {
	if e.fast.weight == 0 {
		return defaultEstimate
	}
	return min(e.fast.value(), e.slow.value())
}

// Rung picks the highest of bandwidths (bits per second, ascending) that the
// line carries: with some room to stay on the current one or go down, with more
// to go up.
func (e *Estimator) Rung(bandwidths []int64, current int) int {
	rate := e.Rate()
	for i := len(bandwidths) - 1; i > 0; i-- {
		factor := keepFactor
		if i > current {
			factor = upFactor
		}
		if float64(bandwidths[i]) <= rate*factor {
			return i
		}
	}
	return 0
}
