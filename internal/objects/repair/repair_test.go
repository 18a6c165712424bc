package repair

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// The object store's idle connections stay open a minute; nothing else may.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// fakeCatalog knows what a test tells it, while it is up.
type fakeCatalog struct {
	mu       sync.Mutex
	down     bool
	holdings map[string]catalog.Holding
	remains  map[string]catalog.Remains
	repeated []string
	winners  map[string]string // group → fence
}

var errDown = errors.New("no leader")

func (c *fakeCatalog) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *fakeCatalog) Holdings(_ context.Context, ids []string) (map[string]catalog.Holding, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return nil, errDown
	}
	out := map[string]catalog.Holding{}
	for _, id := range ids {
		if h, ok := c.holdings[id]; ok {
			out[id] = h
		}
	}
	return out, nil
}

func (c *fakeCatalog) Remains(_ context.Context, ids []string) (map[string]catalog.Remains, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return nil, errDown
	}
	out := map[string]catalog.Remains{}
	for _, id := range ids {
		if _, ok := c.holdings[id]; ok {
			out[id] = c.remains[id]
		}
	}
	return out, nil
}

func (c *fakeCatalog) RepeatCleanup(_ context.Context, task string) error {
	c.set(func() { c.repeated = append(c.repeated, task) })
	return nil
}

func (c *fakeCatalog) winner(group string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return "", errDown
	}
	if w, ok := c.winners[group]; ok {
		return w, nil
	}
	return "", catalog.ErrNotFound
}

func (c *fakeCatalog) ChunkWinner(_ context.Context, asset string, run int, rendition string, chunk int) (int, error) {
	w, err := c.winner(fmt.Sprintf("streams/%s/r%d/%s/%05d", asset, run, rendition, chunk))
	n := 0
	if err == nil {
		_, err = fmt.Sscan(w, &n)
	}
	return n, err
}

func (c *fakeCatalog) PartWinner(_ context.Context, asset string, n int) (string, error) {
	return c.winner(fmt.Sprintf("sources/%s/parts/%05d", asset, n))
}

// world is a platform's stores.
type world struct {
	t       *testing.T
	table   *region.Table
	cfg     objects.Config
	servers []testenv.S3Server
	stores  map[string]*objects.Store
	catalog *fakeCatalog
	signer  *token.Signer
	keys    *token.KeySet
	want    map[string][]byte
	metrics map[string]*Metrics
}

func newWorld(t *testing.T, servers []testenv.S3Server) *world {
	t.Helper()
	for i := range servers {
		servers[i].Bucket = servers[0].Bucket
	}
	eu, table := objectstest.Over(t, servers)
	signer, err := token.NewSigner("record-1")
	require.NoError(t, err)
	w := &world{t: t, table: table, cfg: objectstest.Config(servers[0]), servers: servers, signer: signer, want: map[string][]byte{}, metrics: map[string]*Metrics{},
		stores:  map[string]*objects.Store{"eu": eu},
		catalog: &fakeCatalog{holdings: map[string]catalog.Holding{}, remains: map[string]catalog.Remains{}, winners: map[string]string{}},
		keys:    &token.KeySet{N: 1, Keys: []token.Key{{KID: signer.KID, Use: token.UseRecord, Public: signer.Public(), NotAfter: time.Now().Add(time.Hour)}}}}
	for _, name := range table.Names()[1:] {
		w.stores[name], err = objects.New(table, name, w.cfg, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
	}
	return w
}

// repair makes the loop of a region.
func (w *world) repair(name string) *Repair {
	m := NewMetrics(prometheus.NewRegistry())
	w.metrics[name] = m
	return New(Config{Interval: time.Second, Collect: time.Hour, Parallel: 8, Bandwidth: 1000},
		Deps{Store: w.stores[name], Catalog: w.catalog, Keys: func() *token.KeySet { return w.keys }, Log: slog.New(slog.DiscardHandler), Metrics: m})
}

// run runs the loops of regions until the test ends or stop is called.
func (w *world) run(names ...string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, name := range names {
		r := w.repair(name)
		running.Go(func() {
			if err := r.Run(ctx); err != nil {
				w.t.Error(err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(stop)
	return stop
}

func content(key string, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(key))).Read(b)
	return b
}

// put writes an object as its writer in a region does.
func (w *world) put(writer, key string, b []byte, p objects.Placement) {
	w.t.Helper()
	_, err := w.stores[writer].Put(context.Background(), key, objects.Bytes(b), p)
	require.NoError(w.t, err)
	w.want[key] = b
}

// asset writes a whole small asset and returns its id.
func (w *world) asset(writer string, p objects.Placement) string {
	w.t.Helper()
	id := token.NewID()
	w.catalog.set(func() { w.catalog.holdings[id] = catalog.Holding{Placement: p} })
	for _, key := range []string{
		objects.PartKey(id, 0, "x"), objects.PartKey(id, 1, "y"), objects.RemuxKey(id, "r1", 0, 1),
		objects.InitKey(id, "r1", "v360", "init-01234567.mp4"),
		objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(0, 1, 0)), objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(0, 1, 1)),
		objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(1, 2, 0)), objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(2, 1, 0)),
		objects.RecordKey(id, "r1", "v0", 0), objects.RecordKey(id, "r1", "v0", 1), objects.MasterKey(id, "r1", 1),
	} {
		w.put(writer, key, content(key, 5000+len(w.want)), p)
	}
	w.record(writer, playback.Record{Asset: id, N: 1, State: "ready", Run: "r1", Master: 1, Visibility: playback.Public, Placement: p})
	return id
}

