package httpcache

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is when the clock of every test starts.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is the time of proxy and origin.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
}

// at writes the time s seconds from the clock's start as a date.
func at(s int) string { return start.Add(time.Duration(s) * time.Second).Format(http.TimeFormat) }

// rig is a proxy before an origin whose answers a test gives one by one.
type rig struct {
	t     testing.TB
	clock *clock
	cfg   Config
	proxy *Proxy
	base  string
	// answer makes the next answers; asked are the requests that came.
	answer func(w http.ResponseWriter, r *http.Request)
	mu     sync.Mutex
	asked  []*http.Request
	front  *http.Client
	// disk tells the journal of the disk, where not as the cache has it.
	disk atomic.Pointer[func() cache.DiskState]
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	x := &rig{t: t, clock: &clock{now: start}}
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x.mu.Lock()
		x.asked = append(x.asked, r.Clone(context.Background()))
		answer := x.answer
		x.mu.Unlock()
		w.Header().Set("Date", x.clock.Now().Format(http.TimeFormat))
		answer(w, r)
	}))
	u, err := url.Parse(origin.URL)
	require.NoError(t, err)
	x.cfg = Config{Origin: u, Name: "edge", MaxObject: 1 << 20, PurgeFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	if change != nil {
		change(&x.cfg)
	}
	x.open()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { x.proxy.ServeHTTP(w, r) }))
	x.base = front.URL
	x.front = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		x.front.CloseIdleConnections()
		front.Close()
		x.close()
		origin.Close()
	})
	return x
}

func (x *rig) open() {
	x.t.Helper()
	c, err := cache.Open(cache.Config{Memory: 16 << 20, Dir: x.cfg.Dir, Disk: 64 << 20, MaxObject: 1 << 20})
	require.NoError(x.t, err)
	x.disk.Store(nil)
	x.cfg.Cache, x.cfg.now = c, x.clock.Now
	x.cfg.disk = func() cache.DiskState {
		if f := x.disk.Load(); f != nil {
			return (*f)()
		}
		return c.Disk()
	}
	x.proxy, err = New(x.cfg)
	require.NoError(x.t, err)
}

func (x *rig) close() {
	x.t.Helper()
	x.proxy.Close()
	require.NoError(x.t, x.cfg.Cache.Close())
}

// restart stops the proxy and begins anew on what it left on disk.
func (x *rig) restart() {
	x.t.Helper()
	x.close()
	x.open()
}

func (x *rig) setDisk(f func() cache.DiskState) { x.disk.Store(&f) }

func (x *rig) set(f func(w http.ResponseWriter, r *http.Request)) {
	x.mu.Lock()
	x.answer = f
	x.mu.Unlock()
}

func (x *rig) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.asked)
}

func (x *rig) last() *http.Request {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.asked[len(x.asked)-1]
}

// fields are header fields as "Name: value" lines.
type fields []string

func (f fields) each(set func(name, value string)) {
	for _, line := range f {
		name, value, _ := strings.Cut(line, ": ")
		set(name, value)
	}
}

func (x *rig) send(method, path string, f fields) (*http.Response, string) {
	x.t.Helper()
	req, err := http.NewRequest(method, x.base+path, nil)
	require.NoError(x.t, err)
	f.each(func(name, value string) {
		req.Header[http.CanonicalHeaderKey(name)] = append(req.Header[http.CanonicalHeaderKey(name)], value)
	})
	res, err := x.front.Do(req)
	require.NoError(x.t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(x.t, err)
	require.NoError(x.t, res.Body.Close())
	return res, string(b)
}

// settle waits until what is on its way is stored: a client that wanted less than
// the whole has its answer before.
func (x *rig) settle() {
	x.t.Helper()
	require.Eventually(x.t, func() bool {
		x.proxy.mu.Lock()
		defer x.proxy.mu.Unlock()
		return len(x.proxy.flights) == 0
	}, 10*time.Second, 100*time.Microsecond)
}

// reply answers with status, fields and a body; a 304 where its ETag or
// Last-Modified is asked about.
func reply(status int, body string, f fields) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		first := map[string]bool{}
		f.each(func(name, value string) {
			if !first[name] {
				first[name] = true
				h.Del(name)
			}
			if value == "-" {
				h[http.CanonicalHeaderKey(name)] = nil
				return
			}
			h.Add(name, value)
		})
		if status == http.StatusOK && (h.Get("Etag") != "" && r.Header.Get("If-None-Match") == h.Get("Etag") ||
			h.Get("Etag") == "" && h.Get("Last-Modified") != "" && r.Header.Get("If-Modified-Since") == h.Get("Last-Modified")) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if h.Get("Content-Length") == "" && status != http.StatusNoContent {
			h.Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, body)
		}
	}
}

