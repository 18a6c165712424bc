package load

import (
	"context"
	"math"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// interval between samples; routers probe as often.
	interval = 500 * time.Millisecond
	// tau smooths each source, against bursts. Routers smooth once more.
	tau = 2 * time.Second
	// Above refuseHigh the share of refused work grows, below refuseLow it shrinks;
	// routers send viewers elsewhere from 0.95 on.
	refuseHigh = 0.98
	refuseLow  = 0.90
	// grow and shrink of the share, per second. Work that runs goes on, so the load
	// follows slowly.
	grow   = 1.0 / 15
	shrink = 1.0 / 60
)

// Source is one thing that may run out.
type Source struct {
	// Name is a word for metrics and status.
	Name string
	// Use returns the share in use over the last dt; false when it isn't known.
	// Only the Meter's owner calls it.
	Use func(dt time.Duration) (float64, bool)
}

// Meter is the smoothed load. Its methods may be called concurrently, step by one
// goroutine.
type Meter struct {
	sources  []Source
	smoothed []float64
	known    []bool

	load  atomic.Uint64 // bits of a float64
	share atomic.Uint64
	text  atomic.Pointer[[]string]
	worst atomic.Pointer[string]
}

// New returns a meter whose load is 0 until it runs.
func New(sources ...Source) *Meter {
	m := &Meter{sources: sources, smoothed: make([]float64, len(sources)), known: make([]bool, len(sources))}
	m.text.Store(&[]string{"0.00"})
	m.worst.Store(new(string))
	return m
}

// Run samples until ctx ends.
func (m *Meter) Run(ctx context.Context) {
	m.step(0) // rates count from here
	last := time.Now()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			m.step(now.Sub(last))
			last = now
		}
	}
}

// Load is the share of the capacity in use, 0 to 1, a little more when what runs
// has been let exceed a limit.
func (m *Meter) Load() float64 { return math.Float64frombits(m.load.Load()) }

// Worst names the source the load is of; "" before the first sample.
func (m *Meter) Worst() string { return *m.worst.Load() }

// Header is the load as a header field's value ("0.42"), which must not be changed.
func (m *Meter) Header() []string { return *m.text.Load() }

// Share is the share of new work that is refused.
func (m *Meter) Share() float64 { return math.Float64frombits(m.share.Load()) }

// Refuse reports whether one piece of new work is to be refused.
func (m *Meter) Refuse() bool {
	s := m.Share()
	return s > 0 && rand.Float64() < s
}

// Advance takes samples as if d passed, for tests of what acts on a load.
func (m *Meter) Advance(d time.Duration) {
	for range d / interval {
		m.step(interval)
	}
}

func (m *Meter) step(dt time.Duration) {
	weight := 1 - math.Exp(-dt.Seconds()/tau.Seconds())
	load, worst := 0.0, ""
	for i, s := range m.sources {
		use, ok := s.Use(dt)
		if !ok || math.IsNaN(use) {
			m.known[i] = false
			continue
		}
		use = min(max(use, 0), 2)
		if !m.known[i] {
			m.known[i], m.smoothed[i] = true, use
		}
		m.smoothed[i] += (use - m.smoothed[i]) * weight
		if m.smoothed[i] > load || worst == "" {
			load, worst = m.smoothed[i], s.Name
		}
	}
	share := m.Share()
	switch {
	case load > refuseHigh:
		share = min(1, share+grow*dt.Seconds())
	case load < refuseLow:
		share = max(0, share-shrink*dt.Seconds())
	}
	m.load.Store(math.Float64bits(load))
	m.share.Store(math.Float64bits(share))
	m.text.Store(&[]string{strconv.FormatFloat(load, 'f', 2, 64)})
	m.worst.Store(&worst)
}

// Level is a source of which now, of at most limit, are in use.
func Level(name string, now func() int64, limit int64) Source {
	return Source{Name: name, Use: func(time.Duration) (float64, bool) { return float64(now()) / float64(limit), true }}
}

// Rate is a source of which total is what was used ever, and perSecond can be.
func Rate(name string, total func() int64, perSecond int64) Source {
	var last int64
	return Source{Name: name, Use: func(dt time.Duration) (float64, bool) {
		n := total()
		d := n - last
		last = n
		if dt <= 0 {
			return 0, false
		}
		return float64(d) / dt.Seconds() / float64(perSecond), true
	}}
}
