package edgecache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	"golang.org/x/sync/errgroup"

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
	// reports counts requests in which CMCD is left.
	reports int
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
			if strings.Contains(strings.ToLower(r.RequestURI), "cmcd") {
				p.reports++
			}
			for name := range r.Header {
				if strings.HasPrefix(name, "Cmcd-") {
					p.reports++
				}
			}
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
	// small: segments have some bytes only.
	small bool

	// tune changes the edge's configuration; optional.
	tune func(*Command)
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
	var g errgroup.Group
	for _, bucket := range w.store.Regions() {
		g.Go(func() error { return bucket.Put(context.Background(), key, objects.Bytes(b)) })
	}
	require.NoError(w.t, g.Wait())
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
		size := segmentBytes
		if w.small {
			size = 1000
		}
		b := bytesOf(key, size)
		w.put(key, b)
		sum = sha256.Sum256(b)
		segment := hls.Segment{Duration: 2000, Bytes: int64(size), SHA256: hex.EncodeToString(sum[:])}
		if x.ID == "v1080" { // of the others no keyframes are known
			segment.Key = 700
		}
		rec.Renditions[x.ID] = hls.RenditionSegments{Init: name, Segments: []hls.Segment{segment}}
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

// command configures the edge of that name.
func (w *world) command(name string) *Command {
	w.t.Helper()
	_, r, ok := w.table.Edge(name)
	require.True(w.t, ok)
	return &Command{Edge: name, Listen: "127.0.0.1:0", CacheDir: w.dir, CacheMemory: 32 << 20, CacheDisk: 64 << 20, MaxConnections: 1000, ClientConnections: 1024, ClientFetches: 64, AssetFetches: 128, AccessSample: 1,
		GeoDatabase:   "../testdata/geo/GeoLite2-City-Test.mmdb",
		RootPublicKey: service.Secret(w.secret(token.RootPublicFile)), SessionKey: service.Secret(w.secret(token.SessionKeyFile(r.Name))), S3: w.cfg}
}

// start runs edge eu-1 (or the named one) and waits until it is ready.
func (w *world) start(name string) {
	w.t.Helper()
	c := w.command(name)
	if w.tune != nil {
		w.tune(c)
	}
	_, r, _ := w.table.Edge(name)
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
