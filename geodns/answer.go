package geodns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxUDP is the largest answer sent over UDP: what passes everywhere unfragmented.
	maxUDP = 1232
	// minUDP is what a client without EDNS accepts (RFC 1035).
	minUDP = 512
	// maxQuery is the largest query read over UDP.
	maxQuery = 4096

	flagAA = 0x04
	flagTC = 0x02
)

// worker answers queries one after the other, each with the same memory: an
// answer whose records are prepared allocates nothing.
type worker struct {
	zone     *zone
	limiter  *limiter
	counters [codes]prometheus.Counter
	dropped  prometheus.Counter
	doubtful bool // every answer is truncated: the client is to come by TCP

	q       request
	out     []byte
	scratch [16]byte
	mac     [serverCookieLen]byte
	// now is as of the batch in work.
	now time.Time
	// pending queries are not counted yet by their origin; sampled is when that
	// was last done.
	pending uint32
	sampled time.Time
}

// codes is how many response codes can be told apart in metrics.
const codes = 24

// newWorker returns one of n workers of a transport.
func (z *zone) newWorker(transport string, n int) *worker {
	w := &worker{zone: z, out: make([]byte, 0, maxUDP), now: z.now()}
	if transport == "udp" {
		w.limiter = newLimiter(z.limits, n)
	}
	for i := range w.counters {
		w.counters[i] = z.metrics.dns.WithLabelValues(transport, rcode(i))
	}
	w.dropped = z.metrics.dns.WithLabelValues(transport, "DROP")
	return w
}

// answer returns the answer to a message, nil when it deserves none. It is good
// until the next call.
func (w *worker) answer(b []byte, client netip.Addr) []byte {
	q, udp := &w.q, w.limiter != nil
	v := q.parse(b)
	if v == silent {
		w.dropped.Inc()
		return nil
	}
	out := append(w.out[:0], b[0], b[1], 0x80|b[2]&0x79, b[3]&0x10, 0, 0, 0, 0, 0, 0, 0, 0) // the opcode, RD and CD stay
	if q.questionEnd > 0 && v != unknownOpcode && v != malformed {
		out[5] = 1
		out = append(out, b[headerLen:q.questionEnd]...)
	} else {
		q.edns = false
	}
	var t *tail
	code, scope := dns.RcodeSuccess, 0
	switch {
	case v == unknownOpcode:
		code = dns.RcodeNotImplemented
	case v != answerable:
		code = dns.RcodeFormatError
	case q.edns && q.version != 0:
		code = dns.RcodeBadVers
	case q.questionEnd == 0:
		q.edns = true // asks for a cookie alone
	default:
		code, scope, t = w.find(client)
	}

	room, opt := dns.MaxMsgSize, w.optLen(code)
	if udp {
		room = min(max(minUDP, q.size), maxUDP)
	}
	total := len(out) + opt
	if t != nil {
		total += len(t.body)
	}
	truncate := w.doubtful
	if udp && !w.zone.cookies.good(q, client, w.now.Unix(), &w.scratch, &w.mac) {
		large := total > amplification*len(b)
		if large && w.limiter.large != 0 && !w.zone.proofs.has(client, w.now) {
			// Perhaps a victim's address: glue is left out, or it asks again over TCP.
			room, large = min(room, amplification*len(b)), false
		}
		switch w.limiter.take(client, large, millis(w.now)) {
		case permitTruncated:
			truncate = true
		case permitNothing:
			w.dropped.Inc()
			return nil
		}
	}
	extras := uint16(0)
	switch {
	case t == nil && !truncate:
	case truncate || t.short < len(t.body) && len(out)+t.short+opt > room || t.short >= len(t.body) && total > room:
		out[2] |= flagTC
	case total > room:
		out = append(out, t.body[:t.short]...)
		w.counts(out, t.answers, t.auth)
	default:
		out = append(out, t.body...)
		w.counts(out, t.answers, t.auth)
		extras = t.extras
	}
	if t != nil {
		if t.decided != nil {
			t.decided.Inc()
			w.sampleOrigin(t.region, q.viewer(client))
		}
		if t.alarm != nil {
			t.alarm.Inc()
		}
	}
	out[3] |= byte(code & 0xf)
	if q.edns {
		out = w.appendOPT(out, code, scope, client)
		extras++
	}
	binary.BigEndian.PutUint16(out[10:], extras)
	w.out = out
	if code < codes {
		w.counters[code].Inc()
	}
	return out
}

