package edgecache

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/load"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/testenv"
)

// TestNextSegmentIsBroughtAhead watches a video nobody has watched here: only its
// first segment is a miss.
func TestNextSegmentIsBroughtAhead(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	const chunks = 6
	w.video(record0(), chunks)
	w.start("eu-1")
	playlist := "/v/-/" + asset + "/r1/v1080/index.m3u8"
	w.get(playlist)
	h := w.edge.handler
	h.meter = load.New(load.Level("bandwidth", func() int64 { return 75 }, 100)) // whatever else runs here
	h.meter.Advance(time.Minute)
	for i := range chunks {
		res, b := w.get(segURL("-", i))
		require.Equal(t, w.content[segKey(i)], b)
		if i > 0 {
			require.Contains(t, res.Header.Get("Cache-Status"), "hit", i)
		}
		if i < chunks-1 {
			require.Eventually(t, func() bool { return w.proxies[0].gets(segKey(i+1)) == 1 && h.cache.Stats().Filling == 0 }, 20*time.Second, time.Millisecond, i)
		}
	}
	require.EqualValues(t, chunks-1, testutil.ToFloat64(h.metrics.ahead))
	for i := range chunks {
		require.Equal(t, 1, w.proxies[0].gets(segKey(i)), fmt.Sprint("segment ", i))
	}
	require.Zero(t, w.proxies[0].gets(segKey(chunks)), "there is no more")

	h.meter = load.New(load.Level("bandwidth", func() int64 { return 85 }, 100))
	h.meter.Advance(time.Minute)
	audio := func(i int) string {
		return objects.SegmentKey(asset, "r1", "a0-aac128", fmt.Sprintf("%05d-1/00000.m4s", i))
	}
	w.get("/v/-/" + asset + "/r1/a0-aac128/index.m3u8")
	for i := range chunks {
		before := w.proxies[0].gets(audio(i))
		w.get("/v/-/" + asset + "/r1/a0-aac128/" + fmt.Sprintf("%05d-1/00000.m4s", i))
		require.Equal(t, before+1, w.proxies[0].gets(audio(i)), "it was brought ahead although the bandwidth is in use")
	}
	require.EqualValues(t, chunks-1, testutil.ToFloat64(h.metrics.ahead))

	_, ok := h.composer.Next(asset, "r1", "v1080", "00000-2/00000.m4s")
	require.False(t, ok, "an attempt that lost")
	_, ok = h.composer.Next(foreign, "r1", "v1080", "00000-1/00000.m4s")
	require.False(t, ok, "nothing is known of it")
}
