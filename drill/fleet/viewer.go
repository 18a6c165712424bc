package fleet

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	// reopenAfter is the pause between two videos.
	reopenAfter = 500 * time.Millisecond
	// goldenRatio spreads numbers evenly over 0 to 1, however many there are.
	goldenRatio = 0.6180339887498949
	// maxFactor of timeouts when playback fails everywhere.
	maxFactor = 8
)

// ladder are the pauses after failures everywhere.
var ladder = []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second}

// viewer watches one video after the other.
type viewer struct {
	fleet  *Fleet
	n      int
	home   int // index of where it is
	way    Way
	buffer float64 // seconds to hold in hand
	delay  time.Duration
	// restless viewers leave after restlessAfter.
	restless bool
	line     *rate.Limiter
	dial     func(ctx context.Context, network, hostport string) (net.Conn, error)
	ring     *ring
	fetch    *fetcher
	est      Estimator // of the player's goroutine; steering reads rate

	mu   sync.Mutex
	now  state
	buf  *Buffer // nil between sessions
	rate float64
}

// state is what a sample shows of a viewer.
type state struct {
	started, stalled bool
	ahead            float64
	region           string
}

func (v *viewer) look(now time.Time) state {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.buf == nil {
		return state{}
	}
	v.buf.Advance(now)
	v.now.started, v.now.stalled, v.now.ahead = v.buf.Started(), v.buf.Stalled(now), v.buf.Ahead()
	return v.now
}

func (v *viewer) note(e Event) {
	e.Viewer, e.Near, e.Way = v.n, v.fleet.homes[v.home].near, v.way
	if e.At.IsZero() {
		e.At = time.Now()
	}
	v.fleet.rec.Note(e)
}

// run watches until ctx ends.
func (v *viewer) run(ctx context.Context) {
	v.fetch = v.newFetcher()
	defer v.fetch.close()
	if sleep.For(ctx, v.delay) != nil {
		return
	}
	// Those who come first are somewhere in the middle, so that not all end together.
	from := math.Mod(float64(v.n)*goldenRatio, 1)
	for ctx.Err() == nil {
		s := &session{v: v, opened: time.Now(), factor: 1, from: from}
		from = 0
		s.run(ctx)
		v.mu.Lock()
		buf := v.buf
		v.buf = nil
		v.mu.Unlock()
		if buf != nil {
			v.stalled(buf.Finish(time.Now()))
		}
		// Not all who ended together open together.
		if sleep.For(ctx, reopenAfter+rand.N(reopenAfter)) != nil {
			return
		}
	}
}

func (v *viewer) stalled(s *Stall) {
	if s == nil {
		return
	}
	v.mu.Lock()
	served := v.now.region
	v.mu.Unlock()
	v.note(Event{At: s.At, Kind: Stalled, Seconds: s.For.Seconds(), Had: s.Had, Region: served})
}

// served notes who served media.
func (v *viewer) served(host string, last *string) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return
	}
	p, ok := v.fleet.edges[addr]
	if !ok || p.edge == *last {
		return
	}
	before := *last
	*last = p.edge
	v.mu.Lock()
	v.now.region = p.region
	v.mu.Unlock()
	v.note(Event{Kind: Served, Region: p.region, Edge: p.edge, Text: before})
}

// whose is the region a host belongs to: of an edge or of a router.
func (f *Fleet) whose(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		if p, ok := f.edges[addr]; ok {
			return p.region
		}
	}
	return ""
}

// master is the URL a viewer opens.
func (v *viewer) master() string {
	t := v.fleet.cfg.Target.Table
	path := "/v/-/" + v.fleet.cfg.Asset + "/master.m3u8"
	near, _ := t.Get(v.fleet.homes[v.home].near)
	switch v.way {
	case DNS:
		return PlayURL(t, near) + path
	case Plain:
		return near.Router.URL + path + "?steering=0"
	}
	return near.Router.URL + path
}

// PlayURL is the base URL of all routers by name, as a router of one region has it.
func PlayURL(t *region.Table, r region.Region) string {
	scheme, rest := "http://", r.Router.URL
	if len(rest) > 5 && rest[:5] == "https" {
		scheme = "https://"
	}
	port := ""
	if _, p, err := net.SplitHostPort(rest[len(scheme):]); err == nil {
		port = ":" + p
	}
	return scheme + "play." + t.Zone + port
}

// finalAnswer reports whether an error is an answer that is the same everywhere.
func finalAnswer(err error) bool {
	var status statusError
	return errors.As(err, &status) && status.final()
}
