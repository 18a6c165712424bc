package origin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const size = 400_000

func bytesOf(seed string) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return b
}

var content = bytesOf("content")

func infoOf(b []byte) cache.Info {
	sum := sha256.Sum256(b)
	text := hex.EncodeToString(sum[:])
	return cache.Info{Size: int64(len(b)), ETag: `"` + text[:32] + `"`, SHA256: text}
}

// server is an origin over HTTP whose faults are those of the network and of
// servers: what it does is up to answer.
type server struct {
	url    string
	asked  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

func newServer(t *testing.T, h http.HandlerFunc) *server {
	s := &server{}
	s.answer.Store(&h)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		(*s.answer.Load())(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	s.url = "http://" + l.Addr().String()
	return s
}

// good answers as an object store does.
func good(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Sha256", infoOf(content).SHA256)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// from is the offset a request asks for.
func from(r *http.Request) int {
	n := 0
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &n)
	return n
}

// broken sends part of the body under a Content-Length of length, then does end.
func broken(length int, body []byte, part int, end func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Sha256", infoOf(content).SHA256)
		if length > 0 {
			w.Header().Set("Content-Length", fmt.Sprint(length-from(r)))
			w.Header().Set("X-Size", fmt.Sprint(length))
		}
		if from(r) > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from(r), length-1, length))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(body[from(r):max(part, from(r))])
		_ = http.NewResponseController(w).Flush()
		end(w, r)
	}
}

func reset(w http.ResponseWriter, _ *http.Request) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}

func abort(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func stall(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func drip(w http.ResponseWriter, r *http.Request) {
	for at := from(r); r.Context().Err() == nil; at++ {
		if _, err := w.Write(content[at : at+1]); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

type world struct {
	t       *testing.T
	set     *Set
	origins []*Origin
	mu      sync.Mutex
	hedges  []bool
	over    []string
}

func newWorld(t *testing.T, servers ...*server) *world {
	w := &world{t: t}
	w.set = New(Events{
		Hedged:     func(won bool) { w.mu.Lock(); defer w.mu.Unlock(); w.hedges = append(w.hedges, won) },
		HandedOver: func(o string, _ error) { w.mu.Lock(); defer w.mu.Unlock(); w.over = append(w.over, o) },
	})
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(func() { w.set.Close(); tr.CloseIdleConnections() })
	for i, s := range servers {
		w.origins = append(w.origins, w.set.Add(&Origin{Name: fmt.Sprintf("o%d", i), Patience: 3 * time.Second, Open: httpOpen(tr, s.url)}))
	}
	return w
}

func httpOpen(tr *http.Transport, url string) func(context.Context, string, int64) (io.ReadCloser, cache.Info, error) {
	return func(ctx context.Context, key string, offset int64) (io.ReadCloser, cache.Info, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/"+key, nil)
		if err != nil {
			return nil, cache.Info{}, err
		}
		if offset > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		}
		res, err := tr.RoundTrip(req)
		if err != nil {
			return nil, cache.Info{}, err
		}
		info := infoOf(content)
		switch {
		case res.StatusCode == http.StatusNotFound:
			return nil, info, errors.Join(cache.ErrNotFound, res.Body.Close())
		case res.StatusCode != http.StatusOK && res.StatusCode != http.StatusPartialContent:
			return nil, info, errors.Join(errors.New(res.Status), res.Body.Close())
		}
		info.Size = res.ContentLength
		if _, total, ok := strings.Cut(res.Header.Get("Content-Range"), "/"); ok {
			_, _ = fmt.Sscan(total, &info.Size)
		}
		info.SHA256 = res.Header.Get("X-Sha256")
		info.ETag = `"` + info.SHA256 + `"`
		return res.Body, info, nil
	}
}

func (w *world) source(key string) cache.Source {
	return func(ctx context.Context, offset int64) (io.ReadCloser, cache.Info, error) {
		return w.set.Open(ctx, key, offset, w.origins)
	}
}

// TestFaultyOrigins reads through a cache from an origin with each fault, beside a
// good one and alone: the bytes are right, or there is an error, and a wrong
// object is never kept.
func TestFaultyOrigins(t *testing.T) {
	damaged := bytes.Clone(content)
	damaged[size-1] ^= 1
	early := bytes.Clone(content)
	early[10] ^= 1
	var g errgroup.Group
	g.SetLimit(6) // some wait for seconds, all are busy when they don't
	defer func() { require.NoError(t, g.Wait()) }()
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		// rescued: beside a good origin the first who asks gets all bytes; else an
		// honest error, and who asks again gets them.
		rescued bool
	}{
		{"reset in the body", broken(size, content, 150_000, reset), true},
		{"end in the body", broken(size, content, 150_000, abort), true},
		{"refuses", func(w http.ResponseWriter, r *http.Request) { reset(w, r) }, true},
		{"500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", 500) }, true},
		{"503 with a body", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503); _, _ = w.Write(content) }, true},
		{"missing", http.NotFound, true},
		{"stalls before the head", stall, true},
		{"stalls in the body", broken(size, content, 150_000, stall), true},
		{"drips", broken(size, content, 0, drip), true},
		{"chunked", broken(0, content, size, func(http.ResponseWriter, *http.Request) {}), true},
		{"truncated chunked", broken(0, content, 150_000, abort), true},
		{"Content-Length too large", broken(size+1000, append(bytes.Clone(content), make([]byte, 1000)...), size, abort), false},
		{"Content-Length too small", broken(size-1000, content, size-1000, func(http.ResponseWriter, *http.Request) {}), false},
		{"damaged, late", broken(size, damaged, size, func(http.ResponseWriter, *http.Request) {}), true},
		{"damaged, early", broken(size, early, size, func(http.ResponseWriter, *http.Request) {}), false},
		{"range ignored", func(w http.ResponseWriter, r *http.Request) { r.Header.Del("Range"); good(w, r) }, true},
	} {
		for _, alone := range []bool{false, true} {
			servers := []*server{newServer(t, c.answer), newServer(t, good)}
			if alone {
				servers = servers[:1]
			}
			w := newWorld(t, servers...)
			g.Go(func() error {
				if err := w.faulty(t.Context(), alone, alone && c.name != "range ignored", c.rescued); err != nil {
					t.Errorf("%s, alone %v: %v", c.name, alone, err)
				}
				return nil
			})
		}
	}
}

