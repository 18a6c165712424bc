package geodns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

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
	name string // canonical
	// sets are the records that are the same for everyone. Never changed.
	sets map[uint16][]dns.RR
	// chosen gives addresses by decision; nil for names without.
	chosen func(*geo.Decision) []netip.Addr
	// types the chosen addresses may have, and whether their order depends on the
	// viewer's edge spot.
	chosenTypes []uint16
	byEdge      bool
	// port of the HTTPS service at chosen addresses, 0 without.
	port uint16

	// answers prepared for the fixed sets: two by DNSSEC for each type, and for
	// types that aren't there.
	ready map[uint16]*[2]atomic.Pointer[tail]
	none  [2]atomic.Pointer[tail]
	// board holds the prepared answers of the current generation of snapshots.
	board atomic.Pointer[boardTails]
}

// zone answers for the platform's names. Its names are fixed by the region
// table and the zone's records; what chosen names answer comes from the board.
type zone struct {
	name    string // canonical, with trailing dot
	wire    []byte // name in wire form
	board   *geo.Board
	nodes   map[string]*node // by name in wire form
	ns      []string
	soa     *dns.SOA
	signer  *signer // nil: not signed
	cookies *cookies
	proofs  *proofs
	limits  limits
	metrics *metrics
	origins *origins
	now     func() time.Time

	// challenges are names that answer a CA, by name in wire form; nil for none.
	challenges atomic.Pointer[map[string]*node]
}

// zoneOptions are what a zone has besides its name and board.
type zoneOptions struct {
	records []dns.RR
	signer  *signer
	limits  limits
	now     func() time.Time
}

func newZone(name string, board *geo.Board, m *metrics, opt zoneOptions) (*zone, error) {
	z := &zone{name: dns.CanonicalName(name), board: board, proofs: newProofs(), nodes: map[string]*node{}, metrics: m,
		signer: opt.signer, limits: opt.limits, now: opt.now}
	if z.now == nil {
		z.now = time.Now
	}
	var err error
	if z.cookies, err = newCookies(); err != nil {
		return nil, err
	}
	if z.wire, err = wireName(z.name); err != nil {
		return nil, err
	}
	s := board.Load()
	z.origins = newOrigins(s)
	z.fixed(s)
	if err := z.addRecords(opt.records); err != nil {
		return nil, err
	}
	for _, n := range z.nodes {
		n.prepare()
	}
	return z, nil
}

// fixed adds the names of the region table.
func (z *zone) fixed(s *geo.Snapshot) {
	apex := z.add(z.name)
	play, edge := z.add("play."+z.name), z.add("edge."+z.name)
	play.chosen, edge.chosen = routerAddresses, edgeAddresses
	var routers, edges []netip.Addr
	var routerURLs, edgeURLs []string
	for _, r := range s.Regions {
		ns := r.Name + ".ns." + z.name
		z.ns = append(z.ns, ns)
		apex.put(&dns.NS{Hdr: header(z.name, dns.TypeNS, ttlFixed), Ns: ns})
		z.add(ns).addresses(ttlFixed, append([]netip.Addr{r.NameServer}, r.Further...)...)
		own := append([]netip.Addr{r.RouterAddress}, r.Further...)
		routers, routerURLs = append(routers, own...), append(routerURLs, r.RouterURL)
		n := z.add(r.Name + ".play." + z.name)
		n.addresses(ttlFixed, own...)
		n.https(ttlFixed, httpsPort(r.RouterURL))
		edge.byEdge = edge.byEdge || len(r.Edges) > 1
		for _, e := range r.Edges {
			edges, edgeURLs = append(edges, e.Addresses...), append(edgeURLs, e.URL)
			n := z.add(e.Name + ".edge." + z.name)
			n.addresses(ttlFixed, e.Addresses...)
			n.https(ttlFixed, httpsPort(e.URL))
		}
	}
	play.chosenTypes, play.port = typesOf(routers), httpsPort(routerURLs...)
	edge.chosenTypes, edge.port = typesOf(edges), httpsPort(edgeURLs...)
	for _, n := range []*node{play, edge} {
		if n.port != 0 {
			n.chosenTypes = append(n.chosenTypes, dns.TypeHTTPS)
		}
	}
	// All routers serve the same names and nobody transfers the zone, so its
	// serial never moves.
	z.soa = &dns.SOA{Hdr: header(z.name, dns.TypeSOA, ttlChosen), Ns: z.ns[0], Mbox: "hostmaster." + z.name,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttlChosen}
	apex.put(z.soa)
	if z.signer != nil {
		for _, rr := range z.signer.published(z.name) {
			apex.put(rr)
		}
	}
}

