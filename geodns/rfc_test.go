package geodns

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/region"
)

const zoneRecords = `
@      CAA  0 issue "ca.example"
@      TXT  "v=spf1 -all"
@      MX   10 mail
mail   A    192.0.2.25
mail   AAAA 2001:db8::25
_acme-challenge.play 60 TXT "token"
svc    SVCB 1 play.meridian.test. alpn=h2
big    TXT  "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
`

func optZone(t testing.TB, opt zoneOptions) *zone {
	t.Helper()
	rrs, err := parseRecords("meridian.test", zoneRecords)
	require.NoError(t, err)
	opt.records = rrs
	z, err := newZone("meridian.test", testBoard(t), testMetrics(t), opt)
	require.NoError(t, err)
	return z
}

func signedZone(t testing.TB) *zone {
	t.Helper()
	pem, err := newKey()
	require.NoError(t, err)
	s, err := newSigner("meridian.test", pem)
	require.NoError(t, err)
	return optZone(t, zoneOptions{signer: s})
}

// raw is a query in wire form after a change to its bytes.
func raw(t testing.TB, m *dns.Msg, change func([]byte) []byte) []byte {
	t.Helper()
	b, err := m.Pack()
	require.NoError(t, err)
	return change(b)
}

func unpack(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	var m dns.Msg
	require.NoError(t, m.Unpack(b))
	return &m
}

func withCookie(m *dns.Msg, cookie string) *dns.Msg {
	if m.IsEdns0() == nil {
		m.SetEdns0(1232, false)
	}
	m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie})
	return m
}

func cookieOf(m *dns.Msg) string {
	if m.IsEdns0() != nil {
		for _, o := range m.IsEdns0().Option {
			if c, ok := o.(*dns.EDNS0_COOKIE); ok {
				return c.Cookie
			}
		}
	}
	return ""
}

var someone = netip.MustParseAddr("127.11.0.1")

