package geo

import (
	"bytes"
	"context"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/region"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testDatabase = "../../testdata/geo/GeoLite2-City-Test.mmdb"

func development(t testing.TB) *Database {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, BuildDevelopment(&b))
	db, err := ParseDatabase(b.Bytes())
	require.NoError(t, err)
	return db
}

func snapshot(t testing.TB, l Locator) *Snapshot {
	t.Helper()
	tab, err := region.Loopback()
	require.NoError(t, err)
	s := NewSnapshot(tab)
	s.Geo = l
	return s
}

func order(d Decision) []string {
	var out []string
	for _, c := range d.Choices {
		out = append(out, c.Region.Name)
	}
	return out
}

func TestKilometres(t *testing.T) {
	frankfurt, ashburn := Point{50.11, 8.68}, Point{39.04, -77.49}
	require.InDelta(t, 6500, frankfurt.Kilometres(ashburn), 100)
	require.Zero(t, frankfurt.Kilometres(frankfurt))
	require.InDelta(t, math.Pi*earthRadiusKm, Point{0, 0}.Kilometres(Point{0, 180}), 0.1)
}

func TestDevelopmentDatabasePlacesRanges(t *testing.T) {
	s := snapshot(t, development(t))
	for addr, want := range map[string][]string{
		"127.11.0.1": {"eu", "us", "ap"}, "127.12.200.3": {"us", "eu", "ap"}, "127.13.255.255": {"ap", "eu", "us"},
		"198.18.11.1": {"eu", "us", "ap"}, "198.18.12.9": {"us", "eu", "ap"}, "198.18.13.9": {"ap", "eu", "us"},
		"127.0.0.1": {"eu", "us", "ap"}, "127.2.0.1": {"eu", "us", "ap"}, "::1": {"eu", "us", "ap"}, "::ffff:127.12.0.1": {"us", "eu", "ap"},
	} {
		require.Equal(t, want, order(Decide(s, Query{Addr: netip.MustParseAddr(addr)})), addr)
	}
	d := Decide(s, Query{Addr: netip.MustParseAddr("127.0.0.1")})
	require.Equal(t, WhyNotFound, d.Location.Why)
	require.Equal(t, "unknown location: table order", d.Choices[0].Reason())
	d = Decide(s, Query{Addr: netip.MustParseAddr("127.12.0.1")})
	require.Equal(t, "nearest 0 km", d.Choices[0].Reason())
	require.Equal(t, netip.MustParsePrefix("127.12.0.0/16"), d.Location.Network)

	var a, b bytes.Buffer
	require.NoError(t, BuildDevelopment(&a))
	require.NoError(t, BuildDevelopment(&b))
	require.True(t, bytes.Equal(a.Bytes(), b.Bytes()), "two builds differ")
}

func TestPublicAddresses(t *testing.T) {
	db, err := OpenDatabase(testDatabase)
	require.NoError(t, err)
	s := snapshot(t, db)
	for addr, want := range map[string]struct {
		first string
		why   string
	}{
		"81.2.69.142": {first: "eu"}, "2.125.160.216": {first: "eu"}, "89.160.20.112": {first: "eu"},
		"216.160.83.56": {first: "us"}, "2001:480:10::": {first: "us"}, "175.16.199.0": {first: "ap"},
		"202.196.224.0": {first: "eu", why: WhyCountryOnly}, "2001:218::": {first: "eu", why: WhyCountryOnly},
		"10.0.0.1": {first: "eu", why: WhyNotFound}, "127.0.0.1": {first: "eu", why: WhyNotFound},
	} {
		d := Decide(s, Query{Addr: netip.MustParseAddr(addr)})
		require.Equal(t, want.why, d.Location.Why, addr)
		require.Equal(t, want.first, d.Choices[0].Region.Name, addr)
	}
}