// faulty asks for the object of a world whose first origin has a fault.
func (w *world) faulty(ctx context.Context, alone, fails, rescued bool) error {
	k, err := cache.Open(cache.Config{Memory: 16 << 20, FillTimeout: 8 * time.Second})
	if err != nil {
		return err
	}
	get := func() error {
		o, _, err := k.Get(ctx, "k", w.source("k"))
		if err != nil {
			return err
		}
		var b []byte
		for int64(len(b)) < o.Info().Size {
			p, err := o.Bytes(ctx, int64(len(b)))
			if err != nil {
				return err
			}
			b = append(b, p...)
		}
		if !bytes.Equal(content, b) {
			w.t.Errorf("%d bytes, not the right ones, without an error", len(b))
		}
		return nil
	}
	err = get()
	switch {
	case fails && err == nil:
		err = errors.New("no error")
	case fails:
		err = nil
	case err != nil && !rescued && !alone:
		err = get() // from elsewhere
	}
	cerr := k.Close() // which waits for fills
	if kept := k.Hit([]byte("k"), false) != nil; err == nil && kept == fails {
		err = fmt.Errorf("kept: %v", kept)
	}
	return errors.Join(err, cerr)
}

func read(t *testing.T, w *world, key string) error {
	t.Helper()
	r, _, err := w.set.Open(t.Context(), key, 0, w.origins)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(r)
	require.NoError(t, r.Close())
	if err == nil && !bytes.Equal(content, b) {
		return fmt.Errorf("%d wrong bytes", len(b))
	}
	return err
}

// TestHedges: a late origin is raced by the next one after the time it mostly
// takes, for a twentieth of the fetches and a few more.
func TestHedges(t *testing.T) {
	var late atomic.Int64 // the first one is by so many nanoseconds
	first := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(time.Duration(late.Load())):
		}
		good(w, r)
	})
	second := newServer(t, good)
	w := newWorld(t, first, second)
	for range 2 * enough {
		require.NoError(t, read(t, w, "k"))
	}
	usual, ok := w.origins[0].Usual()
	require.True(t, ok)
	require.Positive(t, usual)
	w.set.budget.tokens = 2
	before := second.asked.Load()
	late.Store(int64(time.Minute)) // longer than its patience: only a race is won
	for range 2 {
		require.NoError(t, read(t, w, "k"))
	}
	late.Store(int64(500 * time.Millisecond))
	started := time.Now()
	require.NoError(t, read(t, w, "k"))
	require.GreaterOrEqual(t, time.Since(started), 500*time.Millisecond, "the budget is spent")
	require.EqualValues(t, 2, second.asked.Load()-before)
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Equal(t, []bool{true, true}, w.hedges[len(w.hedges)-2:])
}

