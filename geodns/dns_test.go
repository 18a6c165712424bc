package geodns

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/region"
)

func testZone(t testing.TB, b *geo.Board) *zone {
	t.Helper()
	z, err := newZone("meridian.test", b, testMetrics(t), zoneOptions{})
	require.NoError(t, err)
	return z
}

// packet is one UDP packet's answer.
func (z *zone) packet(b []byte, client netip.Addr) []byte {
	return z.newWorker("udp", 1).answer(b, client)
}

// query builds a query; subnet is "" or a client subnet.
func query(name string, qtype uint16, subnet string) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.Id = 4711
	m.RecursionDesired = false
	if subnet != "" {
		p := netip.MustParsePrefix(subnet)
		e := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(p.Bits()), Address: p.Addr().AsSlice()}
		if p.Addr().Is6() {
			e.Family = 2
		}
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, e)
	}
	return m
}

func ask(t testing.TB, z *zone, m *dns.Msg, from string) *dns.Msg {
	t.Helper()
	b, err := m.Pack()
	require.NoError(t, err)
	out := z.packet(b, netip.MustParseAddr(from))
	require.NotNil(t, out)
	var r dns.Msg
	require.NoError(t, r.Unpack(out))
	require.Equal(t, m.Id, r.Id)
	return &r
}

func TestDNSAnswers(t *testing.T) {
	b := testBoard(t)
	z := testZone(t, b)
	var out strings.Builder
	show := func(what string, m *dns.Msg, from string) {
		fmt.Fprintf(&out, "### %s, from %s\n%s\n", what, from, ask(t, z, m, from))
	}
	show("play, Europe", query("play.meridian.test.", dns.TypeA, ""), "127.11.0.1")
	show("play, America", query("play.meridian.test.", dns.TypeA, ""), "127.12.0.1")
	show("play, unknown", query("play.meridian.test.", dns.TypeA, ""), "127.0.0.1")
	show("play, client subnet in Asia behind a resolver in Europe", query("play.meridian.test.", dns.TypeA, "127.13.7.0/24"), "127.11.0.1")
	show("play, subnet wider than known", query("play.meridian.test.", dns.TypeA, "0.0.0.0/0"), "127.12.0.1")
	show("play, IPv6 subnet", query("play.meridian.test.", dns.TypeA, "2001:db8::/48"), "127.12.0.1")
	show("play, AAAA is NODATA", query("play.meridian.test.", dns.TypeAAAA, "127.13.7.0/24"), "127.11.0.1")
	show("casing is kept", query("pLaY.MeRiDiAn.TeSt.", dns.TypeA, ""), "127.13.0.1")
	show("edges", query("edge.meridian.test.", dns.TypeA, ""), "127.12.0.1")
	show("one edge: the same for everyone, scope 0", query("eu-2.edge.meridian.test.", dns.TypeA, "127.12.0.0/16"), "127.11.0.1")
	show("one router", query("ap.play.meridian.test.", dns.TypeA, ""), "127.11.0.1")
	show("SOA", query("meridian.test.", dns.TypeSOA, ""), "127.11.0.1")
	show("NS with glue", query("meridian.test.", dns.TypeNS, ""), "127.11.0.1")
	show("a name server's address", query("us.ns.meridian.test.", dns.TypeA, ""), "127.11.0.1")
	show("NODATA at an empty name", query("ns.meridian.test.", dns.TypeA, ""), "127.11.0.1")
	show("NODATA at the apex", query("meridian.test.", dns.TypeTXT, ""), "127.11.0.1")
	show("NXDOMAIN", query("no.meridian.test.", dns.TypeA, ""), "127.11.0.1")
	show("ANY", query("play.meridian.test.", dns.TypeANY, ""), "127.11.0.1")
	show("AXFR", query("meridian.test.", dns.TypeAXFR, ""), "127.11.0.1")
	show("another zone", query("example.org.", dns.TypeA, "127.12.0.0/16"), "127.11.0.1")
	chaos := query("version.bind.", dns.TypeTXT, "")
	chaos.Question[0].Qclass = dns.ClassCHAOS
	show("CHAOS", chaos, "127.11.0.1")
	setDown(b, true, time.Time{}, "us-1")
	show("an edge is down", query("edge.meridian.test.", dns.TypeA, ""), "127.12.0.1")
	setDown(b, true, time.Time{}, "us-2")
	show("a region is down", query("play.meridian.test.", dns.TypeA, ""), "127.12.0.1")
	b.Update(func(s *geo.Snapshot) { s.Region("eu").Router = geo.Health{Down: true, Why: "refused"} })
	show("and another region's router", query("play.meridian.test.", dns.TypeA, ""), "127.12.0.1")
	setDown(b, true, time.Time{}, "ap-1", "ap-2")
	b.Update(func(s *geo.Snapshot) { s.Region("ap").Router = geo.Health{Down: true, Why: "refused"} })
	show("one region is left", query("edge.meridian.test.", dns.TypeA, ""), "127.12.0.1")
	show("and one router", query("play.meridian.test.", dns.TypeA, ""), "127.13.0.1")
	setDown(b, true, time.Time{}, "eu-1", "eu-2")
	show("no region is left: all are better than none", query("edge.meridian.test.", dns.TypeA, ""), "127.12.0.1")
	golden(t, "dns.txt", out.String())
}

