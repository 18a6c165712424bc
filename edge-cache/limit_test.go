package edgecache

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

func TestInflight(t *testing.T) {
	f := newInflight[string](2)
	require.True(t, f.enter("a"))
	require.True(t, f.enter("a"))
	require.False(t, f.enter("a"))
	require.True(t, f.enter("b"))
	f.leave("a")
	require.True(t, f.enter("a"))
	for _, k := range []string{"a", "a", "b"} {
		f.leave(k)
	}
	require.Empty(t, f.n)
	free := newInflight[string](0)
	for range 100 {
		require.True(t, free.enter("a"))
	}
	free.leave("a")
	require.Empty(t, free.n)
}

func TestLookups(t *testing.T) {
	l := newLimits(2, 0)
	who := netip.MustParseAddr("192.0.2.1")
	var frees []func()
	for range 10 {
		for _, asset := range []string{"a", "b"} {
			free, err := l.look(who, asset)
			require.NoError(t, err)
			frees = append(frees, free)
		}
	}
	_, err := l.look(who, "c")
	require.ErrorIs(t, err, errTooMany)
	free, err := l.look(netip.MustParseAddr("192.0.2.2"), "c")
	require.NoError(t, err)
	for _, f := range append(frees, free) {
		f()
	}
	require.Empty(t, l.lookups)
	require.Empty(t, l.clients.n)
}

func TestClientOf(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1:5": "192.0.2.1", "[2001:db8:1:2:3::4]:5": "2001:db8:1:2::", "[::ffff:192.0.2.1]:5": "192.0.2.1", "[fe80::1%eth0]:5": "fe80::"} {
		require.Equal(t, netip.MustParseAddr(want), clientOf(in), in)
	}
	require.False(t, clientOf("x").IsValid())
}

// TestFetchLimits: one address, and one asset, can have only so much fetched at
// once; what is here, and what is on its way already, isn't refused.
func TestFetchLimits(t *testing.T) {
	for _, c := range []struct {
		name            string
		clients, assets int
		status          int
		code            string
	}{{"client", 2, 0, 429, `"too_many"`}, {"asset", 0, 2, 503, `"busy"`}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, testenv.S3(t, 1))
			w.video(record0(), 5)
			w.tune = func(cmd *Command) { cmd.ClientFetches, cmd.AssetFetches = c.clients, c.assets }
			w.start("eu-1")
			res, _ := w.get(segURL("-", 4))
			require.Equal(t, 200, res.StatusCode)
			w.proxies[0].pace.Store(segmentBytes)
			var wg sync.WaitGroup
			for n := range 2 {
				wg.Go(func() {
					res, err := client.Get(w.base + segURL("-", n))
					if err != nil {
						t.Error(err)
						return
					}
					if b := readBody(res); len(b) != segmentBytes {
						t.Errorf("%d: %d bytes", res.StatusCode, len(b))
					}
				})
			}
			under := func() int {
				a, b := w.edge.handler.limits.clients, w.edge.handler.limits.assets
				a.mu.Lock()
				b.mu.Lock()
				defer a.mu.Unlock()
				defer b.mu.Unlock()
				n := 0
				for _, k := range a.n {
					n += k
				}
				for _, k := range b.n {
					n += k
				}
				return n
			}
			require.Eventually(t, func() bool { return under() == 2 }, 10*time.Second, time.Millisecond)
			res, b := w.get(segURL("-", 2))
			require.Equal(t, c.status, res.StatusCode)
			require.Equal(t, "1", res.Header.Get("Retry-After"))
			require.Contains(t, string(b), c.code)
			res, _ = w.get(segURL("-", 4))
			require.Equal(t, 200, res.StatusCode)
			joined := make(chan int, 1)
			go func() {
				res, err := client.Get(w.base + segURL("-", 1))
				if err == nil {
					joined <- len(readBody(res))
				} else {
					joined <- -1
				}
			}()
			w.proxies[0].step <- struct{}{}
			w.proxies[0].step <- struct{}{}
			wg.Wait()
			require.Equal(t, segmentBytes, <-joined)
			w.proxies[0].pace.Store(0)
			require.Eventually(t, func() bool { return under() == 0 }, 10*time.Second, time.Millisecond)
			res, _ = w.get(segURL("-", 2))
			require.Equal(t, 200, res.StatusCode)
		})
	}
}

func TestClientConnections(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.tune = func(c *Command) { c.ClientConnections = 3 }
	w.start("eu-1")
	client.CloseIdleConnections()
	require.Eventually(t, func() bool { return w.edge.gate.traffic.Open.Load() == 0 }, 5*time.Second, time.Millisecond)
	addr := strings.TrimPrefix(w.base, "http://")
	var open []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		open = append(open, c)
	}
	require.Eventually(t, func() bool { return w.edge.gate.traffic.Open.Load() == 3 }, 5*time.Second, time.Millisecond)
	ended := func(within time.Duration) bool {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(within)))
		_, err = c.Read(make([]byte, 1))
		return err == io.EOF
	}
	require.True(t, ended(10*time.Second))
	require.EqualValues(t, 1, w.edge.gate.refused.Load())
	require.NoError(t, open[0].Close())
	require.Eventually(t, func() bool { return !ended(300 * time.Millisecond) }, 5*time.Second, 10*time.Millisecond)
	for _, c := range open[1:] {
		require.NoError(t, c.Close())
	}
}
