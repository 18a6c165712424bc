package httpcache

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// counted counts the answers of the fast path.
type counted struct {
	*Proxy
	n atomic.Int64
}

func (c *counted) Respond(r *fastpath.Request) (fastpath.Answer, bool) {
	a, ok := c.Proxy.Respond(r)
	if ok {
		c.n.Add(1)
	}
	return a, ok
}

// TestFastPathAnswersTheSame compares the fast path with the handler, byte for byte.
func TestFastPathAnswersTheSame(t *testing.T) {
	x := newRig(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &counted{Proxy: x.proxy}
	fl, err := fastpath.New(l, fastpath.Config{HeaderTimeout: time.Second, IdleTimeout: time.Minute, WriteTimeout: time.Minute, WriteSize: 1 << 20, MaxConnections: 10}, c)
	require.NoError(t, err)
	srv := &http.Server{Handler: x.proxy, ConnState: fl.ConnState}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(fl) }()
	defer func() {
		_ = srv.Close()
		<-done
		fl.Drain(context.Background())
	}()
	ask := func(path, fields string) string {
		nc, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer func() { require.NoError(t, nc.Close()) }()
		_, err = fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: Example.COM\r\n%s\r\n", path, fields)
		require.NoError(t, err)
		var b strings.Builder
		res, err := http.ReadResponse(bufio.NewReader(io.TeeReader(nc, &b)), nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		return b.String()
	}
	for name, f := range map[string]struct {
		status   int
		response fields
		fields   string
		fast     bool
	}{
		"plain":                     {200, fields{"Cache-Control: max-age=60", "Content-Type: video/mp4", `Etag: "a"`, "Zebra: 1", "Alpha: 2"}, "", true},
		"no type":                   {200, fields{"Cache-Control: max-age=60", "Content-Type: -"}, "", true},
		"a cache before, and marks": {200, fields{"Cache-Control: max-age=60", "Cache-Status: inner; hit; detail=\"{ttl}\"", "A: {age}", "Via: 1.1 inner", "Age: 3"}, "User-Agent: x\r\nCookie: a\r\n", true},
		"vary":                      {200, fields{"Cache-Control: max-age=60", "Vary: A"}, "", false},
		"another status":            {404, fields{"Cache-Control: max-age=60"}, "", false},
		"stale":                     {200, fields{"Cache-Control: max-age=0", `Etag: "a"`}, "", false},
		"no-cache":                  {200, fields{"Cache-Control: max-age=60, no-cache", `Etag: "a"`}, "", false},
		"request's own terms":       {200, fields{"Cache-Control: max-age=60"}, "Cache-Control: max-age=50\r\n", false},
		"range":                     {200, fields{"Cache-Control: max-age=60"}, "Range: bytes=0-1\r\n", true},
		"condition":                 {200, fields{"Cache-Control: max-age=60", `Etag: "a"`}, "If-None-Match: \"a\"\r\n", true},
		"condition that is false":   {200, fields{"Cache-Control: max-age=60", `Etag: "a"`}, "If-Match: \"b\"\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			x.set(reply(f.status, "a body", f.response))
			path := "/" + strings.ReplaceAll(name, " ", "-")
			ask(path, "")
			x.clock.advance(7 * time.Second)
			before := c.n.Load()
			// This leaves it to the handler and changes nothing.
			slow := ask(path, f.fields+"Proxy-Anything: x\r\n")
			require.Equal(t, before, c.n.Load())
			quick := ask(path, f.fields)
			require.Equal(t, slow, quick)
			require.Equal(t, f.fast, c.n.Load() > before)
		})
	}
}
