package geodns

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/geo"
)

// publicBoard has the public test database and an override.
func publicBoard(t testing.TB) *geo.Board {
	t.Helper()
	b := testBoard(t)
	db, err := geo.OpenDatabase("../testdata/geo/GeoLite2-City-Test.mmdb")
	require.NoError(t, err)
	orders, err := b.Orders(db)
	require.NoError(t, err)
	b.Update(func(s *geo.Snapshot) {
		require.NoError(t, s.SetGeo(db, orders))
		require.NoError(t, s.SetOverrides([]geo.Override{{Network: netip.MustParsePrefix("203.0.113.0/24"), Region: "ap"},
			{Network: netip.MustParsePrefix("2001:db8::/32"), Region: "us"}, {Network: netip.MustParsePrefix("81.2.69.160/27"), Region: "us"}},
			geo.SystemOverride{AS: 64500, Region: "ap"}, geo.SystemOverride{AS: 64501, Region: "us"}))
		require.NoError(t, s.SetSystems(asnDatabase(t, map[string]uint32{"81.2.69.192/26": 64500, "2.125.160.216/30": 64501, "192.168.0.0/17": 64500,
			"2a02:cf40::/30": 64501, "203.0.113.0/25": 64501})))
	})
	return b
}

// asnFile is an ASN database of networks and the numbers of their systems.
func asnFile(t testing.TB, networks map[string]uint32) []byte {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "GeoLite2-ASN", IPVersion: 6, IncludeReservedNetworks: true, RecordSize: 24})
	require.NoError(t, err)
	for network, as := range networks {
		_, n, err := net.ParseCIDR(network)
		require.NoError(t, err)
		require.NoError(t, tree.Insert(n, mmdbtype.Map{
			"autonomous_system_number": mmdbtype.Uint32(as), "autonomous_system_organization": mmdbtype.String("Example")}))
	}
	var b bytes.Buffer
	_, err = tree.WriteTo(&b)
	require.NoError(t, err)
	return b.Bytes()
}

func asnDatabase(t testing.TB, networks map[string]uint32) *geo.ASNDatabase {
	t.Helper()
	db, err := geo.ParseASNDatabase(asnFile(t, networks))
	require.NoError(t, err)
	return db
}

// requireScope checks that an answer holds for another address of the network it
// says it holds for.
func requireScope(t testing.TB, z *zone, r *rand.Rand, from netip.Addr) {
	t.Helper()
	asked := func(a netip.Addr) (string, int) {
		m := ask(t, z, query("play.meridian.test.", dns.TypeA, netip.PrefixFrom(a, a.BitLen()).String()), "127.0.0.1")
		return m.Answer[0].(*dns.A).A.String(), int(m.IsEdns0().Option[0].(*dns.EDNS0_SUBNET).SourceScope)
	}
	want, scope := asked(from)
	b := from.AsSlice()
	for i := scope; i < len(b)*8; i++ {
		b[i/8] ^= byte(r.IntN(2)) << (7 - i%8)
	}
	other, _ := netip.AddrFromSlice(b)
	got, _ := asked(other)
	require.Equal(t, want, got, "%v and %v, both in /%d", from, other, scope)
}

// addresses of viewers: known, country alone, unknown, private, overridden, both families.
func addresses() []netip.Addr {
	r := rand.New(rand.NewPCG(7, 8))
	var out []netip.Addr
	for _, a := range []string{"81.2.69.142", "81.2.69.160", "2.125.160.216", "89.160.20.112", "216.160.83.56", "2001:480:10::", "175.16.199.0", "202.196.224.0", "2001:218::"} {
		out = append(out, netip.MustParseAddr(a))
	}
	for _, p := range []string{"81.2.69.0/24", "2.125.160.216/29", "89.160.20.112/28", "216.160.83.56/29", "175.16.199.0/24", "202.196.224.0/20", "67.43.156.0/24",
		"2001:480:10::/48", "2001:218::/32", "2a02:cf40::/29", "10.0.0.0/8", "192.168.0.0/16", "203.0.113.0/24", "2001:db8::/32", "fd00::/8", "0.0.0.0/0", "2000::/3",
		"2002::/16", "2001::/32", "127.0.0.0/8"} {
		n := netip.MustParsePrefix(p)
		for range 11 {
			b := n.Addr().AsSlice()
			for i := n.Bits(); i < len(b)*8; i++ {
				b[i/8] |= byte(r.IntN(2)) << (7 - i%8)
			}
			a, _ := netip.AddrFromSlice(b)
			out = append(out, a)
		}
	}
	return out
}

