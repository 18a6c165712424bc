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
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
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
	c := &ProxyCommand{Origin: origin.URL, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", Name: "edge", CacheDir: t.TempDir(), CacheMemory: 32 << 20, CacheDisk: 64 << 20,
		MaxObject: 4 << 20, MaxConnections: 100, PurgeFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	require.NoError(t, c.Validate())
	for range 2 { // what the first run left on disk is found by the second
		ctx, cancel := context.WithCancel(t.Context())
		addr, done := make(chan net.Addr, 1), make(chan error, 1)
		go func() {
			done <- c.serve(ctx, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), func(a net.Addr) { addr <- a })
		}()
		base := "http://" + (<-addr).String()
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
		client.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
	}
}

func TestArgs(t *testing.T) {
	for in, want := range map[string]string{"": "", "cache --origin x": "cache --origin x", "edge-cache --listen :1": "edge-cache --listen :1",
		"edge-cache --origin x --listen :1": "cache --origin x --listen :1", "edge-cache --listen :1 --origin=x": "cache --listen :1 --origin=x", "upload --origin": "upload --origin"} {
		require.Equal(t, strings.Fields(want), Args(strings.Fields(in)))
	}
}

func TestProxyCommandNamesEveryProblem(t *testing.T) {
	c := &ProxyCommand{Origin: "ftp://x/y", Listen: "x", AdminListen: "y", Name: "1 2", CacheDir: "d", CacheMemory: 1, MaxObject: 2, MaxConnections: 0, StaleFor: -1}
	err := c.Validate()
	for _, flag := range []string{"--origin", "--listen", "--admin-listen", "--name", "--cache-memory", "--max-object", "--cache-disk", "--stale-for", "--max-connections"} {
		require.ErrorContains(t, err, flag)
	}
}
