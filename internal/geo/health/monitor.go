package health

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/region"
)

const (
	// reportEvery is how often views are shared, reportLife how long one counts.
	reportEvery = 250 * time.Millisecond
	reportLife  = 750 * time.Millisecond
	// maxWitnesses bounds the memory strangers can use.
	maxWitnesses = 64
	// subject prefix; the region's name follows.
	subject = "health."
)

// Bus is where views are shared; *nats.Conn is one.
type Bus interface {
	Publish(subject string, data []byte) error
	ChanSubscribe(subject string, ch chan *nats.Msg) (*nats.Subscription, error)
}

// Options of a Monitor. The zero value of each field has the default named.
type Options struct {
	// Region this router stands in; its own router is not probed.
	Region string
	// Interval between two probes of a target, 500 ms; Timeout of one, 1 s.
	Interval, Timeout time.Duration
	// Farthest is the round-trip time to the region farthest away, 0.
	Farthest time.Duration
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// Monitor probes the regions and keeps a board's health up to date.
type Monitor struct {
	opt     Options
	board   *geo.Board
	targets []Target
	others  bool // there are other regions, whose routers should be heard
	dial    dial
	client  *http.Client
	touched chan touch
	reached chan struct{} // holds one
	id      string
	metrics *metrics

	attach chan Bus

	// up mirrors each target's own view for its probe loop.
	up    []atomic.Bool
	round atomic.Int64
}

// Targets returns what a router in the named region probes: every edge and
// every other region's router.
func Targets(t *region.Table, self string) []Target {
	var out []Target
	for _, r := range t.Regions {
		for _, e := range r.Edges {
			out = append(out, Target{Name: e.Name, Region: r.Name, URL: e.URL + "/health/segment", Addr: e.Addresses[0]})
		}
	}
	for _, r := range geo.NewSnapshot(t).Regions {
		if r.Name != self {
			out = append(out, Target{Name: RouterName(r.Name), Region: r.Name, URL: r.RouterURL + "/health/router", Addr: r.RouterAddress})
		}
	}
	return out
}

// New returns a monitor of targets that writes to board.
func New(board *geo.Board, targets []Target, opt Options) (*Monitor, error) {
	if opt.Interval == 0 {
		opt.Interval = 500 * time.Millisecond
	}
	if opt.Timeout == 0 {
		opt.Timeout = time.Second
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	d := newDial(targets, opt.Timeout)
	m := &Monitor{opt: opt, board: board, targets: targets, dial: d, client: newClient(d, opt.Timeout), touched: make(chan touch), reached: make(chan struct{}, 1),
		id: rand.Text(), attach: make(chan Bus, 1), up: make([]atomic.Bool, len(targets))}
	m.others = slices.ContainsFunc(targets, func(t Target) bool { return t.Region != opt.Region })
	var err error
	if m.metrics, err = newMetrics(opt.Metrics); err != nil {
		return nil, fmt.Errorf("health: %w", err)
	}
	for i := range m.up {
		m.up[i].Store(true)
		m.metrics.up.WithLabelValues(targets[i].Name).Set(1)
	}
	return m, nil
}

func (m *Monitor) wasUp(i int) bool { return m.up[i].Load() }

// Ready returns nil once every target has been probed.
func (m *Monitor) Ready() error {
	if n := m.round.Load(); n < int64(len(m.targets)) {
		return fmt.Errorf("health: %d of %d targets probed", n, len(m.targets))
	}
	return nil
}

// Attach gives a running monitor its bus, once. Until then, and without, it
// works by the own view: connecting may take long while regions are silent, and
// probing must not wait for it.
func (m *Monitor) Attach(b Bus) { m.attach <- b }

// Run probes and judges until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	defer m.client.CloseIdleConnections()
	g, ctx := errgroup.WithContext(ctx)
	obs := make(chan observation)
	for i := range m.targets {
		g.Go(func() error { m.probeLoop(ctx, i, obs); return nil })
	}
	g.Go(func() error { return m.own(ctx, obs) })
	return g.Wait()
}

// state belongs to the goroutine that runs own.
type state struct {
	bus       Bus // nil until attached
	trackers  []tracker
	loads     []float64
	witnesses map[string]*witness
	verdicts  []Verdict
	since     []time.Time
	line      line
	alone     bool
	applied   bool
	shedders  map[string]*shedder
	suspected map[string]time.Time // regions, when last
	shed      map[string]shed
	stepped   time.Time
	// ticked is when the last tick was seen; starved until when this process's own
	// lateness is what slow answers show.
	ticked, starved time.Time
}

// shed is the share of its viewers a region turns away.
type shed struct {
	share float64
	why   string
}

// shedEvery is how often the shares are reckoned.
const shedEvery = time.Second

// own is the one goroutine that holds the state.
func (m *Monitor) own(ctx context.Context, obs <-chan observation) error {
	st := &state{trackers: make([]tracker, len(m.targets)), loads: make([]float64, len(m.targets)),
		witnesses: map[string]*witness{}, shedders: map[string]*shedder{}, suspected: map[string]time.Time{}, shed: map[string]shed{}, verdicts: make([]Verdict, len(m.targets)), since: make([]time.Time, len(m.targets))}
	for i := range st.verdicts {
		// A router that just started doesn't know since when a target works;
		// counting from now keeps it from sending everyone back at once.
		st.verdicts[i].Up, st.since[i] = true, time.Now()
	}
	// Room for a burst of all regions' reports; NATS drops what doesn't fit.
	in := make(chan *nats.Msg, 4*maxWitnesses)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	defer func() {
		if st.line.doubt != nil {
			st.line.stop()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case t := <-m.touched:
			st.felt(t, time.Now())
		case <-m.reached:
			if st.line.doubt != nil && st.line.reached.IsZero() {
				st.line.reached = time.Now()
			}
		case st.bus = <-m.attach:
			sub, err := st.bus.ChanSubscribe(subject+"*", in)
			if err != nil {
				return fmt.Errorf("health: subscribe: %w", err)
			}
			defer func() {
				if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
					m.opt.Log.Warn("health: unsubscribe", "err", err)
				}
			}()
		case o := <-obs:
			if m.observe(st, o) {
				m.report(st)
			}
		case msg := <-in:
			m.hear(st, msg)
		case <-tick.C:
			st.tick(time.Now())
			m.report(st)
		}
		m.apply(ctx, st)
	}
}

