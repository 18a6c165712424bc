package edgecache

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func TestMasterGolden(t *testing.T) {
	stored, err := hls.Master(renditions)
	require.NoError(t, err)
	ses := session{token: "-", id: "sid"}
	for name, c := range map[string]struct {
		regions []string
		query   string
		place   objects.Placement
	}{
		"master-default":  {nil, "", objects.Placement{}},
		"master-pathways": {nil, "p=us-2,eu-1,mars-1,us-2,ap-1", objects.Placement{}},
		"master-pinned":   {nil, "p=us-1,ap-1", objects.Placement{Mode: objects.PlacePinned, Regions: []string{"eu", "ap"}}},
		"master-alone":    {[]string{"eu"}, "", objects.Placement{}},
		"master-plain":    {nil, "steering=0&p=us-1", objects.Placement{}},
		"master-router":   {nil, "p=eu-1,us-1,ap-1&r=ap", objects.Placement{}},
		// An unknown router is none.
		"master-plain-router": {nil, "steering=0&r=mars", objects.Placement{}},
	} {
		table, err := region.Loopback(c.regions...)
		require.NoError(t, err)
		self, here, ok := table.Edge("eu-1")
		require.True(t, ok)
		q, err := parseQuery(c.query)
		require.NoError(t, err)
		s := sites{table: table, self: self, here: here}
		b, err := s.master(stored, asset, "r1", ses, q, c.place)
		require.NoError(t, err)
		golden(t, name+".m3u8", b)
	}
}

func TestGrowingPlaylistNeverGoesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 2))
	rec := record0()
	m, err := hls.Master(renditions)
	require.NoError(t, err)
	w.put(objects.MasterKey(asset, "r1", 1), m)
	w.chunk(rec, "v0", 0, false)
	w.chunk(rec, "a0", 0, false)
	w.publish(rec)
	w.start("eu-1")

	const chunks = 6
	index := "/v/-/" + asset + "/r1/v360/index.m3u8"
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			shown := 0
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				res, err := http.Get(w.base + index)
				if err != nil {
					t.Error(err)
					return
				}
				var b strings.Builder
				_, err = fmt.Fprint(&b, readBody(res))
				if n := strings.Count(b.String(), "#EXTINF"); err != nil || res.StatusCode != 200 || n < shown || n > chunks {
					t.Errorf("status %d: %d segments after %d", res.StatusCode, n, shown)
					return
				} else {
					shown = n
				}
			}
		})
	}
	res, b := w.get(index)
	require.Equal(t, "max-age=1", res.Header.Get("Cache-Control"))
	require.Equal(t, hls.ContentType, res.Header.Get("Content-Type"))
	require.Contains(t, string(b), "#EXT-X-START:TIME-OFFSET=0,PRECISE=YES")
	require.NotContains(t, string(b), "#EXT-X-ENDLIST")
	res, _ = w.get(index, "If-None-Match", res.Header.Get("Etag"))
	require.Equal(t, 304, res.StatusCode)
	started := time.Now()
	for n := 1; n < chunks; n++ {
		w.chunk(rec, "v0", n, n == chunks-1)
		require.Eventually(t, func() bool { _, b := w.get(index); return strings.Count(string(b), "#EXTINF") == n+1 }, 5*time.Second, 20*time.Millisecond)
	}
	close(stop)
	wg.Wait()
	polls := w.proxies[0].gets(objects.RecordKey(asset, "r1", "v0", chunks-1))
	require.LessOrEqual(t, polls, int(time.Since(started)/pollInterval)+3, "asked once per interval, whatever the audience")

	res, b = w.get(index)
	require.Contains(t, string(b), "#EXT-X-ENDLIST")
	require.Equal(t, endedFor, res.Header.Get("Cache-Control"))
	before := w.proxies[0].gets(objects.RecordKey(asset, "r1", "v0", chunks))
	time.Sleep(pollInterval + 100*time.Millisecond)
	_, _ = w.get(index)
	require.Equal(t, before, w.proxies[0].gets(objects.RecordKey(asset, "r1", "v0", chunks)), "an ended playlist is kept")

	// The other rendition of the track, the audio track, and what isn't there.
	_, other := w.get("/v/-/" + asset + "/r1/v1080/index.m3u8")
	require.Equal(t, chunks, strings.Count(string(other), "#EXTINF"))
	_, audio := w.get("/v/-/" + asset + "/r1/a0-aac128/index.m3u8")
	require.Equal(t, 1, strings.Count(string(audio), "#EXTINF"))
	for _, r := range []string{"v720", "a1-aac128", "x9", "audio", "a123"} {
		res, _ := w.get("/v/-/" + asset + "/r1/" + r + "/index.m3u8")
		require.Equal(t, 404, res.StatusCode, r)
	}

	// Plain: every URI leads to a router outside the region, and every URI of the relative form works here.
	_, plain := w.get(index + "?steering=0")
	for line := range strings.Lines(string(plain)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			require.Regexp(t, `^http://127\.2\.0\.1:8081/v/-/`+asset+`/r1/v360/\d{5}-1/00000\.m4s$`, line)
		}
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if uri, ok := strings.CutPrefix(line, `#EXT-X-MAP:URI="`); ok {
			line = strings.TrimSuffix(uri, `"`)
		} else if strings.HasPrefix(line, "#") {
			continue
		}
		res, _ := w.get("/v/-/" + asset + "/r1/v360/" + line)
		require.Equal(t, 200, res.StatusCode, line)
	}
}

// TestRecordsComeFromOtherRegions: the own region lags behind.
func TestIFramePlaylist(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 2))
	w.video(record0(), 3)
	w.start("eu-1")
	res, b := w.get("/v/-/" + asset + "/r1/v1080/iframes.m3u8")
	require.Equal(t, 200, res.StatusCode, string(b))
	require.Equal(t, hls.ContentType, res.Header.Get("Content-Type"))
	require.Equal(t, endedFor, res.Header.Get("Cache-Control"))
	info, err := hls.CheckMedia(b)
	require.NoError(t, err)
	require.True(t, info.IFrames && info.Ended)
	require.Len(t, info.Segments, 3)
	require.Equal(t, int64(700), info.Segments[2].Length)
	_, media := w.get("/v/-/" + asset + "/r1/v1080/index.m3u8")
	require.NotContains(t, string(media), "BYTERANGE", "the rendition's two playlists were mistaken")
	res, b = w.get("/v/-/" + asset + "/r1/v1080/iframes.m3u8?steering=0")
	require.Equal(t, 200, res.StatusCode)
	require.Contains(t, string(b), "http://")

	// Where no keyframes are known, or can be, there is no such playlist.
	for _, rendition := range []string{"v360", "a0-aac128"} {
		res, _ := w.get("/v/-/" + asset + "/r1/" + rendition + "/iframes.m3u8")
		require.Equal(t, 404, res.StatusCode, rendition)
	}
}

func TestRecordsComeFromOtherRegions(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 2))
	rec := record0()
	w.small = true
	w.video(rec, 40) // several windows
	eu := w.store.In("eu")
	for n := 25; n < 40; n++ {
		require.NoError(t, eu.Delete(t.Context(), objects.RecordKey(asset, "r1", "v0", n)))
	}
	w.start("eu-1")
	// The first answer is the whole of a finished video, lag or not.
	for _, rendition := range []string{"v1080", "a0-aac128"} {
		_, b := w.get("/v/-/" + asset + "/r1/" + rendition + "/index.m3u8")
		require.Equal(t, 40, strings.Count(string(b), "#EXTINF"), rendition)
		require.Contains(t, string(b), "#EXT-X-ENDLIST", rendition)
	}
}
