package edgecache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// The object store's idle connections stay open a minute; nothing else may.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const (
	asset   = "abcdefghijklmnopqrstuvwxyz"
	foreign = "bbcdefghijklmnopqrstuvwxyz"
)

// proxy stands between edge and store: it counts what is asked for and can make
// the store slow.
type proxy struct {
	url string
	mu  sync.Mutex
	got map[string]int // successful and other GETs by path below the bucket
	// pace is how many bytes of a body pass per step; 0 for all at once.
	pace atomic.Int64
	step chan struct{}
	// cut ends segments' bodies after so many bytes; 0 for never.
	cut atomic.Int64
}

func newProxy(t testing.TB, to string) *proxy {
	u, err := url.Parse(to)
	require.NoError(t, err)
	p := &proxy{got: map[string]int{}, step: make(chan struct{})}
	tr := &http.Transport{DisableCompression: true}
	rp := &httputil.ReverseProxy{Transport: tr, FlushInterval: -1, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host }, // the signature covers Host
		ModifyResponse: func(r *http.Response) error {
			if n := p.pace.Load(); n > 0 && r.Request.Method == http.MethodGet && strings.Contains(r.Request.URL.Path, ".m4s") {
				r.Body = &paced{ReadCloser: r.Body, p: p, n: n, ctx: r.Request.Context()}
			}
			if n := p.cut.Load(); n > 0 && r.Request.Method == http.MethodGet && strings.Contains(r.Request.URL.Path, ".m4s") {
				r.Body = &cut{ReadCloser: r.Body, left: n}
			}
			return nil
		}}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
			p.mu.Lock()
			p.got[key]++
			p.mu.Unlock()
		}
		rp.ServeHTTP(w, r)
	})}
	l := listen(t)
	p.url = "http://" + l.Addr().String()
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done; tr.CloseIdleConnections() })
	return p
}