// TestLocationsThatSayTooLittle: each record lies in Ashburn by its coordinates, and
// none of them is believed.
func TestLocationsThatSayTooLittle(t *testing.T) {
	ashburn := func(change func(mmdbtype.Map)) mmdbtype.Map {
		m := mmdbtype.Map{
			"city":     mmdbtype.Map{"names": mmdbtype.Map{"en": mmdbtype.String("Ashburn")}},
			"country":  mmdbtype.Map{"iso_code": mmdbtype.String("US")},
			"location": mmdbtype.Map{"latitude": mmdbtype.Float64(39.04), "longitude": mmdbtype.Float64(-77.49), "accuracy_radius": mmdbtype.Uint16(10)},
		}
		change(m)
		return m
	}
	trait := func(name string) func(mmdbtype.Map) {
		return func(m mmdbtype.Map) { m["traits"] = mmdbtype.Map{mmdbtype.String(name): mmdbtype.Bool(true)} }
	}
	cases := []struct {
		network, why string
		change       func(mmdbtype.Map)
	}{
		{"10.0.0.0/16", "", func(mmdbtype.Map) {}},
		{"10.1.0.0/16", WhyAnonymous, trait("is_anonymous")},
		{"10.2.0.0/16", WhyAnonymous, trait("is_anonymous_proxy")},
		{"10.3.0.0/16", WhyAnonymous, trait("is_satellite_provider")},
		{"10.4.0.0/16", WhyAnonymous, func(m mmdbtype.Map) { m["country"] = mmdbtype.Map{"iso_code": mmdbtype.String("A1")} }},
		{"10.5.0.0/16", WhyAnycast, trait("is_anycast")},
		{"10.6.0.0/16", WhyCountryOnly, func(m mmdbtype.Map) { delete(m, "city") }},
		{"10.7.0.0/16", WhyCountryOnly, func(m mmdbtype.Map) { delete(m, "location") }},
		{"10.8.0.0/16", WhyImprecise, func(m mmdbtype.Map) {
			m["location"].(mmdbtype.Map)["accuracy_radius"] = mmdbtype.Uint16(maxAccuracyKm + 1)
		}},
		{"10.9.0.0/16", WhyNotFound, func(m mmdbtype.Map) { clear(m) }},
	}
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-City", IPVersion: 6, IncludeReservedNetworks: true, RecordSize: 24})
	require.NoError(t, err)
	for _, c := range cases {
		_, n, err := net.ParseCIDR(c.network)
		require.NoError(t, err)
		require.NoError(t, tree.Insert(n, ashburn(c.change)))
	}
	var b bytes.Buffer
	_, err = tree.WriteTo(&b)
	require.NoError(t, err)
	db, err := ParseDatabase(b.Bytes())
	require.NoError(t, err)
	s := withOrders(t, db)
	for _, c := range cases {
		d := Decide(s, Query{Addr: netip.MustParsePrefix(c.network).Addr()})
		require.Equal(t, c.why, d.Location.Why, c.network)
		require.Equal(t, map[bool]string{true: "us", false: "eu"}[c.why == ""], d.Choices[0].Region.Name, c.network)
	}
}

// TestDamageAnywhereIsFound: a file may be whole where it is looked at first, and have
// a block of something else further on.
func TestDamageAnywhereIsFound(t *testing.T) {
	good, err := os.ReadFile(testDatabase)
	require.NoError(t, err)
	places := snapshot(t, nil).places()
	for _, name := range []string{"Milton", "Changchun", "Linköping"} {
		b := slices.Clone(good)
		i := bytes.Index(b, append([]byte{2<<5 | byte(len(name))}, name...)) // a string
		require.Positive(t, i, name)
		b[i] = 0 // an extended type that there is not
		db, err := ParseDatabase(b)
		if err == nil {
			_, err = NewOrders(db, places, 0)
		}
		require.Error(t, err, name)
	}
}

func TestNoDatabase(t *testing.T) {
	d := Decide(snapshot(t, nil), Query{Addr: netip.MustParseAddr("81.2.69.142")})
	require.Equal(t, WhyNoDatabase, d.Location.Why)
	require.Equal(t, []string{"eu", "us", "ap"}, order(d))
	require.Equal(t, WhyNoDatabase, (*Database)(nil).Locate(netip.MustParseAddr("1.1.1.1")).Why)
}

