package encoder

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/jobs"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// start runs f until the test ends or stop is called.
func start(t *testing.T, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// queue is a control plane of one process, and two object stores.
type queue struct {
	dsn, nats string
	cat       *catalog.Catalog
	conn      *jobs.Conn
	store     *objects.Store
	table     *region.Table
	s3        objects.Config
	transport *testenv.NATSServer

	// leader is the connection of sql.
	mu     sync.Mutex
	leader *pgx.Conn
}

// lookEvery is the time between two looks at what takes seconds: each look asks the database, at
// the expense of what is waited for, and several tests wait at a time.
const lookEvery = 200 * time.Millisecond

func newQueue(t *testing.T) *queue { return newQueueOn(t, testenv.Postgres(t)) }

func newQueueOn(t *testing.T, dsn string) *queue { return newQueueOver(t, dsn, testenv.S3(t, 2)) }

// newQueueOver has a NATS server of its own, so that tests may run side by side. The runs
// that are there at the test's end are validated then.
func newQueueOver(t *testing.T, dsn string, servers []testenv.S3Server) *queue {
	q := &queue{dsn: dsn}
	t.Cleanup(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		require.NoError(t, q.forget())
	})
	q.cat = q.other(t)
	require.NoError(t, q.cat.Migrate(t.Context()))
	log := slog.New(slog.DiscardHandler)
	nats, err := testenv.StartNATS(t.Context())
	require.NoError(t, err)
	t.Cleanup(nats.Stop)
	q.nats, q.transport = nats.URL, nats
	q.conn, err = jobs.Connect([]string{q.nats}, 1, log)
	require.NoError(t, err)
	t.Cleanup(q.conn.Close)
	require.NoError(t, q.conn.Setup(t.Context()))
	q.store, q.table = objectstest.Over(t, servers)
	q.s3 = objectstest.Config(servers[0])
	t.Cleanup(func() { q.checkRuns(t) })
	signer, err := token.NewSigner("record-1")
	require.NoError(t, err)
	start(t, (&catalog.Publisher{Catalog: q.cat, Objects: q.store, Events: q.conn, Signer: signer, Log: log}).Run)
	start(t, (&jobs.Dispatcher{Catalog: q.cat, Conn: q.conn, Name: "d", Regions: []string{"eu", "us"}, Log: log}).Run)
	return q
}

