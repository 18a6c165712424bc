package geodns

import (
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// FuzzRequest: what both can read, the library and the parser read the same way,
// client subnets above all.
func FuzzRequest(f *testing.F) {
	seed := func(m *dns.Msg) {
		b, err := m.Pack()
		require.NoError(f, err)
		f.Add(b)
	}
	for _, subnet := range []string{"", "127.12.0.0/16", "127.12.128.0/17", "1.2.3.4/32", "0.0.0.0/0", "2001:db8::/48", "2001:db8:8000::/33", "::/0", "2001:db8::1/128"} {
		seed(query("PLAY.meridian.test.", dns.TypeA, subnet))
		seed(withCookie(query("edge.meridian.test.", dns.TypeHTTPS, subnet), "0102030405060708"))
	}
	none := query("play.meridian.test.", dns.TypeA, "")
	none.SetEdns0(512, true)
	none.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 0}}
	seed(none)
	f.Fuzz(func(t *testing.T, b []byte) {
		var q request
		var m dns.Msg
		if q.parse(b) != answerable || q.questionEnd == 0 || m.Unpack(b) != nil {
			return
		}
		wire, err := wireName(dns.CanonicalName(m.Question[0].Name))
		if err != nil {
			t.Fatalf("%x: accepted the name %q: %v", b, m.Question[0].Name, err)
		}
		if string(wire) != string(q.name[:q.nameLen]) || m.Question[0].Qtype != q.qtype || m.Question[0].Qclass != q.qclass {
			t.Fatalf("%x: %v read as %x %d %d", b, m.Question[0], q.name[:q.nameLen], q.qtype, q.qclass)
		}
		opt := m.IsEdns0()
		if (opt != nil) != q.edns {
			t.Fatalf("%x: EDNS %v read as %v", b, opt, q.edns)
		}
		if opt == nil || q.version != 0 {
			return
		}
		subnets := 0
		for _, o := range opt.Option {
			e, ok := o.(*dns.EDNS0_SUBNET)
			if !ok {
				continue
			}
			subnets++
			if e.Family != q.family || e.SourceScope != 0 {
				t.Fatalf("%x: %v read as family %d", b, e, q.family)
			}
			if e.Family == 0 {
				continue
			}
			a, _ := netip.AddrFromSlice(e.Address)
			if e.Family == 1 {
				a = a.Unmap()
			}
			if want := netip.PrefixFrom(a, int(e.SourceNetmask)); want != q.subnet || want.Masked() != want {
				t.Fatalf("%x: %v read as %v", b, want, q.subnet)
			}
		}
		if (subnets == 1) != q.hasSubnet || subnets > 1 {
			t.Fatalf("%x: %d client subnets read as %v", b, subnets, q.hasSubnet)
		}
	})
}

// TestKdig asks with another implementation than dig's: over both transports, with
// client subnets, cookies and DNSSEC.
func TestKdig(t *testing.T) {
	z := signedZone(t)
	z.limits = defaultLimits(t)
	host, port, err := net.SplitHostPort(serveNames(t, z, "127.0.0.1:0"))
	require.NoError(t, err)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"+short", "play.meridian.test", "A", "+subnet=127.12.0.0/16"}, []string{"127.2.0.1\n127.1.0.1\n"}},
		{[]string{"+tcp", "play.meridian.test", "A", "+subnet=127.13.7.0/24"}, []string{"CLIENT-SUBNET: 127.13.7.0/24/16", "127.3.0.1"}},
		{[]string{"+dnssec", "meridian.test", "DNSKEY"}, []string{"Flags: qr aa", "RRSIG"}},
		{[]string{"+cookie=0102030405060708", "play.meridian.test"}, []string{"COOKIE: 0102030405060708"}},
		{[]string{"nothing.meridian.test", "AAAA"}, []string{"NXDOMAIN", "SOA"}},
		{[]string{"meridian.test", "CAA"}, []string{`0 issue "ca.example"`}},
		{[]string{"svc.meridian.test", "SVCB"}, []string{"1 play.meridian.test. alpn="}},
		{[]string{"play.meridian.test", "ANY"}, []string{"RFC8482"}},
		{[]string{"CH", "version.bind", "TXT"}, []string{"REFUSED"}},
		{[]string{"+tcp", "meridian.test", "AXFR"}, []string{"REFUSED"}},
		{[]string{"+edns=1", "meridian.test", "SOA"}, []string{"BADVERS"}},
	} {
		// kdig fails on refusals; what it prints says how.
		out, _ := exec.CommandContext(t.Context(), "kdig", append([]string{"@" + host, "-p", port, "+time=10", "+retry=1"}, c.args...)...).CombinedOutput()
		for _, want := range c.want {
			require.Contains(t, string(out), want, "%v", c.args)
		}
		require.NotContains(t, string(out), "WARNING: malformed", "%v", c.args)
	}
}
