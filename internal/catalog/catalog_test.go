package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dsn string) *Catalog {
	t.Helper()
	c, err := Open(dsn, 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func fresh(t *testing.T) *Catalog {
	t.Helper()
	c := open(t, testenv.Postgres(t))
	require.NoError(t, c.Migrate(t.Context()))
	return c
}

// sql runs a statement past the catalog, to make time pass or look inside.
func sql(t *testing.T, c *Catalog, statement string, args ...any) {
	t.Helper()
	_, err := c.leader.pool().Exec(t.Context(), statement, args...)
	require.NoError(t, err)
}

func one[T any](t *testing.T, c *Catalog, query string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, c.leader.pool().QueryRow(t.Context(), query, args...).Scan(&v))
	return v
}

// memory is a store that checks the write-once rule and can be made to fail.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	order   []string
	before  func(key string) error
	after   func(key string) error
}

func (m *memory) PutEverywhere(ctx context.Context, key string, body objects.Body) ([]string, error) {
	return m.Put(ctx, key, body, objects.Placement{})
}

func (m *memory) Put(_ context.Context, key string, body objects.Body, _ objects.Placement) ([]string, error) {
	b := make([]byte, body.Size)
	if _, err := body.R.ReadAt(b, 0); err != nil && body.Size > 0 {
		return nil, err
	}
	if m.before != nil {
		if err := m.before(key); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	have, ok := m.objects[key]
	if m.objects == nil {
		m.objects = map[string][]byte{}
	}
	if !ok {
		m.objects[key] = b
		m.order = append(m.order, key)
	}
	m.mu.Unlock()
	if ok && !bytes.Equal(have, b) {
		return nil, objects.ErrConflict
	}
	if m.after != nil {
		if err := m.after(key); err != nil {
			return nil, err
		}
	}
	return []string{"eu"}, nil
}

func (m *memory) get(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.objects[key]
}

func (m *memory) keys(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.Sorted(maps.Keys(m.objects))
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, prefix) })
}

// sink keeps events, each once, as NATS does by message id.
type sink struct {
	mu     sync.Mutex
	events []Event
	fail   error
}

func (s *sink) PublishEvent(_ context.Context, e Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	if !slices.ContainsFunc(s.events, func(have Event) bool { return have.ID == e.ID }) {
		s.events = append(s.events, e)
	}
	return nil
}

// types are the kinds of the events but progress, in order.
func (s *sink) types() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, e := range s.events {
		if e.Type != EventProgress {
			out = append(out, e.Type)
		}
	}
	return out
}

func newSigner(t *testing.T) *token.Signer {
	t.Helper()
	s, err := token.NewSigner("record-1")
	require.NoError(t, err)
	return s
}

// startPublisher runs a publisher until the test ends or stop is called.
func startPublisher(t *testing.T, c *Catalog, store Store, events EventSink) (stop func()) {
	t.Helper()
	p := &Publisher{Catalog: c, Objects: store, Events: events, Signer: newSigner(t), Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 15*time.Second, 20*time.Millisecond, what)
}

func hash(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }

// upload makes an asset whose source of two parts is complete, and returns its id.
func upload(t *testing.T, c *Catalog) string {
	t.Helper()
	ctx := t.Context()
	a, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Title: "A film", Region: "eu"})
	require.NoError(t, err)
	u, err := c.CreateUpload(ctx, NewUpload{Owner: "ann", Asset: a.ID, Size: 30, Filename: "a.mp4"})
	require.NoError(t, err)
	require.NoError(t, c.AppendPart(ctx, u.ID, Part{N: 0, ID: "x", Start: 0, Size: 20, SHA256: hash("0"), Regions: []string{"eu", "us"}}, false))
	require.NoError(t, c.AppendPart(ctx, u.ID, Part{N: 1, ID: "y", Start: 20, Size: 10, SHA256: hash("1"), Regions: []string{"eu", "us"}}, false))
	_, err = c.FinishUpload(ctx, u.ID)
	require.NoError(t, err)
	return a.ID
}

func claim(t *testing.T, c *Catalog, task string) Task {
	t.Helper()
	tk, err := c.Claim(t.Context(), task, "w", "")
	require.NoError(t, err, task)
	return tk
}