// TestMalformed is a corpus of messages that are wrong in one way each.
func TestMalformed(t *testing.T) {
	z := testZone(t, testBoard(t))
	play := func() *dns.Msg { return query("play.meridian.test.", dns.TypeA, "127.12.0.0/16") }
	option := func(code uint16, data ...byte) []byte {
		return raw(t, query("play.meridian.test.", dns.TypeA, ""), func(b []byte) []byte {
			b[11] = 1
			b = append(b, 0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, byte(4+len(data)), 0, byte(code), 0, byte(len(data)))
			return append(b, data...)
		})
	}
	for name, c := range map[string]struct {
		b     []byte
		rcode int // negative: no answer
	}{
		"RFC 1035 4.1.1: an answer":                       {raw(t, play(), func(b []byte) []byte { b[2] |= 0x80; return b }), -1},
		"RFC 1035 4.1.1: half a header":                   {raw(t, play(), func(b []byte) []byte { return b[:11] }), -1},
		"RFC 1035 4.1.1: no question":                     {raw(t, play(), func(b []byte) []byte { return append(b[:4:4], 0, 0, 0, 0, 0, 0, 0, 0) }), dns.RcodeFormatError},
		"RFC 1035 4.1.4: question compressed":             {raw(t, play(), func(b []byte) []byte { b[12] = 0xc0; return b }), dns.RcodeFormatError},
		"RFC 1035 4.1.4: reserved label type":             {raw(t, play(), func(b []byte) []byte { b[12] = 0x80; return b }), dns.RcodeFormatError},
		"RFC 1035 4.2.1: bytes behind the message":        {raw(t, play(), func(b []byte) []byte { return append(b, 0) }), dns.RcodeFormatError},
		"RFC 1035 2.3.4: name of 256 octets":              {append([]byte("\x12\x67\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"+strings.Repeat("\x0fabcdefghijklmno", 16)), 0, 0, 1, 0, 1), dns.RcodeFormatError},
		"RFC 1996: NOTIFY":                                {raw(t, play(), func(b []byte) []byte { b[2] |= 4 << 3; return b }), dns.RcodeNotImplemented},
		"RFC 2136: UPDATE":                                {raw(t, play(), func(b []byte) []byte { b[2] |= 5 << 3; return b }), dns.RcodeNotImplemented},
		"RFC 8906 3.1.4: unknown opcode":                  {raw(t, play(), func(b []byte) []byte { b[2] |= 15 << 3; return b }), dns.RcodeNotImplemented},
		"RFC 8906 3.1.3: unknown header flag":             {raw(t, play(), func(b []byte) []byte { b[3] |= 0x40; return b }), dns.RcodeSuccess},
		"RFC 8906 3.2.2: unknown EDNS option":             {option(100, 1, 2, 3), dns.RcodeSuccess},
		"RFC 8906 3.2.3: unknown EDNS flag":               {raw(t, play(), func(b []byte) []byte { b[len(b)-14] |= 0x40; return b }), dns.RcodeSuccess},
		"RFC 6891 6.1.3: EDNS version 1":                  {raw(t, play(), func(b []byte) []byte { b[len(b)-15] = 1; return b }), dns.RcodeBadVers},
		"RFC 7871 6: address longer than its prefix":      {option(8, 0, 1, 16, 0, 127, 12, 0), dns.RcodeFormatError},
		"RFC 7871 6: address shorter than its prefix":     {option(8, 0, 1, 24, 0, 127, 12), dns.RcodeFormatError},
		"RFC 7871 6: prefix longer than addresses are":    {option(8, 0, 1, 33, 0, 127, 12, 0, 1, 0), dns.RcodeFormatError},
		"RFC 7871 6: unknown family":                      {option(8, 0, 3, 8, 0, 127), dns.RcodeFormatError},
		"RFC 7871 6: scope in a query":                    {option(8, 0, 1, 16, 16, 127, 12), dns.RcodeFormatError},
		"RFC 7871 6: bits behind the prefix":              {option(8, 0, 1, 15, 0, 127, 13), dns.RcodeFormatError},
		"RFC 7871 7.1.2: family 0 without address":        {option(8, 0, 0, 0, 0), dns.RcodeSuccess},
		"RFC 7871 7.1.2: family 0 with a prefix":          {option(8, 0, 0, 8, 0, 127), dns.RcodeFormatError},
		"RFC 7871 6: half an option":                      {option(8, 0, 1), dns.RcodeFormatError},
		"RFC 7873 5.2.2: cookie of 7 octets":              {option(10, 1, 2, 3, 4, 5, 6, 7), dns.RcodeFormatError},
		"RFC 7873 5.2.2: server cookie of 1 octet":        {option(10, 1, 2, 3, 4, 5, 6, 7, 8, 9), dns.RcodeFormatError},
		"RFC 7873 5.2.2: cookie of 41 octets":             {option(10, make([]byte, 41)...), dns.RcodeFormatError},
		"RFC 7873 5.2.3: client cookie":                   {option(10, 1, 2, 3, 4, 5, 6, 7, 8), dns.RcodeSuccess},
		"RFC 7873 5.2.4: someone else's server cookie":    {option(10, make([]byte, 24)...), dns.RcodeSuccess},
		"RFC 8945: a signed query, its key unknown to us": {raw(t, play(), func(b []byte) []byte { b[11]++; return append(b, 0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0) }), dns.RcodeSuccess},
	} {
		t.Run(name, func(t *testing.T) {
			out := z.packet(c.b, someone)
			if c.rcode < 0 {
				require.Nil(t, out)
				return
			}
			m := unpack(t, out)
			require.Equal(t, dns.RcodeToString[c.rcode], dns.RcodeToString[m.Rcode])
			require.True(t, m.Response)
			require.Equal(t, c.b[:2], out[:2])
		})
	}
}