// TestLoadsLeaveAnswersPrepared: edges say with every probe how busy they are, and
// nothing has to be made anew for that.
func TestLoadsLeaveAnswersPrepared(t *testing.T) {
	b := testBoard(t)
	z := testZone(t, b)
	first := func() string {
		return ask(t, z, query("edge.meridian.test.", dns.TypeA, ""), "127.12.0.1").Answer[0].String()
	}
	before, n := first(), z.nodes["\x04edge\x08meridian\x04test\x00"]
	prepared := n.board.Load()
	b.UpdateLoads(func(s *geo.Snapshot) { s.Region("us").Edges[0].Load = 0.5 })
	require.Equal(t, before, first())
	require.Same(t, prepared, n.board.Load())
	b.Update(func(s *geo.Snapshot) { s.Region("us").Drained = true })
	require.NotEqual(t, before, first())
	require.NotSame(t, prepared, n.board.Load())
}

func TestDNSRefusals(t *testing.T) {
	z := testZone(t, testBoard(t))
	edns := func(change func(*dns.Msg, *dns.OPT)) *dns.Msg {
		m := query("play.meridian.test.", dns.TypeA, "")
		m.SetEdns0(1232, false)
		change(m, m.IsEdns0())
		return m
	}
	subnet := func(family uint16, bits, scope uint8, addr string) *dns.Msg {
		return edns(func(_ *dns.Msg, o *dns.OPT) {
			o.Option = append(o.Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: family, SourceNetmask: bits, SourceScope: scope, Address: net.ParseIP(addr)})
		})
	}
	opcode := query("play.meridian.test.", dns.TypeA, "")
	opcode.Opcode = dns.OpcodeNotify
	two := query("play.meridian.test.", dns.TypeA, "")
	two.Question = append(two.Question, two.Question[0])
	none := query("play.meridian.test.", dns.TypeA, "")
	none.Question = nil
	for name, c := range map[string]struct {
		m     *dns.Msg
		rcode int
	}{
		"NOTIFY":        {opcode, dns.RcodeNotImplemented},
		"two questions": {two, dns.RcodeFormatError},
		"no question":   {none, dns.RcodeFormatError},
		"EDNS 1":        {edns(func(_ *dns.Msg, o *dns.OPT) { o.SetVersion(1) }), dns.RcodeBadVers},
		"two OPT":       {edns(func(m *dns.Msg, o *dns.OPT) { m.Extra = append(m.Extra, o) }), dns.RcodeFormatError},
		"two subnets": {edns(func(_ *dns.Msg, o *dns.OPT) {
			e := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 8, Address: net.IPv4(127, 0, 0, 0)}
			o.Option = append(o.Option, e, e)
		}), dns.RcodeFormatError},
		"scope in a query":        {subnet(1, 16, 16, "127.12.0.0"), dns.RcodeFormatError},
		"no subnet, family 0":     {subnet(0, 0, 0, "0.0.0.0"), dns.RcodeSuccess},
		"a good subnet, IPv4":     {subnet(1, 17, 0, "127.12.128.0"), dns.RcodeSuccess},
		"a good subnet, IPv6":     {subnet(2, 56, 0, "2001:db8::"), dns.RcodeSuccess},
		"IXFR":                    {query("meridian.test.", dns.TypeIXFR, ""), dns.RcodeRefused},
		"a name that only starts": {query("meridian.test.example.", dns.TypeA, ""), dns.RcodeRefused},
		"a zone that only ends":   {query("notmeridian.test.", dns.TypeA, ""), dns.RcodeRefused},
	} {
		r := ask(t, z, c.m, "127.11.0.1")
		require.Equal(t, dns.RcodeToString[c.rcode], dns.RcodeToString[r.Rcode], name)
	}
	// Bits beyond the prefix; the library would clear them when packing.
	b, err := subnet(1, 32, 0, "127.12.0.1").Pack()
	require.NoError(t, err)
	i := strings.LastIndex(string(b), "\x00\x01\x20\x00") // family, source, scope
	require.Positive(t, i)
	b[i+2] = 24
	var r dns.Msg
	require.NoError(t, r.Unpack(z.packet(b, netip.MustParseAddr("127.11.0.1"))))
	require.Equal(t, dns.RcodeFormatError, r.Rcode)
}

