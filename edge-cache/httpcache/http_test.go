package httpcache

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMaxForwards: TRACE and OPTIONS go so many hops and no further.
func TestMaxForwards(t *testing.T) {
	x := newRig(t, nil)
	x.set(reply(200, "ok", nil))
	for _, c := range []struct{ method, left, sent string }{
		{"OPTIONS", "2", "1"}, {"TRACE", "1", "0"}, {"OPTIONS", "x", "x"}, {"OPTIONS", "-1", "-1"}, {"GET", "0", "0"}, {"POST", "0", "0"},
	} {
		before := x.count()
		res, _ := x.send(c.method, "/a", fields{"Max-Forwards: " + c.left})
		require.Equal(t, 200, res.StatusCode)
		require.Equal(t, before+1, x.count())
		require.Equal(t, c.sent, x.last().Header.Get("Max-Forwards"), c)
	}
	before := x.count()
	res, _ := x.send("OPTIONS", "/a", fields{"Max-Forwards: 0"})
	require.Equal(t, http.StatusNoContent, res.StatusCode)
	require.Contains(t, res.Header.Get("Allow"), "GET")
	own := httptest.NewRequest("OPTIONS", "/", nil) // net/http answers it over HTTP/1.1
	own.URL.Path, own.RequestURI = "*", "*"
	w := httptest.NewRecorder()
	x.proxy.ServeHTTP(w, own)
	require.Equal(t, http.StatusNoContent, w.Code)
	require.Contains(t, w.Header().Get("Allow"), "GET")
	res, _ = x.send("TRACE", "/a", fields{"Max-Forwards: 0", "Cookie: secret"})
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
	require.Equal(t, before, x.count())
}

// TestInterimResponses pass, with their own fields only, to who had the origin asked.
func TestInterimResponses(t *testing.T) {
	for name, c := range map[string]struct{ method, content, control, fields string }{
		"passed on":         {"POST", "content", "max-age=60", ""},
		"stored":            {"GET", "", "max-age=60", ""},
		"not to be shared":  {"GET", "", "private", ""},
		"a part, stored":    {"GET", "", "max-age=60", "bytes=0-"},
		"origin's own part": {"GET", "", "max-age=60", "bytes=0-0,1-"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newRig(t, nil)
			x.set(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", "</style.css>; rel=preload")
				w.Header().Set("Connection", "A")
				w.Header().Set("A", "1")
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Del("Connection")
				w.Header().Del("A")
				w.Header().Set("Link", "</last>")
				w.Header().Set("Cache-Control", c.control)
				_, _ = io.WriteString(w, "content")
			})
			var got []string
			req, err := http.NewRequest(c.method, x.base+"/a", strings.NewReader(c.content))
			require.NoError(t, err)
			if c.fields != "" {
				req.Header.Set("Range", c.fields)
			}
			req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
				got = append(got, fmt.Sprint(status, h.Values("Link"), h.Values("A"), h.Values("Via")))
				return nil
			}}))
			res, err := x.front.Do(req)
			require.NoError(t, err)
			b, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, "content", string(b))
			require.Equal(t, []string{"</last>"}, res.Header["Link"])
			require.Equal(t, []string{"103 [</style.css>; rel=preload] [] []"}, got)
		})
	}
}

