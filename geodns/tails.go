package geodns

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/internal/geo"
)

// tail is an answer prepared in wire form: what follows the question, but for
// OPT. Compression pointers in it are good for the name it was made for, in any
// casing. Never changed once made.
type tail struct {
	rcode                 int
	answers, auth, extras uint16
	body                  []byte
	// short is the length of the body without additional records, which may be
	// left out when there is no room (RFC 2181, 9).
	short int
	// until is the Unix time from which the answer is made anew: signatures age.
	until int64
	// decided counts the decision behind it, alarm that nothing works; nil without.
	decided, alarm prometheus.Counter
	// region is the first of the decision, if there is one.
	region string
}

// boardTails are the answers of a chosen name for one generation of the snapshot,
// made when first asked for.
type boardTails struct {
	generation uint64
	shares     bool // answers depend on the viewer's share spot
	orders     []atomic.Pointer[spotTails]
}

// spotTails are those of one order, by type, spots and DNSSEC.
type spotTails []atomic.Pointer[tail]

// chosenTail returns the answer of a chosen name for a viewer, and how many bits
// of the viewer's address it depends on.
func (z *zone) chosenTail(n *node, typeIndex int, do bool, who netip.Addr, now int64) (*tail, int) {
	s := z.board.Load()
	if s.Orders == nil {
		d := geo.Decide(s, geo.Query{Addr: who})
		return z.decisionTail(n, n.chosenTypes[typeIndex], do, &d, now), scope(n, who, d.Network.Bits(), s.Shares())
	}
	b := n.board.Load()
	if b == nil || b.generation != s.Generation {
		b = &boardTails{generation: s.Generation, shares: s.Shares(), orders: make([]atomic.Pointer[spotTails], s.Orders.Len())}
		n.board.Store(b)
	}
	id, bits := s.Orders.Lookup(who)
	spot := geo.SpotOf(who)
	size, at := len(n.chosenTypes)*2, typeIndex*2
	if do {
		at++
	}
	if n.byEdge {
		at += size * spot.Edge
		size *= geo.EdgeSpots
	}
	if b.shares {
		at += size * spot.Share
		size *= geo.ShareSpots
	}
	o := b.orders[id].Load()
	if o == nil {
		made := make(spotTails, size)
		o = &made
		b.orders[id].Store(o)
	}
	t := (*o)[at].Load()
	if t == nil || t.until <= now {
		d := geo.Arrange(s, s.Orders.Order(id), spot, "", nil)
		t = z.decisionTail(n, n.chosenTypes[typeIndex], do, &d, now)
		(*o)[at].Store(t)
	}
	return t, scope(n, who, bits, b.shares)
}

// scope is how much of an address an answer depends on, given how much of it the
// order of regions does, and whether regions share viewers out.
func scope(n *node, who netip.Addr, bits int, shares bool) int {
	if n.byEdge {
		bits = max(bits, geo.EdgeBits(who))
	}
	if shares {
		bits = max(bits, geo.ShareBits(who))
	}
	if who.Is4In6() {
		bits += 96
	}
	return max(bits, 0)
}

func (z *zone) decisionTail(n *node, qtype uint16, do bool, d *geo.Decision, now int64) *tail {
	set := n.chosenSet(qtype, d)
	var t *tail
	if len(set) == 0 {
		t = z.noneTail(n, qtype, do, now)
		made := *t
		t = &made
	} else {
		t = z.pack(n.name, qtype, &dns.Msg{Answer: set}, do, now)
	}
	t.decided, t.alarm = z.metrics.decision(viaDNS, d)
	if t.decided != nil {
		t.region = d.Choices[0].Region.Name
	}
	return t
}

// fixedTail returns the answer of a set that is the same for everyone.
func (z *zone) fixedTail(n *node, qtype uint16, do bool, now int64) *tail {
	places, ok := n.ready[qtype]
	if !ok {
		places = &n.none
	}
	place := &places[0]
	if do {
		place = &places[1]
	}
	if t := place.Load(); t != nil && t.until > now {
		return t
	}
	var t *tail
	switch {
	case !ok, qtype == dns.TypeNSEC:
		t = z.noneTail(n, qtype, do, now)
	case qtype == dns.TypeANY:
		// RFC 8482, 4.2: a small answer instead of everything.
		t = z.pack(n.name, qtype, &dns.Msg{Answer: []dns.RR{&dns.HINFO{Hdr: header(n.name, dns.TypeHINFO, ttlFixed), Cpu: "RFC8482"}}}, do, now)
	default:
		m := &dns.Msg{Answer: n.sets[qtype]}
		if qtype == dns.TypeNS {
			for _, ns := range z.ns {
				m.Extra = append(m.Extra, z.glue(ns)...)
			}
		}
		t = z.pack(n.name, qtype, m, do, now)
	}
	place.Store(t)
	return t
}