func TestDNSPacketsThatAreNoQueries(t *testing.T) {
	z := testZone(t, testBoard(t))
	good, err := query("play.meridian.test.", dns.TypeA, "127.12.0.0/16").Pack()
	require.NoError(t, err)
	from := netip.MustParseAddr("127.11.0.1")
	require.Nil(t, z.packet(nil, from))
	require.Nil(t, z.packet(good[:11], from))
	answer := append([]byte(nil), good...)
	answer[2] |= 0x80
	require.Nil(t, z.packet(answer, from), "an answer must not be answered")
	for n := headerLen; n < len(good); n++ {
		out := z.packet(good[:n], from)
		require.NotNil(t, out, "cut at %d", n)
		require.Equal(t, byte(dns.RcodeFormatError), out[3]&0x0f, "cut at %d", n)
		require.LessOrEqual(t, len(out), 3*n)
	}
	loop, err := hex.DecodeString("00010000000100000000000" + "0" + "c00c00010001")
	require.NoError(t, err)
	require.Equal(t, byte(dns.RcodeFormatError), z.packet(loop, from)[3]&0x0f, "a name that points at itself")
}

func TestDNSTruncates(t *testing.T) {
	b := testBoard(t)
	b.Update(func(s *geo.Snapshot) {
		for i := range s.Regions {
			for j := range s.Regions[i].Edges {
				var many []netip.Addr
				for k := range 60 {
					many = append(many, netip.AddrFrom4([4]byte{192, 0, byte(2*i + j), byte(k)}))
				}
				s.Regions[i].Edges[j].Addresses = many
			}
		}
	})
	z := testZone(t, b)
	for _, c := range []struct{ edns, limit int }{{0, 512}, {100, 512}, {800, 800}, {4096, 1232}} {
		m := query("edge.meridian.test.", dns.TypeA, "")
		if c.edns > 0 {
			m.SetEdns0(uint16(c.edns), false)
		}
		p, err := m.Pack()
		require.NoError(t, err)
		out := z.packet(p, netip.MustParseAddr("127.11.0.1"))
		require.LessOrEqual(t, len(out), c.limit)
		var r dns.Msg
		require.NoError(t, r.Unpack(out))
		require.True(t, r.Truncated)
	}
	p, err := query("edge.meridian.test.", dns.TypeA, "").Pack()
	require.NoError(t, err)
	var r dns.Msg
	require.NoError(t, r.Unpack(z.newWorker("tcp", 1).answer(p, netip.MustParseAddr("127.11.0.1"))))
	require.False(t, r.Truncated)
	require.Len(t, r.Answer, 240)
}

// serveNames runs the name server on a free port until the test ends.
func serveNames(t *testing.T, z *zone, addr string) (hostport string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l, err := listenDNS(ctx, []string{addr}, 64)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- l.serve(ctx, z, func() {}) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return l.tcp[0].Addr().String()
}

