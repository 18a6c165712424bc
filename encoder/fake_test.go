package encoder

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

const asset = "aaaaaaaaaaaaaaaaaaaaaaaaaa"

// memory is a store of one region, write-once like the real one.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	gets    int
	// broken makes reads of sources fail.
	broken bool
}

func newMemory() *memory { return &memory{objects: map[string][]byte{}} }

func (m *memory) Put(_ context.Context, key string, body objects.Body, _ objects.Placement) ([]string, error) {
	b, err := io.ReadAll(io.NewSectionReader(body.R, 0, body.Size))
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.objects[key]; ok && !bytes.Equal(old, b) {
		return nil, fmt.Errorf("put %s: %w", key, objects.ErrConflict)
	}
	m.objects[key] = b
	return []string{"eu"}, nil
}

func (m *memory) Get(_ context.Context, key string, offset, length int64, _ objects.Placement) (io.ReadCloser, objects.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	b, ok := m.objects[key]
	if !ok || m.broken {
		return nil, objects.Info{}, fmt.Errorf("get %s: %w", key, objects.ErrNotFound)
	}
	end := int64(len(b))
	if length >= 0 {
		end = min(end, offset+length)
	}
	return io.NopCloser(bytes.NewReader(b[offset:end])), objects.Info{Key: key, Size: int64(len(b))}, nil
}

// board stands for the catalog: one run's plan and its committed chunks.
type board struct {
	mu     sync.Mutex
	source catalog.Source
	plan   *catalog.Plan
	chunks map[string]map[int]hls.Record
	extras *hls.Extras
	// codecs by rendition, as the first chunks told.
	codecs map[string]string
	// profile asked for; empty for the default.
	profile string
	// failures is what tasks claim to have failed before.
	failures int
	// awaited are the bytes that tasks given back wait for.
	awaited []int64
	// offered, if set, is called for every plan that is offered while it grows.
	offered func(catalog.Plan) error
}

// claim is one attempt on the board.
type claim struct {
	b      *board
	t      catalog.Task
	frames int64
	// drained: the worker was told to go on.
	drained atomic.Bool
}

func (c *claim) Source(context.Context) (catalog.Source, error) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	return c.b.source, nil
}
func (c *claim) Plan(context.Context) (catalog.Plan, error) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.b.plan == nil {
		return catalog.Plan{}, catalog.ErrNotFound
	}
	return *c.b.plan, nil
}
func (c *claim) Finish(context.Context) error { return nil }
func (c *claim) Await(_ context.Context, bytes int64) error {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.awaited = append(c.b.awaited, bytes)
	return nil
}
func (c *claim) Profile(context.Context) (string, error) {
	return cmp.Or(c.b.profile, plan.DefaultName), nil
}
func (c *claim) Draining()        { c.drained.Store(true) }
func (c *claim) Progress(n int64) { c.frames = max(c.frames, n) }

func (c *claim) CommitExtras(_ context.Context, x hls.Extras) error {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.extras = &x
	return x.Validate()
}

func (c *claim) CommittedChunks(context.Context) ([]hls.Record, error) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	var out []hls.Record
	for i := 0; ; i++ {
		r, ok := c.b.chunks[c.t.Track][i]
		if !ok {
			return out, nil
		}
		out = append(out, r)
	}
}

func (c *claim) CommitPlan(_ context.Context, p catalog.Plan) error {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.plan = &p
	return nil
}

func (c *claim) GrowPlan(ctx context.Context, p catalog.Plan, bytes int64) error {
	// As it is stored.
	var stored catalog.Plan
	b, err := json.Marshal(p)
	if err == nil {
		err = json.Unmarshal(b, &stored)
	}
	err = errors.Join(err, c.CommitPlan(ctx, stored))
	if err != nil || p.State != catalog.PlanOffered {
		return errors.Join(err, c.Await(ctx, bytes))
	}
	if c.b.offered != nil {
		return c.b.offered(stored)
	}
	return nil
}

