package creators

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/e2e/stack"
)

// video makes a small film of so many frames at 25 a second, and at least so
// many bytes: padded with random ones in a box that players skip, so that no two
// are equal and large ones still encode in a moment.
func video(t *testing.T, frames int, atLeast int64) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), fmt.Sprintf("%d-frames.mp4", frames))
	length := strconv.FormatFloat(float64(frames)/25, 'f', 3, 64)
	stack.FF(t, "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration="+length,
		"-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration="+length,
		"-frames:v", strconv.Itoa(frames), "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-movflags", "+faststart", out)
	f, err := os.OpenFile(out, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	st, err := f.Stat()
	require.NoError(t, err)
	pad := max(atLeast-st.Size(), 64)
	head := binary.BigEndian.AppendUint32(nil, uint32(pad))
	_, err = f.Write(append(head, "free"...))
	require.NoError(t, err)
	_, err = io.CopyN(f, rand.Reader, pad-8)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return out
}

// requireFrames counts the frames a viewer of a region gets. In the plain form: the
// ffmpeg family opens all pathways at once, also those of a region that hangs.
func (s *threeRegions) requireFrames(t *testing.T, region, asset string, want int) {
	t.Helper()
	require.Equal(t, want, stack.Frames(t, s.Region(region).Router.URL+"/v/-/"+asset+"/master.m3u8?steering=0"), "frames of %s", asset)
}

// requireSource puts the parts that the catalog names together again and
// compares them with the file.
func (s *threeRegions) requireSource(t *testing.T, asset, file string) {
	t.Helper()
	src, err := s.catalog(t).Source(t.Context(), asset)
	require.NoError(t, err)
	require.True(t, src.Complete)
	store := s.store(t)
	joined, want := sha256.New(), sha256.New()
	for _, p := range src.Parts {
		require.GreaterOrEqual(t, len(p.Regions), 2, "part %d is in %v", p.N, p.Regions)
		r, _, err := store.Get(t.Context(), src.Key(p), 0, -1, src.Placement)
		require.NoError(t, err)
		_, err = io.Copy(joined, r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
	}
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	_, err = io.Copy(want, f)
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString(want.Sum(nil)), hex.EncodeToString(joined.Sum(nil)), "SHA-256 of the source of %s", asset)
}

// ready waits until an asset can be watched in all renditions.
func ready(ctx context.Context, c *client.Client, asset string) error {
	return c.Follow(ctx, asset, func(a client.Asset) (bool, error) {
		if a.Failure != nil {
			return true, fmt.Errorf("asset %s failed: %s: %s", asset, a.Failure.Code, a.Failure.Detail)
		}
		return a.State == "ready", nil
	})
}

// watcher is a creator's own program at one API: plain requests, one after the
// other, reading and writing in turn.
type watcher struct {
	api, key, asset string
	http            *http.Client

	answers map[int]int
	// take is the number in the last title that was acknowledged.
	take int
	// longest is the longest time from one success to the next.
	longest time.Duration
	wrong   []string
}

const watchPause = 200 * time.Millisecond

// watch asks until ctx ends.
func (w *watcher) watch(ctx context.Context) {
	w.answers = map[int]int{}
	last := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		status, err := w.ask(ctx, n)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			w.wrong = append(w.wrong, err.Error())
		default:
			w.answers[status]++
		}
		if err == nil && status < 300 {
			if n%2 == 1 {
				w.take = n
			}
			w.longest = max(w.longest, time.Since(last))
			last = time.Now()
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchPause):
		}
	}
}

func (w *watcher) ask(ctx context.Context, n int) (int, error) {
	method, body := http.MethodGet, ""
	if n%2 == 1 {
		method, body = http.MethodPatch, `{"title": "Take `+strconv.Itoa(n)+`"}`
	}
	req, err := http.NewRequestWithContext(ctx, method, w.api+"/v1/assets/"+w.asset, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+w.key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	switch {
	case resp.StatusCode < 300:
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
	default:
		return 0, fmt.Errorf("%s: %s with Retry-After %q: %s", method, resp.Status, resp.Header.Get("Retry-After"), b)
	}
	return resp.StatusCode, nil
}

// paced is a slow line to a server: an upload over it is still under way when
// something happens.
func paced(t *testing.T, to string, bytesPerSecond int) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var conns sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { carry(ctx, c, strings.TrimPrefix(to, "http://"), bytesPerSecond) })
		}
	})
	t.Cleanup(func() {
		cancel()
		require.NoError(t, l.Close())
		conns.Wait()
	})
	return "http://" + l.Addr().String()
}

func carry(ctx context.Context, c net.Conn, to string, bytesPerSecond int) {
	defer c.Close()
	up, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", to)
	if err != nil {
		return
	}
	defer up.Close()
	stop := context.AfterFunc(ctx, func() { up.Close(); c.Close() })
	defer stop()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c, up) // however it ends, so does the connection
		c.Close()
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.CopyN(up, c, int64(bytesPerSecond/50)); err != nil {
			break
		}
		<-tick.C
	}
	up.Close()
	back.Wait()
}

var errNotYet = fmt.Errorf("not yet")
