package health

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

// pulsed runs a pulse of one edge until the test ends.
func pulsed(t *testing.T, url string) *Pulse {
	t.Helper()
	p := NewPulse([]Target{{Name: "eu-1", URL: url}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return p
}

func TestPulse(t *testing.T) {
	var asked atomic.Int64
	var stuck atomic.Bool
	release := make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodHead {
			t.Errorf("%s, want HEAD", r.Method)
		}
		if stuck.Load() {
			<-release
		}
	}))
	addr := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t)) // nobody else's while nobody listens there
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	require.NoError(t, srv.Listener.Close())
	srv.Listener = l
	srv.Start()
	p := pulsed(t, srv.URL)
	time.Sleep(2 * beatEvery)
	require.Zero(t, asked.Load(), "nobody wanted to know")
	require.True(t, p.Beats("mars-1"), "unknown")
	require.True(t, p.Beats("eu-1"), "not felt yet")
	require.Eventually(t, func() bool { return asked.Load() >= 3 && p.Beats("eu-1") }, 10*time.Second, 10*time.Millisecond)

	// Hung: accepted, never answered.
	stuck.Store(true)
	began := time.Now()
	require.Eventually(t, func() bool { return !p.Beats("eu-1") }, 10*time.Second, 5*time.Millisecond)
	t.Logf("a hung edge was noticed after %v", time.Since(began))
	stuck.Store(false)
	close(release)
	require.Eventually(t, func() bool { return p.Beats("eu-1") }, 10*time.Second, 5*time.Millisecond)

	// Killed: refused.
	srv.CloseClientConnections()
	srv.Close()
	began = time.Now()
	require.Eventually(t, func() bool { return !p.Beats("eu-1") }, 10*time.Second, 5*time.Millisecond)
	t.Logf("a dead edge was noticed after %v", time.Since(began))

	// Back, but with nothing to give, and then well.
	var status atomic.Int64
	status.Store(http.StatusServiceUnavailable)
	l, err = net.Listen("tcp", addr)
	require.NoError(t, err)
	again := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(int(status.Load()))
	})}}
	again.Start()
	defer again.Close()
	before := asked.Load()
	require.Eventually(t, func() bool { return asked.Load() > before+1 }, 10*time.Second, 5*time.Millisecond)
	require.False(t, p.Beats("eu-1"))
	status.Store(http.StatusOK)
	require.Eventually(t, func() bool { return p.Beats("eu-1") }, 10*time.Second, 5*time.Millisecond)
}
