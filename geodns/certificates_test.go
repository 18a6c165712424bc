package geodns

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/certificate/order"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/testenv"
)

const certificatesKey = "a secret that only routers, edges and APIs have"

// certified is a platform of three regions' stores, whose name servers have ports
// known beforehand.
func certified(t *testing.T) *platform {
	p := newPlatform(t)
	servers := testenv.S3(t, 3)
	p.cfg = objectstest.Config(servers[0])
	p.store, _ = objectstest.Over(t, servers)
	for i := range p.table.Regions {
		r := &p.table.Regions[i]
		r.S3 = servers[i].Endpoint
		host := netip.MustParseAddrPort(r.Router.DNS).Addr().String()
		r.Router.DNS = fmt.Sprintf("%s:%d", host, testenv.FreePort(t))
	}
	return p
}

// router prepares one that orders the names from a CA and serves them with TLS.
func (p *platform) router(t *testing.T, region string, ca *testenv.PebbleServer, names ...string) *Server {
	t.Helper()
	s := p.prepare(t, region, func(c *Command) {
		r, _ := p.table.Get(region)
		c.DNSListen = []string{r.Router.DNS}
		c.TLS = certificate.TLS{Listen: "127.0.0.1:0"}
		c.Certificates = certificate.Key{Key: certificatesKey}
		if ca != nil {
			c.ACME = order.Config{Directory: ca.Directory, Email: "operator@example.org", Agree: true, Roots: ca.Roots}
		}
	})
	if ca != nil {
		s.orders.Names, s.orders.Every = names, 100*time.Millisecond
	}
	return s
}

