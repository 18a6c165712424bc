package edgecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/load"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/testenv"
)

// TestDiskFails: an edge whose disk is lost serves on and says so, and uses it
// again by itself, without what was purged meanwhile.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	w.dir = filepath.Join(w.dir, "disk")
	w.video(record0(), 2)
	other := record0()
	other.Asset = foreign
	w.video(other, 1)
	w.start("eu-1")
	otherURL := "/v/-/" + foreign + "/r1/v1080/00000-1/00000.m4s"
	w.keep(segURL("-", 0), segURL("-", 1), otherURL)
	status := func() string {
		rec := httptest.NewRecorder()
		w.edge.status.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/status", nil))
		require.Equal(t, 200, rec.Code)
		return rec.Body.String()
	}
	metric := func(name string) float64 {
		families, err := w.edge.status.metrics.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == name {
				return f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatalf("there is no %s", name)
		return 0
	}
	require.NotContains(t, status(), "disk failures")
	away := w.dir + ".away"
	require.NoError(t, os.Rename(w.dir, away))
	w.purge(journal.Purge{N: 1, At: time.Now(), Assets: []journal.Void{{Asset: asset, N: 1}}})
	w.waitStatus(segURL("-", 0), 410)
	require.Eventually(t, func() bool { return w.edge.cache.Disk().Tries > 0 }, 10*time.Second, time.Millisecond)
	require.ErrorIs(t, w.edge.Ready(t.Context()), os.ErrNotExist)
	require.Equal(t, 200, must(w.get(otherURL)).StatusCode)
	require.Contains(t, status(), "<tr><td>disk has failed<td>for ")
	require.EqualValues(t, 1, metric("meridian_edge_disk_failed"))
	require.EqualValues(t, 1, metric("meridian_edge_disk_failures_total"))
	require.EqualValues(t, 0, metric("meridian_edge_disk_recoveries_total"))

	require.NoError(t, os.Rename(away, w.dir))
	require.Eventually(t, func() bool { return w.edge.Ready(context.Background()) == nil }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, 1, w.edge.cache.Stats().DiskObjects)
	require.Contains(t, status(), "<tr><td>disk failures<td>1, works again after 1")
	require.NotContains(t, status(), "disk has failed")
	require.EqualValues(t, 0, metric("meridian_edge_disk_failed"))
	require.EqualValues(t, 1, metric("meridian_edge_disk_recoveries_total"))

	// The checkpoint moves on with the next purge.
	w.purge(journal.Purge{N: 2, At: time.Now(), Assets: []journal.Void{{Asset: "cbcdefghijklmnopqrstuvwxyz", N: 1}}})
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(filepath.Join(w.dir, checkpointFile))
		return err == nil && string(b) == `{"n":2}`
	}, 10*time.Second, 10*time.Millisecond)
	w.stop()
	w.start("eu-1")
	require.Equal(t, 1, w.edge.cache.Stats().DiskObjects)
	require.Equal(t, 1, w.proxies[0].gets(segKey(0)))
	res, _ := w.get(segURL("-", 0))
	require.Equal(t, 200, res.StatusCode, "the record says nothing of the purge here")
	require.Contains(t, res.Header.Get("Cache-Status"), "fwd=uri-miss")
	require.Equal(t, 2, w.proxies[0].gets(segKey(0)), "it was purged from the disk, too")
}

// TestSentFromDisk: what memory has let go of is answered from the connection, says
// where it comes from, and has the next segment brought.
func TestSentFromDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 2)
	w.start("eu-1")
	w.keep(segURL("-", 0))
	w.stop()
	w.start("eu-1")
	get := func(want string) {
		res, b := w.get(segURL("-", 0))
		require.Equal(t, `"eu-1"; hit; detail=`+want, res.Header.Get("Cache-Status"))
		require.True(t, bytes.Equal(w.content[segKey(0)], b))
	}
	get("disk") // for the first time: it is verified
	require.Eventually(t, func() bool { return w.edge.cache.Filling() == 0 }, 10*time.Second, time.Millisecond)
	const size = 16 << 10                                         // leaves no room for the segment
	for i := range w.edge.cache.Stats().Capacity * 5 / 4 / size { // the disk has room for them, too
		other := fmt.Sprint("other", i)
		w.edge.cache.Put(other, cache.Info{}, make([]byte, size), false)
		for range 6 + i%2 { // more often than the segment, and some than others
			w.edge.cache.Hit([]byte(other), false)
		}
	}
	get("disk")
	fast := func() float64 {
		return testutil.ToFloat64(w.edge.handler.metrics.fast.WithLabelValues(kindSegment.String(), string(cache.Disk)))
	}
	w.edge.handler.meter = load.New() // whatever else runs here
	require.Zero(t, w.proxies[0].gets(segKey(1)))
	require.Equal(t, 200, must(w.get("/v/-/"+asset+"/r1/v1080/index.m3u8")).StatusCode)
	// By a connection of its own: one that net/http has may stay there. It is counted once
	// it is sent.
	require.Eventually(t, func() bool {
		client.CloseIdleConnections()
		_ = must(w.get(segURL("-", 0)))
		return fast() > 0
	}, 10*time.Second, 50*time.Millisecond)
	require.Eventually(t, func() bool { return w.proxies[0].gets(segKey(1)) > 0 }, 10*time.Second, time.Millisecond)
	for _, c := range []struct {
		method, tag string
		status      int
	}{{"HEAD", `"other"`, 200}, {"GET", "*", 304}} {
		client.CloseIdleConnections()
		before := fast()
		res, b := w.do(c.method, segURL("-", 0), "If-None-Match", c.tag)
		require.Equal(t, c.status, res.StatusCode)
		require.Equal(t, `"eu-1"; hit; detail=disk`, res.Header.Get("Cache-Status"))
		require.Empty(t, b)
		require.Eventually(t, func() bool { return fast() > before }, 10*time.Second, time.Millisecond)
	}
	require.Eventually(t, func() bool { // it is asked for more often now
		res, _ := w.get(segURL("-", 0))
		return res.Header.Get("Cache-Status") == `"eu-1"; hit; detail=memory`
	}, 10*time.Second, time.Millisecond)
}

func TestDiskRows(t *testing.T) {
	now := time.Now()
	require.Empty(t, diskRows(cache.DiskState{}, now))
	require.Equal(t, []statusRow{{"disk failures", "3, works again after 2"}, {"disk has failed", "for 10s, looked at 2 times, again in 4s: broken"}},
		diskRows(cache.DiskState{Err: errors.New("broken"), Since: now.Add(-10 * time.Second), Next: now.Add(4 * time.Second), Tries: 2, Failures: 3, Recoveries: 2}, now))
}