// other is the catalog as another process has it.
func (q *queue) other(t *testing.T) *catalog.Catalog {
	c, err := catalog.Open(q.dsn, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func (q *queue) worker(t *testing.T, region string, change func(*Options)) (stop func()) {
	return q.workerOf(t, region, change, func(*jobs.Worker) {})
}

// workerOf is a worker that pulls in another way.
func (q *queue) workerOf(t *testing.T, region string, change func(*Options), pulls func(*jobs.Worker)) (stop func()) {
	log := slog.New(slog.DiscardHandler)
	opt := testOptions(t)
	if change != nil {
		change(&opt)
	}
	e, err := New(t.Context(), q.store, opt, log, NewMetrics(prometheus.NewRegistry()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	w := &jobs.Worker{Catalog: q.cat, Conn: q.conn, Objects: q.store, Region: region, Regions: []string{"eu", "us"}, Slots: 2, Handle: e.handler(), Log: log}
	pulls(w)
	return start(t, w.Run)
}

func (q *queue) asset(t *testing.T, id string) catalog.Asset {
	a, err := q.cat.GetAsset(t.Context(), "o", id)
	require.NoError(t, err)
	return a
}

// begin opens an upload of size bytes.
func (q *queue) begin(t *testing.T, size int) (asset, upload string) {
	a, err := q.cat.CreateAsset(t.Context(), catalog.NewAsset{Owner: "o", Title: "x", Region: "eu"})
	require.NoError(t, err)
	u, err := q.cat.CreateUpload(t.Context(), catalog.NewUpload{Owner: "o", Asset: a.ID, Size: int64(size)})
	require.NoError(t, err)
	return a.ID, u.ID
}

// part stores one of an upload's parts through a process.
func (q *queue) part(t *testing.T, cat *catalog.Catalog, asset, upload string, n, at int, data []byte, early bool) {
	regions, err := q.store.Put(t.Context(), objects.PartKey(asset, n, "p"), objects.Bytes(data), objects.Placement{})
	require.NoError(t, err)
	sum := sha256.Sum256(data)
	require.NoError(t, cat.AppendPart(t.Context(), upload, catalog.Part{N: n, ID: "p", Start: int64(at), Size: int64(len(data)), SHA256: sum[:], Regions: regions}, early))
}

// upload stores a whole source in parts.
func (q *queue) upload(t *testing.T, data []byte) (asset string) {
	t.Helper()
	asset, up := q.begin(t, len(data))
	q.complete(t, asset, up, data)
	return asset
}

// complete stores all of an upload's parts.
func (q *queue) complete(t *testing.T, asset, upload string, data []byte) {
	t.Helper()
	const size = 500_000
	for n := 0; n*size < len(data); n++ {
		q.part(t, q.cat, asset, upload, n, n*size, data[n*size:min(len(data), (n+1)*size)], false)
	}
	_, err := q.cat.FinishUpload(t.Context(), upload)
	require.NoError(t, err)
}

// TestWorkersOnTheRealQueue: from received to ready over PostgreSQL, JetStream
// and two object stores, with one worker stopped in mid-run; and a broken file
// that fails with its reason. What viewers would see only ever grows meanwhile.
func TestWorkersOnTheRealQueue(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	cat, store := q.cat, q.store
	srt := filepath.Join(t.TempDir(), "film.srt")
	require.NoError(t, os.WriteFile(srt, []byte("1\n00:00:01,000 --> 00:00:02,000\nHello\n"), 0o600))
	film, err := os.ReadFile(makeFile(t, "film.mp4", "-i", mediaFile("small-426x240-27s.mp4"), "-i", srt, "-map", "0", "-map", "1", "-c", "copy", "-c:s", "mov_text"))
	require.NoError(t, err)
	good := q.upload(t, film)
	broken := q.upload(t, []byte(strings.Repeat("no video at all ", 5000)))
	asset := func(id string) catalog.Asset { return q.asset(t, id) }
	stop := q.worker(t, "eu", nil)
	ended := q.validates(t, good, "r1", "v0")
	stop()
	q.worker(t, "eu", nil)
	require.Eventually(t, func() bool { return asset(good).State == catalog.Ready }, 90*time.Second, lookEvery)
	require.Eventually(t, func() bool { return asset(broken).State == catalog.Failed }, 30*time.Second, lookEvery)
	require.Equal(t, "not-media", asset(broken).Failure.Code)
	ended()

	run, err := cat.RunPlan(t.Context(), good, 1)
	require.NoError(t, err)
	require.EqualValues(t, 816, run.Frames)
	require.Equal(t, hls.Text, run.Tracks[len(run.Tracks)-1].Kind)
	for _, tr := range run.Tracks {
		records, err := cat.CommittedChunks(t.Context(), good, 1, tr.ID)
		require.NoError(t, err)
		require.True(t, records[len(records)-1].Last)
		for _, r := range tr.Renditions {
			var data []byte
			at := int64(0)
			for _, rec := range records {
				require.Equal(t, at, rec.Start)
				at = rec.End()
				rs := rec.Renditions[r.ID]
				read := func(key string) []byte {
					// Two regions acknowledged it, so both have it.
					for _, b := range store.Regions() {
						_, err := b.Stat(t.Context(), key)
						require.NoError(t, err)
					}
					b, err := store.ReadAll(t.Context(), key, 1<<26, objects.Placement{})
					require.NoError(t, err)
					return b
				}
				if data == nil && rs.Init != "" {
					data = read(objects.InitKey(good, "r1", r.ID, rs.Init))
				}
				for n := range rs.Segments {
					data = append(data, read(objects.SegmentKey(good, "r1", r.ID, rec.SegmentPath(r.ID, n)))...)
				}
			}
			if tr.Kind == hls.Video {
				require.Equal(t, 816, decoded(t, data))
			}
			if tr.Kind == hls.Text {
				require.Contains(t, string(data), "00:00:01.000 --> 00:00:02.000\nHello\n")
			}
		}
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	table, err := region.Loopback("eu")
	require.NoError(t, err)
	b, err := table.Marshal()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "regions.yaml")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	good := Command{ScratchDir: "/scratch", MaxHeight: 1080, MaxDuration: time.Hour, Memory: 4096, MaxScratch: 1024}
	good.Regions, good.Region, good.AdminListen = path, "eu", "127.0.0.1:0"
	good.S3 = objects.Config{AccessKey: "a", SecretKey: "b", Bucket: "c"}
	require.NoError(t, good.Validate())

	bad := good
	bad.ScratchDir, bad.Slots, bad.Threads, bad.MaxHeight, bad.MaxDuration, bad.Nice, bad.Memory, bad.MaxScratch, bad.S3.Bucket =
		"relative", -1, 100, 1, 0, 20, 1, 1, ""
	bad.Confine = true
	err = bad.Validate()
	for _, flag := range []string{"--scratch-dir", "--slots", "--threads", "--max-height", "--max-duration", "--nice", "--memory", "--max-scratch", "--s3-bucket", "--child-user"} {
		require.ErrorContains(t, err, flag)
	}
}

func TestFlagsLimitProfiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profiles.yaml")
	require.NoError(t, os.WriteFile(path, []byte("version: 1\nprofiles:\n  - {name: plain, copy: false, per_title: {enabled: false}}\n"), 0o600))
	for _, allowed := range []bool{true, false} {
		c := Command{Profiles: path, MaxHeight: 720, Copy: allowed, PerTitle: allowed}
		all, err := c.profiles()
		require.NoError(t, err)
		require.Equal(t, allowed, all[plan.DefaultName].PerTitle.Enabled)
		require.Equal(t, allowed, all[plan.DefaultName].Copy)
		require.Equal(t, 720, all[plan.DefaultName].Rungs[0])
		require.False(t, all["plain"].PerTitle.Enabled)
		require.False(t, all["plain"].Copy)
	}
}

func TestScratchIsOneEncodersOwn(t *testing.T) {
	opt := testOptions(t)
	leftover := filepath.Join(opt.Scratch, "work", "remux-1", "source")
	require.NoError(t, os.MkdirAll(filepath.Dir(leftover), 0o700))
	require.NoError(t, os.WriteFile(leftover, []byte("x"), 0o600))
	log := slog.New(slog.DiscardHandler)
	e, err := New(t.Context(), newMemory(), opt, log, NewMetrics(prometheus.NewRegistry()))
	require.NoError(t, err)
	require.NoFileExists(t, leftover)
	_, err = New(t.Context(), newMemory(), opt, log, NewMetrics(prometheus.NewRegistry()))
	require.ErrorContains(t, err, "--scratch-dir")
	require.NoError(t, e.Close())
	e, err = New(t.Context(), newMemory(), opt, log, NewMetrics(prometheus.NewRegistry()))
	require.NoError(t, err)
	require.NoError(t, e.Close())
}
