package creators

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/repair"
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
func (s *threeRegions) send(t *testing.T, file string, bases ...string) *sending {
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
// those of the streams, while one creator uploads to it and another elsewhere. The
// standby that can't become leader has received more than the one that does.
func TestTheLeadingRegionIsLost(t *testing.T) {
	lost, asset, began := loseTheLeader(t, "kill", time.Minute)
	// It comes back with empty disks and is refilled.
	s := platform
	s.Regions(t, "start", lost, "--wipe-objects")
	s.requireKept(t)
	t.Run("refilled", func(t *testing.T) {
		testenv.Long(t)
		took := eventually(t, 2*time.Minute, func(ctx context.Context) error { return s.reconciled(ctx, t) })
		info, err := s.store(t).In(lost).Stat(t.Context(), objects.MasterKey(asset, "r1", 1))
		require.NoError(t, err)
		require.True(t, info.Modified.After(began), "made before its disks were lost")
		testenv.Figure(t, "empty region: refilled after it was back", "%.1f s", took.Seconds())
	})
}

// TestTheLeadingRegionHangs: connections to it are accepted and never answered.
func TestTheLeadingRegionHangs(t *testing.T) {
	testenv.Long(t)
	lost, _, _ := loseTheLeader(t, "hang", 2*time.Minute)
	s := platform
	s.Regions(t, "resume", lost)
	eventually(t, 3*time.Minute, func(ctx context.Context) error { return s.reconciled(ctx, t) })
	s.requireKept(t)
}

func loseTheLeader(t *testing.T, how string, within time.Duration) (lost, asset string, began time.Time) {
	s := platform
	began = time.Now()
	lost = s.leader(t)
	s.leadStreams(t, lost)
	home := s.others(lost)[0]
	t.Logf("%s leads and will be lost; a creator works in %s", lost, home)

	const frames, rate = 75, 4 << 20
	here := s.send(t, video(t, frames, 40<<20), paced(t, s.Region(home).API, rate))
	cut := s.send(t, video(t, frames+5, 40<<20), paced(t, s.Region(lost).API, rate), s.Region(home).API)
	hereAsset, cutAsset := <-here.started, <-cut.started
	// The first part of the one that will be cut is acknowledged.
	observer := s.client(t, s.Region(home).API)
	eventually(t, 20*time.Second, func(ctx context.Context) error { return received(ctx, observer, cutAsset, 1) })

	w := &watcher{api: s.Region(home).API, key: s.Key, asset: hereAsset, http: &http.Client{Timeout: 20 * time.Second}}
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { w.watch(ctx) })
	defer func() { stop(); watching.Wait() }()
	time.Sleep(time.Second) // some answers before
	who := s.standbys(t, lost)
	said := len(s.postgresLog(t, who.other))
	gone := s.leaveBehind(t, lost, who)
	s.Regions(t, how, lost)
	gone()

	require.Equal(t, hereAsset, here.becameReady(t, within))
	require.Equal(t, cutAsset, cut.becameReady(t, within), "the same asset goes on in the other region")
	stop()
	watching.Wait()
	t.Logf("answers at %s: %v; longest time without one: %v", home, w.answers, w.longest.Round(10*time.Millisecond))
	require.Empty(t, w.wrong, "worse than 503 with Retry-After")
	require.LessOrEqual(t, w.longest, outage)
	testenv.Figure(t, "leading region lost ("+how+"): longest time without a success", "%.1f s", w.longest.Seconds())
	require.Equal(t, who.sync, s.leader(t))
	require.True(t, strings.Contains(s.postgresLog(t, who.sync), "bytes of the log fetched from "+who.other))
	require.False(t, strings.Contains(s.postgresLog(t, who.other)[said:], "pg_rewind"), "the standby that was ahead needn't be wound back")

	s.requireSource(t, hereAsset, here.file)
	s.requireSource(t, cutAsset, cut.file)
	s.requireFrames(t, home, hereAsset, frames)
	s.requireFrames(t, home, cutAsset, frames+5)
	s.kept[hereAsset], s.kept[cutAsset] = w.take, 0
	return lost, hereAsset, began
}

// reconciled is nil when every store holds what the catalog says it must.
func (s *threeRegions) reconciled(ctx context.Context, t *testing.T) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	check := &repair.Check{Store: s.store(t), Catalog: s.catalog(t), Settled: time.Hour, Parallel: 1, Copies: s.Table.Copies()}
	report, err := check.Run(ctx)
	if err == nil {
		err = report.Err()
	}
	return err
}

// TestUploadsWhileRegionsDieInTurn uploads from every region while one after the
// other is killed and comes back.
func TestUploadsWhileRegionsDieInTurn(t *testing.T) {
	testenv.Long(t)
	dieInTurn(t, 6, 2)
}

func TestFiftyUploadsWhileRegionsDieInTurn(t *testing.T) {
	testenv.Long(t)
	dieInTurn(t, 50, 9)
}

func dieInTurn(t *testing.T, assets, kills int) {
	s := platform
	const frames, rate = 50, 3 << 20 / 2
	small := s.client(t, s.bases()...)
	removed, err := small.Upload(t.Context(), client.Upload{Path: video(t, frames, 0), StateDir: t.TempDir()})
	require.NoError(t, err)

	type upload struct {
		home string
		*sending
	}
	names := s.Table.Names()
	files := make([]string, assets)
	for i := range files {
		files[i] = video(t, frames+i, 10<<20)
	}
	uploads := make([]upload, assets)
	var sending sync.WaitGroup
	for r, home := range names {
		line := paced(t, s.Region(home).API, rate)
		var bases []string
		for _, other := range s.others(home) {
			bases = append(bases, s.Region(other).API)
		}
		sending.Go(func() {
			for i := r; i < assets; i += len(names) {
				uploads[i] = upload{home, s.send(t, files[i], append([]string{line}, bases...)...)}
				<-uploads[i].done
			}
		})
	}
	defer sending.Wait()
	time.Sleep(time.Second)
	for k := range kills {
		victim := names[k%len(names)]
		s.Regions(t, "kill", victim)
		if k == 0 {
			require.NoError(t, small.DeleteAsset(t.Context(), removed.Asset))
		}
		time.Sleep(5 * time.Second) // a while without it
		s.Regions(t, "start", victim)
	}
	sending.Wait()
	for i, u := range uploads {
		asset := u.becameReady(t, 2*time.Minute)
		s.requireFrames(t, u.home, asset, frames+i)
		s.requireSource(t, asset, files[i])
		s.kept[asset] = 0
	}
	s.requireKept(t)
	testenv.Figure(t, "uploads acknowledged and ready while regions die in turn", "%d of %d, %d kills", len(uploads), assets, kills)

	// What was deleted while a region was away is gone there too.
	store := s.store(t)
	eventually(t, 2*time.Minute, func(ctx context.Context) error {
		for _, b := range store.Regions() {
			for _, prefix := range []string{objects.SourcePrefix(removed.Asset), objects.RunPrefix(removed.Asset, "r1")} {
				if key, err := b.Last(ctx, prefix); !errors.Is(err, objects.ErrNotFound) {
					return fmt.Errorf("%s still has %s: %w", b.Region, key, err)
				}
			}
		}
		return nil
	})
	began := time.Now()
	eventually(t, 2*time.Minute, func(ctx context.Context) error { return s.reconciled(ctx, t) })
	testenv.Figure(t, "regions died in turn: stores and catalog agree", "%.1f s after the last asset was ready", time.Since(began).Seconds())
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