func (c *claim) CommitChunk(_ context.Context, ch catalog.ChunkCommit) error {
	if err := ch.Record.Validate(); err != nil {
		return err
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.b.chunks[ch.Record.Track] == nil {
		c.b.chunks[ch.Record.Track] = map[int]hls.Record{}
	}
	c.b.chunks[ch.Record.Track][ch.Record.Chunk] = ch.Record
	for _, r := range ch.Renditions {
		c.b.codecs[r.ID] = r.Codecs
	}
	return nil
}

// bench is an encoder with its surroundings in memory.
type bench struct {
	*Encoder
	store *memory
	board *board
}

func mediaFile(name string) string { return filepath.Join("..", "testdata", "media", name) }

func testOptions(t testing.TB) Options {
	p := plan.Default(2)
	p.Preset = "ultrafast"
	p.Rungs = []int{360, 240}
	return Options{Profile: p, Source: probe.DefaultLimits(), Scratch: t.TempDir(), Confine: true, User: "nobody", Speed: plan.Speed{Pixels: 1e12},
		Child: ffmpeg.Limits{Nice: 5, AddressSpace: 8 << 30, FileSize: 1 << 30, Wall: time.Minute, Idle: 30 * time.Second}}
}

func newBench(t testing.TB, file string, change func(*Options)) *bench {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return newBenchBytes(t, b, change)
}

// newBenchBytes stores a source in three parts. What is committed until the test's end is
// validated then.
func newBenchBytes(t testing.TB, data []byte, change func(*Options)) *bench {
	t.Helper()
	m := newMemory()
	src := catalog.Source{Asset: asset, Size: int64(len(data)), Complete: true}
	for n, start := 0, 0; start < len(data); n++ {
		size := min(len(data)-start, max(1, len(data)/3+1))
		p := catalog.Part{N: n, ID: "x", Start: int64(start), Size: int64(size)}
		m.objects[src.Key(p)] = data[start : start+size]
		src.Parts = append(src.Parts, p)
		start += size
	}
	opt := testOptions(t)
	if change != nil {
		change(&opt)
	}
	e, err := New(context.Background(), m, opt, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})), NewMetrics(prometheus.NewRegistry()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	e.loudnessLimit = 5 * time.Minute // on a machine that does much else
	b := &bench{Encoder: e, store: m, board: &board{source: src, chunks: map[string]map[int]hls.Record{}, codecs: map[string]string{}}}
	t.Cleanup(func() { checkStream(t, b) })
	return b
}

func (b *bench) task(kind catalog.Kind, track string, chunk, attempt int) Task {
	t := catalog.Task{ID: fmt.Sprintf("%s/r1/%s/%05d", asset, track, chunk), Asset: asset, Run: 1, Kind: kind, Track: track, Chunk: chunk,
		Attempt: attempt, Failures: b.board.failures}
	if kind == catalog.KindVideo {
		for _, tr := range b.board.plan.Tracks {
			if tr.ID == track {
				t.Spec, _ = json.Marshal(tr.Chunks[chunk])
			}
		}
	}
	return Task{Task: t, Claim: &claim{b: b.board, t: t}}
}

// encode plans and does every task, in order.
func (b *bench) encode(t testing.TB) catalog.Plan {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	require.NoError(t, b.Handle(ctx, b.task(catalog.KindPlan, "", 0, 1)))
	for _, tr := range b.board.plan.Tracks {
		if tr.Kind == hls.Audio {
			require.NoError(t, b.Handle(ctx, b.task(catalog.KindAudio, tr.ID, 0, 1)))
			continue
		}
		if tr.Kind == hls.Text {
			require.NoError(t, b.Handle(ctx, b.task(catalog.KindText, tr.ID, 0, 1)))
			continue
		}
		for i, c := range tr.Chunks {
			if c.Joined {
				continue
			}
			require.NoError(t, b.Handle(ctx, b.task(catalog.KindVideo, tr.ID, i, 1)))
		}
	}
	return *b.board.plan
}

// joined is a rendition's init and segments in one file.
func (b *bench) joined(t testing.TB, track, rendition string) []byte {
	t.Helper()
	var out []byte
	init := ""
	for i := range len(b.board.chunks[track]) {
		r := b.board.chunks[track][i]
		rs := r.Renditions[rendition]
		if init == "" {
			init = rs.Init
			out = append(out, b.store.objects[objects.InitKey(asset, "r1", rendition, init)]...)
		}
		require.Equal(t, init, rs.Init, "chunk %d has another init segment", i)
		for n, s := range rs.Segments {
			data, ok := b.store.objects[objects.SegmentKey(asset, "r1", rendition, hls.SegmentPath(i, r.Attempt, n))]
			require.True(t, ok, "segment %d of chunk %d is not stored", n, i)
			require.EqualValues(t, len(data), s.Bytes)
			out = append(out, data...)
		}
	}
	return out
}

func trimLines(s string) []string { return strings.Fields(strings.TrimSpace(s)) }

func decodeJSON(t testing.TB, b []byte, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(b, v))
}

func encodeJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func parseFloat(t testing.TB, s string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(s, 64)
	require.NoError(t, err)
	return f
}