func TestRFC2181Section9DropsGlueBeforeTruncating(t *testing.T) {
	z := optZone(t, zoneOptions{})
	full := unpack(t, z.packet(raw(t, query("meridian.test.", dns.TypeNS, ""), func(b []byte) []byte { return b }), someone))
	require.Len(t, full.Extra, 3)
	n := z.nodes["\x08meridian\x04test\x00"]
	short := n.ready[dns.TypeNS][0].Load().short
	w := z.newWorker("udp", 1)
	m := query("meridian.test.", dns.TypeNS, "")
	b, err := m.Pack()
	require.NoError(t, err)
	// A zone that large can't be had here: the room shrinks instead.
	tail := *n.ready[dns.TypeNS][0].Load()
	tail.body = append(append([]byte(nil), tail.body...), make([]byte, minUDP)...)
	n.ready[dns.TypeNS][0].Store(&tail)
	got := unpack(t, w.answer(b, someone))
	require.False(t, got.Truncated)
	require.Len(t, got.Answer, 3)
	require.Empty(t, got.Extra)
	require.Equal(t, len(b)+short, len(w.out))
}

func TestRFC4343KeepsCasing(t *testing.T) {
	z := testZone(t, testBoard(t))
	for _, name := range []string{"PLAY.meridian.TEST.", "nO.mErIdIaN.tEsT.", "EDGE.Meridian.Test."} {
		require.Equal(t, name, ask(t, z, query(name, dns.TypeA, ""), "127.11.0.1").Question[0].Name)
	}
}

func TestRFC7871Scopes(t *testing.T) {
	b := testBoard(t)
	z := testZone(t, b)
	scope := func(name, subnet string) int {
		t.Helper()
		for _, o := range ask(t, z, query(name, dns.TypeA, subnet), "127.11.0.1").IsEdns0().Option {
			if e, ok := o.(*dns.EDNS0_SUBNET); ok {
				return int(e.SourceScope)
			}
		}
		t.Fatal("no client subnet")
		return 0
	}
	require.Equal(t, 16, scope("play.meridian.test.", "127.12.3.0/24"), "as wide as the place is known")
	require.Equal(t, 2, scope("play.meridian.test.", "9.9.9.0/24"), "unknown neighbours are merged")
	require.Equal(t, 16, scope("edge.meridian.test.", "9.9.9.0/24"), "edges are spread by networks")
	require.Equal(t, 0, scope("play.meridian.test.", "0.0.0.0/0"))
	require.Equal(t, 0, scope("play.meridian.test.", "2001:db8::/48"), "no IPv6 network is known")
	require.Equal(t, 0, scope("no.meridian.test.", "127.12.3.0/24"))
	require.Equal(t, 0, scope("eu-1.edge.meridian.test.", "127.12.3.0/24"))
	b.Update(func(s *geo.Snapshot) { s.Region("us").Weight = 0.5 })
	require.Equal(t, 24, scope("play.meridian.test.", "127.12.3.0/24"), "shares are by finer networks")
}

// TestRFC7871ScopesHold: every address within a scope gets the same answer.
func TestRFC7871ScopesHold(t *testing.T) {
	b := testBoard(t)
	z := testZone(t, b)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 4000 {
		if i == 2000 {
			b.Update(func(s *geo.Snapshot) { s.Region("us").Weight = 0.3; s.Region("ap").Shed = 0.7 })
		}
		base := netip.AddrFrom4([4]byte{127, byte(9 + r.IntN(6)), byte(r.Uint32()), byte(r.Uint32())})
		name := []string{"play.meridian.test.", "edge.meridian.test."}[r.IntN(2)]
		one := ask(t, z, query(name, dns.TypeA, netip.PrefixFrom(base, 32).String()), "127.0.0.1")
		bits := int(one.IsEdns0().Option[0].(*dns.EDNS0_SUBNET).SourceScope)
		a := base.As4()
		x := binary.BigEndian.Uint32(a[:]) ^ r.Uint32()>>bits
		binary.BigEndian.PutUint32(a[:], x)
		two := ask(t, z, query(name, dns.TypeA, netip.PrefixFrom(netip.AddrFrom4(a), 32).String()), "127.0.0.1")
		require.Equal(t, one.Answer, two.Answer, "%v and %v within /%d", base, netip.AddrFrom4(a), bits)
	}
}

