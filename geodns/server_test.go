package geodns

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// edge is a real listener that answers health probes, hangs, or is killed.
type edge struct {
	*httptest.Server
	hang atomic.Bool
	stop chan struct{}
}

func startEdge(t *testing.T, addr netip.Addr) *edge {
	e := &edge{stop: make(chan struct{})}
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	require.NoError(t, err)
	body := make([]byte, 64<<10)
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e.hang.Load() {
			select {
			case <-e.stop:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = w.Write(body)
	}))
	require.NoError(t, e.Listener.Close())
	e.Listener = l
	e.Start()
	t.Cleanup(e.kill)
	return e
}

func (e *edge) kill() {
	select {
	case <-e.stop:
		return
	default:
	}
	close(e.stop)
	e.CloseClientConnections()
	e.Close()
}

// platform is three regions of fake edges, an object store and nothing else.
type platform struct {
	table *region.Table
	store *objects.Store
	cfg   objects.Config
	dir   string
	edges map[string]*edge
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{dir: t.TempDir(), edges: map[string]*edge{}}
	servers := testenv.S3(t, 1)
	p.cfg = objectstest.Config(servers[0])
	p.store, _ = objectstest.Over(t, servers)
	var err error
	p.table, err = region.Loopback()
	require.NoError(t, err)
	for i := range p.table.Regions {
		r := &p.table.Regions[i]
		r.S3 = servers[0].Endpoint
		r.NATS = "nats://127.0.0.1:1" // nobody there
		// Another region's router, as far as probes can tell, is one of its edges.
		for j := range r.Edges {
			e := startEdge(t, r.Edges[j].Addresses[0])
			p.edges[r.Edges[j].Name] = e
			r.Edges[j].URL = e.URL
		}
		r.Router.URL = r.Edges[0].URL
	}
	return p
}

// start runs a router of the named region.
func (p *platform) start(t *testing.T, name string) *Server {
	t.Helper()
	s := p.prepare(t, name, func(*Command) {})
	p.run(t, s)
	return s
}

// prepare returns a router of the named region, configured by more, that doesn't run yet.
func (p *platform) prepare(t *testing.T, name string, more func(*Command)) *Server {
	t.Helper()
	require.NoError(t, token.GenerateSecrets(p.dir, p.table.Names()))
	f, err := os.Create(filepath.Join(p.dir, "geo.mmdb"))
	require.NoError(t, err)
	require.NoError(t, geo.BuildDevelopment(f))
	require.NoError(t, f.Close())
	b, err := p.table.Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "regions.yaml"), b, 0o600))

	c := &Command{RouterListen: "127.0.0.1:0", DNSListen: []string{"127.0.0.1:0"}, GeoDatabase: f.Name(), GeoReload: 100 * time.Millisecond,
		SteerCapacity: 2000, MaxConnections: 256, S3: p.cfg}
	root, err := token.ParseSigner(p.read(t, token.RootKeyFile))
	require.NoError(t, err)
	c.RootPublicKey = service.Secret(token.FormatPublic(root.Public()))
	c.Regions, c.Region, c.AdminListen = filepath.Join(p.dir, "regions.yaml"), name, "127.0.0.1:0"
	more(c)
	require.NoError(t, c.Validate())
	self, _ := c.Table.Get(name)
	s, err := newServer(c, &service.Runtime{Region: self, Table: c.Table, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewPedanticRegistry()})
	require.NoError(t, err)
	require.Error(t, s.Ready(t.Context()))
	return s
}

// run runs a router until the test ends, or until stop is called.
func (p *platform) run(t *testing.T, s *Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); require.NoError(t, <-done) })
	t.Cleanup(stop)
	require.Eventually(t, func() bool { return s.Ready(t.Context()) == nil }, 20*time.Second, 10*time.Millisecond,
		"ready without NATS, Postgres and any key set")
	return stop
}

func (p *platform) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

// publish stores the key set and a playback record.
func (p *platform) publish(t *testing.T, r playback.Record) {
	t.Helper()
	signer, err := token.ParseSigner(p.read(t, token.RecordKeyFile))
	require.NoError(t, err)
	body, err := playback.Sign(r, signer)
	require.NoError(t, err)
	put := func(key string, b []byte) {
		require.NoError(t, p.store.Own().Put(t.Context(), key, objects.Bytes(b)))
	}
	put(objects.JournalKey(objects.KeysJournal, 1), []byte(p.read(t, token.KeySetFile)))
	put(objects.JournalKey(objects.PlaybackJournal(r.Asset), r.N), body)
}

// viewerFrom is an HTTP client "from" a source address.
func viewerFrom(t *testing.T, addr string) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}, Timeout: 5 * time.Second}).DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// sentTo returns the region a viewer's redirect leads to.
func sentTo(t *testing.T, s *Server, c *http.Client) string {
	t.Helper()
	res, err := c.Get("http://" + s.webAddr.String() + "/v/-/" + asset + "/master.m3u8")
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusFound, res.StatusCode, string(body))
	u, err := url.Parse(res.Header.Get("Location"))
	require.NoError(t, err)
	first, _, _ := strings.Cut(u.Query().Get("p"), ",")
	return first[:2]
}

// named returns the first address of play.{zone}, asked from a source address.
func named(t *testing.T, s *Server, from string) string {
	t.Helper()
	c := &dns.Client{Timeout: 5 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}}
	m := new(dns.Msg)
	m.SetQuestion("play.meridian.test.", dns.TypeA)
	r, _, err := c.Exchange(m, s.nameAddr.String())
	require.NoError(t, err)
	require.NotEmpty(t, r.Answer)
	return r.Answer[0].(*dns.A).A.String()
}

