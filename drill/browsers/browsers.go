package browsers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/sleep"
	"github.com/meridian-video/meridian/internal/viewer"
	"github.com/meridian-video/meridian/web/browser"
)

const (
	// lookEvery is how often pages are asked; they notice stalls themselves.
	lookEvery = 200 * time.Millisecond
	// stallAfter is how long a picture has stood still when the page counts a stall.
	stallAfter = 500 * time.Millisecond
	// filledShare of the buffer counts as full: a full one goes below its size while
	// the next segment comes.
	filledShare = 0.9
	// againAfter is the pause before a browser that failed is started again.
	againAfter    = time.Second
	width, height = 480, 360
)

// Config of a group of browsers.
type Config struct {
	Target *target.Description
	// Asset to watch; it must be ready.
	Asset string
	// Browsers near each region, in table order.
	Browsers []int
	// Buffer is how much each holds in hand, in whole seconds.
	Buffer time.Duration
	// Patience is how long a browser may take to the first picture.
	Patience time.Duration
	// First is the number of the first browser among the viewers of events.
	First int
}

// Seen is how it went for a browser.
type Seen struct {
	Near string
	// Filled is when it first had the buffer in hand, zero if never.
	Filled time.Time
	// Err is why it failed last, if it did.
	Err string
}

// Group watches. Make one with New, call Run once.
type Group struct {
	cfg   Config
	rec   *fleet.Recorder
	all   []*watcher
	first sync.WaitGroup // until each has played or given up
}

