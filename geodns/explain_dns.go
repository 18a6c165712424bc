package geodns

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/miekg/dns"
)

// explain returns the addresses and services DNS answers for a name to a viewer,
// by the very path queries take. It counts nothing.
func (z *zone) explain(name string, viewer netip.Addr) (canonical string, answer []string, err error) {
	if _, ok := dns.IsDomainName(name); !ok {
		return "", nil, errors.New("want a domain name")
	}
	canonical = dns.CanonicalName(name)
	w := z.newWorker("tcp", 1)
	for _, t := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS} {
		q := dns.Msg{Question: []dns.Question{{Name: canonical, Qtype: t, Qclass: dns.ClassINET}}}
		b, err := q.Pack()
		if err != nil {
			return "", nil, err
		}
		if w.q.parse(b) != answerable {
			return "", nil, errors.New("want a domain name")
		}
		code, _, found := w.find(viewer)
		if code != dns.RcodeSuccess {
			return canonical, []string{dns.RcodeToString[code]}, nil
		}
		if found.answers == 0 {
			continue
		}
		binary.BigEndian.PutUint16(b[6:], found.answers)
		var m dns.Msg
		if err := m.Unpack(append(b, found.body...)); err != nil {
			return "", nil, err
		}
		for _, rr := range m.Answer {
			answer = append(answer, rr.String())
		}
	}
	return canonical, answer, nil
}
