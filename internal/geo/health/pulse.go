package health

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// beatEvery is how often an edge is felt while someone wants to know.
	beatEvery = 100 * time.Millisecond
	// beatFor is how long after the last question it still is: longer than players
	// wait between two segments.
	beatFor = 15 * time.Second
	// beatTimeout ends a beat; it has counted as missed long before.
	beatTimeout = time.Second
	// beatSlack is how much later than half as long again as usual an answer may come.
	beatSlack = 100 * time.Millisecond
)

// Pulse knows within a few hundred milliseconds when an edge has stopped
// answering: sooner than a Monitor, which must not be wrong because it moves
// viewers, while who asks a Pulse only goes another way once. It asks for headers
// alone, and only edges somebody asked about of late.
type Pulse struct {
	client *http.Client
	beats  map[string]*beat
}

// beat is one edge's.
type beat struct {
	target Target
	wake   chan struct{}
	wanted atomic.Int64 // Unix nanoseconds of the last question
	missed atomic.Bool  // the last answer was none
	asked  atomic.Int64 // Unix nanoseconds of the question on its way; 0 when none is
	usual  atomic.Int64 // nanoseconds an answer takes, smoothed
}

// NewPulse returns a pulse of the targets; it feels nothing before Run.
func NewPulse(targets []Target) *Pulse {
	p := &Pulse{client: newClient(newDial(targets, beatTimeout), beatTimeout), beats: map[string]*beat{}}
	p.client.Timeout = beatTimeout
	for _, t := range targets {
		p.beats[t.Name] = &beat{target: t, wake: make(chan struct{}, 1)}
	}
	return p
}

// Run feels edges that are asked about until ctx ends.
func (p *Pulse) Run(ctx context.Context) error {
	defer p.client.CloseIdleConnections()
	g, ctx := errgroup.WithContext(ctx)
	for _, b := range p.beats {
		g.Go(func() error { p.feel(ctx, b); return nil })
	}
	return g.Wait()
}

// Beats says whether an edge answers as usual; true for one that wasn't asked
// about of late, or isn't known. It never waits.
func (p *Pulse) Beats(name string) bool {
	b := p.beats[name]
	if b == nil {
		return true
	}
	now := time.Now()
	b.wanted.Store(now.UnixNano())
	select {
	case b.wake <- struct{}{}:
	default:
	}
	if b.missed.Load() {
		return false
	}
	asked := b.asked.Load()
	return asked == 0 || now.UnixNano()-asked < b.usual.Load()*3/2+int64(beatSlack)
}

func (p *Pulse) feel(ctx context.Context, b *beat) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		}
		for time.Since(time.Unix(0, b.wanted.Load())) < beatFor {
			p.ask(ctx, b)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		// What was true may not be when the next one asks.
		b.missed.Store(false)
		b.usual.Store(0)
	}
}

func (p *Pulse) ask(ctx context.Context, b *beat) {
	start := time.Now()
	first := b.usual.Load() == 0
	if !first {
		b.asked.Store(start.UnixNano())
	}
	err := p.head(ctx, b.target)
	took := int64(time.Since(start))
	b.asked.Store(0)
	b.missed.Store(err != nil && ctx.Err() == nil)
	if err == nil {
		if first {
			b.usual.Store(took)
		} else {
			b.usual.Store((7*b.usual.Load() + took) / 8)
		}
	}
}

func (p *Pulse) head(ctx context.Context, t Target) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, t.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent)
	res, err := p.client.Do(req)
	if err != nil {
		return err
	}
	if err := res.Body.Close(); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d", strings.TrimPrefix(t.URL, "http://"), res.StatusCode)
	}
	return nil
}