func (w *world) record(writer string, r playback.Record) {
	w.t.Helper()
	b, err := playback.Sign(r, w.signer)
	require.NoError(w.t, err)
	w.put(writer, objects.JournalKey(objects.PlaybackJournal(r.Asset), r.N), b, objects.Placement{})
}

// held returns the keys a region's store lists.
func (w *world) held(name string) map[string]bool {
	out := map[string]bool{}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.stores[name].Own().List(ctx, "", "", func(i objects.Info) bool { out[i.Key] = true; return true }); err != nil {
		w.t.Logf("listing %s: %v", name, err)
	}
	return out
}

// misplaced says what isn't as placement asks for; nil when all is.
func (w *world) misplaced() []string {
	held := map[string]map[string]bool{}
	for _, name := range w.table.Names() {
		held[name] = w.held(name)
	}
	var out []string
	for key := range w.want {
		o, ok := classify(key)
		require.True(w.t, ok, key)
		w.catalog.mu.Lock()
		p := w.catalog.holdings[o.asset].Placement
		w.catalog.mu.Unlock()
		allowed, have := 0, 0
		for _, name := range w.table.Names() {
			if o.reach == everywhere || p.Allows(name) {
				allowed++
				if held[name][key] {
					have++
				}
			} else if held[name][key] {
				out = append(out, key+" is outside, in "+name)
			}
		}
		want := allowed
		if o.reach == twice || o.reach == placed && p.Mode == objects.PlaceTwo {
			want = min(2, allowed)
		}
		if have < want {
			out = append(out, fmt.Sprintf("%s: %d of %d", key, have, want))
		}
	}
	slices.Sort(out)
	return out
}

func (w *world) settled(within time.Duration) {
	w.t.Helper()
	var last []string
	ok := false
	for deadline := time.Now().Add(within); !ok && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		last = w.misplaced()
		ok = len(last) == 0
	}
	require.True(w.t, ok, "%d objects misplaced: %v", len(last), last[:min(10, len(last))])
}

func (w *world) same(name string) {
	w.t.Helper()
	for key := range w.held(name) {
		if want, ok := w.want[key]; ok {
			got, err := w.stores[name].Own().ReadAll(context.Background(), key, 1<<20)
			require.NoError(w.t, err)
			require.True(w.t, bytes.Equal(want, got), key)
		}
	}
}

func pinned(regions ...string) objects.Placement {
	return objects.Placement{Mode: objects.PlacePinned, Regions: regions}
}

