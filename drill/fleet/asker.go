package fleet

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/resolver"
	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	// An asker asks by each transport every askEvery, or less often: all near a region
	// together ask askRate times a second and transport, because what carries their
	// packets has to carry the viewers' too.
	askEvery = time.Second
	askRate  = 40
	// arriveIn is how long it takes until all have begun: everybody's first
	// connections cost the most.
	arriveIn = 5 * time.Second
	// patience is how long one router is waited for before the next is asked.
	patience = time.Second
	// subnetBits is what resolvers tell of a viewer's address (RFC 7871, 11.1).
	subnetBits = 24
)

// asker is one viewer's device, and the resolver it uses. It asks one router
// after the other in turn; one that doesn't answer is asked last for a while.
type asker struct {
	w     *Watch
	n     int
	every time.Duration // between two questions by a transport
	http  *http.Client
	// routers are URLs, servers the name servers' addresses.
	routers, servers *ring
	// resolve connects the resolver. Every second viewer's is a public one near
	// another region, which says whom it asks for.
	resolve resolver.Dial
	subnet  netip.Prefix
	conns   map[string]net.Conn // to name servers
	// playing is the pathway that steering named last.
	playing  string
	pathways string
}

func newAsker(w *Watch, d *target.Description, index, n int) *asker {
	at := d.Places[index]
	from := at.Sources[n%len(at.Sources)]
	a := &asker{w: w, n: n, http: newClient(at.From(from)), resolve: at.From(from), conns: map[string]net.Conn{}}
	var routers, servers, all []string
	for _, r := range d.Table.Regions {
		routers, servers = append(routers, r.Router.URL), append(servers, r.Router.DNS)
		for _, e := range r.Edges {
			all = append(all, e.Name)
		}
	}
	a.routers, a.servers, a.pathways = newRing(routers), newRing(servers), strings.Join(all, ",")
	if n%2 == 1 {
		public := d.Places[(index+1)%len(d.Places)]
		a.resolve = public.From(public.Sources[len(public.Sources)-1])
		a.subnet = netip.PrefixFrom(from, subnetBits).Masked()
	}
	return a
}

// run asks by all transports until ctx ends.
func (a *asker) run(ctx context.Context) {
	// Evenly spread over the time between two questions.
	all := time.Duration(len(a.w.askers))
	a.every = max(askEvery, all*time.Second/askRate)
	phase := a.every*time.Duration(a.n)/all + a.every*(time.Duration(a.n)%max(1, arriveIn/a.every))
	var wg sync.WaitGroup
	wg.Go(func() { a.poll(ctx, ByRedirect, phase, a.routers, a.redirect) })
	wg.Go(func() { a.poll(ctx, BySteering, phase+a.every/3, a.routers, a.steering) })
	wg.Go(func() { a.poll(ctx, ByDNS, phase+2*a.every/3, a.servers, a.names) })
	wg.Wait()
	a.http.CloseIdleConnections()
	for _, c := range a.conns {
		c.Close()
	}
}

type question func(ctx context.Context, router string) (edges []string, err error)

func (a *asker) poll(ctx context.Context, by Transport, phase time.Duration, routers *ring, ask question) {
	if sleep.For(ctx, phase) != nil {
		return
	}
	tick := time.NewTicker(a.every)
	defer tick.Stop()
	for turn := a.n; ; turn++ {
		x := Answer{Asked: time.Now(), Near: a.w.near, Asker: a.n, Transport: by}
		a.try(ctx, &x, routers, turn, ask)
		if ctx.Err() != nil {
			return
		}
		x.At = time.Now()
		a.w.answers.add(x, maxAnswers)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// try asks the router whose turn it is, and then the others until one answers.
func (a *asker) try(ctx context.Context, x *Answer, routers *ring, turn int, ask question) {
	first := routers.bases[turn%len(routers.bases)]
	for _, router := range routers.candidates(first, x.Asked) {
		qctx, cancel := context.WithTimeout(ctx, patience)
		edges, err := ask(qctx, router)
		cancel()
		if err == nil {
			routers.answered(router)
			x.Router, x.Edges, x.Err = a.w.routers[router], edges, ""
			return
		}
		routers.fail(router, time.Now())
		x.Err = brief(err)
	}
}

func (a *asker) redirect(ctx context.Context, router string) ([]string, error) {
	res, _, err := get(ctx, a.http, router+"/v/-/"+a.w.asset+"/master.m3u8")
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil || res.StatusCode != http.StatusFound {
		return nil, statusError(res.StatusCode)
	}
	to, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("sent to %q: want an edge's address", u.Hostname())
	}
	return a.w.named(to)
}

// steering asks as a session does that plays where it was sent.
func (a *asker) steering(ctx context.Context, router string) ([]string, error) {
	u := router + "/steer?a=" + a.w.asset + "&s=" + a.w.near + strconv.Itoa(a.n) + "&p=" + a.pathways
	if a.playing != "" {
		u += "&_HLS_pathway=%22" + a.playing + "%22"
	}
	res, b, err := get(ctx, a.http, u)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, statusError(res.StatusCode)
	}
	m, err := ParseManifest(b)
	if err != nil {
		return nil, err
	}
	if e, _, ok := a.w.t.Edge(m.Priority[0]); ok {
		a.playing = e.Name
		return a.w.named(e.Addresses[0])
	}
	return nil, fmt.Errorf("sent to %q, which is no edge", m.Priority[0])
}

// names asks by DNS, with the viewer's subnet where a public resolver does.
func (a *asker) names(ctx context.Context, server string) ([]string, error) {
	conn := a.conns[server]
	if conn == nil {
		var err error
		if conn, err = a.resolve(ctx, "udp", server); err != nil {
			return nil, err
		}
		a.conns[server] = conn
	}
	q := new(dns.Msg).SetQuestion("edge."+a.w.t.Zone+".", dns.TypeA)
	if a.subnet.IsValid() {
		q.SetEdns0(dns.DefaultMsgSize, false)
		opt := q.IsEdns0()
		opt.Option = append(opt.Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: subnetBits, Address: a.subnet.Addr().AsSlice()})
	}
	list, _, err := resolver.Exchange(ctx, conn, a.resolve, q)
	if err != nil {
		if ctx.Err() != nil {
			err = errTimeout
		}
		return nil, err
	}
	return a.w.named(list...)
}
