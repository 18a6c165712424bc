package creators

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/testenv"
)

// outage is the longest a creator may be refused.
const outage = 15 * time.Second

// sending is an upload under way.
type sending struct {
	file    string
	client  *client.Client
	started chan string
	result  client.Result
	err     error
	done    chan struct{}
}

// send uploads a file through the given bases.
func (s *stack) send(t *testing.T, file string, bases ...string) *sending {
	t.Helper()
	u := &sending{file: file, client: s.client(t, bases...), started: make(chan string, 1), done: make(chan struct{})}
	dir := t.TempDir()
	go func() {
		defer close(u.done)
		u.result, u.err = u.client.Upload(t.Context(), client.Upload{Path: file, StateDir: dir, Started: func(asset string, _ int64, _ bool) { u.started <- asset }})
	}()
	t.Cleanup(func() { <-u.done })
	return u
}

// becameReady waits for the upload and its asset's end.
func (u *sending) becameReady(t *testing.T, within time.Duration) string {
	t.Helper()
	select {
	case <-u.done:
	case <-time.After(within):
		t.Fatalf("the upload isn't done after %v", within)
	}
	require.NoError(t, u.err)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	require.NoError(t, ready(ctx, u.client, u.result.Asset))
	return u.result.Asset
}

// TestTheLeadingRegionIsLost loses the region that holds PostgreSQL's leader and
// those of the streams, while one creator uploads to it and another elsewhere.
func TestTheLeadingRegionIsLost(t *testing.T) {
	s := platform
	lost := s.leader(t)
	s.leadStreams(t, lost)
	home := s.others(lost)[0]
	t.Logf("%s leads and will be lost; a creator works in %s", lost, home)

	const frames, rate = 75, 4 << 20
	here := s.send(t, video(t, frames, 40<<20), paced(t, s.region(home).API, rate))
	cut := s.send(t, video(t, frames+5, 40<<20), paced(t, s.region(lost).API, rate), s.region(home).API)
	hereAsset, cutAsset := <-here.started, <-cut.started
	// The first part of the one that will be cut is acknowledged.
	observer := s.client(t, s.region(home).API)
	eventually(t, 20*time.Second, func(ctx context.Context) error { return received(ctx, observer, cutAsset, 1) })

	w := &watcher{api: s.region(home).API, key: s.key, asset: hereAsset, http: &http.Client{Timeout: 20 * time.Second}}
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { w.watch(ctx) })
	defer func() { stop(); watching.Wait() }()
	time.Sleep(time.Second) // some answers before
	s.regions(t, "kill", lost)

	require.Equal(t, hereAsset, here.becameReady(t, 90*time.Second))
	require.Equal(t, cutAsset, cut.becameReady(t, 90*time.Second), "the same asset goes on in the other region")
	stop()
	watching.Wait()
	t.Logf("answers at %s: %v; longest time without one: %v", home, w.answers, w.longest.Round(10*time.Millisecond))
	require.Empty(t, w.wrong, "worse than 503 with Retry-After")
	require.LessOrEqual(t, w.longest, outage)
	testenv.Figure(t, "leading region killed: longest time without a success", "%.1f s", w.longest.Seconds())

	s.requireSource(t, hereAsset, here.file)
	s.requireSource(t, cutAsset, cut.file)
	s.requireFrames(t, home, hereAsset, frames)
	s.requireFrames(t, home, cutAsset, frames+5)
	s.regions(t, "start", lost, "--wipe-objects")
}

// received is nil once so many bytes of an asset are acknowledged.
func received(ctx context.Context, c *client.Client, asset string, atLeast int64) error {
	a, err := c.Asset(ctx, asset)
	if err != nil {
		return err
	}
	if a.Progress == nil || a.Progress.BytesReceived < atLeast {
		return errNotYet
	}
	return nil
}