func dig(t *testing.T, hostport string, args ...string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(hostport)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "dig", append([]string{"@" + host, "-p", port, "+tries=2", "+time=8"}, args...)...).CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

func TestDig(t *testing.T) {
	at := serveNames(t, testZone(t, testBoard(t)), "127.0.0.1:0")
	require.Equal(t, "127.2.0.1\n127.1.0.1\n", dig(t, at, "-b", "127.12.0.9", "+short", "play.meridian.test", "A"))
	require.Equal(t, "127.3.0.1\n127.1.0.1\n", dig(t, at, "-b", "127.13.0.9", "+short", "+tcp", "play.meridian.test", "A"))
	out := dig(t, at, "+subnet=127.12.3.0/24", "play.meridian.test", "A")
	require.Contains(t, out, "CLIENT-SUBNET: 127.12.3.0/24/16")
	require.Contains(t, out, "flags: qr aa rd;")
	require.NotContains(t, out, "WARNING: Message parser")
	require.Contains(t, dig(t, at, "nothing.meridian.test"), "status: NXDOMAIN")
	require.Contains(t, dig(t, at, "meridian.test", "AXFR"), "Transfer failed")
	require.Contains(t, dig(t, at, "+tcp", "play.meridian.test", "ANY"), "RFC8482")
	require.Contains(t, dig(t, at, "CH", "TXT", "version.bind"), "status: REFUSED")
	require.Contains(t, dig(t, at, "+nocookie", "+edns=0", "+bufsize=4096", "meridian.test", "NS"), "eu.ns.meridian.test.")
}

func TestWildcardListenerAnswersFromTheAddressAsked(t *testing.T) {
	at := serveNames(t, testZone(t, testBoard(t)), "0.0.0.0:0")
	_, port, err := net.SplitHostPort(at)
	require.NoError(t, err)
	// dig refuses an answer from another address than it asked.
	require.Equal(t, "127.1.0.1\n127.2.0.1\n", dig(t, net.JoinHostPort("127.5.6.7", port), "+short", "play.meridian.test", "A"))
}

