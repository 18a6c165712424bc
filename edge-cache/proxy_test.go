package edgecache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/service"
)

// TestProxyCommand runs the cache before an origin of its own.
func TestProxyCommand(t *testing.T) {
	var asked atomic.Int64
	body := bytesOf("proxied", 300_000)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body)
	}))
	defer origin.Close()
	c := &ProxyCommand{Origin: origin.URL, Listen: "127.0.0.1:0", Process: service.Process{AdminListen: "127.0.0.1:0"}, Name: "edge", CacheDir: t.TempDir(), CacheMemory: 32 << 20, CacheDisk: 64 << 20,
		MaxObject: 4 << 20, MaxConnections: 100, PurgeFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	require.NoError(t, c.Validate())
	for range 2 { // what the first run left on disk is found by the second
		_, addrs, stop := startProxy(t, c)
		base := "http://" + addrs[0]
		for range 5 {
			req, err := http.NewRequest(http.MethodGet, base+"/video.mp4", nil)
			require.NoError(t, err)
			req.Host = "example.com"
			res, err := client.Do(req)
			require.NoError(t, err)
			b, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.True(t, bytes.Equal(body, b))
		}
		require.EqualValues(t, 1, asked.Load())
		stop()
	}
}

// startProxy runs the cache in this process. addrs are where it answers, the encrypted
// one last.
func startProxy(t *testing.T, c *ProxyCommand) (p *proxyCache, addrs []string, stop func()) {
	t.Helper()
	p, err := newProxyCache(c, &service.Runtime{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	require.NoError(t, err)
	listening := make(chan string, 2)
	p.listening = func(a net.Addr) { listening <- a.String() }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		client.CloseIdleConnections()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	addrs = append(addrs, <-listening)
	if c.TLS.Listen != "" {
		addrs = append(addrs, <-listening)
	}
	require.Eventually(t, func() bool { return p.Ready(ctx) == nil }, 10*time.Second, time.Millisecond)
	return p, addrs, stop
}

// plainProxy is the configuration of a cache before origin, in memory alone.
func plainProxy(origin string) *ProxyCommand {
	return &ProxyCommand{Origin: origin, Listen: "127.0.0.1:0", Name: "edge", CacheMemory: 32 << 20, MaxObject: 4 << 20, MaxConnections: 100, Process: service.Process{AdminListen: "127.0.0.1:0"}}
}

// TestProxyLimitsClients: one address has so many connections, and so many requests to
// the origin; what is here already it gets.
func TestProxyLimitsClients(t *testing.T) {
	hold := make(chan struct{})
	var holding atomic.Int64
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/kept" {
			holding.Add(1)
			<-hold
		}
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, r.URL.Path)
	}))
	defer origin.Close()
	c := plainProxy(origin.URL)
	c.ClientFetches, c.ClientConnections = 2, 10
	p, addrs, _ := startProxy(t, c)
	base := "http://" + addrs[0]
	ask := func(method, path string) (int, string) {
		req, err := http.NewRequest(method, base+path, nil)
		if err != nil {
			return 0, err.Error()
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		return res.StatusCode, res.Header.Get("Retry-After") + readBody(res)
	}
	status, body := ask("GET", "/kept")
	require.Equal(t, 200, status)
	require.Equal(t, "/kept", body)
	type answer struct {
		status int
		body   string
	}
	held := make(chan answer, 3)
	for _, r := range []string{"GET /a", "GET /a", "POST /b"} { // the second waits for the first's
		method, path, _ := strings.Cut(r, " ")
		go func() {
			status, body := ask(method, path)
			held <- answer{status, body}
		}()
	}
	require.Eventually(t, func() bool { return holding.Load() == 2 }, 10*time.Second, time.Millisecond)
	for _, r := range []string{"GET /d", "POST /d", "DELETE /kept"} {
		method, path, _ := strings.Cut(r, " ")
		status, body := ask(method, path)
		require.Equal(t, 429, status, r)
		require.True(t, strings.HasPrefix(body, "1"), body)
	}
	status, _ = ask("GET", "/kept")
	require.Equal(t, 200, status)
	close(hold)
	for range 3 {
		require.Equal(t, 200, (<-held).status)
	}
	require.Eventually(t, func() bool { status, _ := ask("GET", "/e"); return status == 200 }, 10*time.Second, time.Millisecond)

	client.CloseIdleConnections()
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	require.Eventually(t, func() bool { return p.gate.traffic.Open.Load() == 0 }, 10*time.Second, time.Millisecond)
	for range 11 {
		c, err := net.Dial("tcp", addrs[0])
		require.NoError(t, err)
		open = append(open, c)
	}
	require.Eventually(t, func() bool { return p.gate.refused.Load() == 1 }, 10*time.Second, time.Millisecond)
}

func TestArgs(t *testing.T) {
	for in, want := range map[string]string{"": "", "cache --origin x": "cache --origin x", "edge-cache --listen :1": "edge-cache --listen :1",
		"edge-cache --origin x --listen :1": "cache --origin x --listen :1", "edge-cache --listen :1 --origin=x": "cache --listen :1 --origin=x", "upload --origin": "upload --origin"} {
		require.Equal(t, strings.Fields(want), Args(strings.Fields(in)))
	}
}

