package fastpath

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/meridian-video/meridian/edge-cache/pages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site answers /n with n bytes, by net/http and by the fast path alike.
type site struct {
	quick, slow atomic.Int64 // requests answered
	panics      atomic.Int64 // the size that the fast path can't bear
	slots       sync.Map     // of *pages.Slot, by size
	mu          sync.Mutex
	errs        []error
}

// bytes0 is what every body begins with.
var bytes0 = func() []byte {
	b := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

func bodyOf(n int) []byte { return bytes0[:n] }

const date = "Tue, 03 Mar 2026 12:00:00 GMT"

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.slow.Add(1)
	n, err := strconv.Atoi(r.URL.Path[1:])
	if err != nil {
		http.Error(w, "no number", http.StatusNotFound)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Date", date)
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(n))
	_, _ = w.Write(bodyOf(n))
}

func (s *site) Respond(r *Request) (Answer, bool) {
	n, err := strconv.Atoi(string(r.Target[1:]))
	if err != nil || n < 0 || n%2 == 1 || r.Selects() { // odd ones are left to net/http
		return Answer{}, false
	}
	if n > 0 && s.panics.Load() == int64(n) {
		panic("as asked")
	}
	s.quick.Add(1)
	head := NewHead(http.StatusOK, []HeadField{{Name: "Content-Length", Open: true}, {Name: "Content-Type", Value: "text/plain"}, {Name: "Date", Value: date}})
	slot, _ := s.slots.LoadOrStore(n, new(pages.Slot))
	return Answer{Head: head, Values: Values{{Number: int64(n)}}, Body: bodyOf(n), Slot: slot.(*pages.Slot)}, true
}

func (s *site) Responded(_ *Answer, _ int64, _ time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}

// patient has times that no test comes near to, hasty ones that are waited for. A busy
// machine needs a part of a second for a handshake.
var (
	patient = Config{HeaderTimeout: 20 * time.Second, IdleTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second, WriteSize: 64 << 10, MaxConnections: 20_000}
	hasty   = Config{HeaderTimeout: time.Second, IdleTimeout: 2 * time.Second, WriteTimeout: time.Second, WriteSize: 64 << 10, MaxConnections: 100}
)

type running struct {
	*site
	addr string
	l    *Listener
	srv  *http.Server
	tls  *tls.Config // the client's; nil without
}

func start(t *testing.T, fast bool, cfg Config) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &running{site: &site{}, addr: l.Addr().String()}
	window := pages.Open(64<<20, func(err error) { t.Error(err) })
	t.Cleanup(window.Close)
	cfg.Window = window
	if cfg.TLS != nil {
		r.tls = &tls.Config{RootCAs: cfg.TLS.ClientCAs, ServerName: "example.com"}
	}
	r.srv = &http.Server{Handler: r.site, ReadHeaderTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout}
	if fast {
		r.l, err = New(l, cfg, r.site)
		require.NoError(t, err)
		r.srv.ConnState = r.l.ConnState
		l = r.l
	} else if cfg.TLS != nil {
		l = tls.NewListener(l, cfg.TLS)
	}
	done := make(chan error, 1)
	go func() { done <- r.srv.Serve(l) }()
	t.Cleanup(func() {
		_ = r.srv.Close()
		require.ErrorIs(t, <-done, http.ErrServerClosed)
		if fast {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			r.l.Drain(ctx)
			require.Zero(t, r.l.open)
			require.NoError(t, ctx.Err())
		}
	})
	return r
}

func dial(t testing.TB, addr string) net.Conn { return (&running{addr: addr}).dial(t) }

func (r *running) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := r.connect()
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

func (r *running) connect() (net.Conn, error) {
	if r.tls != nil {
		return tls.Dial("tcp", r.addr, r.tls)
	}
	return net.Dial("tcp", r.addr)
}

// encrypted is cfg with TLS; its clients' authorities are ClientCAs.
func encrypted(t testing.TB, cfg Config) Config {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	cfg.TLS = &tls.Config{Certificates: srv.TLS.Certificates, ClientCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
		NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS13}
	return cfg
}

func request(n int, extra string) string {
	return "GET /" + strconv.Itoa(n) + " HTTP/1.1\r\nHost: x\r\n" + extra + "\r\n"
}

// TestSameAsNetHTTP sends random rows of requests, cut anywhere, and compares all
// that comes back, byte for byte, with what net/http alone answers.
func TestSameAsNetHTTP(t *testing.T) {
	t.Run("plain", func(t *testing.T) { sameAsNetHTTP(t, patient) })
	t.Run("encrypted", func(t *testing.T) { sameAsNetHTTP(t, encrypted(t, patient)) })
}

