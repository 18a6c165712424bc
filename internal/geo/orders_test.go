package geo

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func withOrders(t testing.TB, db *Database, overrides ...Override) *Snapshot {
	t.Helper()
	s := snapshot(t, nil)
	o, err := NewOrders(db, s.places(), s.OverflowKm)
	require.NoError(t, err)
	s.Overrides = overrides
	require.NoError(t, s.SetGeo(db, o))
	return s
}

// address draws an address, often one near the edge of something known.
func address(r *rand.Rand) netip.Addr {
	near := []string{"127.11.0.0", "127.12.0.0", "127.14.0.0", "81.2.69.142", "216.160.83.56", "2001:480:10::", "175.16.199.0",
		"2001:218::", "0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2002::1", "2001:0:1::", "2a02:cf40::"}
	a := netip.MustParseAddr(near[r.IntN(len(near))])
	b := a.AsSlice()
	for i := r.IntN(len(b) + 1); i < len(b); i++ {
		b[i] = byte(r.Uint32())
	}
	a, _ = netip.AddrFromSlice(b)
	return a
}

// within draws an address of a network.
func within(r *rand.Rand, p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= byte(r.IntN(2)) << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// TestOrdersAgreeWithLocations: the table says of every address what looking it
// up says, and its networks hold for every address in them.
func TestOrdersAgreeWithLocations(t *testing.T) {
	public, err := OpenDatabase(testDatabase)
	require.NoError(t, err)
	for i, db := range []*Database{development(t), public, nil, public, public} {
		with, without := withOrders(t, db), snapshot(t, nil)
		for _, s := range []*Snapshot{with, without} {
			s.OverflowKm = []float64{0, 0, 0, 6000, 600}[i]
			s.Region("eu").Shed = []float64{0, 0, 0, 1, 1}[i]
		}
		o, err := NewOrders(db, with.places(), with.OverflowKm)
		require.NoError(t, err)
		require.NoError(t, with.SetGeo(db, o))
		if db != nil {
			without.Geo = db
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 5000 {
			a := address(r)
			d := Decide(with, Query{Addr: a})
			require.Equal(t, order(Decide(without, Query{Addr: a})), order(d), "%v", a)
			other := within(r, d.Network)
			o := Decide(with, Query{Addr: other})
			require.Equal(t, order(d), order(o), "%v and %v, both in %v", a, other, d.Network)
			require.Equal(t, d.Network, o.Network, "networks overlap")
		}
	}
}

func TestOrdersNetworks(t *testing.T) {
	s := withOrders(t, development(t), Override{netip.MustParsePrefix("127.12.64.0/20"), "ap"}, Override{netip.MustParsePrefix("127.12.0.0/16"), "eu"},
		Override{netip.MustParsePrefix("2001:db8::/32"), "us"})
	for addr, want := range map[string]struct {
		network string
		order   []string
	}{
		"127.11.3.4":         {"127.11.0.0/16", []string{"eu", "us", "ap"}},
		"127.12.1.1":         {"127.12.0.0/18", []string{"eu", "us", "ap"}},
		"127.12.64.1":        {"127.12.64.0/20", []string{"ap", "us", "eu"}},
		"127.12.80.1":        {"127.12.80.0/20", []string{"eu", "us", "ap"}},
		"9.9.9.9":            {"0.0.0.0/2", []string{"eu", "us", "ap"}},
		"2001:db8::7":        {"2001:db8::/32", []string{"us", "eu", "ap"}},
		"2a00::1":            {"2800::/5", []string{"eu", "us", "ap"}},
		"::ffff:127.11.0.99": {"127.11.0.0/16", []string{"eu", "us", "ap"}},
	} {
		d := Decide(s, Query{Addr: netip.MustParseAddr(addr)})
		require.Equal(t, want.network, d.Network.String(), addr)
		require.Equal(t, want.order, order(d), addr)
	}
	require.Equal(t, Overridden, Decide(s, Query{Addr: netip.MustParseAddr("127.12.1.1")}).Choices[0].Class)
	require.Error(t, s.SetOverrides([]Override{{netip.MustParsePrefix("10.0.0.0/8"), "mars"}}))
	require.NoError(t, s.SetOverrides(nil))
	require.Equal(t, "us", Decide(s, Query{Addr: netip.MustParseAddr("127.12.64.1")}).Choices[0].Region.Name)
	// Without a database every answer holds for everyone.
	require.Equal(t, "0.0.0.0/0", Decide(withOrders(t, nil), Query{Addr: netip.MustParseAddr("127.12.64.1")}).Network.String())
}

func TestOverridesAreLongestMatch(t *testing.T) {
	db := development(t)
	rapid.Check(t, func(rt *rapid.T) {
		var overrides []Override
		for range rapid.IntRange(0, 6).Draw(rt, "n") {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(rapid.IntRange(10, 14).Draw(rt, "b")), byte(rapid.IntRange(0, 255).Draw(rt, "c")), 0}),
				rapid.IntRange(6, 24).Draw(rt, "bits")).Masked()
			overrides = append(overrides, Override{p, rapid.SampledFrom([]string{"eu", "us", "ap"}).Draw(rt, "region")})
		}
		networks, systems := map[string]System{}, map[AS]string{}
		for range rapid.IntRange(1, 6).Draw(rt, "networks") {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(rapid.IntRange(10, 14).Draw(rt, "b")), byte(rapid.IntRange(0, 255).Draw(rt, "c")), 0}),
				rapid.IntRange(8, 24).Draw(rt, "bits")).Masked()
			networks[p.String()] = System{Number: AS(rapid.IntRange(1, 4).Draw(rt, "as"))}
		}
		for range rapid.IntRange(0, 3).Draw(rt, "systems") {
			systems[AS(rapid.IntRange(1, 4).Draw(rt, "as"))] = rapid.SampledFrom([]string{"eu", "us", "ap"}).Draw(rt, "region")
		}
		s := withOrders(t, db, overrides...)
		require.NoError(rt, s.SetSystems(asnDatabase(rt, networks)))
		var of []SystemOverride
		for n, region := range systems {
			of = append(of, SystemOverride{n, region})
		}
		require.NoError(rt, s.SetOverrides(overrides, of...))
		plain := withOrders(t, db)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		for range 50 {
			a := address(r)
			best := Override{}
			for _, o := range overrides {
				if o.Network.Contains(a) && (!best.Network.IsValid() || o.Network.Bits() >= best.Network.Bits()) {
					best = o
				}
			}
			got := Decide(s, Query{Addr: a})
			want := order(Decide(plain, Query{Addr: a}))
			if !best.Network.IsValid() {
				best.Region = systems[s.Systems.System(a).Number]
			}
			if best.Region != "" {
				rest := []string{best.Region}
				for _, n := range want {
					if n != best.Region {
						rest = append(rest, n)
					}
				}
				want = rest
			}
			require.Equal(rt, want, order(got), "%v", a)
			require.Equal(rt, want, order(Decide(s, Query{Addr: within(r, got.Network)})))
		}
	})
}

func BenchmarkOrdersLookup(b *testing.B) {
	db, err := OpenDatabase(testDatabase)
	require.NoError(b, err)
	s := withOrders(b, db)
	a := netip.MustParseAddr("216.160.83.56")
	b.ReportAllocs()
	for b.Loop() {
		s.Orders.Lookup(a)
	}
}