func TestRFC7873Cookies(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	z := optZone(t, zoneOptions{limits: limits{large: -1}, now: func() time.Time { return now }})
	big := func(cookie, from string) *dns.Msg {
		return ask(t, z, withCookie(query("big.meridian.test.", dns.TypeTXT, ""), cookie), from)
	}
	first := big("0102030405060708", "127.11.0.1")
	require.True(t, first.Truncated, "large, and the address is not proved")
	good := cookieOf(first)
	require.Len(t, good, 2*(8+16))
	require.True(t, strings.HasPrefix(good, "0102030405060708"))
	require.False(t, big(good, "127.11.0.1").Truncated)
	require.True(t, big(good, "127.11.0.2").Truncated, "another address")
	require.True(t, big("ff"+good[2:], "127.11.0.1").Truncated, "another client's cookie")
	other := "00"
	if strings.HasSuffix(good, other) {
		other = "01"
	}
	require.True(t, big(good[:len(good)-2]+other, "127.11.0.1").Truncated, "forged")
	now = now.Add(59 * time.Minute)
	again := big(good, "127.11.0.1")
	require.False(t, again.Truncated)
	require.NotEqual(t, good, cookieOf(again), "renewed")
	now = now.Add(2 * time.Minute)
	require.True(t, big(good, "127.11.0.1").Truncated, "an hour old")
	require.False(t, big(cookieOf(again), "127.11.0.1").Truncated)
	// 5.4: a cookie alone may be asked for.
	m := withCookie(query(".", dns.TypeA, ""), "0102030405060708")
	m.Question = nil
	r := ask(t, z, m, "127.11.0.1")
	require.Equal(t, dns.RcodeSuccess, r.Rcode)
	require.Len(t, cookieOf(r), 48)
}

// defaultLimits are those of the command line.
func defaultLimits(t testing.TB) limits {
	t.Helper()
	number := func(field string) int {
		f, ok := reflect.TypeFor[Command]().FieldByName(field)
		require.True(t, ok)
		n, err := strconv.Atoi(f.Tag.Get("default"))
		require.NoError(t, err)
		return n
	}
	return limits{answers: number("DNSRate"), large: number("DNSLargeRate")}
}

// TestNoAmplification: nobody whose address isn't proved gets more than three
// times what was sent, whatever is asked and however.
func TestNoAmplification(t *testing.T) {
	z := signedZone(t)
	z.limits = defaultLimits(t)
	ask := func(proved bool) (most float64) {
		w := z.newWorker("udp", 1)
		if proved {
			z.proofs.add(someone, w.now)
		}
		for _, name := range []string{"meridian.test.", "play.meridian.test.", "edge.meridian.test.", "no.meridian.test.", "x.", "eu-1.edge.meridian.test.", "big.meridian.test.", "ns.meridian.test."} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeNS, dns.TypeDNSKEY, dns.TypeANY, dns.TypeTXT, dns.TypeAXFR, dns.TypeCDS, dns.TypeHTTPS, dns.TypeSOA} {
				for kind := range 6 {
					m := query(name, qtype, map[bool]string{true: "127.12.0.0/16"}[kind == 3])
					switch kind {
					case 1, 2:
						m.SetEdns0(4096, kind == 2)
					case 4:
						withCookie(m, "0102030405060708")
					case 5: // a cookie of ours, for another address
						withCookie(m, "01020304050607080100000000000000aaaaaaaaaaaaaaaa")
					}
					b, err := m.Pack()
					require.NoError(t, err)
					w.now = w.now.Add(time.Second)
					out := w.answer(b, someone)
					most = max(most, float64(len(out))/float64(len(b)))
					if !proved {
						require.LessOrEqual(t, len(out), amplification*len(b), "%s %s", name, dns.TypeToString[qtype])
					}
				}
			}
		}
		return most
	}
	t.Logf("at most %.1f times", ask(false))
	require.Greater(t, ask(true), float64(amplification), "a proved address gets all of it")
	z.now = func() time.Time { return time.Now().Add(2 * proofLasts) }
	ask(false) // long after
}

