package jobs

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The S3 client's idle connections, which it has no way to close.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"))
}

// env is one control plane: a database, a NATS server, one region's store.
type env struct {
	t     *testing.T
	dsn   string
	cat   *catalog.Catalog
	nats  *testenv.NATSServer
	conn  *Conn
	store *objects.Store
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{t: t, dsn: testenv.Postgres(t)}
	var err error
	e.cat, err = catalog.Open(e.dsn, 0, quiet())
	require.NoError(t, err)
	t.Cleanup(e.cat.Close)
	require.NoError(t, e.cat.Migrate(t.Context()))
	e.nats, err = testenv.StartNATS(t.Context())
	require.NoError(t, err)
	t.Cleanup(e.nats.Stop)
	e.conn = e.connect()
	require.NoError(t, e.conn.Setup(t.Context()))
	e.store, _ = objectstest.New(t, 1)
	return e
}

// quiet is a log for tests; MERIDIAN_TEST_LOG shows it.
func quiet() *slog.Logger {
	if os.Getenv("MERIDIAN_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

func (e *env) connect() *Conn {
	c, err := Connect([]string{e.nats.URL}, 1, quiet())
	require.NoError(e.t, err)
	e.t.Cleanup(c.Close)
	return c
}

// start runs f until the test ends or stop is called.
func (e *env) start(f func(context.Context) error) (stop func()) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(e.t, <-done)
	})
	e.t.Cleanup(stop)
	return stop
}

func (e *env) startPublisher() {
	s, err := token.NewSigner("record-1")
	require.NoError(e.t, err)
	e.start((&catalog.Publisher{Catalog: e.cat, Objects: e.store, Events: e.conn, Signer: s, Log: quiet()}).Run)
}

func (e *env) startDispatcher(name string) (stop func()) {
	return e.start((&Dispatcher{Catalog: e.cat, Conn: e.conn, Name: name, Regions: []string{"eu", "us"}, Log: quiet()}).Run)
}

// distant is the database's DSN through a wire that takes delay each way.
func (e *env) distant(delay time.Duration) string {
	e.t.Helper()
	dsn, err := url.Parse(e.dsn)
	require.NoError(e.t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(e.t, err)
	to := dsn.Host
	var wires sync.WaitGroup
	carry := func(from, to net.Conn) {
		defer to.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			time.Sleep(delay)
			if _, werr := to.Write(b[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	wires.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			wires.Go(func() { carry(near, far) })
			wires.Go(func() { carry(far, near) })
		}
	})
	e.t.Cleanup(func() { require.NoError(e.t, l.Close()); wires.Wait() })
	dsn.Host = l.Addr().String()
	return dsn.String()
}

func (e *env) worker(region string, slots int, h Handler) *Worker {
	return &Worker{Catalog: e.cat, Conn: e.conn, Objects: e.store, Region: region, Regions: []string{"eu", "us"}, Slots: slots, Handle: h, Log: quiet()}
}

// sql runs a query past the catalog and returns its one value.
func sql[T any](e *env, query string, args ...any) T {
	e.t.Helper()
	conn, err := pgx.Connect(context.Background(), e.dsn)
	require.NoError(e.t, err)
	defer conn.Close(context.Background())
	var v T
	require.NoError(e.t, conn.QueryRow(context.Background(), query, args...).Scan(&v))
	return v
}

// upload makes an asset that is received.
func (e *env) upload(owner string) string { return e.uploadTo(owner, objects.Placement{}) }

func (e *env) uploadTo(owner string, p objects.Placement) string {
	e.t.Helper()
	ctx := e.t.Context()
	a, err := e.cat.CreateAsset(ctx, catalog.NewAsset{Owner: owner, Title: "x", Region: "eu", Placement: p})
	require.NoError(e.t, err)
	u, err := e.cat.CreateUpload(ctx, catalog.NewUpload{Owner: owner, Asset: a.ID, Size: 4})
	require.NoError(e.t, err)
	body := objects.Bytes([]byte("film"))
	_, err = e.store.Put(ctx, objects.PartKey(a.ID, 0, "p"), body, objects.Placement{})
	require.NoError(e.t, err)
	sum := sha256.Sum256([]byte("film"))
	require.NoError(e.t, e.cat.AppendPart(ctx, u.ID, catalog.Part{ID: "p", Size: 4, SHA256: sum[:], Regions: []string{"eu"}}, false))
	_, err = e.cat.FinishUpload(ctx, u.ID)
	require.NoError(e.t, err)
	return a.ID
}

func (e *env) state(id string) catalog.State {
	return catalog.State(sql[string](e, "SELECT state FROM assets WHERE id = $1", id))
}

func (e *env) eventually(what string, within time.Duration, ok func() bool) {
	e.t.Helper()
	require.Eventually(e.t, ok, within, 50*time.Millisecond, what)
}

var (
	v360 = hls.Rendition{ID: "v360", Track: "v0", Kind: hls.Video, Codecs: "avc1.64001f", Width: 640, Height: 360, Bandwidth: 900_000}
	a128 = hls.Rendition{ID: "a0-aac128", Track: "a0", Kind: hls.Audio, Codecs: "mp4a.40.2", Bandwidth: 140_000}
)

func filmPlan() Plan {
	return Plan{Target: 2, DurationMS: 6000, Frames: 180, Tracks: []PlanTrack{
		{ID: "v0", Kind: hls.Video, Timescale: 1000, Renditions: []hls.Rendition{v360},
			Chunks: []PlanChunk{{Start: 0, End: 2000, Frames: 60}, {Start: 2000, End: 4000, Frames: 60}, {Start: 4000, End: 6000, Frames: 60}}},
		{ID: "a0", Kind: hls.Audio, Timescale: 48000, Renditions: []hls.Rendition{a128}},
	}}
}

func result(t *Task, n int, last bool, d hls.Rendition) ChunkCommit {
	timescale := map[string]int64{"v0": 1000, "a0": 48000}[t.Track]
	return ChunkCommit{Renditions: []hls.Rendition{d}, Frames: 60, Record: hls.Record{V: hls.RecordVersion, Asset: t.Asset, Run: t.RunName(), Track: t.Track, Chunk: n,
		Attempt: t.Attempt, Start: int64(n) * 2 * timescale, Timescale: timescale, Target: 2, Last: last,
		Renditions: map[string]hls.RenditionSegments{d.ID: {Init: "init-01234567.mp4",
			Segments: []hls.Segment{{Duration: 2 * timescale, Bytes: 1000, SHA256: strings.Repeat("ab", 32)}}}}}}
}

// encode is a handler that "encodes" films.
func encode(ctx context.Context, t *Task) error {
	switch t.Kind {
	case catalog.KindPlan:
		return t.CommitPlan(ctx, filmPlan())
	case catalog.KindVideo:
		return t.CommitChunk(ctx, result(t, t.Chunk, t.Chunk == 2, v360))
	case catalog.KindExtra:
		return t.CommitExtras(ctx, hls.Extras{V: hls.ExtrasVersion, Asset: t.Asset, Run: t.RunName()})
	case catalog.KindAudio:
		done, err := t.CommittedChunks(ctx)
		if err != nil {
			return err
		}
		for n := len(done); n < 3; n++ {
			if err := t.CommitChunk(ctx, result(t, n, n == 2, a128)); err != nil {
				return err
			}
		}
		return nil
	}
	return Permanent(errors.New("unexpected kind"))
}
