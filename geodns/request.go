package geodns

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

const (
	// headerLen is the length of a DNS header.
	headerLen = 12
	// maxName is the longest name in wire form (RFC 1035, 2.3.4).
	maxName  = 255
	maxLabel = 63
	// cookieLen is a client cookie's length; a server cookie has 8 to 32 octets (RFC 7873, 4).
	cookieLen = 8
)

// request is a query taken apart. Parsing fills it without allocating; it refers
// to nothing in the message but by offsets.
type request struct {
	// name in wire form, in lower case.
	name    [maxName]byte
	nameLen int
	qtype   uint16
	qclass  uint16
	// questionEnd is the offset behind the question, 0 when there is none.
	questionEnd int

	edns    bool
	size    int // payload the client takes, as it says
	version uint8
	do      bool

	// subnet is the client subnet option (RFC 7871): hasSubnet with an invalid
	// prefix is family 0, "don't use my address".
	hasSubnet bool
	subnet    netip.Prefix
	family    uint16

	hasCookie bool
	client    [cookieLen]byte
	server    [32]byte
	serverLen int
}

// verdict is what becomes of a message.
type verdict int

const (
	// answerable: all is well.
	answerable verdict = iota
	// silent: too short for a header, or itself an answer, which would make a loop.
	silent
	// unknownOpcode: NOTIMP.
	unknownOpcode
	// malformed: FORMERR with nothing but a header.
	malformed
	// illegal: FORMERR; the message could be read, but its options may not be.
	illegal
)

// parse takes a message apart. It accepts exactly what can be read to its last
// byte as its header promises.
func (q *request) parse(b []byte) verdict {
	q.nameLen, q.questionEnd = 0, 0
	q.edns, q.do, q.hasSubnet, q.hasCookie = false, false, false, false
	q.subnet, q.serverLen, q.size = netip.Prefix{}, 0, minUDP
	if len(b) < headerLen || b[2]&0x80 != 0 {
		return silent
	}
	if b[2]>>3&0xf != dns.OpcodeQuery {
		return unknownOpcode
	}
	questions := binary.BigEndian.Uint16(b[4:])
	if questions > 1 {
		return malformed
	}
	at := headerLen
	if questions == 1 {
		if at = q.question(b); at < 0 {
			return malformed
		}
	}
	others := int(binary.BigEndian.Uint16(b[6:])) + int(binary.BigEndian.Uint16(b[8:]))
	extra := int(binary.BigEndian.Uint16(b[10:]))
	v := answerable
	for i := range others + extra {
		var rv verdict
		if at, rv = q.record(b, at, i >= others); at < 0 {
			return malformed
		}
		v = max(v, rv)
	}
	switch {
	case at != len(b):
		return malformed
	case v != answerable:
		return v
	case questions == 0 && !q.hasCookie:
		// RFC 7873 5.4 lets a client ask for a cookie alone.
		return malformed
	}
	return answerable
}

// question reads the question and returns the offset behind it, negative when it
// can't be read. Its name must not be compressed: there is nothing before it.
func (q *request) question(b []byte) int {
	at := headerLen
	for {
		if at >= len(b) {
			return -1
		}
		n := int(b[at])
		if n > maxLabel || q.nameLen+n+1 > maxName || at+n+1 > len(b) {
			return -1
		}
		q.name[q.nameLen] = byte(n)
		for i := 1; i <= n; i++ {
			c := b[at+i]
			if 'A' <= c && c <= 'Z' {
				c |= 0x20
			}
			q.name[q.nameLen+i] = c
		}
		q.nameLen += n + 1
		at += n + 1
		if n == 0 {
			break
		}
	}
	if at+4 > len(b) {
		return -1
	}
	q.qtype, q.qclass = binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:])
	q.questionEnd = at + 4
	if q.qtype == 0 || q.qclass == 0 || q.qtype == dns.TypeOPT {
		return -1
	}
	return q.questionEnd
}

// record reads a resource record at an offset and returns the offset behind it.
// Only OPT means anything here.
func (q *request) record(b []byte, at int, additional bool) (int, verdict) {
	root := at < len(b) && b[at] == 0
	if at = skipName(b, at); at < 0 || at+10 > len(b) {
		return -1, malformed
	}
	t, class := binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:])
	ttl, n := binary.BigEndian.Uint32(b[at+4:]), int(binary.BigEndian.Uint16(b[at+8:]))
	at += 10
	if at+n > len(b) {
		return -1, malformed
	}
	if t != dns.TypeOPT {
		return at + n, answerable
	}
	// RFC 6891, 6.1.1 and 6.1.2: one, of the root, among the additional records.
	if !additional || !root || q.edns {
		return at + n, illegal
	}
	q.edns, q.size, q.version, q.do = true, int(class), uint8(ttl>>16), ttl&0x8000 != 0
	if q.version != 0 {
		return at + n, answerable // another version's options are not ours to judge
	}
	return at + n, q.options(b[at : at+n])
}

// skipName returns the offset behind a name, which may end in a pointer.
func skipName(b []byte, at int) int {
	for length := 0; at >= 0 && at < len(b); {
		n := int(b[at])
		switch {
		case n == 0:
			return at + 1
		case n&0xc0 == 0xc0:
			// Where to doesn't matter, but it must be backwards.
			if at+2 > len(b) || int(binary.BigEndian.Uint16(b[at:])&0x3fff) >= at {
				return -1
			}
			return at + 2
		case n > maxLabel:
			return -1
		}
		if length += n + 1; length >= maxName {
			return -1
		}
		at += n + 1
	}
	return -1
}

// options reads OPT's options.
func (q *request) options(b []byte) verdict {
	for len(b) > 0 {
		if len(b) < 4 {
			return illegal
		}
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[4:]; n > len(b) {
			return illegal
		}
		ok := true
		switch code {
		case dns.EDNS0SUBNET:
			ok = !q.hasSubnet && q.clientSubnet(b[:n])
		case dns.EDNS0COOKIE:
			// RFC 7873, 5.2.2: only the first counts, but each must be well formed.
			if ok = n == cookieLen || n >= cookieLen+8 && n <= cookieLen+32; ok && !q.hasCookie {
				q.hasCookie = true
				copy(q.client[:], b)
				q.serverLen = copy(q.server[:], b[cookieLen:n])
			}
		}
		if !ok {
			return illegal
		}
		b = b[n:]
	}
	return answerable
}

// clientSubnet reads a client subnet option. RFC 7871 7.1.2 and 11.1 ask for
// FORMERR when it is malformed: a scope in a query, too few or many octets, bits
// beyond the prefix, a family other than IPv4 and IPv6.
func (q *request) clientSubnet(b []byte) bool {
	if len(b) < 4 || b[3] != 0 {
		return false
	}
	q.hasSubnet, q.family = true, binary.BigEndian.Uint16(b)
	source, octets := int(b[2]), b[4:]
	if len(octets) != (source+7)/8 {
		return false
	}
	var addr netip.Addr
	switch q.family {
	case 0:
		return source == 0
	case 1:
		var a [4]byte
		if source > 32 {
			return false
		}
		copy(a[:], octets)
		addr = netip.AddrFrom4(a)
	case 2:
		var a [16]byte
		if source > 128 {
			return false
		}
		copy(a[:], octets)
		addr = netip.AddrFrom16(a)
	default:
		return false
	}
	q.subnet = netip.PrefixFrom(addr, source)
	return q.subnet.Masked().Addr() == addr
}