// TestTCPProvesAnAddress: a resolver without cookies asks over TCP once.
func TestTCPProvesAnAddress(t *testing.T) {
	z := signedZone(t)
	z.limits = defaultLimits(t)
	at := serveNames(t, z, "127.0.0.1:0")
	m := query("big.meridian.test.", dns.TypeTXT, "")
	m.SetEdns0(1232, true)
	exchange := func(network, from string) *dns.Msg {
		t.Helper()
		ip := net.ParseIP(from)
		var local net.Addr = &net.UDPAddr{IP: ip}
		if network == "tcp" {
			local = &net.TCPAddr{IP: ip}
		}
		c := dns.Client{Net: network, Timeout: 10 * time.Second, Dialer: &net.Dialer{LocalAddr: local}}
		r, _, err := c.Exchange(m, at)
		require.NoError(t, err)
		return r
	}
	require.True(t, exchange("udp", "127.11.0.1").Truncated)
	require.False(t, exchange("tcp", "127.11.0.1").Truncated)
	require.Len(t, exchange("udp", "127.11.0.1").Answer, 2)
	require.True(t, exchange("udp", "127.11.0.2").Truncated, "its neighbour")
}

func TestResponseRateLimit(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	z, err := newZone("meridian.test", testBoard(t), testMetrics(t), zoneOptions{limits: limits{answers: 100, large: 5}, now: func() time.Time { return now }})
	require.NoError(t, err)
	w := z.newWorker("udp", 1)
	b, err := query("play.meridian.test.", dns.TypeA, "").Pack()
	require.NoError(t, err)
	count := func(from string, n int) (full, truncated, dropped int) {
		for range n {
			w.now = now
			switch out := w.answer(b, netip.MustParseAddr(from)); {
			case out == nil:
				dropped++
			case out[2]&flagTC != 0:
				truncated++
				require.LessOrEqual(t, len(out), len(b))
			default:
				full++
			}
		}
		return
	}
	full, truncated, dropped := count("127.11.0.1", 300)
	require.Equal(t, []int{100, 100, 100}, []int{full, truncated, dropped})
	full, _, _ = count("127.11.0.77", 10)
	require.Zero(t, full, "the same network")
	full, _, _ = count("127.12.0.1", 50)
	require.Equal(t, 50, full, "another network")
	now = now.Add(500 * time.Millisecond)
	full, _, _ = count("127.11.0.1", 300)
	require.Equal(t, 50, full, "half a second later")
	now = now.Add(time.Hour)
	full, _, _ = count("127.11.0.1", 300)
	require.Equal(t, 100, full, "no more than a second is saved up")
}

func TestRFC9460HTTPSOnlyWhereTLSIs(t *testing.T) {
	b := testBoard(t)
	require.Empty(t, ask(t, testZone(t, b), query("play.meridian.test.", dns.TypeHTTPS, ""), "127.12.0.1").Answer)
	b.Update(func(s *geo.Snapshot) {
		for i := range s.Regions {
			s.Regions[i].RouterURL = "https://" + s.Regions[i].Name + ".play.meridian.test"
			for j := range s.Regions[i].Edges {
				s.Regions[i].Edges[j].URL = "https://" + s.Regions[i].Edges[j].Name + ".edge.meridian.test:8443"
			}
		}
	})
	z := testZone(t, b)
	show := func(name string) string {
		return ask(t, z, query(name, dns.TypeHTTPS, ""), "127.12.0.1").Answer[0].String()
	}
	require.Equal(t, "play.meridian.test.\t5\tIN\tHTTPS\t1 . alpn=\"h2\" ipv4hint=\"127.2.0.1,127.1.0.1\"", show("play.meridian.test."))
	require.Equal(t, "eu-1.edge.meridian.test.\t300\tIN\tHTTPS\t1 . alpn=\"h2\" port=\"8443\" ipv4hint=\"127.1.0.1\"", show("eu-1.edge.meridian.test."))
	require.Contains(t, show("edge.meridian.test."), "port=\"8443\"")
}