// addRecords adds the operator's records; they may not touch what the region
// table says.
func (z *zone) addRecords(rrs []dns.RR) error {
	ours := map[*node][]uint16{}
	for _, n := range z.nodes {
		for t := range n.sets {
			ours[n] = append(ours[n], t)
		}
		ours[n] = append(ours[n], n.chosenTypes...)
		if n.chosen != nil || len(n.sets[dns.TypeA])+len(n.sets[dns.TypeAAAA]) > 0 {
			ours[n] = append(ours[n], dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS)
		}
	}
	var errs []error
	for _, rr := range rrs {
		n := z.add(rr.Header().Name)
		if slices.Contains(ours[n], rr.Header().Rrtype) {
			errs = append(errs, fmt.Errorf("records: %s %s comes from the region table", n.name, dns.TypeToString[rr.Header().Rrtype]))
			continue
		}
		n.put(rr)
	}
	return errors.Join(errs...)
}

// add returns the node of a name, which it makes, with those above it, when needed.
func (z *zone) add(name string) *node {
	w, err := wireName(name)
	if err != nil {
		panic(err) // the region table and the parser let only valid names through
	}
	n, ok := z.nodes[string(w)]
	if !ok {
		n = &node{name: name, sets: map[uint16][]dns.RR{}}
		z.nodes[string(w)] = n
		if _, above, ok := strings.Cut(name, "."); ok && name != z.name {
			z.add(above)
		}
	}
	return n
}

// put adds a record to its set. A set has one TTL (RFC 2181, 5.2).
func (n *node) put(rr dns.RR) {
	t := rr.Header().Rrtype
	if set := n.sets[t]; len(set) > 0 {
		rr.Header().Ttl = set[0].Header().Ttl
		if slices.ContainsFunc(set, func(o dns.RR) bool { return dns.IsDuplicate(o, rr) }) {
			return
		}
	}
	n.sets[t] = append(n.sets[t], rr)
}

func (n *node) addresses(ttl uint32, addrs ...netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() {
			n.put(address(n.name, ttl, a))
		}
	}
}

// https adds an HTTPS record with the node's addresses as hints (RFC 9460).
func (n *node) https(ttl uint32, port uint16) {
	if port != 0 {
		n.put(httpsRecord(n.name, ttl, port, append(slices.Clone(n.sets[dns.TypeA]), n.sets[dns.TypeAAAA]...)))
	}
}

// prepare makes the places of prepared answers.
func (n *node) prepare() {
	n.ready = map[uint16]*[2]atomic.Pointer[tail]{dns.TypeANY: {}, dns.TypeNSEC: {}}
	for t := range n.sets {
		n.ready[t] = &[2]atomic.Pointer[tail]{}
	}
}