func TestRouterThroughLossAndRecovery(t *testing.T) {
	p := newPlatform(t)
	s := p.start(t, "us")
	p.publish(t, playback.Record{Asset: asset, N: 1, State: "ready", Run: "r1", Master: 1, Visibility: playback.Public, Title: "A film", Duration: 10})
	europe := viewerFrom(t, "127.11.0.1")

	// Asked before the key set was read, the record is not trusted and not needed.
	require.Equal(t, "eu", sentTo(t, s, europe))
	require.Equal(t, "us", sentTo(t, s, viewerFrom(t, "127.12.0.1")))
	require.Equal(t, "127.3.0.1", named(t, s, "127.13.0.1"))
	require.Eventually(t, func() bool {
		res, err := europe.Get("http://" + s.webAddr.String() + "/watch/" + asset)
		require.NoError(t, err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return strings.Contains(string(b), "A film")
	}, 15*time.Second, 100*time.Millisecond, "the title comes from the playback record")

	lost := func(what string, from, to, address string) {
		t.Helper()
		began := time.Now()
		require.Eventually(t, func() bool { return sentTo(t, s, europe) == to }, 20*time.Second, 20*time.Millisecond, what)
		by302 := time.Since(began)
		require.Equal(t, address, named(t, s, "127.11.0.1"), "DNS agrees")
		t.Logf("%s: %s to %s after %v", what, from, to, by302.Round(time.Millisecond))
	}
	p.edges["eu-1"].kill()
	p.edges["eu-2"].kill()
	lost("killed", "eu", "us", "127.2.0.1")
	p.edges["us-1"].hang.Store(true)
	p.edges["us-2"].hang.Store(true)
	lost("hung", "us", "ap", "127.3.0.1")
	p.edges["us-1"].hang.Store(false)
	lost("back", "ap", "us", "127.2.0.1")
}

func TestGeoDatabaseIsReloaded(t *testing.T) {
	p := newPlatform(t)
	s := p.start(t, "eu")
	require.Equal(t, "127.2.0.1", named(t, s, "127.12.0.1"))
	path := filepath.Join(p.dir, "geo.mmdb")
	dev, err := os.ReadFile(path)
	require.NoError(t, err)
	putFile(t, path, dev[:len(dev)-200])
	awaitRefused(t, s.metrics.geo)
	require.Equal(t, "127.2.0.1", named(t, s, "127.12.0.1"), "the corrupt one is refused")
	other, err := os.ReadFile("../testdata/geo/GeoLite2-City-Test.mmdb")
	require.NoError(t, err)
	putFile(t, path, other)
	require.Eventually(t, func() bool { return named(t, s, "127.12.0.1") == "127.1.0.1" }, 10*time.Second, 50*time.Millisecond)
}

func TestASNDatabaseIsReloaded(t *testing.T) {
	p := newPlatform(t)
	path := filepath.Join(p.dir, "asn.mmdb")
	first := asnFile(t, map[string]uint32{"127.12.0.0/16": 64500})
	putFile(t, path, first)
	s := p.prepare(t, "eu", func(c *Command) { c.ASNDatabase = path })
	p.run(t, s)
	require.NoError(t, s.applyRouting(journal.Routing{N: 1, Systems: []journal.SystemOverride{{AS: 64500, Region: "ap"}}}))
	require.Equal(t, "127.3.0.1", named(t, s, "127.12.0.1"))
	putFile(t, path, first[:len(first)-200])
	awaitRefused(t, s.metrics.asn)
	require.Equal(t, "127.3.0.1", named(t, s, "127.12.0.1"), "the corrupt one is refused")
	putFile(t, path, asnFile(t, map[string]uint32{"127.11.0.0/16": 64500}))
	require.Eventually(t, func() bool { return named(t, s, "127.12.0.1") == "127.2.0.1" }, 10*time.Second, 50*time.Millisecond)
	require.Equal(t, "127.3.0.1", named(t, s, "127.11.0.1"))
}

// putFile puts a file in the place of another at once.
func putFile(t *testing.T, path string, b []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", b, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// awaitRefused waits until one database of a kind was refused.
func awaitRefused(t *testing.T, of databaseMetrics) {
	t.Helper()
	require.Eventually(t, func() bool {
		var m dto.Metric
		require.NoError(t, of.reads.WithLabelValues("refused").Write(&m))
		return m.GetCounter().GetValue() == 1
	}, 10*time.Second, 20*time.Millisecond)
}

func TestValidateNamesEveryProblem(t *testing.T) {
	c := &Command{RouterListen: "x", DNSListen: []string{"localhost:53", "y"}, TrustedProxies: []string{"10.0.0.0/99"}, RootPublicKey: "short"}
	c.Regions, c.AdminListen = "/nonexistent", "z"
	err := c.Validate()
	for _, want := range []string{"--router-listen", "--dns-listen localhost:53", "--dns-listen: address y", "--trusted-proxies", "--root-public-key",
		"--geo-reload", "--steer-capacity", "--max-connections", "region table", "--admin-listen"} {
		require.ErrorContains(t, err, want)
	}
}

func TestPortInUseIsSaid(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = listenDNS(t.Context(), []string{l.Addr().String()}, 16)
	require.ErrorContains(t, err, "address already in use")
}
