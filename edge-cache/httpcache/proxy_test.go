package httpcache

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOneRequestForAll: whoever asks while the body arrives reads it as it arrives.
func TestOneRequestForAll(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("length known %v", known), func(t *testing.T) {
			x := newRig(t, nil)
			body := strings.Repeat("0123456789", 5000)
			half := make(chan struct{})
			x.set(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				if known {
					w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				}
				_, _ = io.WriteString(w, body[:1000])
				_ = http.NewResponseController(w).Flush()
				<-half
				_, _ = io.WriteString(w, body[1000:])
			})
			const clients = 50
			var begun, done sync.WaitGroup
			begun.Add(clients)
			var wrong atomic.Int64
			for range clients {
				done.Go(func() {
					res, err := x.front.Get(x.base + "/a")
					if err != nil {
						wrong.Add(1)
						begun.Done()
						return
					}
					first := make([]byte, 1000)
					_, err = io.ReadFull(res.Body, first)
					begun.Done()
					rest, err2 := io.ReadAll(res.Body)
					if err != nil || err2 != nil || res.Body.Close() != nil || string(first)+string(rest) != body {
						wrong.Add(1)
					}
				})
			}
			begun.Wait() // all have the beginning while the origin holds back the rest
			close(half)
			done.Wait()
			require.Zero(t, wrong.Load())
			require.Equal(t, 1, x.count())
			res, got := x.send("GET", "/a", nil)
			require.Contains(t, res.Header.Get("Cache-Status"), "edge; hit")
			require.Equal(t, body, got)
		})
	}
}

// TestWhoAskedFirstLeaves, before the head or within the body: the others read on, and
// the origin is asked once.
func TestWhoAskedFirstLeaves(t *testing.T) {
	body := strings.Repeat("0123456789", 50_000)
	for name, early := range map[string]bool{"before the head": true, "within the body": false} {
		t.Run(name, func(t *testing.T) {
			x := newRig(t, nil)
			asked, goOn := make(chan struct{}), make(chan struct{})
			x.set(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				close(asked)
				if early {
					<-goOn
				}
				_, _ = io.WriteString(w, body[:1000])
				_ = http.NewResponseController(w).Flush()
				if !early {
					<-goOn
				}
				_, _ = io.WriteString(w, body[1000:])
			})
			ctx, leave := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, x.base+"/a", nil)
			require.NoError(t, err)
			first := make(chan error, 1)
			go func() {
				res, err := x.front.Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				first <- err
			}()
			<-asked
			second := make(chan string, 1)
			go func() {
				res, err := x.front.Get(x.base + "/a")
				if err != nil {
					second <- err.Error()
					return
				}
				b, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				second <- string(b) + fmt.Sprint(err)
			}()
			leave()
			require.ErrorIs(t, <-first, context.Canceled)
			close(goOn)
			require.True(t, <-second == body+"<nil>")
			require.Equal(t, 1, x.count())
			res, _ := x.send("GET", "/a", nil)
			require.Contains(t, res.Header.Get("Cache-Status"), "edge; hit")
		})
	}
}

func TestNotShared(t *testing.T) {
	x := newRig(t, nil)
	both := make(chan struct{}, 2)
	x.set(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private")
		both <- struct{}{}
		_, _ = io.WriteString(w, "for "+r.Header.Get("Cookie"))
	})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			req, _ := http.NewRequest("GET", x.base+"/a", nil)
			req.Header.Set("Cookie", fmt.Sprint(i))
			res, err := x.front.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			b, err := io.ReadAll(res.Body)
			if err != nil || string(b) != fmt.Sprint("for ", i) {
				t.Error(string(b), err)
			}
			_ = res.Body.Close()
		})
	}
	for range 10 {
		<-both
	}
	wg.Wait()
	require.True(t, x.proxy.index.passing(strings.TrimPrefix(x.base, "http://")+" /a", false, x.clock.Now()), "nobody waits for what isn't shared")
}

