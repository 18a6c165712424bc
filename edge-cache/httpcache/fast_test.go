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

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// counted counts the answers of the fast path, and those from disk.
type counted struct {
	*Proxy
	n, disk atomic.Int64
}

func (c *counted) Respond(r *fastpath.Request) (fastpath.Answer, bool) {
	a, ok := c.Proxy.Respond(r)
	if ok {
		c.n.Add(1)
	}
	if a.Stored != nil {
		c.disk.Add(1)
	}
	return a, ok
}

// quick returns what asks the fast path, and what counts its answers.
func quick(t *testing.T, x *rig) (ask func(path, fields string) string, c *counted) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c = &counted{Proxy: x.proxy}
	fl, err := fastpath.New(l, fastpath.Config{HeaderTimeout: time.Second, IdleTimeout: time.Minute, WriteTimeout: time.Minute, WriteSize: 1 << 20, MaxConnections: 10}, c)
	require.NoError(t, err)
	srv := &http.Server{Handler: x.proxy, ConnState: fl.ConnState}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(fl) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
		fl.Drain(context.Background())
	})
	return func(path, fields string) string {
		nc, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer func() { require.NoError(t, nc.Close()) }()
		method := http.MethodGet
		if rest, ok := strings.CutPrefix(path, "HEAD "); ok {
			method, path = http.MethodHead, rest
		}
		_, err = fmt.Fprintf(nc, "%s %s HTTP/1.1\r\nHost: Example.COM\r\n%s\r\n", method, path, fields)
		require.NoError(t, err)
		var b strings.Builder
		res, err := http.ReadResponse(bufio.NewReader(io.TeeReader(nc, &b)), &http.Request{Method: method})
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		return b.String()
	}, c
}

// TestFastPathAnswersTheSame compares the fast path with the handler, byte for byte.
func TestFastPathAnswersTheSame(t *testing.T) {
	x := newRig(t, nil)
	ask, c := quick(t, x)
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

// TestDiskAnswersTheSame compares both where the bytes are on disk alone.
func TestDiskAnswersTheSame(t *testing.T) {
	x := newDiskRig(t)
	body := strings.Repeat("0123456789abcdef", 20_000)
	x.set(reply(200, body, fields{"Cache-Control: max-age=60", `Etag: "a"`}))
	t.Run("kept", func(t *testing.T) {
		ask, _ := quick(t, x)
		require.Eventually(t, func() bool { ask("/a", ""); return x.cfg.Cache.Stats().DiskObjects == 1 }, 10*time.Second, time.Millisecond)
	})
	other := make([]byte, 16<<10) // leaves no room for /a
	const seen = "If-None-Match: \"a\"\r\n"
	for name, f := range map[string]struct {
		path, fields, status, want string
		fast                       bool
	}{
		"plain":                         {"/a", "", "200", "\r\n\r\n" + body, true},
		"range":                         {"/a", "Range: bytes=70000-200000\r\n", "206", "\r\n\r\n" + body[70_000:200_001], true},
		"ranges":                        {"/a", "Range: bytes=0-9,70000-70009\r\n", "206", "", false}, // whose boundaries differ
		"head":                          {"HEAD /a", "", "200", "\r\n\r\n", true},
		"head of what the client has":   {"HEAD /a", seen, "304", "\r\n\r\n", true},
		"what the client has":           {"/a", seen, "304", "\r\n\r\n", true},
		"a part of what it has":         {"/a", "Range: bytes=70000-200000\r\n" + seen, "304", "\r\n\r\n", true},
		"another than what it has":      {"/a", "If-None-Match: \"b\"\r\n", "200", "\r\n\r\n" + body, true},
		"part of the same":              {"/a", "Range: bytes=-9\r\nIf-Range: \"a\"\r\n", "206", "\r\n\r\n" + body[len(body)-9:], true},
		"part of another":               {"/a", "Range: bytes=-9\r\nIf-Range: \"b\"\r\n", "200", "\r\n\r\n" + body, true},
		"range that can't be read":      {"/a", "Range: bytes=x\r\n", "200", "\r\n\r\n" + body, true},
		"range beyond the end":          {"/a", "Range: bytes=1000000-\r\n", "416", "\r\n\r\n", false},
		"condition that isn't the case": {"/a", "If-Match: \"b\"\r\n", "412", "\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			x.restart()
			ask, c := quick(t, x)
			ask("/a", "") // which verifies it
			require.Eventually(t, func() bool { return x.cfg.Cache.Filling() == 0 }, 10*time.Second, time.Millisecond)
			for i := range 1250 { // the disk has room for them, too
				key := fmt.Sprint("other", i)
				x.cfg.Cache.Put(key, cache.Info{}, other, false)
				for range 6 + i%2 { // more often than /a, and some than others
					x.cfg.Cache.Hit([]byte(key), false)
				}
			}
			before, asked := c.n.Load(), x.count()
			slow := ask(f.path, f.fields+"Proxy-Anything: x\r\n")
			quick := ask(f.path, f.fields)
			require.Equal(t, f.fast, c.n.Load() > before)
			require.Equal(t, asked, x.count())
			disk := c.disk.Load()
			ask("/a", "")
			require.Equal(t, disk+1, c.disk.Load(), "it was on disk alone")
			require.True(t, strings.HasPrefix(quick, "HTTP/1.1 "+f.status+" "), "%.100s", quick)
			if name == "ranges" {
				require.Contains(t, quick, "\r\n\r\n"+body[:10]+"\r\n--")
				require.Contains(t, quick, "\r\n\r\n"+body[70_000:70_010]+"\r\n--")
				return
			}
			require.True(t, slow == quick, "%.500s\n%.500s", slow, quick)
			require.True(t, strings.HasSuffix(quick, f.want))
		})
	}
}

// TestHitAllocatesNothing on its way from the request to what is written.
func TestHitAllocatesNothing(t *testing.T) {
	x := newRig(t, nil)
	x.set(reply(200, "a body", fields{"Cache-Control: max-age=60", `Etag: "a"`}))
	x.send("GET", "/a", nil)
	r := &fastpath.Request{Target: []byte("/a"), Host: []byte(strings.TrimPrefix(x.base, "http://")), Fields: []fastpath.Field{{Name: []byte("User-Agent"), Value: []byte("x")}}}
	_, ok := x.proxy.Respond(r) // which prepares the head
	require.True(t, ok)
	require.Zero(t, testing.AllocsPerRun(200, func() {
		a, found := x.proxy.Respond(r)
		ok = ok && found
		x.proxy.Responded(&a, 6, time.Millisecond, nil)
	}))
	require.True(t, ok)
}