// step is one request of a case.
type step struct {
	after   int // seconds after the step before
	method  string
	path    string // default /a
	request fields
	// What the origin answers, if it is asked: default 200.
	status   int
	response fields
	body     string // default "body N" of the N-th step
	down     bool   // the origin ends the connection
	// want: "hit" (origin not asked), "miss" (asked, its body comes), "validated"
	// (asked with a condition, the stored body comes), "stale" (asked or not, the
	// stored body), "refused" (not asked, nothing stored comes).
	want       string
	wantStatus int // default 200
	wantFields fields
	wantAbsent []string
	// sent are fields the origin's request must have.
	sent fields
}

// run plays a case's steps.
func run(t *testing.T, heuristics bool, steps []step) {
	t.Helper()
	x := newRig(t, func(c *Config) { c.Heuristics, c.StaleFor = heuristics, 0 })
	stored := ""
	for i, s := range steps {
		name := fmt.Sprintf("step %d", i+1)
		x.clock.advance(time.Duration(s.after) * time.Second)
		method, path, body, status, want := s.method, s.path, s.body, s.status, s.wantStatus
		if method == "" {
			method = http.MethodGet
		}
		if path == "" {
			path = "/a"
		}
		if body == "" {
			body = fmt.Sprintf("body %d", i+1)
		}
		if status == 0 {
			status = http.StatusOK
		}
		if want == 0 {
			want = status
			if s.down || s.want == "hit" || s.want == "validated" || s.want == "stale" {
				want = http.StatusOK
			}
		}
		x.set(reply(status, body, s.response))
		if s.down {
			x.set(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		}
		before := x.count()
		res, got := x.send(method, path, s.request)
		x.settle()
		asked := x.count() - before
		require.Equal(t, want, res.StatusCode, "%s: %s", name, res.Header.Get("Cache-Status"))
		switch s.want {
		case "hit":
			require.Zero(t, asked, "%s: the origin was asked: %s", name, res.Header.Get("Cache-Status"))
			require.Contains(t, res.Header.Get("Cache-Status"), "edge; hit", name)
			if want != http.StatusPreconditionFailed && want != http.StatusRequestedRangeNotSatisfiable {
				require.NotEmpty(t, res.Header.Get("Age"), name)
			}
		case "miss":
			require.NotZero(t, asked, "%s: the origin wasn't asked: %s", name, res.Header.Get("Cache-Status"))
			if method != http.MethodHead && want == status && status != http.StatusNotModified {
				require.Equal(t, body, got, name)
			}
			if method == http.MethodGet {
				stored = got
			}
		case "validated":
			require.Equal(t, 1, asked, name)
			require.True(t, x.last().Header.Get("If-None-Match") != "" || x.last().Header.Get("If-Modified-Since") != "", name)
			require.Contains(t, res.Header.Get("Cache-Status"), "fwd-status=304", name)
		case "stale":
		case "refused":
			require.Zero(t, asked, name)
		default:
			t.Fatalf("%s: want %q", name, s.want)
		}
		if s.want != "miss" && method != http.MethodHead && want == http.StatusOK {
			require.Equal(t, stored, got, name)
		}
		s.wantFields.each(func(n, v string) { require.Equal(t, v, strings.Join(res.Header.Values(n), ", "), "%s: %s", name, n) })
		for _, n := range s.wantAbsent {
			require.Empty(t, res.Header.Values(n), "%s: %s", name, n)
		}
		s.sent.each(func(n, v string) {
			if v == "-" {
				v = ""
			}
			require.Equal(t, v, strings.Join(x.last().Header.Values(n), ", "), "%s: %s to the origin", name, n)
		})
	}
}