// TestLoserOfARaceTakesOver: an origin that was asked early and lost is asked again
// when the one that won breaks off.
func TestLoserOfARaceTakesOver(t *testing.T) {
	raced := make(chan struct{})
	var once sync.Once
	first := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		<-raced
		broken(size, content, 150_000, abort)(w, r)
	})
	second := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		late := false
		once.Do(func() { late = true; close(raced) })
		if late {
			select {
			case <-r.Context().Done():
			case <-time.After(time.Second):
			}
		}
		good(w, r)
	})
	w := newWorld(t, first, second)
	require.NoError(t, read(t, w, "k"))
	require.EqualValues(t, 2, second.asked.Load())
	require.Equal(t, []string{"o0"}, w.over)
}

func TestBudget(t *testing.T) {
	b := budget{tokens: budgetMost}
	spent := 0
	for range 1000 {
		b.earn()
		if b.spend() {
			spent++
		}
	}
	require.InDelta(t, 55, spent, 2)
}

// TestBreaker: an origin that hangs costs its patience three times, then nothing
// for a second, and is found again.
func TestBreaker(t *testing.T) {
	first := newServer(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", 500) })
	w := newWorld(t, first, newServer(t, good))
	started := time.Now()
	for range 10 {
		require.NoError(t, read(t, w, "k"))
	}
	// One more each second.
	require.LessOrEqual(t, first.asked.Load(), 3+int64(time.Since(started).Seconds()))
	require.NotEqual(t, "closed", w.origins[0].State())
	h := http.HandlerFunc(good)
	first.answer.Store(&h)
	require.Eventually(t, func() bool { require.NoError(t, read(t, w, "k")); return w.origins[0].State() == "closed" }, 10*time.Second, 50*time.Millisecond)
	require.Greater(t, first.asked.Load(), int64(3))
}

// TestBrokenBodiesTripTheBreaker: heads that come are no proof of health.
func TestBrokenBodiesTripTheBreaker(t *testing.T) {
	first := newServer(t, broken(size, content, 1000, reset))
	w := newWorld(t, first, newServer(t, good))
	started := time.Now()
	for i := range 6 {
		require.NoError(t, read(t, w, fmt.Sprint(i)))
	}
	require.LessOrEqual(t, first.asked.Load(), 3+int64(time.Since(started).Seconds()))
	require.Len(t, w.over, int(first.asked.Load()))
}

func TestVerdicts(t *testing.T) {
	missing, down := newServer(t, http.NotFound), newServer(t, reset)
	for _, servers := range [][]*server{{missing, down}, {down, missing}} {
		err := read(t, newWorld(t, servers...), "k")
		require.ErrorIs(t, err, cache.ErrNotFound)
		require.ErrorIs(t, err, ErrUnavailable, "who is down may have it")
	}
	err := read(t, newWorld(t, missing, newServer(t, http.NotFound)), "k")
	require.ErrorIs(t, err, cache.ErrNotFound)
	require.NotErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, read(t, newWorld(t, down), "k"), ErrUnavailable)
	require.ErrorIs(t, read(t, newWorld(t), "k"), ErrUnavailable)
	w := newWorld(t, newServer(t, stall))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = w.set.Open(ctx, "k", 0, w.origins)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	w.set.Close()
	require.Error(t, read(t, w, "k"))
}

func TestDistrustIsBounded(t *testing.T) {
	s := New(Events{})
	defer s.Close()
	a, b := &Origin{Name: "a"}, &Origin{Name: "b"}
	for i := range 3 * maxSuspects {
		s.distrust(fmt.Sprint(i), a)
	}
	require.LessOrEqual(t, len(s.suspects)+len(s.suspected), 2*maxSuspects)
	s.distrust("k", a)
	require.Equal(t, []*Origin{b}, s.trusted("k", []*Origin{a, b}))
	require.Equal(t, []*Origin{a}, s.trusted("k", []*Origin{a}))
}