// TestManyRanges: of what is stored and of what isn't here; all of them or the whole,
// as If-Range says.
func TestManyRanges(t *testing.T) {
	x := newRig(t, nil)
	want, answer := film(300_000, `"f"`)
	x.set(answer)
	const spec = "Range: bytes=5-9,200000-200999,-1"
	check := func(res *http.Response, body string) {
		t.Helper()
		require.Equal(t, http.StatusPartialContent, res.StatusCode)
		kind, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
		require.NoError(t, err)
		require.Equal(t, "multipart/byteranges", kind)
		r := multipart.NewReader(strings.NewReader(body), params["boundary"])
		for _, s := range [][2]int{{5, 10}, {200_000, 201_000}, {299_999, 300_000}} {
			p, err := r.NextPart()
			require.NoError(t, err)
			b, err := io.ReadAll(p)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("bytes %d-%d/300000", s[0], s[1]-1), p.Header.Get("Content-Range"))
			require.Equal(t, "video/mp4", p.Header.Get("Content-Type"))
			require.True(t, bytes.Equal(want[s[0]:s[1]], b))
		}
		_, err = r.NextPart()
		require.ErrorIs(t, err, io.EOF)
	}
	res, b := x.send("GET", "/film", fields{spec}) // the origin answers
	check(res, b)
	x.send("GET", "/film", nil)
	before := x.count()
	for tag, many := range map[string]bool{"": true, `If-Range: "f"`: true, `If-Range: "g"`: false, `If-Range: W/"f"`: false} {
		f := fields{spec}
		if tag != "" {
			f = append(f, tag)
		}
		res, b = x.send("GET", "/film", f)
		if many {
			check(res, b)
		} else {
			require.Equal(t, 200, res.StatusCode)
			require.True(t, string(want) == b)
		}
		res, b = x.send("HEAD", "/film", f)
		require.Equal(t, "200 300000 ", fmt.Sprint(res.StatusCode, res.ContentLength, b, " "))
	}
	require.Equal(t, before, x.count())

	x.set(reply(200, "0123456789", fields{"Cache-Control: max-age=60", "Content-Type: -"}))
	x.send("GET", "/untyped", nil)
	_, b = x.send("GET", "/untyped", fields{"Range: bytes=0-1,8-"})
	require.Contains(t, b, "\r\nContent-Range: bytes 8-9/10\r\n\r\n89")
	require.NotContains(t, b, "Content-Type")
}

// TestIfRangeByDate: a date is strong when the origin gave the response at least a
// second after it.
func TestIfRangeByDate(t *testing.T) {
	for name, c := range map[string]struct {
		modified int
		want     int
	}{"long before": {-100, 206}, "just then": {0, 200}} {
		t.Run(name, func(t *testing.T) {
			x := newRig(t, nil)
			x.set(reply(200, "a body", fields{"Cache-Control: max-age=60", "Last-Modified: " + at(c.modified)}))
			x.send("GET", "/a", nil)
			res, _ := x.send("GET", "/a", fields{"Range: bytes=0-1", "If-Range: " + at(c.modified)})
			require.Equal(t, c.want, res.StatusCode)
			require.Equal(t, 1, x.count())
		})
	}
}