// served is the certificate a router answers with for a name; nil without one, or
// when the CA doesn't vouch for it.
func served(s *Server, ca *testenv.PebbleServer, name string) *x509.Certificate {
	d := &net.Dialer{Timeout: 5 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", s.tlsAddr.String(), &tls.Config{ServerName: name, RootCAs: ca.Issuer})
	if err != nil {
		return nil
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

func orders(t *testing.T, s *Server, result string) float64 {
	t.Helper()
	families, err := s.rt.Metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != "meridian_certificate_orders_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// Two routers that want the same certificates get them by their own zone, one
// order each, although the third router is dead; the CA asks the one or the other.
func TestCertificatesByOurOwnZone(t *testing.T) {
	p := certified(t)
	us, _ := p.table.Get("us")
	ca := testenv.Pebble(t, us.Router.DNS, 24*time.Hour)
	names := []string{"play.meridian.test", "*.play.meridian.test", "api.meridian.test"}
	first, second := p.router(t, "eu", ca, names...), p.router(t, "us", ca, names...)
	p.run(t, second) // the one the CA asks
	p.run(t, first)
	for _, name := range []string{"play.meridian.test", "eu.play.meridian.test", "api.meridian.test"} {
		var one, other *x509.Certificate
		require.Eventually(t, func() bool {
			one, other = served(first, ca, name), served(second, ca, name)
			return one != nil && other != nil
		}, 90*time.Second, 200*time.Millisecond, name)
		require.Equal(t, one.SerialNumber, other.SerialNumber, "both answer with the same")
	}
	require.Eventually(t, func() bool { return orders(t, first, "issued")+orders(t, second, "issued") == 3 }, 10*time.Second, 50*time.Millisecond)
	require.Zero(t, orders(t, first, "failed")+orders(t, second, "failed"))
	require.Equal(t, 3, strings.Count(ca.Log(), "Issued certificate serial"))
	require.Nil(t, served(first, ca, "elsewhere.example.org"))

	// A third, without a CA of its own, has them from the stores at once.
	third := p.router(t, "ap", nil)
	p.run(t, third)
	require.Eventually(t, func() bool { return served(third, ca, "ap.play.meridian.test") != nil }, 15*time.Second, 50*time.Millisecond)
	for _, r := range p.table.Regions {
		require.Empty(t, txt(t, r.Router.DNS, "_acme-challenge.play.meridian.test."), "challenges are taken away")
	}
}

// A renewed certificate is served by routers that run on.
func TestRenewalWithoutRestart(t *testing.T) {
	p := certified(t)
	eu, _ := p.table.Get("eu")
	ca := testenv.Pebble(t, eu.Router.DNS, 24*time.Second)
	first, second := p.router(t, "eu", ca, "play.meridian.test"), p.router(t, "us", nil)
	p.run(t, first)
	p.run(t, second)
	var before *x509.Certificate
	require.Eventually(t, func() bool {
		before = served(second, ca, "play.meridian.test")
		return before != nil
	}, 60*time.Second, 100*time.Millisecond)
	require.Eventually(t, func() bool {
		now := served(second, ca, "play.meridian.test")
		return now != nil && now.SerialNumber.Cmp(before.SerialNumber) != 0
	}, 90*time.Second, 200*time.Millisecond)
	require.Eventually(t, func() bool { return orders(t, first, "issued") >= 2 }, 10*time.Second, 50*time.Millisecond)
	require.NotEqual(t, before.PublicKey, served(second, ca, "play.meridian.test").PublicKey, "with a new key")
}

// txt asks a name server.
func txt(t *testing.T, at, name string) []string {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeTXT)
	r, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(m, at)
	require.NoError(t, err)
	var out []string
	for _, rr := range r.Answer {
		out = append(out, rr.(*dns.TXT).Txt...)
	}
	return out
}

// Challenges are answered beside what a name has, and names above them exist.
func TestChallengesAreRecordsOfTheZone(t *testing.T) {
	key, err := newKey()
	require.NoError(t, err)
	sign, err := newSigner("meridian.test", key)
	require.NoError(t, err)
	records, err := parseRecords("meridian.test", "_acme-challenge.play 300 TXT \"by hand\"\n")
	require.NoError(t, err)
	z, err := newZone("meridian.test", testBoard(t), testMetrics(t), zoneOptions{records: records, signer: sign})
	require.NoError(t, err)
	w := z.newWorker("tcp", 1)
	ask := func(name string, qtype uint16) (int, []string) {
		t.Helper()
		m := new(dns.Msg)
		m.SetQuestion(name, qtype).SetEdns0(1232, true)
		b, err := m.Pack()
		require.NoError(t, err)
		var r dns.Msg
		require.NoError(t, r.Unpack(w.answer(b, netip.MustParseAddr("127.11.0.1"))))
		var out []string
		for _, rr := range r.Answer {
			if x, ok := rr.(*dns.TXT); ok {
				out = append(out, x.Txt...)
			}
			if sig, ok := rr.(*dns.RRSIG); ok {
				require.NoError(t, sig.Verify(sign.key, r.Answer[:len(r.Answer)-1]))
			}
		}
		for _, rr := range r.Ns {
			if n, ok := rr.(*dns.NSEC); ok && slices.Contains(n.TypeBitMap, typeNXName) {
				return dns.RcodeNameError, nil // RFC 9824
			}
		}
		return r.Rcode, out
	}
	code, _ := ask("api.meridian.test.", dns.TypeA)
	require.Equal(t, dns.RcodeNameError, code)
	z.setChallenges([]certificate.Challenge{
		{Name: "_acme-challenge.play.meridian.test", Value: "one"}, {Name: "_acme-challenge.Play.meridian.test", Value: "two"},
		{Name: "_acme-challenge.api.meridian.test", Value: "three"}, {Name: "_acme-challenge.elsewhere.test", Value: "four"},
		{Name: "play.meridian.test", Value: "five"},
	})
	code, got := ask("_acme-challenge.play.meridian.test.", dns.TypeTXT)
	require.Equal(t, dns.RcodeSuccess, code)
	require.ElementsMatch(t, []string{"by hand", "one", "two"}, got)
	_, got = ask("_ACME-challenge.api.meridian.test.", dns.TypeTXT)
	require.Equal(t, []string{"three"}, got)
	code, got = ask("api.meridian.test.", dns.TypeA)
	require.Equal(t, dns.RcodeSuccess, code, "a resolver that asks for one label after the other goes on")
	require.Empty(t, got)
	_, got = ask("play.meridian.test.", dns.TypeTXT)
	require.Empty(t, got, "names of the region table stay as they are")
	z.setChallenges(nil)
	_, got = ask("_acme-challenge.play.meridian.test.", dns.TypeTXT)
	require.Equal(t, []string{"by hand"}, got)
	code, _ = ask("_acme-challenge.api.meridian.test.", dns.TypeTXT)
	require.Equal(t, dns.RcodeNameError, code)
}
