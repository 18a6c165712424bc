package geodns

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

const (
	// maxUDP is the largest answer sent over UDP: what passes everywhere unfragmented.
	maxUDP = 1232
	// minUDP is what a client without EDNS accepts (RFC 1035).
	minUDP = 512
	// maxQuery is the largest query read.
	maxQuery = 4096
	// headerLen is the length of a DNS header.
	headerLen = 12
)

// packet answers one UDP packet. It returns nil for what deserves no answer:
// too short for a header, or itself an answer, which would make a loop.
func (z *zone) packet(b []byte, client netip.Addr) []byte {
	if len(b) < headerLen || b[2]&0x80 != 0 {
		z.metrics.dns.WithLabelValues("udp", "DROP").Inc()
		return nil
	}
	var req dns.Msg
	if err := req.Unpack(b); err != nil || !complete(b, &req) {
		z.metrics.dns.WithLabelValues("udp", rcode(dns.RcodeFormatError)).Inc()
		return formatError(b)
	}
	resp := z.respond(&req, client, false)
	z.metrics.dns.WithLabelValues("udp", rcode(resp.Rcode)).Inc()
	out, err := resp.Pack()
	if err != nil {
		// Can't happen with our own records; the client asks again.
		return formatError(b)
	}
	return out
}

// complete reports whether a message holds what its header promises: the library
// takes one that ends between two records or fields for a shorter one.
func complete(b []byte, m *dns.Msg) bool {
	for i, n := range []int{len(m.Question), len(m.Answer), len(m.Ns), len(m.Extra)} {
		if int(binary.BigEndian.Uint16(b[4+2*i:])) != n {
			return false
		}
	}
	for _, q := range m.Question {
		if q.Qtype == 0 || q.Qclass == 0 {
			return false
		}
	}
	return true
}

// formatError answers a message that could not be parsed: its header alone.
func formatError(b []byte) []byte {
	out := make([]byte, headerLen)
	copy(out, b[:2])
	flags := binary.BigEndian.Uint16(b[2:])&0x7900 | 0x8000 // the opcode and RD stay
	binary.BigEndian.PutUint16(out[2:], flags|dns.RcodeFormatError)
	return out
}

// respond answers a parsed query.
func (z *zone) respond(req *dns.Msg, client netip.Addr, tcp bool) *dns.Msg {
	resp := new(dns.Msg)
	resp.Id, resp.Response, resp.Opcode = req.Id, true, req.Opcode
	resp.RecursionDesired, resp.CheckingDisabled = req.RecursionDesired, req.CheckingDisabled
	resp.Question = req.Question
	resp.Compress = true
	if req.Opcode != dns.OpcodeQuery {
		resp.Rcode = dns.RcodeNotImplemented
		resp.Question = nil
		return resp
	}
	if len(req.Question) != 1 {
		resp.Rcode = dns.RcodeFormatError
		resp.Question = nil
		return resp
	}
	opt, many := option(req)
	size := minUDP
	var out *dns.OPT
	if opt != nil {
		size = min(max(minUDP, int(opt.UDPSize())), maxUDP)
		out = &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		out.SetUDPSize(maxUDP)
		out.SetDo(opt.Do())
		resp.Extra = []dns.RR{out}
	}
	subnet, err := subnetOf(opt)
	switch {
	case many || err != nil:
		resp.Rcode = dns.RcodeFormatError
		return resp
	case opt != nil && opt.Version() != 0:
		resp.Rcode = dns.RcodeBadVers
		return resp
	}
	scope := z.answer(req, resp, client, subnet)
	if subnet != nil && resp.Rcode != dns.RcodeRefused {
		out.Option = append(out.Option, subnet.echo(scope))
	}
	if out != nil {
		// The answer may have added glue; OPT stays last.
		resp.Extra = append(without(resp.Extra, out), out)
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	resp.Truncate(size)
	return resp
}

// option returns the OPT record, and whether there is more than one (RFC 6891, 6.1.1).
func option(m *dns.Msg) (opt *dns.OPT, many bool) {
	for _, rr := range m.Extra {
		if o, ok := rr.(*dns.OPT); ok {
			if opt != nil {
				return opt, true
			}
			opt = o
		}
	}
	return opt, false
}

func without(rrs []dns.RR, o *dns.OPT) []dns.RR {
	out := rrs[:0]
	for _, rr := range rrs {
		if rr != dns.RR(o) {
			out = append(out, rr)
		}
	}
	return out
}
