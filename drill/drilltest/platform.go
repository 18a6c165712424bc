package drilltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/resolver"
)

// Asset is what can be watched, Private what needs a token.
const (
	Asset   = "abcdefghijklmnopqrstuvwxyz"
	Private = "zyxwvutsrqponmlkjihgfedcba"
)

// Defects are what is broken. The zero value works as it should, but for Notices.
type Defects struct {
	// Segments of the video, one second each; 0 are 60.
	Segments int
	// Notices is how long routers take to see that a region is lost; 0 is at once,
	// negative never: they send people to it for ever.
	Notices time.Duration
	// Corrupts: edges of other regions than the first serve other bytes.
	Corrupts bool
	// Slow is a pause before every segment.
	Slow time.Duration
	// Unavailable: every edge answers segments with 503.
	Unavailable bool
	// Strange: routers send everybody to the last region.
	Strange bool
	// Forgets: uploads are acknowledged and gone. Sticks: they never become ready.
	Forgets, Sticks bool
	// ReadOnly: writes get 503 while anything is lost.
	ReadOnly bool
	// LosesTitles: writes are acknowledged and not kept.
	LosesTitles bool
	// RollsBack: with a region, what was written last is lost.
	RollsBack bool
	// LosesObjects: the stores lack an object.
	LosesObjects bool
	// Leaks: the private video is given to everybody. Denies: to nobody.
	Leaks, Denies bool
	// StaysDown: what was lost never returns.
	StaysDown bool
}

// Platform is the fake. It is a target.Target.
type Platform struct {
	Defects Defects

	table *region.Table
	stop  context.CancelFunc
	ctx   context.Context

	serving sync.WaitGroup

	mu    sync.Mutex
	sites []*site
	api   *catalog
}

// site is a region.
type site struct {
	p       *Platform
	name    string
	servers []*http.Server
	// listeners are closed again, those of servers that never served too.
	listeners []io.Closer
	// lost since; zero when up.
	lost time.Time
	hung bool
	// touched is whether it was ever lost.
	touched bool
	held    chan struct{} // closed when hung requests may go on
}

var regions = []struct {
	name, place string
	net         byte
}{{"eu", "Here", 1}, {"us", "There", 2}, {"ap", "Elsewhere", 3}}

const edgesEach = 2

// startTries are for a router's port, which must be free in all regions.
const startTries = 5

// Start starts a platform on free ports of addresses below 127.100.
func Start(d Defects) (*Platform, error) {
	var errs []error
	for range startTries {
		p, err := start(d)
		if err == nil {
			return p, nil
		}
		errs = append(errs, err, p.Close())
	}
	return nil, errors.Join(errs...)
}

func start(d Defects) (*Platform, error) {
	if d.Segments == 0 {
		d.Segments = 60
	}
	p := &Platform{Defects: d, table: &region.Table{Zone: "drill.test"}, api: newCatalog()}
	p.ctx, p.stop = context.WithCancel(context.Background())
	routerPort := 0
	// Nobody is served before the table is whole.
	var serve []func()
	for _, x := range regions {
		s := &site{p: p, name: x.name, held: make(chan struct{})}
		p.sites = append(p.sites, s)
		listen := func(host, port int, h http.HandlerFunc) (*net.TCPAddr, error) {
			l, err := net.Listen("tcp", fmt.Sprintf("127.100.%d.%d:%d", x.net, host, port))
			if err != nil {
				return nil, err
			}
			server := &http.Server{Handler: s.guard(h), ReadHeaderTimeout: 10 * time.Second}
			s.servers, s.listeners = append(s.servers, server), append(s.listeners, l)
			serve = append(serve, func() { _ = server.Serve(l) }) // ends by Close
			return l.Addr().(*net.TCPAddr), nil
		}
		router, err := listen(1, routerPort, s.router)
		if err != nil {
			return p, err
		}
		// The same port everywhere, as names have addresses only.
		routerPort = router.Port
		api, err := listen(1, 0, s.serveAPI)
		if err != nil {
			return p, err
		}
		packets, err := net.ListenPacket("udp", fmt.Sprintf("127.100.%d.1:0", x.net))
		if err != nil {
			return p, err
		}
		s.listeners = append(s.listeners, packets)
		serve = append(serve, func() { s.names(packets) })
		r := region.Region{Name: x.name, Place: x.place, Control: true, API: "http://" + api.String(), S3: "http://" + api.String(),
			NATS: "nats://" + api.String(), Postgres: api.String(), RTT: map[string]region.Duration{},
			Router: region.Router{URL: "http://" + router.String(), DNS: packets.LocalAddr().String()}}
		for _, o := range regions {
			if o.name != x.name {
				r.RTT[o.name] = region.Duration(time.Duration(10*(int(o.net)+int(x.net))) * time.Millisecond)
			}
		}
		for e := range edgesEach {
			name := fmt.Sprintf("%s-%d", x.name, e+1)
			edge, err := listen(1+e, 0, func(w http.ResponseWriter, q *http.Request) { s.edge(name, w, q) })
			if err != nil {
				return p, err
			}
			r.Edges = append(r.Edges, region.Edge{Name: name, URL: "http://" + edge.String(), Addresses: []netip.Addr{edge.AddrPort().Addr().Unmap()}})
		}
		p.table.Regions = append(p.table.Regions, r)
	}
	if err := p.table.Validate(); err != nil {
		return p, err
	}
	for _, f := range serve {
		p.serving.Go(f)
	}
	return p, nil
}