func TestDecideReasons(t *testing.T) {
	s := snapshot(t, development(t))
	q := Query{Addr: netip.MustParseAddr("127.12.0.1"), Key: "a"}
	down := func(r *Region, why string) {
		for i := range r.Edges {
			r.Edges[i].Health = Health{Down: true, Why: why}
		}
	}
	down(s.Region("us"), "refused")
	d := Decide(s, q)
	require.Equal(t, []string{"eu", "ap", "us"}, order(d))
	require.Equal(t, []Class{Nearest, Farther, Down}, []Class{d.Choices[0].Class, d.Choices[1].Class, d.Choices[2].Class})
	require.Equal(t, "down: refused", d.Choices[2].Reason())
	require.False(t, d.Alarm)

	s.Region("eu").Drained = true
	s.Region("ap").Shed = 1
	require.Equal(t, []string{"ap", "eu", "us"}, order(Decide(s, q)))
	s.Region("ap").Weight = 0
	require.Equal(t, []string{"eu", "ap", "us"}, order(Decide(s, q)))

	q.Allowed = []string{"us"}
	d = Decide(s, q)
	require.Equal(t, "us", d.Choices[0].Region.Name)
	require.True(t, d.Alarm)
	require.Equal(t, NotAllowed, d.Choices[1].Class)
	require.Len(t, Pathways(d), 2, "only the pinned region's edges")

	down(s.Region("eu"), "timed out twice")
	down(s.Region("ap"), "timed out twice")
	s.Alone = true
	d = Decide(s, Query{Addr: q.Addr})
	require.True(t, d.Alarm)
	require.Len(t, d.Choices, 3)
	require.Contains(t, d.Choices[0].Reason(), "down")
}

// TestOverflowIsCappedFromTheViewer: eu and us are 6549 km apart.
func TestOverflowIsCappedFromTheViewer(t *testing.T) {
	public, err := OpenDatabase(testDatabase)
	require.NoError(t, err)
	const london, milton, unknown = "81.2.69.142", "216.160.83.56", "10.0.0.1"
	for _, c := range []struct {
		capKm       float64
		sheds, from string
		goes        string
		class       Class
	}{
		{6000, "eu", london, "us", Nearest}, // 5920 km
		{5900, "eu", london, "eu", Kept},
		{7000, "us", milton, "us", Kept},  // eu is near enough to us, and 7700 km from Milton
		{0, "us", milton, "eu", Nearest},  // no cap
		{6000, "eu", unknown, "eu", Kept}, // between the regions
		{7000, "eu", unknown, "us", TableOrder},
	} {
		s := snapshot(t, public)
		s.OverflowKm, s.Region(c.sheds).Shed = c.capKm, 1
		without := Decide(s, Query{Addr: netip.MustParseAddr(c.from)})
		o, err := NewOrders(public, s.places(), c.capKm)
		require.NoError(t, err)
		require.NoError(t, s.SetGeo(public, o))
		for _, d := range []Decision{without, Decide(s, Query{Addr: netip.MustParseAddr(c.from)})} {
			require.Equal(t, c.goes, d.Choices[0].Region.Name, "%+v", c)
			require.Equal(t, c.class, d.Choices[0].Class, "%+v", c)
		}
	}
	// Of two equally near the one within the cap is the target, whatever their weights.
	tie := snapshot(t, fixed{Known: true})
	tie.Region("eu").At, tie.Region("us").At, tie.Region("ap").At = Point{1, 0}, Point{9.1, 0}, Point{9, 0}
	tie.OverflowKm, tie.Region("eu").Shed, tie.Region("us").Weight = 1005, 1, 2
	require.Equal(t, "ap", order(Decide(tie, Query{Addr: netip.MustParseAddr(london)}))[0])
	tie.OverflowKm = 2000
	require.Equal(t, "us", order(Decide(tie, Query{Addr: netip.MustParseAddr(london)}))[0])

	// Overridden: a region far away keeps its viewers too, or leaves them to one near them.
	s := snapshot(t, public)
	s.OverflowKm, s.Region("ap").Shed = 6000, 1
	o, err := NewOrders(public, s.places(), s.OverflowKm)
	require.NoError(t, err)
	require.NoError(t, s.SetGeo(public, o))
	require.NoError(t, s.SetOverrides([]Override{{netip.MustParsePrefix("81.2.69.0/24"), "ap"}}))
	require.Equal(t, []string{"eu", "us", "ap"}, order(Decide(s, Query{Addr: netip.MustParseAddr(london)})))
	s.Region("eu").Shed, s.Region("us").Shed = 1, 1
	require.Equal(t, "ap", order(Decide(s, Query{Addr: netip.MustParseAddr(london)}))[0])
}