func sameAsNetHTTP(t *testing.T, cfg Config) {
	quick, slow := start(t, true, cfg), start(t, false, cfg)
	pieces := rapid.OneOf(
		rapid.Custom(func(t *rapid.T) string {
			n := rapid.SampledFrom([]int{0, 1, 2, 3, 100, 8000, 8001, 20000, 100_000}).Draw(t, "n")
			return request(n, rapid.SampledFrom([]string{"", "", "", "Range: bytes=0-1\r\n", "X: y\r\n", "Cookie: " + strings.Repeat("c", 3000) + "\r\n", "Connection: keep-alive\r\n"}).Draw(t, "fields"))
		}),
		rapid.SampledFrom([]string{
			"HEAD /6 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /none HTTP/1.1\r\nHost: x\r\n\r\n",
			"POST /4 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "POST /5 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			"GET /4 HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\nGET /8 HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /2 HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("d", 9000) + "\r\n\r\n",
		}))
	rapid.Check(t, func(rt *rapid.T) {
		row := strings.Join(rapid.SliceOfN(pieces, 1, 6).Draw(rt, "row"), "")
		row += rapid.SampledFrom([]string{"", "", "GET /2 HTTP/1.0\r\nHost: x\r\n\r\n", "GET /2 HTTP/1.1\r\n\r\n", "nonsense\r\n\r\n", "GET /8 HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n"}).Draw(rt, "end")
		row += request(12, "Connection: close\r\n")
		cuts := rapid.SliceOfN(rapid.IntRange(1, 4000), 0, 4).Draw(rt, "cuts")
		answers := make([]string, 2)
		for i, r := range []*running{quick, slow} {
			c, err := r.connect()
			require.NoError(rt, err)
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			read := make(chan string, 1)
			go func() { // an end by reset is no matter: what was sent before is
				b, _ := io.ReadAll(c)
				read <- string(b)
			}()
			for rest, k := row, 0; rest != ""; k++ {
				n := len(rest)
				if k < len(cuts) {
					n = min(n, cuts[k])
				}
				if _, err := io.WriteString(c, rest[:n]); err != nil {
					break
				}
				rest = rest[n:]
			}
			answers[i] = <-read
			_ = c.Close() // that of TLS may say that the other side has gone
		}
		if got, want := undated(answers[0]), undated(answers[1]); got != want {
			rt.Fatalf("%.400q:\n got %.2000q\nwant %.2000q", row, got, want)
		}
	})
	require.NotZero(t, quick.quick.Load())
	require.NotZero(t, quick.slow.Load())
}

// undated takes out the dates net/http writes itself.
func undated(s string) string {
	for {
		i := strings.Index(s, "Date: ")
		if i < 0 || i+41 > len(s) {
			return s
		}
		s = s[:i] + s[i+41:]
	}
}

func TestComesBackFromNetHTTP(t *testing.T) {
	t.Run("plain", func(t *testing.T) { comesBack(t, patient) })
	t.Run("encrypted", func(t *testing.T) { comesBack(t, encrypted(t, patient)) })
}

func comesBack(t *testing.T, cfg Config) {
	r := start(t, true, cfg)
	// A request that net/http already reads while it ends the one before stays with
	// it, and so do those after it: then another connection shows it.
	for try := 1; ; try++ {
		quick, slow := r.quick.Load(), r.slow.Load()
		c := r.dial(t)
		br := bufio.NewReader(c)
		for i, n := range []int{2, 3, 4, 5, 6, 8} {
			_, err := io.WriteString(c, request(n, ""))
			require.NoError(t, err)
			res, err := http.ReadResponse(br, nil)
			require.NoError(t, err)
			b, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, bodyOf(n), b, i)
		}
		quick, slow = r.quick.Load()-quick, r.slow.Load()-slow
		require.EqualValues(t, 6, quick+slow)
		if quick == 4 {
			return
		}
		require.Less(t, try, 50, "the last of them: %d quick, %d slow", quick, slow)
	}
}

// closes waits until the server ends the connection and returns how long it took.
func closes(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	started := time.Now()
	_, err := io.Copy(io.Discard, c)
	var timeout net.Error
	require.False(t, errors.As(err, &timeout) && timeout.Timeout(), "still open")
	return time.Since(started)
}

func TestDeadlines(t *testing.T) {
	t.Run("plain", func(t *testing.T) { deadlines(t, hasty) })
	t.Run("encrypted", func(t *testing.T) { deadlines(t, encrypted(t, hasty)) })
}