// Close ends everything.
func (p *Platform) Close() error {
	p.stop()
	var errs []error
	for _, s := range p.sites {
		for _, x := range s.servers {
			errs = append(errs, x.Close())
		}
		for _, x := range s.listeners {
			if err := x.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	p.serving.Wait()
	return errors.Join(errs...)
}

// guard does to connections what a lost region does: killed, they end; hung, they
// are never answered.
func (s *site) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.p.mu.Lock()
		lost, hung, held := !s.lost.IsZero(), s.hung, s.held
		s.p.mu.Unlock()
		switch {
		case lost && hung:
			select {
			case <-held:
			case <-r.Context().Done():
			case <-s.p.ctx.Done():
			}
			panic(http.ErrAbortHandler)
		case lost:
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

// Describe says where everything is.
func (p *Platform) Describe(context.Context) (*target.Description, error) {
	d := &target.Description{Name: "drilltest", Table: p.table, APIKey: "key", Close: func() error { return nil }}
	for i, r := range p.table.Regions {
		place := target.Place{Near: r.Name}
		for n := range 50 {
			place.Sources = append(place.Sources, netip.AddrFrom4([4]byte{127, 60, byte(i + 1), byte(n + 1)}))
		}
		place.From = resolver.From
		d.Places = append(d.Places, place)
	}
	d.Leader = func(context.Context) (string, error) { return p.table.Regions[0].Name, nil }
	d.Reconcile = func(_ context.Context, read bool) (repair.Report, error) {
		r := repair.Report{Assets: 1, Named: 10, Regions: []repair.RegionReport{{Region: "eu", Reached: true, Objects: 10}}}
		if p.Defects.LosesObjects {
			r.Lost = 1
		}
		return r, nil
	}
	return d, nil
}

// home is where a viewer of the fake is, by its source address.
func (p *Platform) home(remote string) int {
	a, err := netip.ParseAddrPort(remote)
	if err != nil || a.Addr().As4()[1] != 60 {
		return 0
	}
	return int(a.Addr().As4()[2]) - 1
}

// edges lists the names of edges for a viewer, best first: those that routers
// believe to live, the viewer's own region first.
func (p *Platform) edges(home int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Defects.Strange {
		home = len(p.sites) - 1
	}
	var live, dead []string
	for i := range p.sites {
		s := p.sites[(home+i)%len(p.sites)]
		gone := !s.lost.IsZero() && p.Defects.Notices >= 0 && time.Since(s.lost) >= p.Defects.Notices
		for _, e := range p.table.Regions[(home+i)%len(p.sites)].Edges {
			if gone {
				dead = append(dead, e.Name)
			} else {
				live = append(live, e.Name)
			}
		}
	}
	return append(live, dead...)
}

// Status says what is lost.
func (p *Platform) Status(context.Context) (target.Status, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var st target.Status
	for _, s := range p.sites {
		if !s.lost.IsZero() || p.Defects.StaysDown && s.touched {
			st.Down = append(st.Down, s.name)
			st.Whole = fmt.Errorf("%v is down", st.Down)
		}
	}
	return st, nil
}

// Prepare has nothing to do.
func (p *Platform) Prepare(context.Context, target.Fault) error { return nil }

// Apply loses a region.
func (p *Platform) Apply(_ context.Context, f target.Fault) error {
	if f.Process != "" || f.Fault != scenario.Kill && f.Fault != scenario.Hang {
		return fmt.Errorf("%s: this platform can only lose whole regions by kill and hang", f)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.site(f.Region)
	s.lost, s.hung, s.touched = time.Now(), f.Fault == scenario.Hang, true
	s.held = make(chan struct{})
	if p.Defects.RollsBack {
		p.api.rollBack()
	}
	return nil
}

// Heal brings it back.
func (p *Platform) Heal(_ context.Context, f target.Fault) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.site(f.Region)
	if !s.lost.IsZero() {
		s.lost = time.Time{}
		close(s.held)
	}
	return nil
}

func (p *Platform) site(name string) *site {
	return p.sites[slices.IndexFunc(p.sites, func(s *site) bool { return s.name == name })]
}

func (p *Platform) anythingLost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.sites, func(s *site) bool { return !s.lost.IsZero() })
}

var _ target.Target = (*Platform)(nil)