func TestPathways(t *testing.T) {
	s := snapshot(t, development(t))
	names := func(key string) []string {
		var out []string
		for _, e := range Pathways(Decide(s, Query{Addr: netip.MustParseAddr("127.11.0.1"), Key: key})) {
			out = append(out, e.Name)
		}
		return out
	}
	first := map[string]int{}
	for i := range 200 {
		p := names(string(rune('a' + i)))
		require.Len(t, p, 4)
		require.ElementsMatch(t, []string{"eu-1", "eu-2"}, p[:2])
		require.Equal(t, "us", p[2][:2])
		require.Equal(t, "ap", p[3][:2])
		first[p[0]]++
	}
	require.Greater(t, first["eu-1"], 60)
	require.Greater(t, first["eu-2"], 60)

	key := "x"
	sick := names(key)[0]
	e, _ := s.Edge(sick)
	e.Health = Health{Down: true, Why: "refused"}
	got := names(key)
	require.Equal(t, sick, got[3], "an edge that is down comes last")
	require.Equal(t, "eu", got[0][:2], "its sibling takes over")
}

func TestWatchDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "geo.mmdb")
	var dev bytes.Buffer
	require.NoError(t, BuildDevelopment(&dev))
	good, err := os.ReadFile(testDatabase)
	require.NoError(t, err)
	put := func(b []byte) {
		tmp := path + ".new"
		require.NoError(t, os.WriteFile(tmp, b, 0o600))
		require.NoError(t, os.Rename(tmp, path))
	}
	put(dev.Bytes())
	db, err := OpenDatabase(path)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(context.Background())
	changed, failed, done := make(chan *Database, 8), make(chan error, 8), make(chan struct{})
	go func() {
		defer close(done)
		WatchDatabase(ctx, path, 5*time.Millisecond, db, func(d *Database) { changed <- d }, func(err error) { failed <- err })
	}()
	t.Cleanup(func() { cancel(); <-done })

	put(good[:len(good)/2]) // truncated
	require.ErrorContains(t, receive(t, failed), path)
	put([]byte("not a database"))
	receive(t, failed)
	put(good)
	require.Equal(t, "GeoLite2-City", receive(t, changed).Type)
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, receive(t, failed), os.ErrNotExist)
	put(dev.Bytes())
	require.Equal(t, "Meridian-Development-City", receive(t, changed).Type)
	require.Empty(t, changed)
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(5 * time.Second):
		require.Fail(t, "nothing came within 5 s")
		panic("unreachable")
	}
}

func FuzzParseDatabase(f *testing.F) {
	var dev bytes.Buffer
	require.NoError(f, BuildDevelopment(&dev))
	f.Add(dev.Bytes())
	f.Add(dev.Bytes()[:dev.Len()/2])
	f.Add([]byte("\xab\xcd\xefMaxMind.com"))
	f.Fuzz(func(t *testing.T, b []byte) {
		db, err := ParseDatabase(slices.Clone(b))
		if err != nil {
			return
		}
		for _, a := range probeAddresses {
			db.Locate(a)
		}
	})
}