// byAllWays returns the regions the three ways to ask lead to, and what explain says.
func byAllWays(t testing.TB, rt *router, z *zone, from netip.Addr) (named, sent, steered string, e explanation) {
	t.Helper()
	host := from.String()
	if from.Is6() {
		host = "[" + host + "]"
	}
	subnet := netip.PrefixFrom(from, from.BitLen()).String()
	a := ask(t, z, query("play.meridian.test.", dns.TypeA, subnet), "127.0.0.1").Answer[0].(*dns.A).A
	named = []string{"", "eu", "us", "ap"}[a[len(a)-3]]
	u, err := url.Parse(get(rt, "/v/-/"+asset+"/master.m3u8", host).Header().Get("Location"))
	require.NoError(t, err)
	sent = u.Query().Get("p")[:2]
	w := get(rt, "/steer?a="+asset+"&s=x&p="+u.Query().Get("p"), host)
	var m struct {
		Priority []string `json:"PATHWAY-PRIORITY"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &m))
	require.NoError(t, json.Unmarshal(get(rt, "/explain?format=json&name=play.meridian.test&ip="+from.String(), "127.0.0.1").Body.Bytes(), &e))
	require.Equal(t, "play.meridian.test.\t5\tIN\tA\t"+a.String(), e.Answer[0])
	return named, sent, m.Priority[0][:2], e
}

// TestAddresses is a table of where 229 addresses are sent, and why.
func TestAddresses(t *testing.T) {
	b := publicBoard(t)
	rt, z := testRouter(t, b), testZone(t, b)
	var out strings.Builder
	for _, a := range addresses() {
		named, sent, steered, e := byAllWays(t, rt, z, a)
		require.Equal(t, []string{named, named, named}, []string{sent, steered, e.Regions[0].Name}, "%v", a)
		fmt.Fprintf(&out, "%v\t%s", a, e.where())
		for _, r := range e.Regions {
			fmt.Fprintf(&out, "\t%s %s", r.Name, r.Reason)
		}
		out.WriteByte('\n')
	}
	golden(t, "addresses.txt", out.String())
}

// TestAllWaysAgree whatever is down, drained, weighted, shed or overridden.
func TestAllWaysAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	all := addresses()
	for _, b := range []*geo.Board{publicBoard(t), testBoard(t)} {
		rt, z := testRouter(t, b), testZone(t, b)
		for range 25 {
			b.Update(func(s *geo.Snapshot) { s.OverflowKm = []float64{0, 7000, 6000, 100}[r.IntN(4)] })
			db, ok := b.Load().Geo.(*geo.Database)
			require.True(t, ok)
			orders, err := b.Orders(db)
			require.NoError(t, err)
			b.Update(func(s *geo.Snapshot) {
				require.NoError(t, s.SetGeo(db, orders))
				for i := range s.Regions {
					g := &s.Regions[i]
					g.Drained, g.DrainedSince = r.IntN(6) == 0, testNow.Add(-returnOver)
					g.Weight = []float64{1, 1, 1, 0.5, 0.1, 0, 2}[r.IntN(7)]
					g.Shed, g.ShedWhy = []float64{0, 0, 0.25, 0.75, 1}[r.IntN(5)], "load"
					for j := range g.Edges {
						g.Edges[j].Health.Down = r.IntN(4) == 0
					}
				}
			})
			for range 6 {
				a := all[r.IntN(len(all))]
				named, sent, steered, e := byAllWays(t, rt, z, a)
				require.Equal(t, []string{named, named, named}, []string{sent, steered, e.Regions[0].Name}, "%v: %s", a, e.line())
				requireScope(t, z, r, a)
			}
		}
	}
}