func video(id, track string, bandwidth int64) hls.Rendition {
	return hls.Rendition{ID: id, Track: track, Kind: hls.Video, Codecs: "avc1.64001f", Width: 640, Height: 360, Bandwidth: bandwidth}
}

func audio(id, track string) hls.Rendition {
	return hls.Rendition{ID: id, Track: track, Kind: hls.Audio, Codecs: "mp4a.40.2", Bandwidth: 140_000, Channels: 2, Default: true}
}

// testPlan has two chunks of video, one audio track and, if late, a track that joins later.
func testPlan(late bool) Plan {
	p := Plan{Target: 2, DurationMS: 6000, Frames: 180, Tracks: []PlanTrack{
		{ID: "v0", Kind: hls.Video, Timescale: 1000, Renditions: []hls.Rendition{video("v360", "v0", 900_000)},
			Chunks: []PlanChunk{{Start: 0, End: 2000, Frames: 60, Segments: 1}, {Start: 2000, End: 6000, Frames: 120, Segments: 2}}},
		{ID: "a0", Kind: hls.Audio, Timescale: 48000, Renditions: []hls.Rendition{audio("a0-aac128", "a0")}},
	}}
	if late {
		p.Tracks = append(p.Tracks, PlanTrack{ID: "v1", Kind: hls.Video, Late: true, Timescale: 1000, Renditions: []hls.Rendition{video("v1080", "v1", 6_000_000)},
			Chunks: []PlanChunk{{Start: 0, End: 6000, Frames: 180, Segments: 3}}})
	}
	return p
}

// chunk is a synthetic result of task t.
func chunk(t Task, n, segments int, last bool, rs ...hls.Rendition) ChunkCommit {
	timescale := int64(1000)
	if t.Kind == KindAudio {
		timescale = 48000
	}
	r := hls.Record{V: hls.RecordVersion, Asset: t.Asset, Run: t.RunName(), Track: t.Track, Chunk: n, Attempt: t.Attempt, Start: int64(n) * 2 * timescale,
		Timescale: timescale, Target: 2, Last: last, Renditions: map[string]hls.RenditionSegments{}}
	for _, d := range rs {
		seg := hls.RenditionSegments{Init: "init-01234567.mp4"}
		for i := range segments {
			seg.Segments = append(seg.Segments, hls.Segment{Duration: 2 * timescale, Bytes: int64(10_000 * (i + 1)), SHA256: strings.Repeat("ab", 32)})
		}
		r.Renditions[d.ID] = seg
	}
	return ChunkCommit{Record: r, Renditions: rs, Frames: int64(60 * segments)}
}

func commit(t *testing.T, c *Catalog, task Task, ch ChunkCommit) {
	t.Helper()
	_, _, err := c.CommitChunk(t.Context(), task, ch)
	require.NoError(t, err)
}

// plan commits testPlan for a fresh upload and returns the asset's id.
func planned(t *testing.T, c *Catalog, late bool) string {
	t.Helper()
	id := upload(t, c)
	require.NoError(t, c.CommitPlan(t.Context(), claim(t, c, id+"/r1/plan"), testPlan(late)))
	return id
}

func TestMigrateInSeveralProcessesAtOnce(t *testing.T) {
	dsn := testenv.Postgres(t)
	c := open(t, dsn)
	require.ErrorContains(t, c.Ready(t.Context()), "schema is at version 0")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			c, err := Open(dsn, 0, slog.New(slog.DiscardHandler))
			if err == nil {
				defer c.Close()
				err = c.Migrate(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, c.Ready(t.Context()))
}

func TestWithoutPostgres(t *testing.T) {
	c := open(t, "postgres://x:secret@127.0.0.1:1/none")
	require.ErrorIs(t, c.Ready(t.Context()), ErrUnavailable)
	_, err := c.CreateAsset(t.Context(), NewAsset{Owner: "ann", Region: "eu"})
	require.ErrorIs(t, err, ErrUnavailable)
	require.NotContains(t, err.Error(), "secret")
	_, err = c.GetAsset(t.Context(), "ann", "x")
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, c.Migrate(t.Context()), ErrUnavailable)

	_, err = Open("host=x password=secret", 0, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "want postgres://")
	require.NotContains(t, err.Error(), "secret")
}