// TestCacheStatus: how each answer came about (RFC 9211).
func TestCacheStatus(t *testing.T) {
	x := newRig(t, nil)
	ask := func(want string, f ...string) {
		t.Helper()
		res, _ := x.send("GET", "/a", f)
		x.settle()
		require.Equal(t, want, res.Header.Get("Cache-Status"))
	}
	x.set(reply(200, "a", fields{"Cache-Control: max-age=10, stale-while-revalidate=5, stale-if-error=100", `Etag: "a"`, "Vary: Foo"}))
	ask("edge; fwd=uri-miss; fwd-status=200; stored")
	ask("edge; hit; ttl=10")
	x.clock.advance(4 * time.Second)
	ask("edge; hit; ttl=6")
	ask("edge; fwd=request; fwd-status=304", "Cache-Control: no-cache")
	ask("edge; fwd=vary-miss; fwd-status=200; stored", "Foo: 1")
	x.clock.advance(12 * time.Second)
	ask("edge; hit; ttl=-2; detail=revalidating")
	ask("edge; hit; ttl=10")
	x.clock.advance(20 * time.Second)
	ask("edge; fwd=stale; fwd-status=304")
	x.clock.advance(20 * time.Second)
	x.set(reply(503, "", nil))
	ask("edge; fwd=stale; fwd-status=503; detail=stale-if-error")
	x.set(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	ask("edge; hit; ttl=-10; detail=origin-failed")
	ask("edge; detail=only-if-cached", "Cache-Control: only-if-cached", "Foo: 2")
	ask("edge; fwd=vary-miss; detail=origin", "Foo: 2")
	x.set(reply(501, "", nil))
	ask("edge; fwd=stale; fwd-status=501") // no error of RFC 5861
	x.set(reply(200, "a", fields{"Cache-Control: no-store", "Cache-Status: inner; hit"}))
	ask("inner; hit, edge; fwd=vary-miss; fwd-status=200", "Foo: 3")
	res, _ := x.send("POST", "/a", nil)
	require.Equal(t, "inner; hit, edge; fwd=method; fwd-status=200", res.Header.Get("Cache-Status"))
}

// TestFaultyOrigin: what an origin breaks off, or leaves hanging, isn't kept, and no
// client takes it for whole.
func TestFaultyOrigin(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
	for name, c := range map[string]struct {
		answer string
		end    string // "close", "reset" or "stall"
		status int    // 0: the body breaks off
	}{
		"reset in the head":           {head, "reset", 502},
		"reset in the body":           {head + "Content-Length: 100\r\n\r\nshort", "reset", 0},
		"nothing":                     {"", "close", 502},
		"garbage":                     {"garbage\r\n\r\n", "close", 502},
		"Content-Length too large":    {head + "Content-Length: 100\r\n\r\nshort", "close", 0},
		"two lengths":                 {head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nshort!", "close", 502},
		"negative length":             {head + "Content-Length: -5\r\n\r\nshort", "close", 502},
		"truncated chunk":             {head + "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n9\r\nmo", "reset", 0},
		"unknown encoding":            {head + "Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nshort\r\n0\r\n\r\n", "close", 502},
		"stalls before the head":      {"", "stall", 504},
		"stalls in the head":          {head, "stall", 504},
		"stalls in the body":          {head + "Content-Length: 100\r\n\r\nshort", "stall", 0},
		"stalls in a chunk":           {head + "Transfer-Encoding: chunked\r\n\r\n5\r\nsho", "stall", 0},
		"stalls before the last one":  {head + "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n", "stall", 0},
		"500":                         {"HTTP/1.1 500 x\r\nContent-Length: 5\r\n\r\nshort", "close", 500},
		"Content-Length too small":    {head + "Content-Length: 3\r\nConnection: close\r\n\r\nshort", "close", 200},
		"head that is much too large": {head + "A: " + strings.Repeat("x", 100_000) + "\r\n\r\n", "close", 502},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Only where an answer hangs is its wait short: a busy machine is silent for
			// longer, and a short wait makes that look like a fault of the origin.
			x := newRig(t, func(cfg *Config) {
				switch {
				case c.end == "stall" && c.status == 504:
					cfg.HeaderTimeout = 200 * time.Millisecond
				case c.end == "stall":
					cfg.SilenceTimeout = 200 * time.Millisecond
				}
			})
			stop := make(chan struct{})
			t.Cleanup(func() { close(stop) })
			x.set(func(w http.ResponseWriter, _ *http.Request) {
				nc, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					panic(err)
				}
				defer func() { _ = nc.Close() }()
				_, _ = rw.WriteString(c.answer)
				_ = rw.Flush()
				switch c.end {
				case "stall":
					// Until the proxy has gone.
					_, _ = bufio.NewReader(nc).ReadByte()
				case "reset":
					_ = nc.(interface{ SetLinger(int) error }).SetLinger(0)
				}
			})
			for range 2 {
				res, err := x.front.Get(x.base + "/a")
				if c.status == 0 && err != nil {
					continue // it was reset before the head had left us
				}
				require.NoError(t, err)
				b, err := io.ReadAll(res.Body)
				require.NoError(t, res.Body.Close())
				if c.status == 0 {
					require.Error(t, err, "%d %q", res.StatusCode, b)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, c.status, res.StatusCode)
				if c.status == 200 { // what follows isn't the response's
					require.Equal(t, "sho", string(b))
				}
			}
			if c.status == 200 {
				return
			}
			x.settle() // or it joins the one that has just broken off
			x.set(reply(200, "whole", fields{"Cache-Control: max-age=60"}))
			// Nothing else is taken for whole, ever; this is, unless it hung for a moment too.
			for until := time.Now().Add(20 * time.Second); ; {
				res, err := x.front.Get(x.base + "/a")
				var b []byte
				if err == nil {
					b, err = io.ReadAll(res.Body)
					require.NoError(t, res.Body.Close())
				}
				if err == nil && res.StatusCode == 200 {
					require.Equal(t, "whole", string(b))
					return
				}
				require.Equal(t, "stall", c.end, "%v %v", res, err)
				require.True(t, time.Now().Before(until), "%v %v", res, err)
			}
		})
	}
}

