package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("store is away")

type fake struct {
	objects map[string][]byte
	fetches atomic.Int64
	fail    atomic.Bool
	// gate, if set, holds fetches until it is closed.
	gate chan struct{}
}

func (f *fake) Fetch(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	f.fetches.Add(1)
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.fail.Load() {
		return nil, errAway
	}
	return io.NopCloser(bytes.NewReader(f.objects[key][off : off+n])), nil
}

// whole makes a source of the given part sizes.
func whole(sizes ...int) (*fake, []Part, []byte) {
	f := &fake{objects: map[string][]byte{}}
	var parts []Part
	var all []byte
	rnd := rand.NewChaCha8([32]byte{1})
	for i, n := range sizes {
		b := make([]byte, n)
		_, _ = rnd.Read(b)
		key := fmt.Sprint("part", i)
		f.objects[key] = b
		parts = append(parts, Part{Key: key, Size: int64(n)})
		all = append(all, b...)
	}
	return f, parts, all
}

func TestReadAtAcrossParts(t *testing.T) {
	fetch, parts, all := whole(3<<20, 1, 0, blockSize, 700_001)
	f := Open(t.Context(), fetch, parts)
	defer f.Close()
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.IntRange(0, len(all)).Draw(t, "offset")
		n := rapid.OneOf(rapid.IntRange(1, 100_000), rapid.Just(blockSize+1)).Draw(t, "length")
		p := make([]byte, n)
		got, err := f.ReadAt(context.Background(), p, int64(off))
		want := min(n, len(all)-off)
		require.Equal(t, want, got)
		if want < n {
			require.ErrorIs(t, err, io.EOF)
		} else {
			require.NoError(t, err)
		}
		require.True(t, bytes.Equal(all[off:off+want], p[:got]))
	})
}

func TestBlockIsFetchedOnce(t *testing.T) {
	fetch, parts, _ := whole(blockSize)
	fetch.gate = make(chan struct{})
	f := Open(t.Context(), fetch, parts)
	defer f.Close()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := f.ReadAt(t.Context(), make([]byte, 100), 17)
			require.NoError(t, err)
		})
	}
	close(fetch.gate)
	wg.Wait()
	require.EqualValues(t, 1, fetch.fetches.Load())
}

func TestMemoryIsBounded(t *testing.T) {
	fetch, parts, all := whole((maxBlocks + 20) * blockSize)
	f := Open(t.Context(), fetch, parts)
	defer f.Close()
	for off := 0; off < len(all); off += blockSize {
		_, err := f.ReadAt(t.Context(), make([]byte, 10), int64(off))
		require.NoError(t, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	require.LessOrEqual(t, len(f.blocks), maxBlocks)
	require.Equal(t, len(f.blocks), f.lru.Len())
}

func TestFailureIsKeptAndRetried(t *testing.T) {
	fetch, parts, all := whole(1000)
	f := Open(t.Context(), fetch, parts)
	defer f.Close()
	fetch.fail.Store(true)
	p := make([]byte, 10)
	_, err := f.ReadAt(t.Context(), p, 0)
	require.ErrorIs(t, err, errAway)
	require.ErrorIs(t, f.Err(), errAway)
	fetch.fail.Store(false)
	_, err = f.ReadAt(t.Context(), p, 0)
	require.NoError(t, err)
	require.Equal(t, all[:10], p)
}

func TestCloseEndsFetches(t *testing.T) {
	fetch, parts, _ := whole(1000)
	fetch.gate = make(chan struct{})
	f := Open(t.Context(), fetch, parts)
	done := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(context.Background(), make([]byte, 10), 0)
		done <- err
	}()
	for fetch.fetches.Load() == 0 {
		_ = f.Err()
	}
	f.Close()
	require.ErrorIs(t, <-done, context.Canceled)
	_, err := f.ReadAt(context.Background(), make([]byte, 10), 0)
	require.ErrorIs(t, err, context.Canceled)
}

func get(t *testing.T, url, rng string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, b, err
}

func TestServer(t *testing.T) {
	fetch, parts, all := whole(100, 200, 300)
	f := Open(t.Context(), fetch, parts)
	defer f.Close()
	s, err := Listen(t.Context())
	require.NoError(t, err)
	defer s.Close()
	url, remove := s.Add(f)
	require.Regexp(t, `^http://127\.0\.0\.1:\d+/[A-Z0-9]{20,}$`, url)
	for _, c := range []struct {
		rng        string
		status     int
		start, end int
	}{
		{"", 200, 0, 600}, {"bytes=0-", 206, 0, 600}, {"bytes=99-100", 206, 99, 101}, {"bytes=590-9999", 206, 590, 600},
		{"bytes=-10", 206, 590, 600}, {"bytes=-9999", 206, 0, 600}, {"bytes=600-", 416, 0, 0}, {"bytes=5-4", 416, 0, 0},
		{"bytes=a-b", 416, 0, 0}, {"bytes=0-1,3-4", 416, 0, 0}, {"bytes=99999999999999999999-", 416, 0, 0},
	} {
		res, b, err := get(t, url, c.rng)
		require.NoError(t, err)
		require.Equal(t, c.status, res.StatusCode, c.rng)
		if c.status < 400 {
			require.Equal(t, all[c.start:c.end], b, c.rng)
		}
	}
	res, _, err := get(t, url[:strings.LastIndexByte(url, '/')]+"/guess", "")
	require.NoError(t, err)
	require.Equal(t, 404, res.StatusCode)
	remove()
	res, _, err = get(t, url, "")
	require.NoError(t, err)
	require.Equal(t, 404, res.StatusCode)
}

// TestServerBreaksOff: a failed fetch must not look like the end of the file.
func TestServerBreaksOff(t *testing.T) {
	fetch, parts, _ := whole(2*blockSize, 2*blockSize, 2*blockSize)
	f := Open(t.Context(), fetch, parts)
	defer f.Close()
	s, err := Listen(t.Context())
	require.NoError(t, err)
	defer s.Close()
	url, remove := s.Add(f)
	defer remove()
	_, err = f.ReadAt(t.Context(), make([]byte, 1), 0)
	require.NoError(t, err)
	fetch.fail.Store(true)
	_, _, err = get(t, url, "")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorIs(t, f.Err(), errAway)
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"", "bytes=0-", "bytes=1-2", "bytes=-5", "bytes=--", "bytes=9223372036854775807-9223372036854775807"} {
		f.Add(s, int64(1000))
	}
	f.Fuzz(func(t *testing.T, h string, size int64) {
		if size < 0 {
			return
		}
		start, end, _, err := parseRange(h, size)
		if err == nil && (start < 0 || end < start || end > size) {
			t.Fatalf("%q of %d: %d to %d", h, size, start, end)
		}
	})
}