func TestPlacementAndRefill(t *testing.T) {
	servers := []*testenv.MinIOServer{testenv.MinIO(t), testenv.MinIO(t), testenv.MinIO(t)}
	w := newWorld(t, []testenv.S3Server{servers[0].S3Server, servers[1].S3Server, servers[2].S3Server})
	two := objects.Placement{Mode: objects.PlaceTwo}
	w.put("eu", "purges/0000000001.json", []byte("p"), objects.Placement{})
	for i := range 6 {
		w.asset([]string{"eu", "us", "ap"}[i%3], objects.Placement{})
		w.asset([]string{"eu", "us", "ap"}[i%3], two)
		w.asset("us", pinned("us"))
		w.asset("ap", pinned("eu", "ap"))
	}
	stop := w.run("eu", "us", "ap")
	w.settled(40 * time.Second)
	for _, name := range w.table.Names() {
		w.same(name)
	}
	twoCopies := 0
	for key := range w.want {
		if o, _ := classify(key); o.reach == placed && w.catalog.holdings[o.asset].Placement.Mode == objects.PlaceTwo {
			for _, name := range w.table.Names() {
				if w.held(name)[key] {
					twoCopies++
				}
			}
			break
		}
	}
	require.Equal(t, 2, twoCopies, "nobody makes a copy too many")

	// A region dies, life goes on, its disk is replaced.
	require.NoError(t, servers[0].Kill())
	for range 4 {
		w.asset("us", objects.Placement{})
		w.asset("ap", two)
		w.asset("us", pinned("us"))
	}
	require.NoError(t, servers[0].Wipe())
	started := time.Now()
	require.NoError(t, servers[0].Start(t.Context()))
	w.settled(60 * time.Second)
	t.Logf("refilled %d objects in %v", len(w.held("eu")), time.Since(started))
	w.same("eu")
	require.True(t, w.held("eu")["health/eu.bin"])
	stop()

	// The same without a catalog, by what playback records say. Where there is none
	// yet, an upload waits: it may be pinned.
	require.NoError(t, servers[2].Kill())
	fresh := token.NewID()
	w.catalog.set(func() {
		w.catalog.down = true
		w.catalog.holdings[fresh] = catalog.Holding{Placement: two}
	})
	part := objects.PartKey(fresh, 0, "x")
	require.NoError(t, w.stores["us"].Own().Put(t.Context(), part, objects.Bytes([]byte(part))))
	w.want[part] = []byte(part)
	require.NoError(t, servers[2].Wipe())
	require.NoError(t, servers[2].Start(t.Context()))
	stop = w.run("eu", "us", "ap")
	waiting := []string{part + ": 1 of 2"}
	require.Eventually(t, func() bool { return slices.Equal(waiting, w.misplaced()) }, 60*time.Second, 200*time.Millisecond)
	w.catalog.set(func() { w.catalog.down = false })
	w.settled(60 * time.Second)
	stop()
	for name, m := range w.metrics {
		require.Zero(t, testutil.CollectAndCount(m.alarms), name)
	}
}

// TestHungRegion: a region that hangs is left out, and the pass ends with what
// the others have.
func TestHungRegion(t *testing.T) {
	servers := []*testenv.MinIOServer{testenv.MinIO(t), testenv.MinIO(t), testenv.MinIO(t)}
	w := newWorld(t, []testenv.S3Server{servers[0].S3Server, servers[1].S3Server, servers[2].S3Server})
	id := w.asset("ap", objects.Placement{}) // in ap and us or eu
	for key, b := range w.want {
		require.NoError(t, w.stores["ap"].Own().Put(t.Context(), key, objects.Bytes(b)))
	}
	require.NoError(t, servers[1].Hang())
	r := w.repair("eu")
	started := time.Now()
	r.Hint(id, true)
	prefix, settled, ok := r.nextHint()
	require.Equal(t, []any{objects.StreamPrefix(id), false, true}, []any{prefix, settled, ok})
	r.look(t.Context(), prefix, settled)
	require.Less(t, time.Since(started), 25*time.Second)
	require.True(t, w.held("eu")[objects.MasterKey(id, "r1", 1)])

	// By the full pass too, which leaves alone what may still be on its way.
	time.Sleep(time.Until(started.Add(young)))
	_, err := r.fullPass(t.Context())
	require.NoError(t, err)
	s := r.Status()
	require.Equal(t, []string{"us"}, s.Skipped)
	require.Equal(t, 1, s.Passes)
	require.Zero(t, s.Behind)
	for key := range w.want {
		if o, _ := classify(key); o.reach != twice {
			require.True(t, w.held("eu")[key], key)
		}
	}
}

// TestReachedAgain: a store that was out of reach, longer than it takes to notice, has
// a pass start as soon as it is back.
func TestReachedAgain(t *testing.T) {
	servers := []*testenv.MinIOServer{testenv.MinIO(t), testenv.MinIO(t)}
	w := newWorld(t, []testenv.S3Server{servers[0].S3Server, servers[1].S3Server})
	r := w.repair("eu")
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { r.watchOther(ctx, r.regions[1]) })
	require.NoError(t, servers[1].Hang())
	select {
	case <-r.kick:
		t.Fatal("it isn't back")
	case <-time.After(watchEvery + watchTimeout + time.Second):
	}
	require.NoError(t, servers[1].Resume())
	select {
	case <-r.kick:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody noticed")
	}
}