func (z *zone) glue(name string) []dns.RR {
	w, err := wireName(name)
	if err != nil {
		return nil
	}
	n := z.nodes[string(w)]
	return append(slices.Clone(n.sets[dns.TypeA]), n.sets[dns.TypeAAAA]...)
}

// noneTail says that a name has no records of a type.
func (z *zone) noneTail(n *node, qtype uint16, do bool, now int64) *tail {
	if z.signer != nil && (do || qtype == dns.TypeNSEC) {
		// A name may have a type for others and not for this viewer.
		types := slices.DeleteFunc(n.types(), func(t uint16) bool { return t == qtype })
		return z.denial(n.name, qtype, types, do, now)
	}
	return z.pack(n.name, qtype, &dns.Msg{Ns: []dns.RR{z.soa}}, do, now)
}

// denial is an answer by an NSEC record with the types a name has. Who asks for that
// very record gets it as the answer: it can't deny itself.
func (z *zone) denial(name string, qtype uint16, types []uint16, do bool, now int64) *tail {
	nsec, err := z.signer.nsec(name, types)
	if err != nil {
		return &tail{rcode: dns.RcodeServerFailure}
	}
	m := &dns.Msg{Ns: []dns.RR{z.soa, nsec}}
	if qtype == dns.TypeNSEC {
		m = &dns.Msg{Answer: []dns.RR{nsec}}
	}
	return z.pack(name, qtype, m, do, now)
}

// nameTail says that a name doesn't exist. With DNSSEC it is an NSEC record made
// for this name alone, so that nobody learns the others (RFC 9824, 3.1).
func (z *zone) nameTail(q *request, do bool, now int64) *tail {
	if !do || z.signer == nil {
		return &tail{rcode: dns.RcodeNameError, auth: 1, body: z.appendSOA(nil, q.nameLen), short: math.MaxInt, until: math.MaxInt64}
	}
	name, _, err := dns.UnpackDomainName(q.name[:q.nameLen], 0)
	if err != nil {
		return &tail{rcode: dns.RcodeServerFailure}
	}
	return z.denial(name, q.qtype, []uint16{typeNXName}, do, now)
}

// appendSOA writes the zone's SOA record for the authority section of an answer
// to a name of nameLen octets that ends in the zone's.
func (z *zone) appendSOA(b []byte, nameLen int) []byte {
	ptr := uint16(0xc000 | (headerLen + nameLen - len(z.wire)))
	b = binary.BigEndian.AppendUint16(b, ptr)
	b = binary.BigEndian.AppendUint16(b, dns.TypeSOA)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, z.soa.Hdr.Ttl)
	at := len(b)
	b = append(b, 0, 0)
	for _, name := range []string{z.soa.Ns, z.soa.Mbox} {
		b = appendBelow(b, name[:len(name)-len(z.name)])
		b = binary.BigEndian.AppendUint16(b, ptr)
	}
	for _, n := range []uint32{z.soa.Serial, z.soa.Refresh, z.soa.Retry, z.soa.Expire, z.soa.Minttl} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

// appendBelow writes the labels "a.b." without the root. They are of our own
// making and hold no escapes.
func appendBelow(b []byte, labels string) []byte {
	for len(labels) > 0 {
		n := 0
		for labels[n] != '.' {
			n++
		}
		b = append(append(b, byte(n)), labels[:n]...)
		labels = labels[n+1:]
	}
	return b
}

// pack signs a message's records if asked to and puts them in wire form.
func (z *zone) pack(name string, qtype uint16, m *dns.Msg, do bool, now int64) *tail {
	t := &tail{until: math.MaxInt64}
	if do && z.signer != nil {
		for _, section := range []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra} {
			signed, until, err := z.signer.sign(*section, now)
			if err != nil {
				return &tail{rcode: dns.RcodeServerFailure}
			}
			*section, t.until = signed, min(t.until, until)
		}
	}
	m.Question = []dns.Question{{Name: name, Qtype: qtype, Qclass: dns.ClassINET}}
	m.Compress = true
	full, err := m.Pack()
	if err != nil {
		return &tail{rcode: dns.RcodeServerFailure}
	}
	t.answers, t.auth, t.extras = uint16(len(m.Answer)), uint16(len(m.Ns)), uint16(len(m.Extra))
	question := dns.Msg{Question: m.Question}
	start := question.Len()
	t.body = full[start:]
	t.short = len(t.body)
	if len(m.Extra) > 0 {
		m.Extra = nil
		if less, err := m.Pack(); err == nil {
			t.short = len(less) - start
		}
	}
	return t
}
