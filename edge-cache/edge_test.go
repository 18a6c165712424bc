package edgecache

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/testenv"
)

func TestColdObjectIsFetchedOnce(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	var wg sync.WaitGroup
	var bad atomic.Int64
	for range 200 {
		wg.Go(func() {
			res, err := client.Get(w.base + segURL("-", 0))
			if err != nil {
				t.Error(err)
				return
			}
			b, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != 200 || !bytes.Equal(b, w.content[segKey(0)]) {
				if bad.Add(1) == 1 {
					t.Logf("status %d, %d bytes, %v: %.200q", res.StatusCode, len(b), err, b)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, bad.Load())
	require.Equal(t, 1, w.proxies[0].gets(segKey(0)))
	res, _ := w.get(segURL("-", 0))
	require.Equal(t, `"eu-1"; hit; detail=memory`, res.Header.Get("Cache-Status"))
	require.Equal(t, "public, max-age=31536000, immutable", res.Header.Get("Cache-Control"))
	require.Equal(t, "video/mp4", res.Header.Get("Content-Type"))
	require.NotEmpty(t, res.Header.Get("Age"))
	require.Equal(t, "*", res.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "*", res.Header.Get("Timing-Allow-Origin"))
	require.Equal(t, "Content-Range, Age, Cache-Status", res.Header.Get("Access-Control-Expose-Headers"))
}

func TestBytesPassWhileTheyArrive(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	p, want := w.proxies[0], w.content[segKey(0)]
	p.pace.Store(50_000)

	type opened struct {
		res *http.Response
		err error
	}
	ask := func(header string) chan opened {
		ch := make(chan opened, 1)
		req, err := http.NewRequest(http.MethodGet, w.base+segURL("-", 0), nil)
		require.NoError(t, err)
		if header != "" {
			req.Header.Set("Range", header)
		}
		go func() {
			res, err := client.Do(req)
			ch <- opened{res, err}
		}()
		return ch
	}
	whole := ask("")
	p.step <- struct{}{}
	a := <-whole
	require.NoError(t, a.err)
	got := make([]byte, 50_000)
	_, err := io.ReadFull(a.res.Body, got)
	require.NoError(t, err)
	require.Equal(t, want[:50_000], got)

	// A range that is here is answered at once, one that isn't when it comes.
	res, b := w.get(segURL("-", 0), "Range", "bytes=100-199")
	require.Equal(t, http.StatusPartialContent, res.StatusCode)
	require.Equal(t, want[100:200], b)
	late := ask("bytes=120000-120009")
	p.step <- struct{}{}
	select {
	case <-late:
		t.Fatal("answered before the bytes had arrived")
	case <-time.After(100 * time.Millisecond):
	}
	p.step <- struct{}{}
	l := <-late
	require.NoError(t, l.err)
	b, err = io.ReadAll(l.res.Body)
	require.NoError(t, err)
	require.NoError(t, l.res.Body.Close())
	require.Equal(t, want[120_000:120_010], b)

	// A viewer who leaves takes nothing from the others.
	second := <-ask("")
	require.NoError(t, second.err)
	require.NoError(t, a.res.Body.Close())
	p.step <- struct{}{}
	b, err = io.ReadAll(second.res.Body)
	require.NoError(t, err)
	require.NoError(t, second.res.Body.Close())
	require.True(t, bytes.Equal(want, b))
	require.Equal(t, 1, p.gets(segKey(0)))
}

func TestStoreLostIsReadElsewhere(t *testing.T) {
	t.Parallel()
	own := testenv.MinIO(t)
	others := testenv.S3(t, 2)
	for i := range others {
		others[i].Bucket = own.Bucket
	}
	require.Equal(t, own.AccessKey, others[0].AccessKey, "one key for all regions")
	w := newWorld(t, append([]testenv.S3Server{own.S3Server}, others...))
	w.video(record0(), 3)
	w.start("eu-1")
	res, b := w.get(segURL("-", 0))
	require.Equal(t, 200, res.StatusCode)
	require.True(t, bytes.Equal(w.content[segKey(0)], b))

	require.NoError(t, own.Kill())
	for n := range 3 {
		res, b = w.get(segURL("-", n))
		require.Equal(t, 200, res.StatusCode, n)
		require.True(t, bytes.Equal(w.content[segKey(n)], b))
	}
	res, b = w.get("/v/-/" + asset + "/master.m3u8")
	require.Equal(t, 200, res.StatusCode, string(b))
	res, b = w.get("/v/-/" + asset + "/r1/v1080/index.m3u8")
	require.Equal(t, 200, res.StatusCode, string(b))
	res, b = w.get(healthPath)
	require.Equal(t, 200, res.StatusCode)
	require.Len(t, b, objects.HealthSize)

	// What a region may have that doesn't answer isn't said to be nowhere.
	res, b = w.get(segURL("-", 9))
	require.Equal(t, 503, res.StatusCode, string(b))
	require.Equal(t, "1", res.Header.Get("Retry-After"))
}

func TestHungStoreCostsLittle(t *testing.T) {
	own := testenv.MinIO(t)
	others := testenv.S3(t, 1)
	others[0].Bucket = own.Bucket
	w := newWorld(t, []testenv.S3Server{own.S3Server, others[0]})
	w.video(record0(), 3)
	w.start("eu-1")
	for n := range 2 {
		_, _ = w.get(segURL("-", n))
	}
	require.NoError(t, own.Hang())
	defer func() { require.NoError(t, own.Resume()) }()
	// What is cached is answered fast although the record is due to be looked for.
	for until := time.Now().Add(4 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		started := time.Now()
		res, _ := w.get(segURL("-", 0))
		require.Equal(t, 200, res.StatusCode)
		require.Less(t, time.Since(started), 1500*time.Millisecond)
	}
	res, b := w.get(segURL("-", 2))
	require.Equal(t, 200, res.StatusCode)
	require.True(t, bytes.Equal(w.content[segKey(2)], b))
	started := time.Now()
	res, b = w.get("/v/-/" + asset + "/r1/v1080/index.m3u8")
	require.Equal(t, 200, res.StatusCode, string(b))
	require.Equal(t, 3, strings.Count(string(b), "#EXTINF"))
	require.Less(t, time.Since(started), 2500*time.Millisecond, "a player's patience with a playlist")
}

func TestRestartIsWarm(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 2)
	w.start("eu-1")
	for n := range 4 { // what is asked for once isn't written
		res, _ := w.get(segURL("-", n%2))
		require.Equal(t, 200, res.StatusCode)
	}
	w.stop()
	w.start("eu-1")
	for n := range 2 {
		res, b := w.get(segURL("-", n))
		require.Equal(t, `"eu-1"; hit; detail=disk`, res.Header.Get("Cache-Status"))
		require.True(t, bytes.Equal(w.content[segKey(n)], b))
		require.Equal(t, 1, w.proxies[0].gets(segKey(n)))
	}
}

func TestStopLetsResponsesFinish(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	p := w.proxies[0]
	p.pace.Store(segmentBytes / 2)
	got := make(chan error, 1)
	go func() {
		res, err := client.Get(w.base + segURL("-", 0))
		if err == nil {
			var b []byte
			b, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil && !bytes.Equal(b, w.content[segKey(0)]) {
				err = fmt.Errorf("%d wrong bytes", len(b))
			}
		}
		got <- err
	}()
	p.step <- struct{}{}
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.stop() }()
	require.Eventually(t, func() bool { // new connections are refused
		_, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(w.base + healthPath)
		return err != nil
	}, 5*time.Second, 10*time.Millisecond)
	p.step <- struct{}{}
	require.NoError(t, <-got)
	<-stopped
}

func TestGonePinnedAndUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 2))
	rec := record0()
	w.video(rec, 1)
	w.start("eu-1")
	res, _ := w.get(segURL("-", 0))
	require.Equal(t, 200, res.StatusCode)
	res, b := w.get("/v/-/" + foreign + "/master.m3u8")
	require.Equal(t, 404, res.StatusCode)
	require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"))
	require.JSONEq(t, `{"type":"about:blank","status":404,"title":"Not found","code":"not_found","detail":"There is no such video, or nothing of it can be played yet."}`, string(b))
	require.Equal(t, "*", res.Header.Get("Access-Control-Allow-Origin"))

	// Pinned elsewhere: sent there, and nothing is fetched here.
	pinned := rec
	pinned.Asset, pinned.Placement = foreign, objects.Placement{Mode: objects.PlacePinned, Regions: []string{"us"}}
	w.publish(pinned)
	path := "/v/-/" + foreign + "/r1/v1080/00000-1/00000.m4s"
	require.Eventually(t, func() bool { res, _ = w.get(path + "?x=1"); return res.StatusCode == 302 }, 10*time.Second, 50*time.Millisecond)
	require.Regexp(t, `^http://127\.2\.0\.[12]:8082`+path+`\?x=1$`, res.Header.Get("Location"))

	// Deleted: also what is in memory is gone.
	rec.N, rec.Deleted = 2, true
	w.publish(rec)
	require.Eventually(t, func() bool { res, _ = w.get(segURL("-", 0)); return res.StatusCode == 410 }, 10*time.Second, 50*time.Millisecond)
}

