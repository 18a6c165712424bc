package order

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"))
}

// processes are n that share one state.
func processes(t *testing.T, n int) []*certificate.Shared {
	t.Helper()
	store, table := objectstest.New(t, 3)
	var out []*certificate.Shared
	for range n {
		s, err := certificate.NewShared(store, table, "a secret that only routers, edges and APIs have", nil, nil, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
		<-s.Known()
		out = append(out, s)
	}
	return out
}

func TestOneHoldsTheLock(t *testing.T) {
	p := processes(t, 2)
	first, second := newLock(p[0], "order"), newLock(p[1], "order")
	require.NoError(t, first.take(t.Context()))
	require.NoError(t, first.take(t.Context()), "the holder may prolong it")
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, second.take(short), context.DeadlineExceeded)
	require.ErrorIs(t, second.giveBack(t.Context()), ErrLockLost)
	got := make(chan error, 1)
	go func() { got <- second.take(t.Context()) }()
	require.NoError(t, first.giveBack(t.Context()))
	require.NoError(t, <-got)
	require.ErrorIs(t, first.giveBack(t.Context()), ErrLockLost)
}

// A holder that died keeps the lock to the end of its time, and no longer.
func TestLockOfTheDead(t *testing.T) {
	p := processes(t, 2)
	dead, heir := newLock(p[0], "order"), newLock(p[1], "order")
	dead.lease = 2 * time.Second
	begun := time.Now()
	require.NoError(t, dead.take(t.Context()))
	require.NoError(t, heir.take(t.Context()))
	require.GreaterOrEqual(t, time.Since(begun), dead.lease)
	require.ErrorIs(t, dead.giveBack(t.Context()), ErrLockLost)
}

func TestStorageSavesCertificatesWhole(t *testing.T) {
	p := processes(t, 2)
	s, other := newStorage(p[0]), newStorage(p[1])
	site := "certificates/ca/play.example.org/play.example.org"
	save := func(content string) {
		for _, ext := range []string{".key", ".crt"} {
			require.NoError(t, s.Store(t.Context(), site+ext, []byte(content)))
			got, err := s.Load(t.Context(), site+ext)
			require.NoError(t, err)
			require.Equal(t, content, string(got))
		}
	}
	save("one")
	require.False(t, s.Exists(t.Context(), site+".crt"), "half a certificate")
	require.NoError(t, s.Store(t.Context(), site+".json", []byte("one")))
	require.Len(t, p[0].State().Files, 3)
	require.Eventually(t, func() bool { return len(p[1].State().Files) == 3 }, 10*time.Second, 10*time.Millisecond)

	// One that is taken back leaves what was there.
	save("two")
	require.NoError(t, s.Delete(t.Context(), site+".crt"))
	require.NoError(t, s.Delete(t.Context(), site+".key"))
	for _, x := range []*storage{s, other} {
		got, err := x.Load(t.Context(), site+".key")
		require.NoError(t, err)
		require.Equal(t, "one", string(got))
	}
	keys, err := other.List(t.Context(), "certificates/ca", false)
	require.NoError(t, err)
	require.Equal(t, []string{"certificates/ca/play.example.org"}, keys)
	keys, err = other.List(t.Context(), "certificates", true)
	require.NoError(t, err)
	require.Len(t, keys, 3)
	info, err := other.Stat(t.Context(), site+".crt")
	require.NoError(t, err)
	require.True(t, info.IsTerminal)
	require.EqualValues(t, 3, info.Size)
	info, err = other.Stat(t.Context(), "certificates/ca")
	require.NoError(t, err)
	require.False(t, info.IsTerminal)

	require.NoError(t, s.Delete(t.Context(), "certificates/ca"))
	require.NoError(t, s.Delete(t.Context(), "certificates/ca"))
	_, err = s.Load(t.Context(), site+".crt")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.Stat(t.Context(), "certificates")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.List(t.Context(), "certificates", true)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// nameServer answers TXT questions with what it is told, or with nothing.
type nameServer struct {
	value atomic.Pointer[string]
	at    string
}

func startNameServer(t *testing.T) *nameServer {
	n := &nameServer{}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	n.at = pc.LocalAddr().String()
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if v := n.value.Load(); v != nil {
			m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{*v}}}
		}
		_ = w.WriteMsg(m)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.ActivateAndServe() }()
	t.Cleanup(func() { require.NoError(t, srv.Shutdown()); require.NoError(t, <-done) })
	return n
}

// The CA is asked when all name servers that live answer, and no later than that.
func TestWaitForEveryRouter(t *testing.T) {
	_, table := objectstest.New(t, 3)
	eu, us := startNameServer(t), startNameServer(t)
	table.Regions[0].Router.DNS, table.Regions[1].Router.DNS = eu.at, us.at
	table.Regions[2].Router.DNS = "127.0.0.1:1" // nobody there
	s := &solver{table: table, timeout: 3 * time.Second, now: time.Now}
	c := acme.Challenge{Identifier: acme.Identifier{Type: "dns", Value: "play.meridian.test"}, KeyAuthorization: "token.thumb"}
	value, wrong := c.DNS01KeyAuthorization(), "another"

	err := s.Wait(t.Context(), c)
	require.ErrorIs(t, err, ErrNotAnswered)
	require.ErrorContains(t, err, "_acme-challenge.play.meridian.test.")
	eu.value.Store(&value)
	us.value.Store(&wrong)
	err = s.Wait(t.Context(), c)
	require.ErrorIs(t, err, ErrNotAnswered)
	require.ErrorContains(t, err, "eu have it, us don't, ap are silent")
	done := make(chan error, 1)
	s.timeout = 20 * time.Second
	go func() { done <- s.Wait(t.Context(), c) }()
	us.value.Store(&value)
	require.NoError(t, <-done)
	for i := range table.Regions {
		table.Regions[i].Router.DNS = "127.0.0.1:1"
	}
	s.timeout = time.Second
	require.ErrorIs(t, s.Wait(t.Context(), c), ErrNotAnswered, "nobody lives")
	c.Identifier.Value = "elsewhere.example.org"
	require.ErrorContains(t, s.Present(t.Context(), c), "not in the zone meridian.test")
}

func TestConfigurationIsChecked(t *testing.T) {
	require.NoError(t, (&Config{}).Validate(false))
	good := Config{Directory: "https://ca.example.org/directory", Email: "operator@example.org", Agree: true}
	require.NoError(t, good.Validate(true))
	err := (&Config{Directory: "http://ca", Email: "Operator <a@b>", Roots: "/nonexistent"}).Validate(false)
	for _, want := range []string{"--acme-directory", "--acme-email", "--acme-agree", "--acme-roots", "--certificates-key"} {
		require.ErrorContains(t, err, want)
	}
	require.ErrorContains(t, (&Config{Email: "operator@example.org"}).Validate(true), "--acme-directory", "half a configuration isn't none")
	good.Roots = filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(good.Roots, []byte("no PEM"), 0o600))
	require.ErrorContains(t, good.Validate(true), "no certificate in it")
}
