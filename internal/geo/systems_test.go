package geo

import (
	"bytes"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/stretchr/testify/require"
)

// asnFile is an ASN database of networks.
func asnFile(t require.TestingT, systems map[string]System) []byte {
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "GeoLite2-ASN", IPVersion: 6, IncludeReservedNetworks: true, RecordSize: 24})
	require.NoError(t, err)
	// Shorter networks first: longer ones lie over them.
	order := slices.SortedFunc(maps.Keys(systems), func(a, b string) int {
		return netip.MustParsePrefix(a).Bits() - netip.MustParsePrefix(b).Bits()
	})
	for _, network := range order {
		_, n, err := net.ParseCIDR(network)
		require.NoError(t, err)
		s := systems[network]
		require.NoError(t, tree.Insert(n, mmdbtype.Map{
			"autonomous_system_number": mmdbtype.Uint32(s.Number), "autonomous_system_organization": mmdbtype.String(s.Organization)}))
	}
	var b bytes.Buffer
	_, err = tree.WriteTo(&b)
	require.NoError(t, err)
	return b.Bytes()
}

func asnDatabase(t require.TestingT, systems map[string]System) *ASNDatabase {
	db, err := ParseASNDatabase(asnFile(t, systems))
	require.NoError(t, err)
	return db
}

func TestASNDatabase(t *testing.T) {
	one, two := System{64500, "Example One"}, System{4200000000, "Example Two"}
	file := asnFile(t, map[string]System{"192.0.2.0/24": one, "192.0.2.128/25": two, "198.51.100.0/24": one, "2001:db8::/32": two, "10.0.0.0/8": {}})
	db, err := ParseASNDatabase(file)
	require.NoError(t, err)
	require.Equal(t, "GeoLite2-ASN", db.Type)
	for addr, want := range map[string]System{
		"192.0.2.1": one, "192.0.2.129": two, "::ffff:198.51.100.7": one, "2001:db8::1": two, "2002:c000:201::1": {}, "10.1.1.1": {}, "9.9.9.9": {},
	} {
		require.Equal(t, want, db.System(netip.MustParseAddr(addr)), addr)
	}
	require.Zero(t, db.System(netip.Addr{}))
	require.Zero(t, (*ASNDatabase)(nil).System(netip.MustParseAddr("192.0.2.1")))
	require.True(t, db.Has(64500))
	require.False(t, db.Has(64501))

	for _, name := range []string{one.Organization, two.Organization} {
		b := slices.Clone(file)
		i := bytes.Index(b, append([]byte{2<<5 | byte(len(name))}, name...)) // a string
		require.Positive(t, i, name)
		b[i] = 0 // an extended type that there is not
		_, err := ParseASNDatabase(b)
		require.ErrorContains(t, err, "the record of", name)
	}
	_, err = ParseASNDatabase(file[:len(file)/2])
	require.Error(t, err)
	_, err = OpenASNDatabase(testDatabase)
	require.ErrorContains(t, err, "no record names an autonomous system", "a database of cities")
	_, err = OpenASNDatabase("/nonexistent")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestParseAS(t *testing.T) {
	for text, want := range map[string]AS{"AS64500": 64500, "as1": 1, "AS4294967295": 4294967295} {
		n, err := ParseAS(text)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	for _, text := range []string{"", "AS", "AS0", "AS-1", "AS4294967296", "AS1.10", "64500", "192.0.2.0/24"} {
		_, err := ParseAS(text)
		require.ErrorContains(t, err, "AS64500", text)
	}
}

// TestSystemsNetworks: answers hold for as much as they may, and no more.
func TestSystemsNetworks(t *testing.T) {
	s := withOrders(t, development(t))
	overrides := []Override{{netip.MustParsePrefix("127.12.64.0/20"), "eu"}, {netip.MustParsePrefix("2001:db8::/31"), "us"}}
	require.NoError(t, s.SetOverrides(overrides, SystemOverride{64500, "ap"}, SystemOverride{64501, "us"}))
	require.Equal(t, "us", Decide(s, Query{Addr: netip.MustParseAddr("127.12.65.1")}).Choices[1].Region.Name, "the override of the network alone")
	require.Equal(t, "us", Decide(s, Query{Addr: netip.MustParseAddr("127.12.0.1")}).Choices[0].Region.Name, "nobody's system is known")
	require.NoError(t, s.SetSystems(asnDatabase(t, map[string]System{
		"127.12.0.0/17": {64500, "One"}, "127.12.200.0/24": {64501, "Two"}, "127.13.7.0/24": {64502, "Three"}, "2001:db8::/32": {64500, "One"}, "2a00::/16": {64500, "One"}, "ff00::/8": {64500, "One"}})))
	for addr, want := range map[string]struct {
		network, reason string
		order           []string
	}{
		"127.12.1.1":   {"127.12.0.0/18", "the operator's override for AS64500", []string{"ap", "us", "eu"}},
		"127.12.64.1":  {"127.12.64.0/20", "the operator's override for this network", []string{"eu", "us", "ap"}},
		"127.12.200.1": {"127.12.200.0/24", "the operator's override for AS64501", []string{"us", "eu", "ap"}},
		"127.12.129.1": {"127.12.128.0/18", "nearest 0 km", []string{"us", "eu", "ap"}},
		"127.13.7.1":   {"127.13.0.0/16", "nearest 0 km", []string{"ap", "eu", "us"}},
		"2a00::1":      {"2a00::/16", "the operator's override for AS64500", []string{"ap", "eu", "us"}},
		"ffff::1":      {"ff00::/8", "the operator's override for AS64500", []string{"ap", "eu", "us"}},
		"2001:db8::1":  {"2001:db8::/31", "the operator's override for this network", []string{"us", "eu", "ap"}},
	} {
		d := Decide(s, Query{Addr: netip.MustParseAddr(addr)})
		require.Equal(t, want.network, d.Network.String(), addr)
		require.Equal(t, want.order, order(d), addr)
		require.Equal(t, want.reason, d.Choices[0].Reason(), addr)
	}
	require.ErrorContains(t, s.SetOverrides(nil, SystemOverride{64500, "mars"}), "override AS64500")
	require.NoError(t, s.SetGeo(nil, mustOrders(t, nil)))
	require.Equal(t, "ap", Decide(s, Query{Addr: netip.MustParseAddr("127.12.1.1")}).Choices[0].Region.Name, "another database of cities")
	require.NoError(t, s.SetSystems(nil))
	require.Equal(t, "eu", Decide(s, Query{Addr: netip.MustParseAddr("127.12.1.1")}).Choices[0].Region.Name)
}

func mustOrders(t *testing.T, db *Database) *Orders {
	t.Helper()
	o, err := NewOrders(db, snapshot(t, nil).places(), 0)
	require.NoError(t, err)
	return o
}

func FuzzParseASNDatabase(f *testing.F) {
	f.Add(asnFile(f, map[string]System{"192.0.2.0/24": {64500, "One"}, "2001:db8::/32": {64501, "Two"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		db, err := ParseASNDatabase(slices.Clone(b))
		if err != nil {
			return
		}
		for _, a := range probeAddresses {
			db.System(a)
		}
	})
}