func TestRecords(t *testing.T) {
	z := optZone(t, zoneOptions{})
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"meridian.test.", dns.TypeCAA, "meridian.test.\t300\tIN\tCAA\t0 issue \"ca.example\""},
		{"meridian.test.", dns.TypeMX, "meridian.test.\t300\tIN\tMX\t10 mail.meridian.test."},
		{"mail.meridian.test.", dns.TypeAAAA, "mail.meridian.test.\t300\tIN\tAAAA\t2001:db8::25"},
		{"_acme-challenge.play.meridian.test.", dns.TypeTXT, "_acme-challenge.play.meridian.test.\t60\tIN\tTXT\t\"token\""},
		{"svc.meridian.test.", dns.TypeSVCB, "svc.meridian.test.\t60\tIN\tSVCB\t1 play.meridian.test. alpn=\"h2\""},
	} {
		require.Equal(t, c.want, ask(t, z, query(c.name, c.qtype, ""), "127.11.0.1").Answer[0].String())
	}
	for text, problem := range map[string]string{
		"@ SOA a b 1 2 3 4 5":           "can't be added",
		"x CNAME y":                     "can't be added",
		"*.x A 192.0.2.1":               "wildcards",
		"x.example.org. A 192.0.2.1":    "not in the zone",
		"x A 192.0.2":                   "records:",
		"x 9999999 A 192.0.2.1":         "a week",
		"$INCLUDE /etc/passwd":          "records:",
		"play A 192.0.2.1":              "", // refused by the zone
		"eu-1.edge AAAA 2001:db8::1":    "",
		"x CH TXT y":                    "class IN",
		"@ NS x\ny CNAME z\n@ DNSKEY a": "records:",
	} {
		rrs, err := parseRecords("meridian.test", text)
		if problem != "" {
			require.ErrorContains(t, err, problem, text)
			continue
		}
		require.NoError(t, err)
		_, err = newZone("meridian.test", testBoard(t), testMetrics(t), zoneOptions{records: rrs})
		require.ErrorContains(t, err, "comes from the region table", text)
	}
}

// TestHostsWithoutAddress: what the table's URLs name, and nobody could find.
func TestHostsWithoutAddress(t *testing.T) {
	tab, err := region.Loopback()
	require.NoError(t, err)
	tab.Regions[0].API = "https://mail.meridian.test" // has one, by a record
	tab.Regions[0].Router.URL = "https://eu.play.meridian.test:8444"
	tab.Regions[1].API = "https://us.api.meridian.test"
	tab.Regions[1].Router.URL = "https://play.meridian.test"
	tab.Regions[1].Edges[0].URL = "https://US-1.edge.meridian.test"
	tab.Regions[1].Edges[1].URL = "https://us2.edge.meridian.test"
	tab.Regions[2].API = "https://api.example.org"
	require.Equal(t, []string{"us.api.meridian.test", "us2.edge.meridian.test"}, optZone(t, zoneOptions{}).withoutAddress(tab))
}