// types that exist at the name, ascending.
func (n *node) types() []uint16 {
	out := slices.Clone(n.chosenTypes)
	for t := range n.sets {
		out = append(out, t)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// chosenSet is the answer of a chosen name for a decision.
func (n *node) chosenSet(t uint16, d *geo.Decision) []dns.RR {
	var addrs, out []dns.RR
	for _, a := range n.chosen(d) {
		addrs = append(addrs, address(n.name, ttlChosen, a))
	}
	if t == dns.TypeHTTPS {
		return []dns.RR{httpsRecord(n.name, ttlChosen, n.port, addrs)}
	}
	for _, rr := range addrs {
		if rr.Header().Rrtype == t {
			out = append(out, rr)
		}
	}
	return out
}

// routerAddresses are those of the best regions' routers that answer, of all if none does.
func routerAddresses(d *geo.Decision) []netip.Addr {
	var up, down []*geo.Region
	for i := range d.Choices {
		r := d.Choices[i].Region
		if r.Router.Down {
			down = append(down, r)
		} else {
			up = append(up, r)
		}
	}
	if len(up) == 0 {
		up = down
	}
	var out []netip.Addr
	for _, r := range up[:min(regionsPerAnswer, len(up))] {
		out = append(append(out, r.RouterAddress), r.Further...)
	}
	return out
}

// edgeAddresses are those of the best regions' edges; those that are down only when
// all are. Resolvers change the order of addresses, so one that is last here is
// some clients' first.
func edgeAddresses(d *geo.Decision) []netip.Addr {
	var out []netip.Addr
	for i := range d.Choices[:min(regionsPerAnswer, len(d.Choices))] {
		c := &d.Choices[i]
		up := c.Up()
		if !up && len(out) > 0 && d.Choices[0].Up() {
			break
		}
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

func header(name string, t uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// address returns an A or AAAA record.
func address(name string, ttl uint32, a netip.Addr) dns.RR {
	if a = a.Unmap(); a.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA, ttl), A: net.IP(a.AsSlice())}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA, ttl), AAAA: net.IP(a.AsSlice())}
}

// httpsRecord says that a name speaks HTTP/2 and HTTP/1.1 over TLS (RFC 9460, 7.1
// and 9), and which addresses it has, so that a client needs no second query.
func httpsRecord(name string, ttl uint32, port uint16, addrs []dns.RR) dns.RR {
	rr := &dns.HTTPS{SVCB: dns.SVCB{Hdr: header(name, dns.TypeHTTPS, ttl), Priority: 1, Target: "."}}
	rr.Value = append(rr.Value, &dns.SVCBAlpn{Alpn: []string{"h2"}})
	if port != 443 {
		rr.Value = append(rr.Value, &dns.SVCBPort{Port: port})
	}
	var v4, v6 []net.IP
	for _, a := range addrs {
		switch a := a.(type) {
		case *dns.A:
			v4 = append(v4, a.A)
		case *dns.AAAA:
			v6 = append(v6, a.AAAA)
		}
	}
	if len(v4) > 0 {
		rr.Value = append(rr.Value, &dns.SVCBIPv4Hint{Hint: v4})
	}
	if len(v6) > 0 {
		rr.Value = append(rr.Value, &dns.SVCBIPv6Hint{Hint: v6})
	}
	return rr
}

// httpsPort is the port all URLs share, 0 unless all are https: an HTTPS record
// makes browsers go there by TLS.
func httpsPort(urls ...string) uint16 {
	port := uint16(0)
	for i, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" {
			return 0
		}
		p := uint16(443)
		if s := u.Port(); s != "" {
			n, err := strconv.ParseUint(s, 10, 16)
			if err != nil {
				return 0
			}
			p = uint16(n)
		}
		if i > 0 && p != port {
			return 0
		}
		port = p
	}
	return port
}

// typesOf are the record types of addresses.
func typesOf(addrs []netip.Addr) []uint16 {
	var out []uint16
	for _, a := range addrs {
		t := dns.TypeAAAA
		if a.Unmap().Is4() {
			t = dns.TypeA
		}
		if a.IsValid() && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

func wireName(name string) ([]byte, error) {
	b := make([]byte, maxName)
	n, err := dns.PackDomainName(dns.CanonicalName(name), b, 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("name %q: %w", name, err)
	}
	return b[:n], nil
}

// rcode is the name of a response code for metrics.
func rcode(r int) string {
	if s, ok := dns.RcodeToString[r]; ok {
		return s
	}
	return "UNKNOWN"
}
