package fastpath

import (
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rest waits until n connections of the process rest.
func rest(t *testing.T, n int) {
	t.Helper()
	b := make([]byte, 16<<20)
	require.Eventually(t, func() bool { return strings.Count(string(b[:runtime.Stack(b, true)]), "net.(*rawConn).Read(") == n }, 15*time.Second, 20*time.Millisecond)
}

// TestRests: encrypted connections whose clients ask for nothing wait
// elsewhere, and are answered as before.
func TestRests(t *testing.T) {
	const n = 100
	cfg := encrypted(t, patient)
	cfg.IdleTimeout = time.Minute // so that none rests before the others are there
	r := start(t, true, cfg)
	r.ask(t, r.dial(t), 2)
	all := make([]net.Conn, n)
	for i := range all {
		all[i] = r.dial(t)
		require.NoError(t, all[i].SetDeadline(time.Now().Add(time.Minute)))
		r.ask(t, all[i], 2)
	}
	rest(t, n+1)
	for _, c := range all {
		r.ask(t, c, 4)
	}
	rest(t, n+1)
	// A head that begins slowly, and one that isn't the fast path's.
	_, err := io.WriteString(all[0], "G")
	require.NoError(t, err)
	rest(t, n)
	_, err = io.WriteString(all[0], strings.TrimPrefix(request(2, ""), "G"))
	require.NoError(t, err)
	res := make([]byte, 200)
	_, err = io.ReadAtLeast(all[0], res, 20)
	require.NoError(t, err)
	require.Contains(t, string(res), "200 OK")
	r.ask(t, all[1], 3)
	rest(t, n+1)
	r.ask(t, all[1], 3)
	// Clients that go leave nothing behind.
	for _, c := range all[:n/2] {
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool { return r.l.cfg.Traffic.Open.Load() == n-n/2+1 }, 10*time.Second, time.Millisecond)
	// The others end with the listener.
}