func TestRFC7766Connections(t *testing.T) {
	at := serveNames(t, optZone(t, zoneOptions{}), "127.0.0.1:0")
	c, err := net.Dial("tcp", at)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	// 6.2.1.1: queries may be sent without waiting for answers; 8: in any pieces.
	var stream []byte
	for id := range uint16(20) {
		m := query("edge.meridian.test.", dns.TypeA, "127.13.0.0/24")
		m.Id = id
		b, err := m.Pack()
		require.NoError(t, err)
		stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(b))), b...)
	}
	for i := 0; i < len(stream); i += 7 {
		_, err := c.Write(stream[i:min(i+7, len(stream))])
		require.NoError(t, err)
	}
	for id := range uint16(20) {
		var n [2]byte
		_, err := io.ReadFull(c, n[:])
		require.NoError(t, err)
		b := make([]byte, binary.BigEndian.Uint16(n[:]))
		_, err = io.ReadFull(c, b)
		require.NoError(t, err)
		m := unpack(t, b)
		require.Equal(t, id, m.Id)
		require.Len(t, m.Answer, 4)
	}
	_, err = c.Write([]byte{0, 3, 1, 2, 3}) // no DNS: the connection ends
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestDNSSECVerifies(t *testing.T) {
	z := signedZone(t)
	verify := func(m *dns.Msg, section []dns.RR) {
		t.Helper()
		signed := 0
		for _, rr := range section {
			sig, ok := rr.(*dns.RRSIG)
			if !ok {
				continue
			}
			var set []dns.RR
			for _, o := range section {
				if o.Header().Rrtype == sig.TypeCovered && o.Header().Name == sig.Hdr.Name {
					set = append(set, o)
				}
			}
			require.NoError(t, sig.Verify(z.signer.key, set), m.Question[0].String())
			require.True(t, sig.ValidityPeriod(time.Now()))
			signed += len(set)
		}
		require.Equal(t, len(section), signed+len(section)-signed)
		require.Positive(t, signed)
	}
	do := func(name string, qtype uint16, from string) *dns.Msg {
		m := query(name, qtype, "")
		m.SetEdns0(1232, true)
		return ask(t, z, m, from)
	}
	for _, qtype := range []uint16{dns.TypeSOA, dns.TypeNS, dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY, dns.TypeCAA, dns.TypeANY} {
		m := do("meridian.test.", qtype, "127.11.0.1")
		verify(m, m.Answer)
	}
	for range 2 {
		for _, from := range []string{"127.11.0.1", "127.12.0.1", "127.13.0.1"} {
			m := do("PLAY.meridian.test.", dns.TypeA, from)
			require.Len(t, m.Answer, 3)
			verify(m, m.Answer)
		}
	}
	// RFC 4035 3.1.3.1, NODATA: the types there are, and not the one asked for.
	m := do("play.meridian.test.", dns.TypeAAAA, "127.11.0.1")
	verify(m, m.Ns)
	nsec := m.Ns[2].(*dns.NSEC)
	require.Equal(t, []uint16{dns.TypeA, dns.TypeRRSIG, dns.TypeNSEC}, nsec.TypeBitMap)
	require.Equal(t, `\000.play.meridian.test.`, nsec.NextDomain)
	// RFC 9824 3.1: a name that doesn't exist is one without anything.
	m = do("no.such.meridian.test.", dns.TypeA, "127.11.0.1")
	require.Equal(t, dns.RcodeSuccess, m.Rcode)
	verify(m, m.Ns)
	require.Equal(t, []uint16{dns.TypeRRSIG, dns.TypeNSEC, typeNXName}, m.Ns[2].(*dns.NSEC).TypeBitMap)
	// Who asks for the denial itself gets it as the answer.
	for _, name := range []string{"play.meridian.test.", "ns.meridian.test.", "no.meridian.test."} {
		m = do(name, dns.TypeNSEC, "127.11.0.1")
		verify(m, m.Answer)
		require.Len(t, m.Answer, 2, name)
		require.Empty(t, m.Ns, name)
	}
	m = ask(t, z, query("play.meridian.test.", dns.TypeNSEC, ""), "127.11.0.1")
	require.Len(t, m.Answer, 1, "RFC 4035 3.1: without DO only when asked for")
	// RFC 9824 3.5.
	require.Equal(t, dns.RcodeFormatError, do("no.meridian.test.", typeNXName, "127.11.0.1").Rcode)
	// Without DO nothing is signed.
	m = ask(t, z, query("no.meridian.test.", dns.TypeA, ""), "127.11.0.1")
	require.Equal(t, dns.RcodeNameError, m.Rcode)
	require.Len(t, m.Ns, 1)
}

// longName is a name in wire form, so many octets long, whose first label is full of one.
func longName(t testing.TB, octets int, fill byte) string {
	t.Helper()
	zone, err := wireName("meridian.test.")
	require.NoError(t, err)
	var w []byte
	for room := octets - len(zone); room > 0; {
		n := min(maxLabel, room-1)
		if room-1-n == 1 {
			n-- // the next has room for nothing
		}
		c := fill
		if len(w) > 0 {
			c = 'm'
		}
		w = append(append(w, byte(n)), bytes.Repeat([]byte{c}, n)...)
		room -= n + 1
	}
	name, _, err := dns.UnpackDomainName(append(w, zone...), 0)
	require.NoError(t, err)
	return name
}