// damage stores bytes under a hash that isn't theirs, as a bad disk would.
func (w *world) damage(name, key string, claimed, b []byte) {
	w.t.Helper()
	i := slices.Index(w.table.Names(), name)
	raw, err := minio.New(strings.TrimPrefix(w.servers[i].Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(w.servers[i].AccessKey, w.servers[i].SecretKey, "")})
	require.NoError(w.t, err)
	meta := map[string]string{}
	if claimed != nil {
		meta["Sha256"] = fmt.Sprintf("%x", sha256.Sum256(claimed))
	}
	_, err = raw.PutObject(context.Background(), w.servers[i].Bucket, key, bytes.NewReader(b), int64(len(b)), minio.PutObjectOptions{UserMetadata: meta})
	require.NoError(w.t, err)
}

func TestDamagedObjectsAreNotCopied(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 3))
	id := token.NewID()
	w.catalog.holdings[id] = catalog.Holding{}
	good := content("good", 300_000)
	bad := slices.Clone(good)
	bad[150_000] ^= 1
	both := objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(0, 1, 0))
	only := objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(0, 1, 1))
	bare := objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(0, 1, 2))
	empty := objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(0, 1, 3))
	w.damage("us", both, good, bad)
	require.NoError(t, w.stores["ap"].Own().Put(t.Context(), both, objects.Bytes(good)))
	w.damage("us", only, good, bad)
	w.damage("us", bare, nil, good)
	require.NoError(t, w.stores["us"].Own().Put(t.Context(), empty, objects.Bytes(nil)))

	r := w.repair("eu")
	r.look(t.Context(), objects.StreamPrefix(id), false)
	held := w.held("eu")
	require.True(t, held[both] && held[empty])
	require.False(t, held[only] || held[bare])
	got, err := w.stores["eu"].Own().ReadAll(t.Context(), both, 1<<20)
	require.NoError(t, err)
	require.True(t, bytes.Equal(good, got))
	m := w.metrics["eu"]
	require.Equal(t, 2.0, testutil.ToFloat64(m.alarms.WithLabelValues("damaged", "us")))
	require.Equal(t, 1.0, testutil.ToFloat64(m.alarms.WithLabelValues("no_hash", "us")))
	require.Equal(t, 1.0, testutil.ToFloat64(m.objects.WithLabelValues("ap")))

	// Two objects under one key are seen by their sizes.
	odd := objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(0, 1, 4))
	require.NoError(t, w.stores["us"].Own().Put(t.Context(), odd, objects.Bytes(good)))
	require.NoError(t, w.stores["eu"].Own().Put(t.Context(), odd, objects.Bytes(good[1:])))
	r.look(t.Context(), objects.StreamPrefix(id), false)
	require.Equal(t, 1.0, testutil.ToFloat64(m.alarms.WithLabelValues("conflict", "eu")))
}

// TestGoneAssetsStayGone: nothing of a deleted asset is copied but its tombstone.
func TestGoneAssetsStayGone(t *testing.T) {
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprintf("catalog down %v", down), func(t *testing.T) {
			w := newWorld(t, testenv.S3(t, 3))
			id := w.asset("us", objects.Placement{})
			w.record("us", playback.Record{Asset: id, N: 2, Deleted: true})
			w.catalog.holdings[id] = catalog.Holding{Gone: true}
			w.catalog.down = down
			require.NoError(t, w.stores["eu"].DeletePrefix(t.Context(), "")) // in all regions: all was written to two
			for key, b := range w.want {
				require.NoError(t, w.stores["us"].Own().Put(t.Context(), key, objects.Bytes(b)))
			}
			w.repair("eu").look(t.Context(), objects.StreamPrefix(id), false)
			for key := range w.held("eu") {
				require.Contains(t, key, "/playback/")
			}
			require.Len(t, w.held("eu"), 2)
		})
	}
}