// A leader that was demoted refuses writes on connections that still stand: they
// are left, and the write happens on the new leader.
func TestDemotedLeaderIsLeft(t *testing.T) {
	c := fresh(t)
	conn, err := c.leader.pool().Acquire(t.Context())
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "SET default_transaction_read_only = on")
	require.NoError(t, err)
	old := conn.Conn().PgConn().PID()
	conn.Release()
	_, err = c.CreateAsset(t.Context(), NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	conn, err = c.leader.pool().Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	require.NotEqual(t, old, conn.Conn().PgConn().PID())
}

func TestSessionReadsItsOwnWrites(t *testing.T) {
	c := fresh(t)
	s := ParseSession("")
	ctx := WithSession(t.Context(), s)
	require.Empty(t, s.Header())
	a, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	require.Regexp(t, `^[0-9A-F]+/[0-9A-F]+$`, s.Header())

	next := WithSession(t.Context(), ParseSession(s.Header()))
	got, err := c.GetAsset(next, "ann", a.ID)
	require.NoError(t, err)
	require.Equal(t, a.ID, got.ID)
	// A position no server has reached: the leader answers.
	_, err = c.GetAsset(WithSession(t.Context(), ParseSession("FFFF/0")), "ann", a.ID)
	require.NoError(t, err)
}