// TestContentNegotiation: fields that mean the same choose the same.
func TestContentNegotiation(t *testing.T) {
	for _, c := range []struct {
		field, one, two string
		same            bool
	}{
		{"Accept-Encoding", "gzip, br", "BR,gzip", true},
		{"Accept-Encoding", "gzip", "br", false},
		{"Accept-Encoding", "gzip;q=1, br;q=0.5", "gzip;q=0.5, br;q=1", false},
		{"Accept-Language", "de-AT, en", "de-at,en", true},
		{"Accept-Language", "de, en", "en, de", false}, // some take it for an order
		{"Accept", "text/html, */*", "text/html,*/*", true},
		{"Cookie", "A=b", "a=b", false},
	} {
		x := newRig(t, nil)
		x.set(reply(200, "body", fields{"Cache-Control: max-age=60", "Vary: " + c.field}))
		x.send("GET", "/a", fields{c.field + ": " + c.one})
		res, _ := x.send("GET", "/a", fields{c.field + ": " + c.two})
		require.Equal(t, c.same, strings.Contains(res.Header.Get("Cache-Status"), "edge; hit"), c)
	}
}

// TestStaleWhileTheOriginIsDown: as long as allowed here, where the origin doesn't
// forbid it; what the origin answers with is no reason.
func TestStaleWhileTheOriginIsDown(t *testing.T) {
	for name, c := range map[string]struct {
		control string
		after   int
		status  int // of the origin; 0: it is down
		want    int
	}{
		"at once":            {"max-age=10", 11, 0, 200},
		"within":             {"max-age=10", 69, 0, 200},
		"beyond":             {"max-age=10", 71, 0, 502},
		"503":                {"max-age=10", 11, 503, 503},
		"must-revalidate":    {"max-age=10, must-revalidate", 11, 0, 504},
		"proxy-revalidate":   {"max-age=10, proxy-revalidate", 11, 0, 504},
		"s-maxage":           {"s-maxage=10", 11, 0, 504},
		"no-cache":           {"max-age=10, no-cache", 1, 0, 504},
		"the origin's limit": {"max-age=10, stale-if-error=20", 31, 0, 502},
	} {
		t.Run(name, func(t *testing.T) {
			x := newRig(t, func(c *Config) { c.StaleFor = time.Minute })
			x.set(reply(200, "kept", fields{"Cache-Control: " + c.control, `Etag: "a"`}))
			x.send("GET", "/a", nil)
			x.clock.advance(time.Duration(c.after) * time.Second)
			x.set(func(w http.ResponseWriter, _ *http.Request) {
				if c.status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(c.status)
			})
			res, got := x.send("GET", "/a", nil)
			require.Equal(t, c.want, res.StatusCode, res.Header.Get("Cache-Status"))
			require.Equal(t, c.want == 200, got == "kept")
		})
	}
}
