package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// object is content that depends on its key and size alone.
func object(key string, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(key))).Read(b)
	return b
}

func infoOf(b []byte) Info {
	sum := sha256.Sum256(b)
	s := hex.EncodeToString(sum[:])
	return Info{Size: int64(len(b)), ETag: `"` + s[:32] + `"`, SHA256: s, Modified: time.Unix(1_700_000_000, 0), Origin: "eu"}
}

// origin counts the times it is opened.
type origin struct {
	opens atomic.Int64
	// wrap changes the body, nil for none.
	wrap func(io.Reader) io.Reader
}

func (o *origin) source(b []byte) Source {
	return func(_ context.Context, offset int64) (io.ReadCloser, Info, error) {
		o.opens.Add(1)
		r := io.Reader(bytes.NewReader(b[offset:]))
		if o.wrap != nil {
			r = o.wrap(r)
		}
		return io.NopCloser(r), infoOf(b), nil
	}
}

func open(t testing.TB, cfg Config) *Cache {
	t.Helper()
	if cfg.Memory == 0 {
		cfg.Memory = 16 << 20
	}
	c, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func readAll(ctx context.Context, o *Object) ([]byte, error) {
	out := make([]byte, 0, o.Info().Size)
	for int64(len(out)) < o.Info().Size {
		p, err := o.Bytes(ctx, int64(len(out)))
		if err != nil {
			return out, err
		}
		out = append(out, p...)
	}
	return out, nil
}

func TestOneFillHoweverManyAsk(t *testing.T) {
	c := open(t, Config{})
	b := object("k", 300_000)
	var org origin
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			o, _, err := c.Get(t.Context(), "k", org.source(b))
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := readAll(t.Context(), o); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, org.opens.Load())
	_, out, err := c.Get(t.Context(), "k", org.source(b))
	require.NoError(t, err)
	require.Equal(t, Outcome{Tier: Memory}, out)
}

// step is a reader that gives as many bytes as it was allowed to.
type step struct {
	r     io.Reader
	allow chan int
	left  int
	ctx   context.Context
}

func (s *step) Read(p []byte) (int, error) {
	if s.left == 0 {
		select {
		case s.left = <-s.allow:
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		}
	}
	n, err := s.r.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

func TestReadersGetBytesAsTheyArrive(t *testing.T) {
	c := open(t, Config{})
	b := object("k", 10_000)
	allow := make(chan int)
	var org origin
	org.wrap = func(r io.Reader) io.Reader { return &step{r: r, allow: allow, ctx: t.Context()} }
	o, out, err := c.Get(t.Context(), "k", org.source(b))
	require.NoError(t, err)
	require.Equal(t, Outcome{Tier: Origin}, out)

	gone, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { _, err := o.Bytes(gone, 0); left <- err }()
	leave()
	require.ErrorIs(t, <-left, context.Canceled)

	allow <- 4000
	p, err := o.Bytes(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, b[:4000], p)
	allow <- 6000
	p, err = o.Bytes(t.Context(), 4000)
	require.NoError(t, err)
	require.Equal(t, b[4000:], p)
	require.EqualValues(t, 1, org.opens.Load())
}

func TestWrongBytesAreNeverWhole(t *testing.T) {
	b := object("k", 300_000)
	for name, c := range map[string]struct {
		wrap func(io.Reader) io.Reader
		want error
	}{
		"cut":     {func(r io.Reader) io.Reader { return io.LimitReader(r, 200_000) }, io.ErrUnexpectedEOF},
		"other":   {func(io.Reader) io.Reader { return bytes.NewReader(object("x", 300_000)) }, ErrCorrupt},
		"reset":   {func(r io.Reader) io.Reader { return io.MultiReader(io.LimitReader(r, 1000), failing{}) }, errReset},
		"at once": {func(io.Reader) io.Reader { return failing{} }, errReset},
	} {
		t.Run(name, func(t *testing.T) {
			cache := open(t, Config{})
			org := origin{wrap: c.wrap}
			o, _, err := cache.Get(t.Context(), "k", org.source(b))
			var got []byte
			if err == nil {
				got, err = readAll(t.Context(), o)
			}
			require.ErrorIs(t, err, c.want)
			require.Less(t, len(got), len(b))

			require.Eventually(t, func() bool { return cache.Stats().Bytes == 0 }, 5*time.Second, time.Millisecond)
			org.wrap = nil
			o, _, err = cache.Get(t.Context(), "k", org.source(b))
			require.NoError(t, err)
			got, err = readAll(t.Context(), o)
			require.NoError(t, err)
			require.Equal(t, b, got)
		})
	}
}

var errReset = errors.New("reset")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errReset }