// TestBrokenBodies: what broke off is neither stored nor taken for whole.
func TestBrokenBodies(t *testing.T) {
	for name, answer := range map[string]string{
		"short":           "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100\r\n\r\nshort",
		"cut chunk":       "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n9\r\nmo",
		"no last chunk":   "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
		"malformed chunk": "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			x := newRig(t, nil)
			x.set(func(w http.ResponseWriter, _ *http.Request) {
				c, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					panic(err)
				}
				_, _ = rw.WriteString(answer)
				_ = rw.Flush()
				_ = c.Close()
			})
			for range 2 {
				res, err := x.front.Get(x.base + "/a")
				require.NoError(t, err)
				_, err = io.ReadAll(res.Body)
				require.Error(t, err)
				require.NoError(t, res.Body.Close())
			}
			require.Equal(t, 2, x.count())
		})
	}
}

// TestWhoMayShare: a response that must be validated for each request answers only the
// one it was made for, however many wait (RFC 9111 section 4).
func TestWhoMayShare(t *testing.T) {
	const clients = 10
	for _, control := range []string{"max-age=60, no-cache", "max-age=0", "s-maxage=0, must-revalidate", "no-cache"} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stored %v", control, stored), func(t *testing.T) {
				x := newRig(t, nil)
				all := make(chan struct{})
				var here atomic.Int64
				answer := reply(200, "body", fields{"Cache-Control: " + control, `Etag: "a"`})
				if stored {
					x.set(answer)
					x.send("GET", "/a", nil)
					x.clock.advance(5 * time.Minute)
				}
				before := x.count()
				x.set(func(w http.ResponseWriter, r *http.Request) {
					n := here.Add(1)
					if n == clients {
						close(all)
					}
					if n > 1 || stored { // only the first, where nothing is known, is waited for
						select {
						case <-all:
						case <-time.After(10 * time.Second):
							t.Error("one waits for another")
						}
					}
					answer(w, r)
				})
				var done sync.WaitGroup
				for range clients {
					done.Go(func() {
						res, err := x.front.Get(x.base + "/a")
						if err != nil {
							t.Error(err)
							return
						}
						if b, err := io.ReadAll(res.Body); err != nil || string(b) != "body" || res.Body.Close() != nil {
							t.Errorf("%v %q %v", res, b, err)
						}
					})
				}
				done.Wait()
				require.Equal(t, before+clients, x.count())
			})
		}
	}
}

func TestLargeBodies(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 3<<20/16) // three times what is kept
	for _, known := range []bool{true, false} {
		x := newRig(t, nil)
		x.set(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			if known {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			}
			_, _ = io.WriteString(w, body)
		})
		for range 2 {
			res, got := x.send("GET", "/a", nil)
			require.Equal(t, 200, res.StatusCode)
			require.True(t, got == body)
		}
		require.Equal(t, 2, x.count())
	}
}

// TestNoRoom: what isn't kept for want of room is kept when there is some.
func TestNoRoom(t *testing.T) {
	x := newRig(t, nil)
	x.set(reply(200, "a body", fields{"Cache-Control: max-age=60"}))
	room := x.proxy.room
	require.True(t, x.proxy.reserve(room))
	for _, asked := range []int{1, 2} {
		_, got := x.send("GET", "/a", nil)
		require.Equal(t, "a body", got)
		require.Equal(t, asked, x.count())
	}
	x.proxy.release(room)
	for range 2 {
		x.send("GET", "/a", nil)
		require.Equal(t, 3, x.count())
	}
}

func TestStaleWhileRevalidateAsksOnce(t *testing.T) {
	x := newRig(t, nil)
	x.set(reply(200, "old", fields{"Cache-Control: max-age=1, stale-while-revalidate=60"}))
	x.send("GET", "/a", nil)
	x.clock.advance(5 * time.Second)
	hold := make(chan struct{})
	x.set(func(w http.ResponseWriter, r *http.Request) {
		<-hold
		reply(200, "new", fields{"Cache-Control: max-age=60"})(w, r)
	})
	for range 5 {
		_, got := x.send("GET", "/a", nil)
		require.Equal(t, "old", got)
	}
	close(hold)
	require.Eventually(t, func() bool { _, got := x.send("GET", "/a", nil); return got == "new" }, 10*time.Second, time.Millisecond)
	require.Equal(t, 2, x.count())
}

