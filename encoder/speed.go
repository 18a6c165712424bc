package encoder

import (
	"context"
	"runtime"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
)

// busy is which part of the processors' time one child gets used: now and then all its
// encoders wait for the decoder, or it for them.
const busy = 0.8

// leastLearned is the least weight of what was learned last, beside all before.
const leastLearned = 0.3

// measureSpeed learns from a test pattern, for whom a new worker encodes first: processors
// differ by more than a guess may, and with a wrong one viewers overtake the encode, or
// begin without a rung they could have had. A pixel of the pattern takes as long as one of
// a film's ladder, its decoder's share included.
func (e *Encoder) measureSpeed(ctx context.Context) {
	limits := e.opt.Child
	limits.Wall = time.Minute
	p := e.opt.Profile
	pixels, cpu, err := ffmpeg.EncodePattern(ctx, limits, p.Preset, p.CRF, p.Threads)
	if err != nil {
		if ctx.Err() == nil {
			e.log.Error("own speed isn't known before the first task", "error", err)
		}
		return
	}
	e.learn(pixels, cpu)
	e.log.Info("own speed", "pixels_per_second", int64(e.currentSpeed().Pixels))
}

// observe learns from a task's child.
func (e *Encoder) observe(pixels float64, cpu time.Duration, seconds float64) {
	// Short chunks mostly measure starting a process.
	if seconds >= 4 {
		e.learn(pixels, cpu)
	}
}

// learn takes in how many pixels a child encoded in what processor time: unlike the time
// that passed, it doesn't count what else the worker did meanwhile.
func (e *Encoder) learn(pixels float64, cpu time.Duration) {
	if cpu <= 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	speed := busy * float64(runtime.GOMAXPROCS(0)) * pixels / cpu.Seconds()
	e.learned++
	weight := max(leastLearned, 1/float64(e.learned))
	e.speed.Pixels += weight * (speed - e.speed.Pixels)
	e.metrics.speed.Set(e.speed.Pixels)
}

// currentSpeed predicts how fast this worker is.
func (e *Encoder) currentSpeed() plan.Speed {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.speed
}
