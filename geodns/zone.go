package geodns

import (
	"net"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/meridian-video/meridian/internal/geo"
)

// TTLs in seconds. What depends on health must be forgotten quickly; some
// resolvers round lower values up.
const (
	ttlChosen = 5
	ttlFixed  = 300
	// regionsPerAnswer is how many regions an answer names, so that a client can
	// go on by itself when the first is lost.
	regionsPerAnswer = 2
	// edgesPerRegion bounds an answer's size.
	edgesPerRegion = 2
)

// node is one name of the zone.
type node struct {
	// fixed addresses, the same for everyone.
	fixed []netip.Addr
	// chosen gives addresses by decision.
	chosen func(*geo.Decision) []netip.Addr
	apex   bool
}

// zone answers for the platform's names. Its names are fixed by the region
// table; what chosen names answer comes from the board.
type zone struct {
	name    string // canonical, with trailing dot
	board   *geo.Board
	nodes   map[string]*node
	ns      []string
	metrics *metrics
}

func newZone(name string, board *geo.Board, m *metrics) *zone {
	z := &zone{name: dns.CanonicalName(name), board: board, nodes: map[string]*node{}, metrics: m}
	add := func(label string, n *node) { z.nodes[label+"."+z.name] = n }
	z.nodes[z.name] = &node{apex: true}
	add("play", &node{chosen: routerAddresses})
	add("edge", &node{chosen: edgeAddresses})
	add("ns", &node{}) // exists because names below it do
	for _, r := range board.Load().Regions {
		ns := r.Name + ".ns." + z.name
		z.ns = append(z.ns, ns)
		z.nodes[ns] = &node{fixed: []netip.Addr{r.NameServer}}
		add(r.Name+".play", &node{fixed: []netip.Addr{r.RouterAddress}})
		for _, e := range r.Edges {
			add(e.Name+".edge", &node{fixed: e.Addresses})
		}
	}
	return z
}

// routerAddresses are those of the best regions' routers that answer.
func routerAddresses(d *geo.Decision) []netip.Addr {
	var up, down []netip.Addr
	for i := range d.Choices {
		c := &d.Choices[i]
		if c.Region.Router.Down {
			down = append(down, c.Region.RouterAddress)
		} else {
			up = append(up, c.Region.RouterAddress)
		}
	}
	all := append(up, down...)
	return all[:min(regionsPerAnswer, len(all))]
}

// edgeAddresses are those of the best regions' edges; edges that are down only
// when the whole region is.
func edgeAddresses(d *geo.Decision) []netip.Addr {
	var out []netip.Addr
	for i := range d.Choices[:min(regionsPerAnswer, len(d.Choices))] {
		c := &d.Choices[i]
		up := c.Up()
		n := 0
		for _, e := range c.Edges {
			if up && e.Health.Down || n == edgesPerRegion {
				continue
			}
			n++
			out = append(out, e.Addresses...)
		}
	}
	return out
}

// answer fills resp for the one question in req. client is the sender; subnet
// is its client subnet option, or nil. It returns the scope of the answer.
func (z *zone) answer(req, resp *dns.Msg, client netip.Addr, subnet *clientSubnet) (scope int) {
	q := req.Question[0]
	name := dns.CanonicalName(q.Name)
	if q.Qclass != dns.ClassINET || !dns.IsSubDomain(z.name, name) {
		// Also hides the CHAOS names that tell a server's version.
		resp.Rcode = dns.RcodeRefused
		return 0
	}
	switch q.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		resp.Rcode = dns.RcodeRefused
		return 0
	}
	resp.Authoritative = true
	n, ok := z.nodes[name]
	if !ok {
		resp.Rcode = dns.RcodeNameError
		resp.Ns = []dns.RR{z.soa()}
		return 0
	}
	addrs := n.fixed
	ttl := uint32(ttlFixed)
	if n.chosen != nil && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA) {
		ttl = ttlChosen
		who := client
		if subnet != nil && subnet.prefix.Bits() > 0 {
			who = subnet.prefix.Addr()
		}
		// Without a key everyone of one network gets the same edges: what the scope says.
		d := geo.Decide(z.board.Load(), geo.Query{Addr: who})
		z.metrics.decided(viaDNS, &d)
		addrs = n.chosen(&d)
		scope = subnet.scope(d.Location.Network)
	}
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		for _, a := range addrs {
			if rr := address(q.Name, q.Qtype, ttl, a); rr != nil {
				resp.Answer = append(resp.Answer, rr)
			}
		}
	case dns.TypeNS:
		if n.apex {
			for _, ns := range z.ns {
				resp.Answer = append(resp.Answer, &dns.NS{Hdr: header(q.Name, dns.TypeNS, ttlFixed), Ns: ns})
				for _, a := range z.nodes[ns].fixed {
					for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
						if rr := address(ns, t, ttlFixed, a); rr != nil {
							resp.Extra = append(resp.Extra, rr)
						}
					}
				}
			}
		}
	case dns.TypeSOA:
		if n.apex {
			soa := z.soa()
			soa.Header().Name = q.Name
			resp.Answer = []dns.RR{soa}
		}
	case dns.TypeANY:
		// RFC 8482, 4.2: a small answer instead of everything.
		resp.Answer = []dns.RR{&dns.HINFO{Hdr: header(q.Name, dns.TypeHINFO, ttlFixed), Cpu: "RFC8482"}}
	}
	if len(resp.Answer) == 0 {
		resp.Ns = []dns.RR{z.soa()}
	}
	return scope
}

func (z *zone) soa() dns.RR {
	// All routers serve the same names and nobody transfers the zone, so its
	// serial never moves.
	return &dns.SOA{Hdr: header(z.name, dns.TypeSOA, ttlChosen), Ns: z.ns[0], Mbox: "hostmaster." + z.name,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttlChosen}
}

func header(name string, t uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// address returns an A or AAAA record, nil when a is of the other family.
func address(name string, t uint16, ttl uint32, a netip.Addr) dns.RR {
	a = a.Unmap()
	switch {
	case t == dns.TypeA && a.Is4():
		return &dns.A{Hdr: header(name, t, ttl), A: net.IP(a.AsSlice())}
	case t == dns.TypeAAAA && a.Is6():
		return &dns.AAAA{Hdr: header(name, t, ttl), AAAA: net.IP(a.AsSlice())}
	}
	return nil
}

// rcode is the name of a response code for metrics.
func rcode(r int) string {
	if s, ok := dns.RcodeToString[r]; ok {
		return s
	}
	return "UNKNOWN"
}