func TestPurge(t *testing.T) {
	x := newRig(t, nil)
	for path, keys := range map[string]string{"/a": "one two", "/b": "two", "/c": "three"} {
		x.set(reply(200, path, fields{"Cache-Control: max-age=60", "Surrogate-Key: " + keys}))
		x.send("GET", path, nil)
	}
	hits := func() (out string) {
		x.set(reply(200, "again", nil))
		for _, path := range []string{"/a", "/b", "/c"} {
			if res, _ := x.send("GET", path, nil); strings.Contains(res.Header.Get("Cache-Status"), "edge; hit") {
				out += path
			}
		}
		return out
	}
	require.Equal(t, "/a/b/c", hits())
	_, got := x.send("PURGE", "/", fields{"Surrogate-Key: two"})
	require.Equal(t, "{\"purged\":2}\n", got)
	require.Equal(t, "/c", hits())
	_, got = x.send("PURGE", "/c", nil)
	require.Equal(t, "{\"purged\":1}\n", got)
	require.Empty(t, hits())

	far := newRig(t, func(c *Config) { c.PurgeFrom = nil })
	res, _ := far.send("PURGE", "/c", nil)
	require.Equal(t, http.StatusForbidden, res.StatusCode)
}

// TestPurgeReachesWhatFlies: what was asked for before an invalidation isn't
// stored after it.
func TestPurgeReachesWhatFlies(t *testing.T) {
	x := newRig(t, nil)
	asked, hold := make(chan struct{}), make(chan struct{})
	x.set(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			close(asked)
			<-hold
		}
		reply(200, "old", fields{"Cache-Control: max-age=60"})(w, r)
	})
	done := make(chan struct{})
	go func() { defer close(done); x.send("GET", "/a", nil) }()
	<-asked
	x.send("POST", "/a", nil)
	close(hold)
	<-done
	x.set(reply(200, "new", nil))
	_, got := x.send("GET", "/a", nil)
	require.Equal(t, "new", got)
}

func TestLoopsAndMethods(t *testing.T) {
	x := newRig(t, nil)
	res, _ := x.send("GET", "/a", fields{"Via: 1.1 other, 1.1 edge"})
	require.Equal(t, http.StatusLoopDetected, res.StatusCode)
	x.set(reply(200, "ok", nil))
	res, _ = x.send("GET", "/a", fields{"Via: 1.1 edge2"})
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "1.1 edge2, 1.1 edge", x.last().Header.Get("Via"))
	require.Equal(t, "127.0.0.1", x.last().Header.Get("X-Forwarded-For"))
	require.Equal(t, "1.1 edge", res.Header.Get("Via"))
	x.send("GET", "/b", fields{"Expect: 100-continue"})
	require.Empty(t, x.last().Header["Expect"], "a request without content")

	x.set(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Method+" "+string(b))
	})
	post, err := x.front.Post(x.base+"/a%2Fb?c=%20", "text/plain", strings.NewReader("hello"))
	require.NoError(t, err)
	b, err := io.ReadAll(post.Body)
	require.NoError(t, err)
	require.NoError(t, post.Body.Close())
	require.Equal(t, "POST hello", string(b))
	require.Equal(t, "/a%2Fb?c=%20", x.last().RequestURI)
}