// TestBothFamilies: a zone whose name servers, routers and edges have addresses of
// both families names both, and answers over both.
func TestBothFamilies(t *testing.T) {
	tab, err := region.Loopback()
	require.NoError(t, err)
	for i := range tab.Regions {
		r := &tab.Regions[i]
		r.Router.Addresses = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::53", i+1))}
		for j := range r.Edges {
			r.Edges[j].Addresses = append(r.Edges[j].Addresses, netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", i+1, j+1)))
		}
	}
	b := boardOf(t, tab)
	at := serveNames(t, testZone(t, b), "[::]:0")
	_, port, err := net.SplitHostPort(at)
	require.NoError(t, err)
	for _, host := range []string{"::1", "127.5.6.7"} {
		at := net.JoinHostPort(host, port)
		for _, c := range []struct{ args, want string }{
			{"play.meridian.test A", "127.2.0.1\n127.1.0.1\n"},
			{"play.meridian.test AAAA", "2001:db8:2::53\n2001:db8:1::53\n"},
			{"+tcp play.meridian.test AAAA", "2001:db8:2::53\n2001:db8:1::53\n"},
			{"ap.play.meridian.test AAAA", "2001:db8:3::53\n"},
			{"eu.ns.meridian.test AAAA", "2001:db8:1::53\n"},
			{"eu-2.edge.meridian.test AAAA", "2001:db8:1::2\n"},
		} {
			require.Equal(t, c.want, dig(t, at, append([]string{"+short", "+subnet=127.12.3.0/24"}, strings.Fields(c.args)...)...), "%s %s", host, c.args)
		}
		edges := strings.Fields(dig(t, at, "+short", "+subnet=127.12.3.0/24", "edge.meridian.test", "AAAA"))
		require.ElementsMatch(t, []string{"2001:db8:2::1", "2001:db8:2::2"}, edges[:2])
		require.ElementsMatch(t, []string{"2001:db8:1::1", "2001:db8:1::2"}, edges[2:])
		glue := dig(t, at, "meridian.test", "NS")
		for n := range 3 {
			require.Contains(t, glue, fmt.Sprintf("127.%d.0.1", n+1))
			require.Contains(t, glue, fmt.Sprintf("2001:db8:%d::53", n+1))
		}
	}
	b.Update(func(s *geo.Snapshot) { s.Region("us").Router = geo.Health{Down: true, Why: "refused"} })
	require.Equal(t, "2001:db8:1::53\n2001:db8:3::53\n", dig(t, at, "+short", "+subnet=127.12.3.0/24", "play.meridian.test", "AAAA"))
}

func TestDNSSurvivesGarbage(t *testing.T) {
	at := serveNames(t, testZone(t, testBoard(t)), "127.0.0.1:0")
	c, err := net.Dial("udp", at)
	require.NoError(t, err)
	defer c.Close()
	r := rand.New(rand.NewPCG(1, 2))
	good, err := query("play.meridian.test.", dns.TypeA, "127.12.0.0/16").Pack()
	require.NoError(t, err)
	for range 500 {
		b := append([]byte(nil), good...)
		for range 1 + r.IntN(8) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
		_, err := c.Write(b[:r.IntN(len(b)+1)])
		require.NoError(t, err)
	}
	tcp, err := net.Dial("tcp", at)
	require.NoError(t, err)
	_, err = tcp.Write([]byte{0xff, 0xff, 1, 2, 3})
	require.NoError(t, err)
	require.NoError(t, tcp.Close())
	require.Equal(t, "127.2.0.1\n127.1.0.1\n", dig(t, at, "-b", "127.12.0.9", "+short", "play.meridian.test", "A"))
}

func FuzzDNSPacket(f *testing.F) {
	zone := signedZone(f)
	zone.limits = limits{large: defaultLimits(f).large} // and nothing dropped
	plain, signed, tcp := testZone(f, testBoard(f)).newWorker("udp", 1), zone.newWorker("udp", 1), zone.newWorker("tcp", 1)
	for _, m := range []*dns.Msg{query("play.meridian.test.", dns.TypeA, "127.12.0.0/16"), query("edge.meridian.test.", dns.TypeAAAA, "2001:db8::/48"),
		query("meridian.test.", dns.TypeNS, ""), query("x.meridian.test.", dns.TypeANY, ""), query(longName(f, 255, 'a'), dns.TypeA, "")} {
		for range 2 {
			b, err := m.Pack()
			require.NoError(f, err)
			f.Add(b)
			m.SetEdns0(1232, true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzPacket(t, plain, b)
		out := fuzzPacket(t, signed, b)
		if len(out) > amplification*len(b) {
			t.Fatalf("%d bytes to %d of an address that isn't proved", len(out), len(b))
		}
		if out := tcp.answer(b, someone); out != nil {
			var r dns.Msg
			if err := r.Unpack(out); err != nil {
				t.Fatalf("answer %x to %x: %v", out, b, err)
			}
		}
	})
}

func fuzzPacket(t *testing.T, w *worker, b []byte) []byte {
	out := w.answer(b, netip.MustParseAddr("127.12.0.1"))
	if out == nil {
		return nil
	}
	var r dns.Msg
	if err := r.Unpack(out); err != nil {
		t.Fatalf("answer %x to %x: %v", out, b, err)
	}
	if out[0] != b[0] || out[1] != b[1] || !r.Response || len(out) > maxUDP {
		t.Fatalf("answer %v to %x", &r, b)
	}
	var q dns.Msg
	if q.Unpack(b) == nil && q.IsEdns0() == nil && len(out) > minUDP {
		t.Fatalf("%d bytes to a client without EDNS", len(out))
	}
	return out
}

func BenchmarkPacket(b *testing.B) {
	z := testZone(b, testBoard(b))
	p, err := query("play.meridian.test.", dns.TypeA, "127.12.3.0/24").Pack()
	require.NoError(b, err)
	from := netip.MustParseAddr("127.11.0.1")
	b.ReportAllocs()
	w := z.newWorker("udp", 1)
	for b.Loop() {
		w.answer(p, from)
	}
}
