package region

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Ports are the same in every region, loopback or isolated, so that a host name
// alone tells where a service is.
const (
	PortAPI      = 8080
	PortRouter   = 8081
	PortEdge     = 8082
	PortDNS      = 5353
	PortS3       = 9000
	PortNATS     = 4222
	PortPostgres = 5432
	// What API, routers and edges answer on with TLS, where they do.
	PortAPITLS    = 8443
	PortRouterTLS = 8444
	PortEdgeTLS   = 8445
	// Admin listeners (/livez, /readyz, /metrics), reachable from inside the region only.
	PortAPIAdmin     = 9080
	PortRouterAdmin  = 9081
	PortEdgeAdmin    = 9082
	PortEncoderAdmin = 9083
)

// LoopbackZone is the zone of a platform on one machine.
const LoopbackZone = "meridian.test"

var places = []Region{
	{Name: "eu", Place: "Frankfurt", Latitude: 50.11, Longitude: 8.68, Control: true,
		RTT: map[string]Duration{"us": ms(90), "ap": ms(160)}},
	{Name: "us", Place: "Ashburn", Latitude: 39.04, Longitude: -77.49, Control: true,
		RTT: map[string]Duration{"eu": ms(90), "ap": ms(220)}},
	{Name: "ap", Place: "Singapore", Latitude: 1.35, Longitude: 103.82, Control: true,
		RTT: map[string]Duration{"eu": ms(160), "us": ms(220)}},
}

func ms(n int) Duration { return Duration(time.Duration(n) * time.Millisecond) }

// Loopback returns the table of a platform on this machine: region n of
// eu, us, ap has address 127.n.0.1, its second edge 127.n.0.2. With no names it
// holds all three.
func Loopback(names ...string) (*Table, error) {
	return onNetwork("127.%d.0.%d", names)
}

// Isolated is Loopback for regions in network namespaces: region n has address
// 198.18.n.1, its second edge 198.18.n.2.
func Isolated(names ...string) (*Table, error) {
	return onNetwork("198.18.%d.%d", names)
}

func onNetwork(format string, names []string) (*Table, error) {
	t := &Table{Zone: LoopbackZone}
	for _, name := range names {
		if !slices.ContainsFunc(places, func(r Region) bool { return r.Name == name }) {
			return nil, fmt.Errorf("unknown region %q: want one of eu, us, ap", name)
		}
	}
	for i, r := range places {
		if len(names) > 0 && !slices.Contains(names, r.Name) {
			continue
		}
		host := fmt.Sprintf(format, i+1, 1)
		r.API = fmt.Sprintf("http://%s:%d", host, PortAPI)
		r.Router = Router{URL: fmt.Sprintf("http://%s:%d", host, PortRouter), DNS: fmt.Sprintf("%s:%d", host, PortDNS)}
		r.S3 = fmt.Sprintf("http://%s:%d", host, PortS3)
		r.NATS = fmt.Sprintf("nats://%s:%d", host, PortNATS)
		r.Postgres = fmt.Sprintf("%s:%d", host, PortPostgres)
		for e := 1; e <= 2; e++ {
			addr := fmt.Sprintf(format, i+1, e)
			r.Edges = append(r.Edges, Edge{
				Name: fmt.Sprintf("%s-%d", r.Name, e), URL: fmt.Sprintf("http://%s:%d", addr, PortEdge),
				Addresses: []netip.Addr{netip.MustParseAddr(addr)},
			})
		}
		rtt := map[string]Duration{}
		for to, d := range r.RTT {
			if len(names) == 0 || slices.Contains(names, to) {
				rtt[to] = d
			}
		}
		r.RTT = rtt
		t.Regions = append(t.Regions, r)
	}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	return t, nil
}