// New makes browsers that rec hears of. It fails if there is no Chromium.
func New(cfg Config, rec *fleet.Recorder) (*Group, error) {
	if len(cfg.Browsers) > len(cfg.Target.Places) {
		return nil, fmt.Errorf("browsers near %d regions: the platform has %d", len(cfg.Browsers), len(cfg.Target.Places))
	}
	g := &Group{cfg: cfg, rec: rec}
	for i, n := range cfg.Browsers {
		for k := range n {
			near := cfg.Target.Places[i].Near
			w := &watcher{g: g, n: cfg.First + len(g.all), place: cfg.Target.Places[i], seen: Seen{Near: near}}
			w.source = len(w.place.Sources) - 2 - k // simulated viewers begin with the first
			r, _ := cfg.Target.Table.Get(near)
			w.page = fleet.PlayURL(cfg.Target.Table, r) + "/watch/" + cfg.Asset
			w.servers = cfg.Target.Table.NameServers(near)
			if w.source < 0 {
				return nil, fmt.Errorf("%d browsers near %s: there are only %d addresses", n, near, len(w.place.Sources))
			}
			g.all = append(g.all, w)
		}
	}
	g.first.Add(len(g.all))
	if len(g.all) > 0 {
		if _, err := browser.Chromium(); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Run has all watch until ctx ends, and returns when the last browser has ended.
func (g *Group) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, w := range g.all {
		wg.Go(func() { w.run(ctx) })
	}
	wg.Wait()
}

// Playing returns when every browser has had a first picture, or has been waited
// for in vain.
func (g *Group) Playing() { g.first.Wait() }

// Seen is how it went for each so far.
func (g *Group) Seen() []Seen {
	var out []Seen
	for _, w := range g.all {
		w.mu.Lock()
		out = append(out, w.seen)
		w.mu.Unlock()
	}
	return out
}

// watcher is one browser.
type watcher struct {
	g       *Group
	n       int
	place   target.Place
	source  int // index of its address
	page    string
	servers []string

	mu   sync.Mutex
	seen Seen
}

func (w *watcher) note(e fleet.Event) {
	e.Viewer, e.Near, e.Way = w.n, w.place.Near, fleet.Browser
	if e.At.IsZero() {
		e.At = time.Now()
	}
	w.g.rec.Note(e)
}

func (w *watcher) run(ctx context.Context) {
	played := sync.OnceFunc(w.g.first.Done)
	defer played()
	for ctx.Err() == nil {
		err := w.watch(ctx, played)
		if ctx.Err() != nil || err == nil {
			continue
		}
		played()
		w.note(fleet.Event{Kind: fleet.Failed, Text: "browser: " + firstLine(err)})
		w.mu.Lock()
		w.seen.Err = firstLine(err)
		w.mu.Unlock()
		if sleep.For(ctx, againAfter) != nil {
			return
		}
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// watch opens the page and follows it until ctx ends or the browser fails.
func (w *watcher) watch(ctx context.Context, played func()) (err error) {
	v, err := viewer.Open(viewer.Config{Dial: w.place.From(w.place.Sources[w.source]), NameServers: w.servers})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	opened := time.Now()
	b, err := browser.Start(w.page, browser.WithProxy(v.Proxy()), browser.WithSize(width, height, false),
		browser.WithBuffer(int(w.g.cfg.Buffer.Seconds())))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	f := follower{w: w, table: w.g.cfg.Target.Table, opened: opened}
	defer func() { f.stalled() }()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.Ended():
			return errors.New("the browser ended by itself")
		case <-tick.C:
		}
		s, err := b.State()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		f.look(s, time.Now())
		if f.started {
			played()
		} else if time.Since(opened) > w.g.cfg.Patience {
			w.note(fleet.Event{Kind: fleet.FailedOpen, Seconds: time.Since(opened).Seconds()})
			return errors.New("no picture; the page says " + s.Notice)
		}
		if s.Ended {
			w.note(fleet.Event{Kind: fleet.Ended})
			if _, err := browser.Evaluate[bool](b, again); err != nil {
				return err
			}
		}
	}
}

// again watches the video from its beginning.
const again = `(() => { const v = document.querySelector('video'); v.currentTime = 0; v.play(); return true })()`

// follower turns what a page says into events.
type follower struct {
	w       *watcher
	table   *region.Table
	opened  time.Time
	started bool
	last    browser.State
	had     float64
	// since is when the picture began to stand still, zero while it moves; before is
	// what the page had counted by then.
	since  time.Time
	before float64
}

func (f *follower) look(s browser.State, now time.Time) {
	if !f.started && s.Playing && s.Position > 0 && s.Frames > 0 {
		f.started = true
		f.w.note(fleet.Event{At: now, Kind: fleet.Started, Seconds: now.Sub(f.opened).Seconds()})
	}
	f.had = max(f.had, s.Ahead)
	if f.had >= filledShare*f.w.g.cfg.Buffer.Seconds() {
		f.w.mu.Lock()
		if f.w.seen.Filled.IsZero() {
			f.w.seen.Filled = now
		}
		f.w.mu.Unlock()
	}
	if s.Edge != "" && s.Edge != f.last.Edge {
		f.w.note(fleet.Event{At: now, Kind: fleet.Served, Region: f.region(s.Edge), Edge: s.Edge, Text: f.last.Edge})
	}
	switch {
	case s.Stalls > f.last.Stalls:
		f.stalled()
		f.since, f.before = now.Add(-stallAfter), f.last.StallSeconds
	case !f.since.IsZero() && s.StallSeconds == f.last.StallSeconds:
		f.stalled()
	}
	f.last = s
}

// stalled notes the stall that has ended, if there was one.
func (f *follower) stalled() {
	if f.since.IsZero() {
		return
	}
	f.w.note(fleet.Event{At: f.since, Kind: fleet.Stalled, Seconds: f.last.StallSeconds - f.before, Had: f.had, Region: f.region(f.last.Edge)})
	f.since = time.Time{}
}

func (f *follower) region(edge string) string {
	for _, r := range f.table.Regions {
		if slices.ContainsFunc(r.Edges, func(e region.Edge) bool { return e.Name == edge }) {
			return r.Name
		}
	}
	return ""
}
