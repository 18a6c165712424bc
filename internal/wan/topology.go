package wan

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/meridian-video/meridian/internal/region"
)

const (
	// HostNode is this machine itself: the operator, and tests that need no place.
	HostNode = "host"
	// jitterShare of the delay is the jitter of a path between regions.
	jitterShare = 20
	// accessDelay from a viewer to the region next door, one way.
	accessDelay = 5 * time.Millisecond
	// viewersOffset from a region's third byte to its viewers'.
	viewersOffset = 10
	// hostOffset from a network's first third byte to the host's.
	hostOffset = 15
)

// ViewersNode is the name of the node of viewers near a region.
func ViewersNode(regionName string) string { return "viewers-" + regionName }

// Topology describes the network of a table made by region.Isolated: a node for
// every region, named and addressed as the table says; one for the viewers near
// it, who may use any address of 198.18.(10+n).0/24; and the host at
// 198.18.15.1, next to everything. Delays follow the table's round-trip times.
// A table may be moved to another /20 of 198.18.0.0/15 to run beside others.
func Topology(t *region.Table) (Config, error) {
	prefix, err := network(t)
	if err != nil {
		return Config{}, err
	}
	cfg := Config{Prefix: prefix}
	within := func(c, d byte) netip.Addr {
		a := prefix.Addr().As4()
		return netip.AddrFrom4([4]byte{a[0], a[1], a[2] + c, d})
	}
	for _, r := range t.Regions {
		node := Node{Name: r.Name}
		for _, e := range r.Edges {
			for _, a := range e.Addresses {
				if !a.Is4() || !cfg.Prefix.Contains(a) {
					return Config{}, fmt.Errorf("region %s: edge %s: address %s isn't in %s: want a table of isolated regions", r.Name, e.Name, a, cfg.Prefix)
				}
				node.Addresses = append(node.Addresses, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		if len(node.Addresses) == 0 {
			return Config{}, fmt.Errorf("region %s: want an edge with an address", r.Name)
		}
		number := node.Addresses[0].Addr().As4()[2] - prefix.Addr().As4()[2]
		if number == 0 || number+viewersOffset >= hostOffset {
			return Config{}, fmt.Errorf("region %s: %s: want the third byte within 1 to %d of %s", r.Name, node.Addresses[0], hostOffset-viewersOffset-1, prefix)
		}
		viewers := Node{Name: ViewersNode(r.Name),
			Addresses: []netip.Prefix{netip.PrefixFrom(within(viewersOffset+number, 1), 24)}}
		cfg.Nodes = append(cfg.Nodes, node, viewers)
		cfg.Paths = append(cfg.Paths, Both(r.Name, viewers.Name, between(accessDelay))...)
		for _, other := range t.Names() {
			if other == r.Name {
				continue
			}
			oneWay := time.Duration(r.RTT[other]) / 2
			cfg.Paths = append(cfg.Paths, Path{r.Name, other, between(oneWay)})
			cfg.Paths = append(cfg.Paths, Both(viewers.Name, other, between(accessDelay+oneWay))...)
		}
	}
	cfg.Nodes = append(cfg.Nodes, Node{Name: HostNode, Host: true,
		Addresses: []netip.Prefix{netip.PrefixFrom(within(hostOffset, 1), 32)}})
	return cfg, cfg.Validate()
}

// network is the /20 of the benchmarking range (RFC 2544) the table lies in.
func network(t *region.Table) (netip.Prefix, error) {
	benchmarking := netip.MustParsePrefix("198.18.0.0/15")
	for _, r := range t.Regions {
		for _, e := range r.Edges {
			for _, a := range e.Addresses {
				if benchmarking.Contains(a) {
					return netip.PrefixFrom(a, 20).Masked(), nil
				}
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("no region has an address in %s: want a table of isolated regions", benchmarking)
}

func between(delay time.Duration) Link { return Link{Delay: delay, Jitter: delay / jitterShare} }