func TestProxyCommandNamesEveryProblem(t *testing.T) {
	c := &ProxyCommand{Origin: "ftp://x/y", Listen: "x", Process: service.Process{AdminListen: "y"}, DrainNotice: -1, ClientConnections: -1, ClientFetches: -1, Name: "1 2", CacheDir: "d", CacheMemory: 1, MaxObject: 2, MaxConnections: 0, StaleFor: -1}
	err := c.Validate()
	for _, flag := range []string{"--origin", "--listen", "--admin-listen", "--name", "--cache-memory", "--max-object", "--cache-disk", "--stale-for", "--max-connections", "--client-connections", "--client-fetches", "--drain-notice"} {
		require.ErrorContains(t, err, flag)
	}
}

// TestCommandsOfTheReference runs the commands that docs/reference/cache.md gives for
// `meridian cache`, in its order, and stops it as a signal does.
func TestCommandsOfTheReference(t *testing.T) {
	const file = "../docs/reference/cache.md"
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	slow := make(chan struct{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Surrogate-Key", "product-7")
		if r.URL.Path == "/slow" {
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "s")
			w.(http.Flusher).Flush()
			<-slow
			_, _ = io.WriteString(w, "low\n")
			return
		}
		_, _ = io.WriteString(w, "of the origin: "+r.URL.Path)
	}))
	defer origin.Close()
	free := func() string {
		l := listen(t)
		defer func() { require.NoError(t, l.Close()) }()
		return l.Addr().String()
	}
	addr, admin := free(), free()
	replace := strings.NewReplacer("http://127.0.0.1:8000", origin.URL, "127.0.0.1:8083", addr, ":8083", addr, "127.0.0.1:9083", admin, "/var/cache/meridian", t.TempDir())
	lines := regexp.MustCompile("(?m)^(meridian cache|curl [^\n]*:[89]083).*$").FindAllString(string(b), -1)
	require.Greater(t, len(lines), 6)
	run := func(beginning string) string {
		t.Helper()
		require.NotEmpty(t, lines)
		require.True(t, strings.HasPrefix(lines[0], beginning), "the next command is %q, not %q", lines[0], beginning)
		line := replace.Replace(lines[0])
		lines = lines[1:]
		out, err := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(line, "curl", "curl -sS", 1)).CombinedOutput()
		require.NoError(t, err, "%s\n%s", line, out)
		return string(out)
	}
	var grammar struct {
		Cache ProxyCommand `cmd:""`
	}
	parser, err := kong.New(&grammar)
	require.NoError(t, err)
	_, err = parser.Parse(strings.Fields(replace.Replace(lines[0]))[1:])
	require.NoError(t, err)
	lines = lines[1:]
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- grammar.Cache.Run(ctx) }()
	defer http.DefaultClient.CloseIdleConnections()
	ask := func(url string) (int, string) {
		res, err := http.Get(url)
		if err != nil {
			return 0, err.Error()
		}
		return res.StatusCode, readBody(res)
	}
	ready := func() int { status, _ := ask("http://" + admin + "/readyz"); return status }
	require.Eventually(t, func() bool { return ready() == 200 }, 15*time.Second, 10*time.Millisecond)
	for range 3 {
		_, body := ask("http://" + addr + "/status")
		require.Equal(t, "of the origin: /status", body, "the origin's own path")
	}

	require.JSONEq(t, `{"purged": 0}`, run("curl -X PURGE"))
	require.JSONEq(t, `{"purged": 1}`, run("curl -X PURGE"))
	require.Equal(t, "ok\n", run("curl http://127.0.0.1:9083/readyz"))
	ask("http://" + addr + "/status")
	// A request is counted when whoever asked may have read the whole answer already.
	require.Eventually(t, func() bool {
		_, metrics := ask("http://" + admin + "/metrics")
		return strings.Contains(metrics, `meridian_cache_requests_total{cache="hit",status="200"} 2`) && strings.Contains(metrics, `meridian_cache_requests_total{cache="miss",status="200"} 2`)
	}, 5*time.Second, 10*time.Millisecond)
	page := run("curl http://127.0.0.1:9083/status")
	for _, want := range []string{"<h1>meridian, before " + strings.TrimPrefix(origin.URL, "http://") + ": serving</h1>", "<tr><td>hits<td>50.00 %", "<tr><td>miss<td>2", "<tr><td>objects in memory<td>2", "<tr><td>200<td>", "<tr><td>connections<td>"} {
		require.Contains(t, page, want)
	}
	metrics := run("curl http://127.0.0.1:9083/metrics")
	for _, want := range []string{"\nmeridian_cache_load ", "\nmeridian_cache_drained 0\n", "\nmeridian_cache_connections_open ", "\nmeridian_cache_fetches_refused_total 0\n", `meridian_cache_requests_total{cache="hit",status="200"} 2`, "\nmeridian_cache_requests_open 0\n"} {
		require.Contains(t, metrics, want)
	}
	require.Equal(t, "drained\n", run("curl -X POST http://127.0.0.1:9083/drain"))
	require.Equal(t, 503, ready())
	status, _ := ask("http://" + addr + "/status")
	require.Equal(t, 200, status)
	require.Equal(t, "undrained\n", run("curl -X DELETE http://127.0.0.1:9083/drain"))
	require.Equal(t, 200, ready())
	require.Empty(t, lines)

	// A signal: whoever looks at /readyz is told first, and what runs is finished.
	res, err := http.Get("http://" + addr + "/slow")
	require.NoError(t, err)
	cancel()
	require.Eventually(t, func() bool { return ready() == 503 }, 10*time.Second, time.Millisecond)
	_, err = (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err, "it answers on for the notice")
	require.Eventually(t, func() bool { status, _ := ask("http://" + addr + "/kept"); return status == 0 }, 10*time.Second, 10*time.Millisecond)
	close(slow)
	require.Equal(t, "slow\n", readBody(res))
	require.NoError(t, <-done)
}