func listen(t testing.TB) net.Listener {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

func (p *proxy) gets(key string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got[key]
}

type paced struct {
	io.ReadCloser
	p    *proxy
	n    int64
	left int64
	ctx  context.Context
}

func (b *paced) Read(to []byte) (int, error) {
	if b.left == 0 {
		select {
		case <-b.p.step:
			b.left = b.n
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
	n, err := b.ReadCloser.Read(to[:min(int64(len(to)), b.left)])
	b.left -= int64(n)
	return n, err
}

// cut is a body that breaks off.
type cut struct {
	io.ReadCloser
	left int64
}

func (c *cut) Read(to []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(to[:min(int64(len(to)), c.left)])
	c.left -= int64(n)
	return n, err
}

// world is a platform's stores with an edge in front of them.
type world struct {
	t       testing.TB
	table   *region.Table // as the edge sees it
	store   *objects.Store
	proxies []*proxy
	secrets string
	cfg     objects.Config
	dir     string
	content map[string][]byte // by key

	edge *edge
	base string
	stop func()
}

func newWorld(t testing.TB, servers []testenv.S3Server) *world {
	t.Helper()
	store, _ := objectstest.Over(t, servers)
	w := &world{t: t, store: store, secrets: t.TempDir(), cfg: objectstest.Config(servers[0]), dir: t.TempDir(), content: map[string][]byte{}}
	names := []string{"eu", "us", "ap"}[:len(servers)]
	table, err := region.Loopback(names...)
	require.NoError(t, err)
	for i, s := range servers {
		p := newProxy(t, s.Endpoint)
		w.proxies = append(w.proxies, p)
		table.Regions[i].S3 = p.url
	}
	w.table = table
	require.NoError(t, token.GenerateSecrets(w.secrets, names))
	for _, b := range store.Regions() {
		require.NoError(t, b.Put(context.Background(), objects.JournalKey(objects.KeysJournal, 1), objects.Bytes([]byte(w.secret(token.KeySetFile)))))
	}
	return w
}

func (w *world) secret(file string) string {
	b, err := os.ReadFile(filepath.Join(w.secrets, file))
	require.NoError(w.t, err)
	return strings.TrimSpace(string(b))
}

func (w *world) signer(file string) *token.Signer {
	s, err := token.ParseSigner(w.secret(file))
	require.NoError(w.t, err)
	return s
}

func (w *world) put(key string, b []byte) {
	w.t.Helper()
	for _, bucket := range w.store.Regions() {
		require.NoError(w.t, bucket.Put(context.Background(), key, objects.Bytes(b)))
	}
	w.content[key] = b
}

func bytesOf(key string, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(key))).Read(b)
	return b
}

func record0() playback.Record {
	return playback.Record{Asset: asset, N: 1, State: "ready", Run: "r1", Master: 1, Visibility: playback.Public, Title: "A film", Duration: 6}
}

func (w *world) publish(r playback.Record) {
	w.t.Helper()
	b, err := playback.Sign(r, w.signer(token.RecordKeyFile))
	require.NoError(w.t, err)
	w.put(objects.JournalKey(objects.PlaybackJournal(r.Asset), r.N), b)
}

var renditions = []hls.Rendition{
	{ID: "v1080", Track: "v0", Kind: hls.Video, Codecs: "avc1.640028", Width: 1920, Height: 1080, Bandwidth: 6_000_000},
	{ID: "v360", Track: "v0", Kind: hls.Video, Codecs: "avc1.64001e", Width: 640, Height: 360, Bandwidth: 900_000},
	{ID: "a0-aac128", Track: "a0", Kind: hls.Audio, Codecs: "mp4a.40.2", Bandwidth: 140_000, Language: "en", Name: "English", Channels: 2, Default: true},
}

const segmentBytes = 200_000

// chunk publishes one chunk of one segment: segments first, then the record.
func (w *world) chunk(r playback.Record, track string, n int, last bool) {
	w.t.Helper()
	rec := hls.Record{V: hls.RecordVersion, Asset: r.Asset, Run: r.Run, Track: track, Chunk: n, Attempt: 1, Start: int64(n) * 2000,
		Timescale: 1000, Target: 2, Last: last, Renditions: map[string]hls.RenditionSegments{}}
	for _, x := range renditions {
		if x.Track != track {
			continue
		}
		init := bytesOf("init"+x.ID, 900)
		sum := sha256.Sum256(init)
		name := "init-" + hex.EncodeToString(sum[:4]) + ".mp4"
		if n == 0 {
			w.put(objects.InitKey(r.Asset, r.Run, x.ID, name), init)
		}
		key := objects.SegmentKey(r.Asset, r.Run, x.ID, hls.SegmentPath(n, 1, 0))
		b := bytesOf(key, segmentBytes)
		w.put(key, b)
		sum = sha256.Sum256(b)
		rec.Renditions[x.ID] = hls.RenditionSegments{Init: name, Segments: []hls.Segment{{Duration: 2000, Bytes: segmentBytes, SHA256: hex.EncodeToString(sum[:])}}}
	}
	b, err := rec.Encode()
	require.NoError(w.t, err)
	w.put(objects.RecordKey(r.Asset, r.Run, track, n), b)
}

// video publishes a whole asset of n chunks.
func (w *world) video(r playback.Record, n int) {
	w.t.Helper()
	m, err := hls.Master(renditions)
	require.NoError(w.t, err)
	w.put(objects.MasterKey(r.Asset, r.Run, r.Master), m)
	for i := range n {
		w.chunk(r, "v0", i, i == n-1)
		w.chunk(r, "a0", i, i == n-1)
	}
	w.publish(r)
}

// start runs edge eu-1 (or the named one) and waits until it is ready.
func (w *world) start(name string) {
	w.t.Helper()
	_, r, ok := w.table.Edge(name)
	require.True(w.t, ok)
	c := &Command{Edge: name, Listen: "127.0.0.1:0", CacheDir: w.dir, CacheMemory: 32 << 20, CacheDisk: 64 << 20, MaxConnections: 1000, AccessSample: 1,
		GeoDatabase:   "../testdata/geo/GeoLite2-City-Test.mmdb",
		RootPublicKey: service.Secret(w.secret(token.RootPublicFile)), SessionKey: service.Secret(w.secret(token.SessionKeyFile(r.Name))), S3: w.cfg}
	e, err := newEdge(c, &service.Runtime{Region: r, Table: w.table, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	w.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			client.CloseIdleConnections()
			require.NoError(w.t, <-done)
		}
	}
	w.t.Cleanup(w.stop)
	require.Eventually(w.t, func() bool { return e.Ready(ctx) == nil }, 15*time.Second, 10*time.Millisecond)
	w.edge, w.base = e, "http://"+e.addr.Load().String()
}

// client follows no redirects and keeps bodies as they are.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (w *world) do(method, path string, header ...string) (*http.Response, []byte) {
	w.t.Helper()
	req, err := http.NewRequest(method, w.base+path, nil)
	require.NoError(w.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, res.Body.Close()) }()
	b, err := io.ReadAll(res.Body)
	require.NoError(w.t, err)
	return res, b
}

func (w *world) get(path string, header ...string) (*http.Response, []byte) {
	w.t.Helper()
	return w.do(http.MethodGet, path, header...)
}

func segURL(tok string, n int) string {
	return "/v/" + tok + "/" + asset + "/r1/v1080/" + hls.SegmentPath(n, 1, 0)
}

func segKey(n int) string { return objects.SegmentKey(asset, "r1", "v1080", hls.SegmentPath(n, 1, 0)) }

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
				bad.Add(1)
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
	for n := range 2 {
		res, _ := w.get(segURL("-", n))
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