// TestSmuggling: requests that can be read in two ways are refused, and never
// reach the origin as two.
func TestSmuggling(t *testing.T) {
	x := newRig(t, nil)
	x.set(reply(200, "ok", nil))
	for name, head := range map[string]string{
		"two lengths":       "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		"bad encoding":      "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"space in the name": "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello",
		"two hosts":         "GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			before := x.count()
			c, err := net.Dial("tcp", strings.TrimPrefix(x.base, "http://"))
			require.NoError(t, err)
			defer func() { require.NoError(t, c.Close()) }()
			require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
			_, err = io.WriteString(c, head)
			require.NoError(t, err)
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			require.GreaterOrEqual(t, res.StatusCode, 400)
			require.Equal(t, before, x.count())
		})
	}
}

func TestIndexIsBounded(t *testing.T) {
	x := newRig(t, func(c *Config) { c.IndexBytes = 20_000 })
	x.set(reply(200, "ok", fields{"Cache-Control: max-age=60", "Surrogate-Key: k"}))
	for i := range 100 {
		x.send("GET", fmt.Sprint("/", i), nil)
	}
	x.proxy.index.mu.Lock()
	defer x.proxy.index.mu.Unlock()
	require.LessOrEqual(t, x.proxy.index.bytes, int64(20_000))
	require.Equal(t, x.proxy.index.recent.Len(), len(x.proxy.index.byURI))
	require.Equal(t, len(x.proxy.index.byURI), len(x.proxy.index.byKey["k"]))
}

func FuzzCacheControl(f *testing.F) {
	f.Add("max-age=1, no-cache=\"a, b\", private")
	f.Add("max-age=\"1\\\"\", =, ,,x=\"")
	f.Fuzz(func(t *testing.T, s string) {
		d := parseCacheControl([]string{s})
		for _, v := range []time.Duration{d.maxAge, d.sMaxAge, d.staleIfError, d.staleWhileRevalidate} {
			if v < -1 || v > anyStale {
				t.Fatal(v)
			}
		}
		if d, ok := parseTargeted(s); ok && d.maxAge > anyStale {
			t.Fatal(d.maxAge)
		}
		if len(parseCacheControl([]string{s, "max-age=0"}).noCacheFields) < len(d.noCacheFields) || parseCacheControl([]string{s, "max-age=0"}).maxAge != 0 {
			t.Fatalf("%q hides what another line says", s)
		}
	})
}

// FuzzVary: a response answers the request it came with, and every other that has the
// same fields where Vary looks; none that differs there.
func FuzzVary(f *testing.F) {
	f.Add("Accept-Language", "de, en", "de,en")
	f.Add("accept , ,Accept-Language", "", "fr")
	f.Add("*", "a", "a")
	f.Fuzz(func(t *testing.T, vary, one, two string) {
		fields := func(v string) http.Header {
			return http.Header{"Accept": {"x"}, "Accept-Language": strings.Split(v, "\n")}
		}
		r := &http.Request{Method: http.MethodGet, Header: fields(one)}
		s := newResponse(r, http.StatusOK, http.Header{"Vary": strings.Split(vary, "\n")}, freshness{}, time.Now())
		if !s.matches(fields(one)) {
			t.Fatalf("Vary %q: it doesn't answer the request it came with, %q", vary, one)
		}
		if s.matches(fields(two)) != (!slices.Contains(s.vary, "Accept-Language") || normalized("Accept-Language", fields(one)["Accept-Language"]) == normalized("Accept-Language", fields(two)["Accept-Language"])) {
			t.Fatalf("Vary %q, %q of %q", vary, s.vary, []string{one, two})
		}
		back := newResponse(&http.Request{Method: http.MethodGet, Header: fields(two)}, http.StatusOK, http.Header{"Vary": strings.Split(vary, "\n")}, freshness{}, time.Now())
		if s.matches(fields(two)) != back.matches(fields(one)) {
			t.Fatalf("Vary %q: of %q one answers the other only", vary, []string{one, two})
		}
		for _, name := range s.vary {
			if name == "" || name != strings.Trim(name, " \t") || strings.ContainsAny(name, ",") {
				t.Fatalf("Vary %q names %q", vary, name)
			}
		}
	})
}
