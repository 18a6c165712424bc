package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/resolver"
)

// Way is how a viewer is led to edges.
type Way string

const (
	// Steering opens the video at the nearest router and then follows steering.
	Steering Way = "steering"
	// DNS opens it at a name of the zone, and follows steering, too.
	DNS Way = "dns"
	// Plain is the form for players that know no steering: a router redirects
	// every playlist and segment.
	Plain Way = "plain"
	// Browser is our player itself, in a browser; it comes by name. A fleet has none.
	Browser Way = "browser"
)

// Ways in the order in which viewers have them: of five, two are steered, two
// come by name, and one is plain.
var ways = []Way{Steering, DNS, Plain, Steering, DNS}

// Config of a fleet.
type Config struct {
	Target *target.Description
	// Asset to watch; it must be ready.
	Asset string
	// Viewers near each region, in table order.
	Viewers []int
	// Buffer is how much viewers hold in hand.
	Buffer time.Duration
	// Over is the time over which viewers arrive.
	Over time.Duration
	// Lines are the rates of viewers' lines, bytes a second, given out in turn.
	// None: lines of 4, 12 and 40 Mbit/s.
	Lines []int
	// Patience is how long a viewer waits for the first picture.
	Patience time.Duration
	// Only makes all viewers watch one way.
	Only Way
	// Broken makes viewers behave badly, for tests of objectives.
	Broken Broken
}

// Broken is what a broken viewer does.
type Broken struct {
	// NoSteering: it never asks for another pathway.
	NoSteering bool
	// NoFailover: it stays with a pathway whatever happens.
	NoFailover bool
}

// restless viewers leave after so long and open the video again: the fleet always
// has new sessions.
const restlessAfter = 8 * time.Second

// sampleEvery is how often the fleet is looked at.
const sampleEvery = time.Second

// Fleet is viewers who watch. Make one with New.
type Fleet struct {
	cfg     Config
	viewers []*viewer
	rec     *Recorder
	ledger  *ledger
	edges   map[netip.Addr]place // who serves at an address
	bytes   atomic.Int64
	lost    atomic.Pointer[[]string]
	homes   []home
}

type place struct{ edge, region string }

// home is where viewers near a region should be sent, best first.
type home struct {
	near    string
	nearest []string
}

// New makes a fleet that rec hears of. It begins with Run.
func New(cfg Config, rec *Recorder) (*Fleet, error) {
	t := cfg.Target.Table
	if len(cfg.Viewers) > len(cfg.Target.Places) {
		return nil, fmt.Errorf("viewers near %d regions: the platform has %d", len(cfg.Viewers), len(cfg.Target.Places))
	}
	if cfg.Asset == "" || cfg.Buffer <= 0 || cfg.Patience <= 0 {
		return nil, errors.New("fleet: want an asset, a buffer and patience")
	}
	if len(cfg.Lines) == 0 {
		cfg.Lines = []int{500_000, 1_500_000, 5_000_000}
	}
	f := &Fleet{cfg: cfg, rec: rec, ledger: &ledger{seen: map[string]content{}}, edges: map[netip.Addr]place{}}
	f.Lost()
	for _, r := range t.Regions {
		for _, e := range r.Edges {
			for _, a := range e.Addresses {
				f.edges[a] = place{e.Name, r.Name}
			}
		}
	}
	total := 0
	for _, n := range cfg.Viewers {
		total += n
	}
	n := 0
	for i, count := range cfg.Viewers {
		at := cfg.Target.Places[i]
		// One resolver for a place, and the nearest routers first.
		var nearest, routers []string
		for _, r := range t.Nearest(at.Near) {
			nearest, routers = append(nearest, r.Name), append(routers, r.Router.URL)
		}
		f.homes = append(f.homes, home{at.Near, nearest})
		names := resolver.New(at.From(at.Sources[0]), t.NameServers(at.Near))
		for k := range count {
			way := ways[k%len(ways)]
			if cfg.Only != "" {
				way = cfg.Only
			}
			line := cfg.Lines[n%len(cfg.Lines)]
			v := &viewer{fleet: f, n: n, home: i, way: way, ring: newRing(routers), buffer: cfg.Buffer.Seconds(),
				restless: k%4 == 3,
				delay:    cfg.Over * time.Duration(n) / time.Duration(max(total, 1)),
				line:     rate.NewLimiter(rate.Limit(line), max(32<<10, line/10)),
				dial:     names.Dialer(at.From(at.Sources[k%len(at.Sources)]))}
			f.viewers = append(f.viewers, v)
			n++
		}
	}
	return f, nil
}

// Lost says which regions nobody can be served from now.
func (f *Fleet) Lost(regions ...string) {
	regions = slices.Clone(regions)
	f.lost.Store(&regions)
}

// Run has everybody watch until ctx ends, and returns when the last has gone.
func (f *Fleet) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, v := range f.viewers {
		wg.Go(func() { v.run(ctx) })
	}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			f.rec.sample(f.look(now))
		}
	}
	wg.Wait()
}

// look takes a sample.
func (f *Fleet) look(now time.Time) Sample {
	names := f.cfg.Target.Table.Names()
	s := Sample{At: now, By: make([]int, len(names)), Wrong: make([]int, len(f.homes)), Bytes: f.bytes.Load()}
	lost := *f.lost.Load()
	var ahead []float64
	for _, v := range f.viewers {
		st := v.look(now)
		switch {
		case !st.started:
			s.Opening++
			continue
		case st.stalled:
			s.Standing++
		default:
			s.Playing++
		}
		ahead = append(ahead, st.ahead)
		if i := slices.Index(names, st.region); i >= 0 {
			s.By[i]++
		}
		for _, best := range f.homes[v.home].nearest {
			if !slices.Contains(lost, best) {
				if st.region != best {
					s.Wrong[v.home]++
				}
				break
			}
		}
	}
	if len(ahead) > 0 {
		slices.Sort(ahead)
		s.Least, s.Median = ahead[0], ahead[len(ahead)/2]
	}
	return s
}