// TestBrokenBodyGoesOnElsewhere: the own store breaks off in mid-object. With
// another region the viewer gets all bytes; without, never a cut answer that
// looks whole, and nothing is kept.
func TestBrokenBodyGoesOnElsewhere(t *testing.T) {
	for regions := 1; regions <= 2; regions++ {
		t.Run(fmt.Sprint(regions), func(t *testing.T) {
			w := newWorld(t, testenv.S3(t, regions))
			w.video(record0(), 1)
			w.start("eu-1")
			w.proxies[0].cut.Store(70_000)
			res, err := client.Get(w.base + segURL("-", 0))
			require.NoError(t, err)
			b, err := io.ReadAll(res.Body)
			require.NoError(t, res.Body.Close())
			if regions == 2 {
				require.NoError(t, err)
				require.True(t, bytes.Equal(w.content[segKey(0)], b))
				return
			}
			require.True(t, res.StatusCode != 200 || err != nil, "%d bytes without an error", len(b))
			w.proxies[0].cut.Store(0)
			res, b = w.get(segURL("-", 0))
			require.Equal(t, 200, res.StatusCode)
			require.True(t, bytes.Equal(w.content[segKey(0)], b))
		})
	}
}

func TestObjectTooLargeToKeep(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.put(segKey(7), bytesOf("large", 5<<20)) // above an eighth of the memory
	w.start("eu-1")
	want := w.content[segKey(7)]
	for range 2 {
		res, b := w.get(segURL("-", 7))
		require.Equal(t, 200, res.StatusCode)
		require.Equal(t, `"eu-1"; fwd=bypass; detail=too-large`, res.Header.Get("Cache-Status"))
		require.True(t, bytes.Equal(want, b))
	}
	res, b := w.get(segURL("-", 7), "Range", "bytes=3000000-4000000")
	require.Equal(t, 206, res.StatusCode)
	require.True(t, bytes.Equal(want[3_000_000:4_000_001], b))
	res, b = w.get(segURL("-", 7), "Range", "bytes=4000000-4000009,10-19")
	require.Equal(t, 206, res.StatusCode)
	require.Contains(t, string(b), string(want[4_000_000:4_000_010]))
	require.Contains(t, string(b), string(want[10:20]))
	res, _ = w.do(http.MethodHead, segURL("-", 7))
	require.EqualValues(t, len(want), res.ContentLength)
	require.Less(t, w.edge.cache.Stats().Bytes, int64(1<<20))
}