// What the nearest server doesn't have may be new, or it was cut off for a while: only the
// leader says that there is none.
func TestLeaderSaysWhatIsMissing(t *testing.T) {
	c := fresh(t)
	behind := open(t, testenv.Postgres(t))
	require.NoError(t, behind.Migrate(t.Context()))
	lagging := &Catalog{leader: c.leader, nearest: behind.leader, finder: c.finder, heard: c.heard, timeout: c.timeout, log: c.log}
	a, err := c.CreateAsset(t.Context(), NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	got, err := lagging.GetAsset(t.Context(), "ann", a.ID)
	require.NoError(t, err)
	require.Equal(t, a.ID, got.ID)
	_, err = lagging.GetAsset(t.Context(), "bob", a.ID)
	require.ErrorIs(t, err, ErrNotFound)
	held, err := lagging.Holdings(t.Context(), []string{a.ID, "nobody's"})
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.Contains(t, held, a.ID)
	_, err = lagging.GetAsset(t.Context(), "ann", NewID())
	require.ErrorIs(t, err, ErrNotFound)
}

func FuzzParseSession(f *testing.F) {
	for _, s := range []string{"0/16B3748", "", "x", "FFFFFFFF/FFFFFFFF", "0/0; DROP"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		h := ParseSession(header).Header()
		if h != "" {
			require.Equal(t, h, ParseSession(h).Header())
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add("MTAwIGFiYw")
	f.Add("!")
	f.Fuzz(func(t *testing.T, s string) {
		at, _, err := decodeCursor(s)
		if err == nil {
			require.Positive(t, at.Year())
		}
	})
}

func TestDSN(t *testing.T) {
	require.Equal(t, "postgres://meridian:p%40ss@a:1,b:2/meridian", Config{User: "meridian", Password: "p@ss", Database: "meridian"}.DSN("a:1,b:2"))
}

func TestKeys(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	key, secret, err := c.CreateKey(ctx, "ann", "laptop", RoleWrite)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(secret, key.Prefix))
	got, err := c.Authenticate(ctx, secret)
	require.NoError(t, err)
	require.Equal(t, key, got)
	require.True(t, got.Role.Allows(RoleRead))
	require.False(t, got.Role.Allows(RoleAdmin))
	require.False(t, Role("").Allows(RoleRead))

	for _, wrong := range []string{"", "mk_", secret + "x", strings.Repeat("x", 10_000)} {
		_, err = c.Authenticate(ctx, wrong)
		require.ErrorIs(t, err, ErrUnauthorized)
	}
	require.ErrorIs(t, c.RevokeKey(ctx, "bob", key.ID), ErrNotFound)
	require.NoError(t, c.RevokeKey(ctx, "ann", key.ID))
	_, err = c.Authenticate(ctx, secret)
	require.ErrorIs(t, err, ErrUnauthorized)

	bootstrap := KeyPrefix + strings.Repeat("a", 32)
	for range 2 {
		require.NoError(t, c.EnsureKey(ctx, "default", bootstrap))
	}
	got, err = c.Authenticate(ctx, bootstrap)
	require.NoError(t, err)
	require.Equal(t, RoleAdmin, got.Role)
	keys, err := c.Keys(ctx, "default")
	require.NoError(t, err)
	require.Len(t, keys, 1)
	require.ErrorContains(t, c.EnsureKey(ctx, "default", "mk_short"), "at least")
}

func TestPlanValidate(t *testing.T) {
	require.NoError(t, testPlan(true).validate())
	for want, change := range map[string]func(*Plan){
		"out of range":  func(p *Plan) { p.Target = 0 },
		"0 tracks":      func(p *Plan) { p.Tracks = nil },
		"used twice":    func(p *Plan) { p.Tracks[1].ID = "v0" },
		"want video":    func(p *Plan) { p.Tracks[0].Kind = "smell" },
		"timescale":     func(p *Plan) { p.Tracks[0].Timescale = 0 },
		"no renditions": func(p *Plan) { p.Tracks[0].Renditions = nil },
		"0 chunks":      func(p *Plan) { p.Tracks[0].Chunks = nil },
		"dense":         func(p *Plan) { p.Tracks[0].Chunks[1].Start = 2001 },
		"track's id":    func(p *Plan) { p.Tracks[0].Renditions[0].Track = "v9" },
		"late":          func(p *Plan) { p.Tracks[0].Late, p.Tracks[1].Late = true, true },
	} {
		p := testPlan(false)
		change(&p)
		require.ErrorContains(t, p.validate(), want)
	}
}

func TestMeasure(t *testing.T) {
	seg := func(ms, bytes int64) hls.Segment { return hls.Segment{Duration: ms, Bytes: bytes} }
	rec := func(segs ...hls.Segment) hls.Record {
		return hls.Record{Timescale: 1000, Renditions: map[string]hls.RenditionSegments{"v": {Segments: segs}}}
	}
	for name, c := range map[string]struct {
		records       []hls.Record
		peak, average int64
	}{
		"none":                        {nil, 0, 0},
		"even":                        {[]hls.Record{rec(seg(2000, 1000)), rec(seg(2000, 1000))}, 4000, 4000},
		"peak":                        {[]hls.Record{rec(seg(2000, 1000), seg(2000, 3000))}, 12000, 8000},
		"a short end is not its peak": {[]hls.Record{rec(seg(2000, 1000), seg(100, 1000))}, 7619, 7619},
		"only a short one":            {[]hls.Record{rec(seg(100, 100))}, 8000, 8000},
	} {
		peak, average := Measure(c.records, "v", 2)
		require.Equal(t, []int64{c.peak, c.average}, []int64{peak, average}, name)
	}
}

func TestMeasureKeys(t *testing.T) {
	rec := func(keys ...int64) hls.Record {
		r := hls.RenditionSegments{}
		for _, k := range keys {
			r.Segments = append(r.Segments, hls.Segment{Duration: 2000, Bytes: 10_000, Key: k})
		}
		return hls.Record{Timescale: 1000, Renditions: map[string]hls.RenditionSegments{"v": r}}
	}
	require.EqualValues(t, 12_000, measureKeys([]hls.Record{rec(1000, 3000), rec(500)}, "v", 2))
	require.Zero(t, measureKeys([]hls.Record{rec(1000), rec(500, 0)}, "v", 2), "of one segment no keyframe is known")
	require.Zero(t, measureKeys(nil, "v", 2))
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// TestArchiving: a server without a repository says so.
func TestArchiving(t *testing.T) {
	c := open(t, testenv.Postgres(t))
	a, err := c.Archiving(t.Context())
	require.NoError(t, err)
	require.Equal(t, Archiving{}, a)
}