const (
	// A tick that comes starvedBy late shows that this process gets too little of
	// the processors; for starvedFor how long answers take says nothing then.
	starvedBy  = 100 * time.Millisecond
	starvedFor = 5 * time.Second
)

func (st *state) tick(now time.Time) {
	if !st.ticked.IsZero() && now.Sub(st.ticked) > reportEvery+starvedBy {
		st.starved = now.Add(starvedFor)
	}
	st.ticked = now
}

func (m *Monitor) observe(st *state, o observation) (changed bool) {
	t := m.targets[o.target]
	m.metrics.probe(t, o)
	tr := &st.trackers[o.target]
	seen := tr.seen
	now, took := time.Now(), o.took
	if t.Region != m.opt.Region {
		switch mute(o.outcome, o.why) {
		case true:
			if o.began.Before(st.line.contact) {
				o.outcome = void // asked while the line was cut
			}
		case false:
			if o.outcome != void {
				st.felt(touch{o.target, o.outcome != good}, now)
			}
		}
	}
	if now.Before(st.starved) || took > m.opt.Timeout {
		took = 0
	}
	changed = tr.observe(o.outcome, o.why, took, now)
	if !seen && tr.seen {
		m.round.Add(1)
	}
	if o.outcome == good {
		st.loads[o.target] = o.load
	}
	m.up[o.target].Store(!tr.down)
	if changed && seen {
		m.opt.Log.Info("own view changed", "target", t.Name, "up", !tr.down, "why", tr.why)
	}
	return changed
}

// hear takes in another router's report.
func (m *Monitor) hear(st *state, msg *nats.Msg) {
	r, err := parseReport(msg.Data)
	if err != nil || msg.Subject != subject+r.Region {
		m.metrics.reports.WithLabelValues("refused").Inc()
		return
	}
	if r.Router == m.id {
		return
	}
	if _, ok := st.witnesses[r.Router]; !ok && len(st.witnesses) >= maxWitnesses {
		m.metrics.reports.WithLabelValues("refused").Inc()
		return
	}
	m.metrics.reports.WithLabelValues("heard").Inc()
	st.witnesses[r.Router] = &witness{report: r, arrived: time.Now()}
}

// report shares the own view. A report that can't be sent now is worthless later.
func (m *Monitor) report(st *state) {
	if st.bus == nil {
		return
	}
	r := report{Router: m.id, Region: m.opt.Region, Targets: make(map[string]view, len(m.targets))}
	for i, t := range st.trackers {
		if t.seen {
			r.Targets[m.targets[i].Name] = view{Up: !t.down, Why: t.why}
		}
	}
	b, err := r.encode()
	if err == nil {
		err = st.bus.Publish(subject+m.opt.Region, b)
	}
	if err != nil {
		m.metrics.reports.WithLabelValues("unsent").Inc()
		return
	}
	m.metrics.reports.WithLabelValues("sent").Inc()
}