func TestAbsenceIsRememberedForAMoment(t *testing.T) {
	c := open(t, Config{MissingFor: 2 * time.Second})
	var opens atomic.Int64
	missing := func(context.Context, int64) (io.ReadCloser, Info, error) {
		opens.Add(1)
		return nil, Info{}, fmt.Errorf("origin: %w", ErrNotFound)
	}
	for range 10 {
		_, _, err := c.Get(t.Context(), "k", missing)
		require.ErrorIs(t, err, ErrNotFound)
	}
	require.EqualValues(t, 1, opens.Load())
	b := object("k", 100)
	require.Eventually(t, func() bool {
		_, _, err := c.Get(t.Context(), "k", (&origin{}).source(b))
		return err == nil
	}, 5*time.Second, 5*time.Millisecond)
	require.EqualValues(t, 100+overhead, c.Stats().Bytes)
}

func TestLargeObjectsAreLeftToTheOrigin(t *testing.T) {
	c := open(t, Config{MaxObject: 1000})
	var org origin
	for range 2 {
		o, _, err := c.Get(t.Context(), "k", org.source(object("k", 1001)))
		require.NoError(t, err)
		require.True(t, o.Direct())
		require.EqualValues(t, 1001, o.Info().Size)
	}
	require.EqualValues(t, 1, org.opens.Load())
	o, _, err := c.Get(t.Context(), "empty", org.source(nil))
	require.NoError(t, err)
	require.False(t, o.Direct())
	require.Eventually(t, o.Complete, 10*time.Second, time.Millisecond)
}

func TestClosedCacheRefuses(t *testing.T) {
	c, err := Open(Config{Memory: 1 << 20})
	require.NoError(t, err)
	b := object("k", 1000)
	hung := origin{wrap: func(io.Reader) io.Reader { return waiter{c.ctx} }}
	o, _, err := c.Get(t.Context(), "k", hung.source(b))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = o.Bytes(t.Context(), 0)
	require.ErrorIs(t, err, ErrClosed)
	_, _, err = c.Get(t.Context(), "other", hung.source(b))
	require.ErrorIs(t, err, ErrClosed)
}

type waiter struct{ ctx context.Context }

func (w waiter) Read([]byte) (int, error) { <-w.ctx.Done(); return 0, w.ctx.Err() }

// TestMemoryStaysBounded asks for far more than fits, from many goroutines.
func TestMemoryStaysBounded(t *testing.T) {
	const capacity = 1 << 20
	c := open(t, Config{Memory: capacity, MaxObject: 100 << 10})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			zipf := rand.NewZipf(r, 1.1, 1, 500)
			for range 100 {
				n := zipf.Uint64()
				key := fmt.Sprint(n)
				b := object(key, int(n*997%100_000))
				o, _, err := c.Get(t.Context(), key, (&origin{}).source(b))
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := readAll(t.Context(), o); err != nil || !bytes.Equal(got, b) {
					t.Errorf("%s: %d bytes, %v", key, len(got), err)
				}
				if s := c.Stats(); s.Bytes > capacity {
					t.Errorf("%d bytes in memory", s.Bytes)
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, c.Stats().Evictions)
}

func TestHitAllocatesNothing(t *testing.T) {
	c := open(t, Config{})
	src := (&origin{}).source(object("k", 1000))
	o, _, err := c.Get(t.Context(), "k", src)
	require.NoError(t, err)
	_, err = readAll(t.Context(), o)
	require.NoError(t, err)
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		o, _, err := c.Get(ctx, "k", src)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Bytes(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}))
}

// BenchmarkHit of one object, the most contended one, and of many.
func BenchmarkHit(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := open(b, Config{Memory: 32 << 20})
			keys := make([][]byte, n)
			for i := range keys {
				keys[i] = fmt.Appendf(nil, "streams/abcdefghijklmnopqrstuvwxyz/r1/v1080/%05d.m4s", i)
				if !c.Put(string(keys[i]), Info{}, make([]byte, 1000), false) {
					b.Fatal("no room")
				}
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if c.Hit(keys[i%n], false) == nil {
						b.Fatal("a miss")
					}
				}
			})
		})
	}
}