func (w *worker) counts(out []byte, answers, auth uint16) {
	binary.BigEndian.PutUint16(out[6:], answers)
	binary.BigEndian.PutUint16(out[8:], auth)
	out[2] |= flagAA
}

// find looks a question up. It returns the code, the scope for the client's
// subnet and the records, nil for none.
func (w *worker) find(client netip.Addr) (code, scope int, t *tail) {
	q, z := &w.q, w.zone
	name := q.name[:q.nameLen]
	if q.qclass != dns.ClassINET || !below(name, z.wire) {
		// Also hides the CHAOS names that tell a server's version.
		return dns.RcodeRefused, 0, nil
	}
	if q.qtype == dns.TypeAXFR || q.qtype == dns.TypeIXFR {
		return dns.RcodeRefused, 0, nil
	}
	if q.qtype == typeNXName {
		return dns.RcodeFormatError, 0, nil // stands in NSEC records alone (RFC 9824, 3.5)
	}
	now := w.now.Unix()
	do := q.do && z.signer != nil
	n, ok := z.lookup(name)
	if !ok {
		t = z.nameTail(q, do, now)
		return t.rcode, 0, t
	}
	if i := slices.Index(n.chosenTypes, q.qtype); i >= 0 {
		// Without a key everyone of one network gets the same edges: what the scope says.
		t, scope = z.chosenTail(n, i, do, q.viewer(client), now)
	} else {
		t = z.fixedTail(n, q.qtype, do, now)
	}
	if !q.hasSubnet || q.subnet.Bits() <= 0 {
		scope = 0
	}
	return t.rcode, scope, t
}

// viewer is the address a decision is for: the client's, or its subnet's as it says.
func (q *request) viewer(client netip.Addr) netip.Addr {
	if q.hasSubnet && q.subnet.Bits() > 0 {
		return q.subnet.Addr()
	}
	return client
}

// below reports whether a name is the zone's or below it.
func below(name, zone []byte) bool {
	for len(name) > len(zone) {
		name = name[1+int(name[0]):]
	}
	return bytes.Equal(name, zone)
}

// subnetEchoed: RFC 7871 has the option in every answer to a query that held a
// good one; a refusal says nothing about anyone's network.
func (w *worker) subnetEchoed(code int) bool {
	return w.q.hasSubnet && (code == dns.RcodeSuccess || code == dns.RcodeNameError)
}

func (w *worker) optLen(code int) int {
	if !w.q.edns {
		return 0
	}
	n := 11
	if w.subnetEchoed(code) {
		n += 8 + (max(w.q.subnet.Bits(), 0)+7)/8
	}
	if w.q.hasCookie {
		n += 4 + cookieLen + serverCookieLen
	}
	return n
}

// appendOPT writes the OPT record (RFC 6891): our payload size, the upper bits of
// the response code, DO as asked, the client's subnet and cookies.
func (w *worker) appendOPT(out []byte, code, scope int, client netip.Addr) []byte {
	q := &w.q
	flags := byte(0)
	if q.do {
		flags = 0x80
	}
	out = append(out, 0, 0, byte(dns.TypeOPT), maxUDP>>8, maxUDP&0xff, byte(code>>4), 0, flags, 0, 0, 0)
	start := len(out)
	if w.subnetEchoed(code) {
		bits := max(q.subnet.Bits(), 0)
		n := (bits + 7) / 8
		out = append(out, 0, dns.EDNS0SUBNET, 0, byte(4+n), byte(q.family>>8), byte(q.family), byte(bits), byte(scope))
		if q.family == 1 {
			a := q.subnet.Addr().As4()
			out = append(out, a[:n]...)
		} else if q.family == 2 {
			a := q.subnet.Addr().As16()
			out = append(out, a[:n]...)
		}
	}
	if q.hasCookie {
		out = append(out, 0, dns.EDNS0COOKIE, 0, cookieLen+serverCookieLen)
		out = w.zone.cookies.put(out, &q.client, client, w.now.Unix(), &w.scratch)
	}
	binary.BigEndian.PutUint16(out[start-2:], uint16(len(out)-start))
	return out
}
