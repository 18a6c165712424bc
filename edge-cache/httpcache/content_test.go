package httpcache

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSlowContent: a client that announces content and doesn't send it holds neither
// its connection nor the origin's; one that goes on slowly may.
func TestSlowContent(t *testing.T) {
	t.Parallel()
	const timeout = 2500 * time.Millisecond // a fifth of it and a busy machine's pause are less
	x := newRig(t, func(c *Config) { c.ContentTimeout = timeout })
	gone := make(chan error, 1)
	x.set(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/unread":
			nc, _, err := http.NewResponseController(w).Hijack() // net/http would wait for it
			if err != nil {
				panic(err)
			}
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nunread")
			_ = nc.Close()
		case "/late":
			_, _ = io.Copy(io.Discard, r.Body)
			time.Sleep(2 * timeout)
			_, _ = io.WriteString(w, "late")
		default:
			b, err := io.ReadAll(r.Body)
			if r.URL.Path == "/stalls" {
				gone <- err
			}
			_, _ = w.Write(b)
		}
	})
	dial := func(head string) (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", strings.TrimPrefix(x.base, "http://"))
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(40*time.Second)))
		_, err = io.WriteString(c, head)
		require.NoError(t, err)
		return c, bufio.NewReader(c)
	}
	answer := func(br *bufio.Reader) (int, string) {
		res, err := http.ReadResponse(br, nil)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(b)
	}
	for _, length := range []string{"Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nabc"} {
		c, br := dial("POST /stalls HTTP/1.1\r\nHost: x\r\n" + length)
		status, _ := answer(br)
		require.Equal(t, http.StatusRequestTimeout, status)
		_, err := br.ReadByte()
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, c.Close())
		require.Error(t, <-gone)
	}
	for _, path := range []string{"/unread", "/late"} {
		c, br := dial("POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
		if path == "/late" {
			_, err := io.WriteString(c, "defghij")
			require.NoError(t, err)
		}
		status, got := answer(br)
		require.Equal(t, "200 "+path[1:], fmt.Sprint(status, " ", got))
		if path == "/unread" {
			_, err := br.ReadByte()
			require.ErrorIs(t, err, io.EOF, "it waits for the rest")
		}
		require.NoError(t, c.Close())
	}
	// Slowly, and another request after a while.
	c, br := dial("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
	for i := range 10 {
		time.Sleep(timeout / 5)
		_, err := fmt.Fprint(c, i)
		require.NoError(t, err)
	}
	status, got := answer(br)
	require.Equal(t, "200 0123456789", fmt.Sprint(status, " ", got))
	time.Sleep(2 * timeout)
	_, err := io.WriteString(c, "GET /unread HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	_, got = answer(br)
	require.Equal(t, "unread", got)
	require.NoError(t, c.Close())
}