// apply judges every target and publishes a new snapshot when anything differs.
func (m *Monitor) apply(ctx context.Context, st *state) {
	now := time.Now()
	heard := 0
	for id, w := range st.witnesses {
		if w.living(now) {
			heard++
		} else if !w.late(now) {
			delete(st.witnesses, id)
		}
	}
	alone := heard == 0 && m.others
	changed := m.mind(ctx, st, heard > 0, now)
	changed = changed || !st.applied || alone != st.alone
	st.alone, st.applied = alone, true
	for i, t := range m.targets {
		v := judge(t, st.trackers[i], st.witnesses, now)
		before := st.verdicts[i]
		if v.Up != before.Up {
			if v.Up && !st.trackers[i].restored {
				st.since[i] = now
			}
			m.metrics.verdict(t, v.Up)
			m.opt.Log.Info("target is "+map[bool]string{true: "up", false: "down"}[v.Up], "target", t.Name, "why", v.Why, "alone", alone)
		}
		changed = changed || v != before
		st.verdicts[i] = v
	}
	m.metrics.witnesses.Set(float64(heard))
	if now.Sub(st.stepped) >= shedEvery {
		st.stepped = now
		changed = m.shares(st, now) || changed
	}
	switch {
	case changed:
		m.board.Update(func(s *geo.Snapshot) { m.write(s, st) })
	case m.loadsDiffer(st):
		// With every probe on a busy day; answers prepared for the others stay good.
		m.board.UpdateLoads(func(s *geo.Snapshot) { m.write(s, st) })
	}
	st.line.settle()
}

// shares reckons what share of its viewers each region turns away and reports
// whether any differs from before. Loads and failures are the own view: what
// others see of a region says little about how it serves from here.
func (m *Monitor) shares(st *state, now time.Time) (changed bool) {
	type sums struct {
		load, failing, slow, n float64
		suspect                bool // something is wrong with it, or with the way there
	}
	regions := map[string]*sums{}
	s := m.board.Load()
	for i, t := range m.targets {
		if e, _ := s.Edge(t.Name); e == nil || !st.verdicts[i].Up {
			continue
		}
		if regions[t.Region] == nil {
			regions[t.Region] = &sums{}
		}
		r, tr := regions[t.Region], &st.trackers[i]
		if tr.down {
			// Not reached from here at all: others judge it. If none of its region is,
			// what the region turned away until now holds.
			r.suspect = true
			continue
		}
		r.n++
		r.load += st.loads[i]
		r.failing += tr.quality.failing()
		if tr.quality.slow(slowHigh) {
			r.slow++
		}
		r.suspect = r.suspect || tr.quality.slow(slowSuspect) || tr.quality.failing() >= failSuspect
	}
	for name := range st.shedders {
		if regions[name] == nil && st.shed[name] != (shed{}) {
			// Lost: it comes back as good as new, or shows what it lacks again.
			delete(st.shedders, name)
			delete(st.shed, name)
			m.metrics.shed.WithLabelValues(name).Set(0)
			changed = true
		}
	}
	// Where everything is wrong it is this machine, and where all other regions are,
	// the way out of here. One other alone says nothing.
	others, everywhere := 0, true
	for name, r := range regions {
		if r.suspect {
			st.suspected[name] = now
		}
		r.suspect = now.Sub(st.suspected[name]) < suspectFor
		if name != m.opt.Region {
			others++
			everywhere = everywhere && r.suspect
		}
	}
	if others < 2 {
		own := regions[m.opt.Region]
		everywhere = everywhere && others > 0 && own != nil && own.suspect
	}
	for name, r := range regions {
		if r.n == 0 {
			continue
		}
		if everywhere {
			r.slow, r.failing = 0, 0
		}
		if st.shedders[name] == nil {
			st.shedders[name] = &shedder{}
		}
		share, why := st.shedders[name].step(r.load/r.n, r.failing/r.n, r.slow/r.n, now)
		before := st.shed[name]
		if share != before.share {
			st.shed[name], changed = shed{share, why}, true
			m.metrics.shed.WithLabelValues(name).Set(share)
			if before.share == 0 || share == 0 {
				m.opt.Log.Info("region turns viewers away", "region", name, "share", share, "why", why)
			}
		}
	}
	return changed
}

func (m *Monitor) loadsDiffer(st *state) bool {
	s := m.board.Load()
	for i, t := range m.targets {
		if e, _ := s.Edge(t.Name); e != nil && e.Load != st.loads[i] {
			return true
		}
	}
	return false
}

func (m *Monitor) write(s *geo.Snapshot, st *state) {
	s.Alone, s.Doubt = st.alone, st.line.doubt
	for i := range s.Regions {
		r := &s.Regions[i]
		r.Shed, r.ShedWhy = st.shed[r.Name].share, st.shed[r.Name].why
	}
	for i, t := range m.targets {
		h := geo.Health{Down: !st.verdicts[i].Up, Why: st.verdicts[i].Why, Since: st.since[i]}
		if e, _ := s.Edge(t.Name); e != nil {
			e.Health, e.Load = h, st.loads[i]
			continue
		}
		if r := s.Region(t.Region); r != nil && t.Name == RouterName(t.Region) {
			r.Router = h
		}
	}
}
