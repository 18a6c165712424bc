package edgecache

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/load"
	"github.com/meridian-video/meridian/internal/geo/health"
	"github.com/meridian-video/meridian/internal/testenv"
)

// TestLoadAndShedding: probes are told the load; a saturated edge refuses what
// begins a session and nothing else.
func TestLoadAndShedding(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	res, _ := w.get(healthPath)
	require.Equal(t, 200, res.StatusCode)
	l, err := strconv.ParseFloat(res.Header.Get(health.LoadHeader), 64)
	require.NoError(t, err)
	require.GreaterOrEqual(t, l, 0.0)
	require.LessOrEqual(t, l, 2.0)
	require.GreaterOrEqual(t, w.edge.gate.traffic.Open.Load(), int64(1))
	// What was sent is counted once the system call has returned.
	require.Eventually(t, func() bool { return w.edge.gate.traffic.Sent.Load() >= 64<<10 }, 5*time.Second, time.Millisecond)

	master := "/v/-/" + asset + "/master.m3u8"
	require.Equal(t, 200, must(w.get(master)).StatusCode)
	full := load.New(load.Level("all", func() int64 { return 1 }, 1))
	full.Advance(time.Minute)
	w.edge.handler.meter = full
	res, b := w.get(master)
	require.Equal(t, 503, res.StatusCode)
	require.Equal(t, "5", res.Header.Get("Retry-After"))
	require.Contains(t, string(b), `"shed"`)
	require.Equal(t, "1.00", must(w.get(healthPath)).Header.Get(health.LoadHeader))
	for range 2 {
		require.Equal(t, 200, must(w.get(segURL("-", 0))).StatusCode)
		require.Equal(t, 200, must(w.get("/v/-/"+asset+"/r1/v1080/index.m3u8")).StatusCode)
	}
}

func must(res *http.Response, _ []byte) *http.Response { return res }

// TestDrain: routers are told, viewers are answered, and it can be taken back.
func TestDrain(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	mux := http.NewServeMux()
	w.edge.Operate(mux)
	ask := func(method string) int {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(method, "/drain", nil))
		return rec.Code
	}
	require.Equal(t, 405, ask(http.MethodGet))
	require.Equal(t, 200, must(w.get(healthPath)).StatusCode)
	require.Equal(t, 200, ask(http.MethodPost))
	res, b := w.get(healthPath)
	require.Equal(t, 503, res.StatusCode)
	require.Contains(t, string(b), `"draining"`)
	require.ErrorIs(t, w.edge.Ready(t.Context()), errDrained)
	require.Equal(t, 200, must(w.get(segURL("-", 0))).StatusCode)
	require.Equal(t, 200, must(w.get("/v/-/"+asset+"/master.m3u8")).StatusCode)
	require.Equal(t, 200, ask(http.MethodDelete))
	require.Equal(t, 200, must(w.get(healthPath)).StatusCode)
	require.NoError(t, w.edge.Ready(t.Context()))

	// Stopping gives the same notice where somebody plays.
	const notice = 3 * time.Second // time enough to look, on a busy machine too
	w.edge.drain.notice = notice
	stopped := make(chan struct{})
	started := time.Now()
	go func() { defer close(stopped); w.stop() }()
	require.Eventually(t, func() bool { return must(w.get(healthPath)).StatusCode == 503 }, notice, 5*time.Millisecond)
	require.Equal(t, 200, must(w.get(segURL("-", 0))).StatusCode)
	<-stopped
	require.GreaterOrEqual(t, time.Since(started), notice)
}

func TestNoticeIsForViewers(t *testing.T) {
	d := newDrainer(time.Hour, slog.New(slog.DiscardHandler))
	d.leave(t.Context())
	require.ErrorIs(t, d.ready(), errDrained)
	d = newDrainer(time.Hour, slog.New(slog.DiscardHandler))
	d.seen(time.Now().Add(-time.Minute))
	d.leave(t.Context())
}