func TestCollect(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	ctx := t.Context()
	own := w.stores["eu"].Own()
	kept, gone, stranger := w.asset("eu", objects.Placement{}), w.asset("eu", objects.Placement{}), token.NewID()
	lost := objects.SegmentKey(kept, "r1", "v360", hls.SegmentPath(1, 1, 0)) // attempt 2 won
	later := objects.SegmentKey(kept, "r1", "v360", hls.SegmentPath(1, 10, 0))
	open := objects.SegmentKey(kept, "r1", "v360", hls.SegmentPath(2, 3, 0)) // nobody has won
	part := objects.PartKey(kept, 1, "z")
	strange := objects.SegmentKey(stranger, "r1", "v360", hls.SegmentPath(0, 1, 0))
	foreign := "something/else"
	for _, key := range []string{lost, later, open, part, strange, foreign} {
		require.NoError(t, own.Put(ctx, key, objects.Bytes([]byte(key))))
	}
	w.catalog.winners["streams/"+kept+"/r1/v360/00001"] = "2"
	w.catalog.winners["sources/"+kept+"/parts/00001"] = "y"
	w.catalog.remains[gone] = catalog.Remains{Tasks: map[string][]string{"again": {objects.SourcePrefix(gone), objects.RunPrefix(gone, "r1")}}}
	r := w.repair("eu")
	all := w.held("eu")
	without := func(keys ...string) map[string]bool {
		out := map[string]bool{}
		for key := range all {
			if !slices.Contains(keys, key) {
				out[key] = true
			}
		}
		return out
	}

	w.catalog.down = true
	require.ErrorIs(t, r.search(ctx, time.Now().Add(48*time.Hour)), errDown)
	require.Equal(t, all, w.held("eu"), "without a leader nothing is deleted")
	w.catalog.down = false
	require.NoError(t, r.search(ctx, time.Now()))
	require.Equal(t, all, w.held("eu"), "all too young")
	require.NoError(t, r.search(ctx, time.Now().Add(2*time.Hour)))
	require.Equal(t, without(lost, later), w.held("eu"))
	require.NoError(t, r.search(ctx, time.Now().Add(25*time.Hour)))
	require.Equal(t, without(lost, later, part, strange), w.held("eu"))
	require.Equal(t, []string{"again", "again", "again"}, w.catalog.repeated, "once a search, and the janitor decides")

	// A catalog that knows next to nothing isn't believed.
	require.NoError(t, own.Put(ctx, strange, objects.Bytes([]byte(strange))))
	delete(w.catalog.holdings, kept)
	require.ErrorContains(t, r.search(ctx, time.Now().Add(25*time.Hour)), "by hand")
	require.True(t, w.held("eu")[strange])
	require.Equal(t, 1.0, testutil.ToFloat64(w.metrics["eu"].alarms.WithLabelValues("unknown", "eu")))
}

// TestGrowthIsFollowed: what an encode brings reaches the third region long before
// the next pass, and what is still on its writer's way is left to the writer, and
// looked at again.
func TestGrowthIsFollowed(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 3))
	id := w.asset("eu", objects.Placement{})
	key := objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(0, 1, 0))
	r := w.repair("ap")
	now := time.Now()
	r.Grew(id)
	r.Grew(id)
	r.due(now.Add(growPause - time.Second))
	_, _, ok := r.nextHint()
	require.False(t, ok, "not yet")
	r.due(time.Now().Add(growPause))
	prefix, settled, ok := r.nextHint()
	require.Equal(t, []any{objects.StreamPrefix(id), true, true}, []any{prefix, settled, ok})
	_, _, again := r.nextHint()
	require.False(t, again, "many signs make one look")
	r.look(t.Context(), prefix, settled)
	require.False(t, w.held("ap")[key], "too young")
	time.Sleep(time.Until(now.Add(growPause)))
	r.due(time.Now().Add(time.Second))
	prefix, settled, ok = r.nextHint()
	require.Equal(t, []any{objects.StreamPrefix(id), true, true}, []any{prefix, settled, ok})
	r.look(t.Context(), prefix, settled)
	require.True(t, w.held("ap")[key])
	r.due(time.Now().Add(time.Hour))
	_, _, again = r.nextHint()
	require.False(t, again, "nothing is young")
}

// TestYoungObjectsAreLookedAtAgain after a full pass, not by the next one.
func TestYoungObjectsAreLookedAtAgain(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 3))
	id := w.asset("eu", objects.Placement{})
	r := w.repair("ap")
	_, err := r.fullPass(t.Context())
	require.NoError(t, err)
	r.due(time.Now().Add(growPause))
	var prefixes []string
	for prefix, settled, ok := r.nextHint(); ok; prefix, settled, ok = r.nextHint() {
		require.True(t, settled)
		prefixes = append(prefixes, prefix)
	}
	// Parts of the source are where they are to be: in two regions.
	require.Equal(t, []string{objects.StreamPrefix(id)}, prefixes)
}
