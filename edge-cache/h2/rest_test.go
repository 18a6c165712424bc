package h2

import (
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// TestRests: a connection whose client asks for nothing waits elsewhere, and goes on in
// the middle of nothing.
func TestRests(t *testing.T) {
	cfg := config
	cfg.IdleTimeout = time.Minute
	r := start(t, cfg)
	b := make([]byte, 1<<20)
	rest := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Count(string(b[:runtime.Stack(b, true)]), "net.(*rawConn).Read(") == n }, 30*time.Second, 20*time.Millisecond)
	}
	w := r.dial(t)
	require.NoError(t, w.c.SetDeadline(time.Now().Add(3*time.Minute)))
	w.headers(1, true, get("/2000")...)
	require.Equal(t, 2000, w.read(ended(1)).body[1])
	rest(1)
	w.headers(3, true, get("/2002")...)
	require.Equal(t, 2002, w.read(ended(3)).body[3])
	rest(1)
	require.NoError(t, w.f.WritePing(false, [8]byte{}))
	w.read(func(s *seen) bool { return s.pings == 1 })
	rest(1)
	// Half a frame doesn't rest: it has its time.
	_, err := w.c.Write([]byte{0, 0, 8, byte(http2.FramePing), 0, 0, 0, 0, 0, 'a'})
	require.NoError(t, err)
	rest(0)
	require.Never(t, func() bool { return strings.Contains(string(b[:runtime.Stack(b, true)]), "net.(*rawConn).Read(") }, cfg.IdleTimeout/16, 50*time.Millisecond)
	_, err = io.WriteString(w.c, "bcdefgh")
	require.NoError(t, err)
	w.read(func(s *seen) bool { return s.pings == 1 })
	w.headers(7, true, get("/2000")...)
	require.Equal(t, 2000, w.read(ended(7)).body[7])
	rest(1)
}