func deadlines(t *testing.T, cfg Config) {
	r := start(t, true, cfg)
	t.Run("a head that doesn't end", func(t *testing.T) {
		t.Parallel()
		c := r.dial(t)
		_, err := io.WriteString(c, request(2, "")+"GET /2 HT")
		require.NoError(t, err)
		stop := make(chan struct{})
		go func() { // a byte now and then buys no time
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
					_, _ = io.WriteString(c, "T")
				}
			}
		}()
		closes(t, c)
		close(stop)
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		c := r.dial(t)
		asked := time.Now()
		_, err := io.WriteString(c, request(2, ""))
		require.NoError(t, err)
		closes(t, c)
		took := time.Since(asked)
		require.Greater(t, took, cfg.IdleTimeout*3/4)
		require.Less(t, took, 10*time.Second)
	})
	t.Run("a reader that takes nothing", func(t *testing.T) {
		t.Parallel()
		slow := start(t, true, cfg)
		c := slow.dial(t)
		_, err := io.WriteString(c, request(32<<20, ""))
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			slow.mu.Lock()
			defer slow.mu.Unlock()
			return len(slow.errs) == 1 && slow.errs[0] != nil
		}, 10*time.Second, 10*time.Millisecond)
	})
	t.Run("a slow reader that goes on", func(t *testing.T) {
		t.Parallel()
		cfg := cfg
		cfg.WriteTimeout = 6 * time.Second
		c := start(t, true, cfg).dial(t)
		if tcp, ok := c.(*net.TCPConn); ok {
			require.NoError(t, tcp.SetReadBuffer(64<<10))
		}
		const size = 4 << 20
		_, err := io.WriteString(c, request(size, ""))
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		var got bytes.Buffer
		// Longer than the write timeout in all, but never that long without progress.
		for range 8 {
			_, err := io.CopyN(&got, res.Body, size/8)
			require.NoError(t, err)
			time.Sleep(cfg.WriteTimeout / 6)
		}
		require.Equal(t, bodyOf(size), got.Bytes())
	})
}

func TestShutdownFinishesAnswers(t *testing.T) {
	t.Run("plain", func(t *testing.T) { shutdownFinishes(t, patient) })
	t.Run("encrypted", func(t *testing.T) { shutdownFinishes(t, encrypted(t, patient)) })
}

func shutdownFinishes(t *testing.T, cfg Config) {
	r := start(t, true, cfg)
	const size = 16 << 20
	c := r.dial(t)
	_, err := io.WriteString(c, request(size, ""))
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	idle := r.dial(t)
	_, err = io.WriteString(idle, request(4, ""))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.srv.Close() // harsher than Shutdown: it closes whatever there is
		r.l.Drain(ctx)
	}()
	closes(t, idle)
	b := make([]byte, size) // growing, it would cost the race detector seconds
	_, err = io.ReadFull(res.Body, b)
	require.NoError(t, err)
	require.True(t, bytes.Equal(bodyOf(size), b))
	<-done
	require.NoError(t, ctx.Err())
}

func TestDrainEndsWhatIsTooSlow(t *testing.T) {
	t.Run("plain", func(t *testing.T) { drainEnds(t, patient) })
	t.Run("encrypted", func(t *testing.T) { drainEnds(t, encrypted(t, patient)) })
}

func drainEnds(t *testing.T, cfg Config) {
	cfg.WriteTimeout = time.Minute
	r := start(t, true, cfg)
	c := r.dial(t)
	_, err := io.WriteString(c, request(32<<20, ""))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 100))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_ = r.srv.Close()
	r.l.Drain(ctx)
	require.Error(t, ctx.Err())
}

func TestMaxConnections(t *testing.T) {
	cfg := patient
	cfg.MaxConnections = 1
	r := start(t, true, cfg)
	first := r.dial(t)
	one := func(c net.Conn) {
		_, err := io.WriteString(c, request(2, ""))
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Equal(t, 200, res.StatusCode)
	}
	one(first)
	second := dial(t, r.addr)
	_, err := io.WriteString(second, request(2, ""))
	require.NoError(t, err)
	require.NoError(t, second.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err = second.Read(make([]byte, 1))
	require.Error(t, err, "it waits to be accepted")
	require.NoError(t, first.Close())
	require.NoError(t, second.SetReadDeadline(time.Now().Add(10*time.Second)))
	res, err := http.ReadResponse(bufio.NewReader(second), nil)
	require.NoError(t, err)
	require.Equal(t, 200, res.StatusCode)
}

// TestAPanicCostsNobodyElse: the request goes to net/http, the connection and all
// others go on.
func TestAPanicCostsNobodyElse(t *testing.T) {
	var told atomic.Int64
	cfg := patient
	cfg.Panicked = func(any) { told.Add(1) }
	r := start(t, true, cfg)
	r.panics.Store(12)
	for _, path := range []string{"/10", "/12", "/10", "/12"} {
		res, err := http.Get("http://" + r.addr + path)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, path[1:], strconv.Itoa(len(b)))
	}
	http.DefaultClient.CloseIdleConnections()
	require.EqualValues(t, 2, told.Load())
	require.EqualValues(t, []int64{2, 2}, []int64{r.quick.Load(), r.slow.Load()})
}