// TestSuccessor: the name behind one, and nothing fits between.
func TestSuccessor(t *testing.T) {
	full := strings.Repeat(`\255`, maxLabel)
	for name, want := range map[string]string{
		"play.meridian.test.":      `\000.play.meridian.test.`,
		"PLAY.meridian.test.":      `\000.play.meridian.test.`,
		longName(t, 253, 'a'):      `\000.` + longName(t, 253, 'a'),
		longName(t, 255, 'a'):      strings.Replace(longName(t, 255, 'a'), "a.", "b.", 1),
		longName(t, 255, '@'):      strings.Replace(longName(t, 255, '@'), `\@.`, "[.", 1),
		longName(t, 255, 255):      strings.Replace(longName(t, 255, 255), full+"."+strings.Repeat("m", maxLabel), strings.Repeat("m", maxLabel-1)+"n", 1),
		longName(t, 254, 'a'):      strings.Replace(longName(t, 254, 'a'), "a.", "b.", 1), // its label is full
		longName(t, 254, 'a')[62:]: `\000.` + longName(t, 254, 'a')[62:],
	} {
		got, err := successor(name, "meridian.test.")
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	short := "s." + longName(t, 252, 'a') // 254 octets, and room in the label
	got, err := successor(short, "meridian.test.")
	require.NoError(t, err)
	require.Equal(t, `s\000`+short[1:], got)
}

func TestDNSSECSignsAnewInTime(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	z := signedZone(t)
	z.now = func() time.Time { return now }
	m := query("play.meridian.test.", dns.TypeA, "")
	m.SetEdns0(1232, true)
	w := z.newWorker("udp", 1)
	b, err := m.Pack()
	require.NoError(t, err)
	var inception uint32
	for day := range 10 {
		w.now = now
		sig := unpack(t, w.answer(b, someone)).Answer[2].(*dns.RRSIG)
		require.True(t, sig.ValidityPeriod(now) && sig.ValidityPeriod(now.Add(5*24*time.Hour)), "day %d", day)
		require.Greater(t, sig.Inception, inception)
		inception = sig.Inception
		now = now.Add(25 * time.Hour)
	}
}

// TestDelv has a validating resolver check answers from the zone's key on.
func TestDelv(t *testing.T) {
	z := signedZone(t)
	host, port, err := net.SplitHostPort(serveNames(t, z, "127.0.0.1:0"))
	require.NoError(t, err)
	anchors := filepath.Join(t.TempDir(), "anchors")
	k := z.signer.key
	require.NoError(t, os.WriteFile(anchors, []byte(`trust-anchors { "meridian.test." static-key 257 3 13 "`+k.PublicKey+`"; };`), 0o600))
	delv := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "delv", append([]string{"@" + host, "-p", port, "-a", anchors, "+root=meridian.test"}, args...)...).CombinedOutput()
		if err != nil {
			t.Logf("delv %v: %v", args, err)
		}
		return string(out)
	}
	for _, args := range [][]string{{"play.meridian.test", "A"}, {"edge.meridian.test", "A"}, {"meridian.test", "SOA"}, {"meridian.test", "NS"}, {"meridian.test", "CAA"},
		{"eu-1.edge.meridian.test", "A"}, {"_acme-challenge.play.meridian.test", "TXT"}, {"mail.meridian.test", "AAAA"}, {"play.meridian.test", "NSEC"}} {
		require.Contains(t, delv(args...), "; fully validated", "%v", args)
	}
	for _, args := range [][]string{{"play.meridian.test", "AAAA"}, {"meridian.test", "SRV"}, {"no.meridian.test", "A"}, {"a.b.c.meridian.test", "MX"}, {"ns.meridian.test", "A"},
		{longName(t, 254, 'a'), "A"}, {longName(t, 255, 'a'), "A"}} {
		out := delv(args...)
		require.Contains(t, out, "negative response, fully validated", "%v", args)
	}
}

func TestSignerRefusesOtherKeys(t *testing.T) {
	_, err := newSigner("meridian.test", "no key")
	require.ErrorIs(t, err, errKey)
	pem, err := newKey()
	require.NoError(t, err)
	_, err = newSigner("meridian.test", strings.Replace(pem, "MIG", "MIH", 1))
	require.ErrorIs(t, err, errKey)
}
