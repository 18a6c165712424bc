package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// upload is a source that arrives part by part.
type upload struct {
	mu    sync.Mutex
	parts []Part
	there int
	asked int
	err   error
}

func (u *upload) list(context.Context) ([]Part, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	return u.parts[:u.there], u.err
}

func (u *upload) arrive(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.there = n
}

func growing(t *testing.T, patience time.Duration, there int, sizes ...int) (*File, *upload, []byte) {
	fetch, parts, all := whole(sizes...)
	u := &upload{parts: parts, there: there}
	f := OpenGrowing(t.Context(), fetch, parts[:there], Growth{Size: int64(len(all)), Parts: u.list, Patience: patience})
	t.Cleanup(f.Close)
	return f, u, all
}

func TestReadsWaitForParts(t *testing.T) {
	f, u, all := growing(t, time.Minute, 1, blockSize+100, blockSize, 100)
	require.EqualValues(t, len(all), f.Size())
	require.EqualValues(t, blockSize, f.Readable(), "whole blocks only")
	require.EqualValues(t, 2*blockSize, f.Needed(blockSize+1))
	require.EqualValues(t, len(all), f.Needed(2*blockSize+1))
	got := make([]byte, len(all))
	n, err := f.ReadAt(t.Context(), got[:blockSize], 0)
	require.NoError(t, err)
	require.Equal(t, blockSize, n)
	require.Zero(t, u.asked, "what is there needs no question")

	var readers sync.WaitGroup
	for range 10 {
		readers.Go(func() {
			p := make([]byte, len(all))
			if n, err := f.ReadAt(t.Context(), p, 0); err != nil || n != len(all) || !bytes.Equal(all, p) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	u.arrive(2)
	require.Eventually(t, func() bool { return f.Readable() == 2*blockSize }, 10*time.Second, 10*time.Millisecond)
	u.arrive(3)
	readers.Wait()
	require.NoError(t, f.Err())
	require.NoError(t, f.Missing())
	require.Less(t, u.asked, 20, "one asks for all")
}

func TestMissingBytes(t *testing.T) {
	f, u, _ := growing(t, 50*time.Millisecond, 1, blockSize, blockSize, 100)
	_, err := f.ReadAt(t.Context(), make([]byte, 10), blockSize-5)
	var missing *MissingError
	require.ErrorAs(t, err, &missing)
	require.EqualValues(t, 2*blockSize, missing.Bytes)
	_, err = f.ReadAt(t.Context(), make([]byte, 10), 2*blockSize+50)
	require.ErrorAs(t, err, &missing)
	require.NoError(t, f.Err(), "nothing is broken")
	require.ErrorAs(t, f.Missing(), &missing)
	require.EqualValues(t, 2*blockSize+100, missing.Bytes, "the furthest")
	u.mu.Lock()
	u.err = errors.New("no leader")
	u.mu.Unlock()
	_, err = f.ReadAt(t.Context(), make([]byte, 10), blockSize)
	require.ErrorContains(t, err, "no leader")
	require.ErrorContains(t, f.Err(), "no leader")
}

func TestWaitsAreBoundedTogether(t *testing.T) {
	fetch, parts, all := whole(blockSize, blockSize, blockSize)
	u := &upload{parts: parts, there: 1}
	f := OpenGrowing(t.Context(), fetch, parts[:1], Growth{Size: int64(len(all)), Parts: u.list, Patience: time.Minute, Waits: 100 * time.Millisecond})
	defer f.Close()
	time.AfterFunc(50*time.Millisecond, func() { u.arrive(2) })
	_, err := f.ReadAt(t.Context(), make([]byte, 10), blockSize)
	if err == nil {
		_, err = f.ReadAt(t.Context(), make([]byte, 10), 2*blockSize)
	}
	var missing *MissingError
	require.ErrorAs(t, err, &missing)
}

// A connection gives what is there and waits with the rest; one that its reader leaves
// while it waits has missed nothing.
func TestServerOfAGrowingFile(t *testing.T) {
	f, u, all := growing(t, 30*time.Second, 1, blockSize, blockSize)
	s, err := Listen(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	url, remove := s.Add(f)
	defer remove()
	get := func(ctx context.Context) *http.Response {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		require.NoError(t, err)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		require.NoError(t, err)
		return resp
	}
	ctx, leave := context.WithCancel(t.Context())
	resp := get(ctx)
	require.EqualValues(t, len(all), resp.ContentLength)
	head := make([]byte, blockSize)
	_, err = io.ReadFull(resp.Body, head)
	require.NoError(t, err)
	require.True(t, bytes.Equal(all[:blockSize], head))
	leave()
	_ = resp.Body.Close() // was cancelled

	resp = get(t.Context())
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, head)
	require.NoError(t, err)
	u.arrive(2)
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(all[blockSize:], rest))
	require.NoError(t, f.Missing())
}
