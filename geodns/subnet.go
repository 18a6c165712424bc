package geodns

import (
	"errors"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// clientSubnet is an EDNS client subnet option of a query (RFC 7871).
type clientSubnet struct {
	prefix netip.Prefix
	option *dns.EDNS0_SUBNET
}

var errSubnet = errors.New("malformed client subnet option")

// subnetOf returns the option of a query's OPT record, nil without one. RFC 7871
// 7.1.2 and 11.1 ask for FORMERR when it is malformed: a scope in a query, bits
// beyond the prefix, a family other than IPv4 and IPv6, more than one.
func subnetOf(opt *dns.OPT) (*clientSubnet, error) {
	if opt == nil {
		return nil, nil
	}
	var found *clientSubnet
	for _, o := range opt.Option {
		e, ok := o.(*dns.EDNS0_SUBNET)
		if !ok {
			continue
		}
		if found != nil || e.SourceScope != 0 {
			return nil, errSubnet
		}
		addr, ok := netip.AddrFromSlice(e.Address)
		if e.Family == 1 {
			addr = addr.Unmap()
		}
		switch {
		case e.Family == 0 && e.SourceNetmask == 0:
			addr = netip.IPv4Unspecified()
		case !ok || (e.Family == 1) != addr.Is4() || e.Family > 2:
			return nil, errSubnet
		}
		p := netip.PrefixFrom(addr, int(e.SourceNetmask))
		if !p.IsValid() || p.Masked().Addr() != addr {
			return nil, errSubnet
		}
		found = &clientSubnet{prefix: p, option: e}
	}
	return found, nil
}

// scope returns how much of the client's address the answer depends on, given
// the network that shares the location.
func (c *clientSubnet) scope(network netip.Prefix) int {
	switch {
	case c == nil || c.prefix.Bits() == 0 || !network.IsValid():
		return 0
	case network.Addr().Is4() != c.prefix.Addr().Is4():
		return c.prefix.Bits()
	}
	return network.Bits()
}

// echo returns the option of the answer: the query's with the answer's scope.
func (c *clientSubnet) echo(scope int) *dns.EDNS0_SUBNET {
	addr := c.option.Address
	if addr == nil {
		addr = net.IPv4zero
	}
	return &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: c.option.Family, SourceNetmask: c.option.SourceNetmask,
		SourceScope: uint8(scope), Address: addr}
}
