package encoder

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/jobs"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/testenv"
)

// longFile repeats the film sample, its index in front.
func longFile(t testing.TB, name, length string, args ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(makeFile(t, name, append([]string{"-stream_loop", "-1", "-i", mediaFile("bbb-1080p30.mp4"), "-t", length,
		"-map", "0:v", "-map", "0:a", "-c", "copy"}, args...)...))
	require.NoError(t, err)
	return b
}

// denseFile is tiny pictures in many bytes, its index in front: what tests of it are about is how
// many of its bytes are there.
func denseFile(t testing.TB) []byte {
	t.Helper()
	b, err := dense()
	require.NoError(t, err)
	return b
}

// dense makes it once for all tests; denseFrames is how many frames it has.
var dense = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "meridian-test-dense-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "dense.mp4")
	out, err := exec.Command("ffmpeg", append([]string{"-v", "error", "-nostdin"}, append(tiny("3M"), "-movflags", "+faststart", path)...)...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(path)
})

// Its pictures are of denseSize, and so is its only rung.
const (
	denseFrames = 816
	denseSize   = "160:90"
	denseRung   = "v90"
)

// tiny makes of the film sample tiny pictures, filled up to a rate.
func tiny(rate string) []string {
	return []string{"-i", mediaFile("small-426x240-27s.mp4"), "-map", "0:v", "-map", "0:a", "-c:a", "copy", "-vf", "scale=" + denseSize, "-c:v", "libx264", "-preset", "ultrafast",
		"-b:v", rate, "-minrate", rate, "-maxrate", rate, "-bufsize", rate, "-x264-params", "nal-hrd=cbr", "-g", "30"}
}

// arrives makes the first n bytes of a bench's source be there, as parts of 1 MiB.
func (b *bench) arrives(data []byte, n int64) {
	src := catalog.Source{Asset: asset, Size: int64(len(data)), Complete: n == int64(len(data))}
	for at := int64(0); at < n; at += 1 << 20 {
		p := catalog.Part{N: len(src.Parts), ID: "early", Start: at, Size: min(1<<20, n-at)}
		b.store.mu.Lock()
		b.store.objects[src.Key(p)] = data[at : at+p.Size]
		b.store.mu.Unlock()
		src.Parts = append(src.Parts, p)
	}
	b.board.mu.Lock()
	defer b.board.mu.Unlock()
	b.board.source = src
}

// without leaves out of a plan what early planning adds.
func without(p catalog.Plan) catalog.Plan {
	p.Tracks = slices.Clone(p.Tracks)
	for i := range p.Tracks {
		p.Tracks[i].Needs = 0
		p.Tracks[i].Chunks = slices.Clone(p.Tracks[i].Chunks)
		for k := range p.Tracks[i].Chunks {
			p.Tracks[i].Chunks[k].Needs = 0
		}
	}
	return p
}

// Every task gets by with what its plan says it needs, and what comes out is what
// comes out when all is there from the start.
func TestEarlyEqualsWhole(t *testing.T) {
	t.Parallel()
	data := denseFile(t)
	// What several threads make of a rate that is capped is never the same twice.
	noCopy := func(o *Options) { o.Profile.Copy, o.Profile.Threads = false, 1 }
	whole := newBenchBytes(t, data, noCopy)
	whole.encode(t)

	early := newBenchBytes(t, data, noCopy)
	early.partPatience = 100 * time.Millisecond
	const head = 2 << 20
	early.arrives(data, head)
	require.NoError(t, early.Handle(t.Context(), early.task(catalog.KindPlan, "", 0, 1)))
	require.Empty(t, early.board.awaited)
	require.NotNil(t, early.board.plan)
	require.Equal(t, *whole.board.plan, without(*early.board.plan))
	require.LessOrEqual(t, early.board.plan.Tracks[0].Chunks[0].Needs, int64(head), "the first chunk can be encoded at once")
	for _, tr := range early.board.plan.Tracks {
		if tr.Kind == hls.Audio {
			require.Equal(t, int64(len(data)), tr.Needs, "all of a short track is heard before it is encoded")
			early.arrives(data, tr.Needs)
			require.NoError(t, early.Handle(t.Context(), early.task(catalog.KindAudio, tr.ID, 0, 1)))
			continue
		}
		needs := int64(0)
		for i, c := range tr.Chunks {
			if c.Joined {
				continue
			}
			before := needs
			needs = c.Needs
			for _, next := range tr.Chunks[i+1:] {
				if !next.Joined {
					break
				}
				needs = next.Needs
			}
			require.GreaterOrEqual(t, needs, before)
			early.arrives(data, needs)
			require.NoError(t, early.Handle(t.Context(), early.task(catalog.KindVideo, tr.ID, i, 1)))
		}
		require.Equal(t, int64(len(data)), needs)
	}
	require.Empty(t, early.board.awaited)
	for _, tr := range early.board.plan.Tracks {
		for _, r := range tr.Renditions {
			require.True(t, bytes.Equal(whole.joined(t, tr.ID, r.ID), early.joined(t, tr.ID, r.ID)), "%s differs", r.ID)
		}
	}
}

// A copied track begins early, too: its first chunk needn't wait for the rest.
func TestCopyBeginsEarly(t *testing.T) {
	t.Parallel()
	short := makeFile(t, "short.mp4", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30:duration=4", "-c:v", "libx264", "-preset", "ultrafast",
		"-b:v", "3M", "-g", "30", "-pix_fmt", "yuv420p")
	b, err := os.ReadFile(makeFile(t, "closed.mp4", "-stream_loop", "4", "-i", short, "-c", "copy", "-movflags", "+faststart"))
	require.NoError(t, err)
	rungs := func(o *Options) { o.Profile.Rungs = []int{720, 240} }
	whole := newBenchBytes(t, b, rungs)
	require.NoError(t, whole.Handle(t.Context(), whole.task(catalog.KindPlan, "", 0, 1)))
	require.NoError(t, whole.Handle(t.Context(), whole.task(catalog.KindVideo, "vc", 0, 1)))
	e := newBenchBytes(t, b, rungs)
	e.arrives(b, 4<<20)
	require.NoError(t, e.Handle(t.Context(), e.task(catalog.KindPlan, "", 0, 1)))
	require.Empty(t, e.board.awaited)
	i := slices.IndexFunc(e.board.plan.Tracks, func(tr catalog.PlanTrack) bool { return tr.ID == "vc" })
	require.GreaterOrEqual(t, i, 0)
	chunks := e.board.plan.Tracks[i].Chunks
	require.False(t, chunks[1].Joined)
	require.True(t, chunks[2].Joined)
	require.LessOrEqual(t, chunks[0].Needs, int64(4<<20))
	require.NoError(t, e.Handle(t.Context(), e.task(catalog.KindVideo, "vc", 0, 1)))
	require.Len(t, e.board.chunks["vc"], 1)
	e.arrives(b, int64(len(b)))
	require.NoError(t, e.Handle(t.Context(), e.task(catalog.KindVideo, "vc", 1, 1)))
	rendition := e.board.plan.Tracks[i].Renditions[0].ID
	require.True(t, bytes.Equal(whole.joined(t, "vc", rendition), e.joined(t, "vc", rendition)))
}

// An audio track begins when what its level is sampled from is there, and waits for
// the rest without a gap. What it waits for in vain another attempt goes on with.
func TestEarlySound(t *testing.T) {
	t.Parallel()
	testenv.Long(t)
	data := longFile(t, "sound.mp4", "150", "-movflags", "+faststart")
	plain := func(o *Options) { o.Profile.PerTitle.Enabled = false }
	whole := newBenchBytes(t, data, plain)
	require.NoError(t, whole.Handle(t.Context(), whole.task(catalog.KindPlan, "", 0, 1)))
	require.NoError(t, whole.Handle(t.Context(), whole.task(catalog.KindAudio, "a0", 0, 1)))
	rendition := whole.board.plan.Tracks[len(whole.board.plan.Tracks)-1].Renditions[0].ID
	want := whole.joined(t, "a0", rendition)

	early := newBenchBytes(t, data, plain)
	early.arrives(data, 4<<20)
	require.NoError(t, early.Handle(t.Context(), early.task(catalog.KindPlan, "", 0, 1)))
	needs := early.board.plan.Tracks[len(early.board.plan.Tracks)-1].Needs
	require.Less(t, needs, int64(len(data)))
	early.arrives(data, needs)
	done := make(chan error, 1)
	go func() { done <- early.Handle(t.Context(), early.task(catalog.KindAudio, "a0", 0, 1)) }()
	require.Eventually(t, func() bool {
		early.board.mu.Lock()
		defer early.board.mu.Unlock()
		return len(early.board.chunks["a0"]) > 3
	}, time.Minute, 20*time.Millisecond)
	early.arrives(data, int64(len(data)))
	require.NoError(t, <-done)
	require.Empty(t, early.board.awaited)
	require.True(t, bytes.Equal(want, early.joined(t, "a0", rendition)))

	late := newBenchBytes(t, data, plain)
	late.board.plan = early.board.plan
	late.partPatience = 300 * time.Millisecond
	late.arrives(data, needs)
	require.NoError(t, late.Handle(t.Context(), late.task(catalog.KindAudio, "a0", 0, 1)))
	require.Len(t, late.board.awaited, 1)
	require.Greater(t, late.board.awaited[0], needs)
	before := late.joined(t, "a0", rendition)
	require.NotEmpty(t, before)
	require.True(t, bytes.HasPrefix(want, before), "no silence stands for what is missing")
	late.arrives(data, int64(len(data)))
	require.NoError(t, late.Handle(t.Context(), late.task(catalog.KindAudio, "a0", 0, 2)))
	last := late.board.chunks["a0"][len(late.board.chunks["a0"])-1]
	require.True(t, last.Last)
	require.Equal(t, whole.board.chunks["a0"][len(whole.board.chunks["a0"])-1].End(), last.End())
}

// What doesn't tell at its beginning what it holds, or too little for a first chunk,
// waits for its end.
func TestNotEarly(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"end.mp4":        nil,
		"fragments.mp4":  {"-movflags", "+frag_keyframe+empty_moov"},
		"film.ts":        nil,
		"cues.mkv":       {"-cues_to_front", "1"},
		"sound-only.m4a": {"-vn", "-movflags", "+faststart"},
	} {
		t.Run(name, func(t *testing.T) {
			length := "12"
			if name == "sound-only.m4a" {
				length = "240"
			}
			data := longFile(t, name, length, args...)
			b := newBenchBytes(t, data, func(o *Options) { o.Profile.PerTitle.Enabled = false })
			b.arrives(data, 2<<20)
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
			require.Nil(t, b.board.plan)
			require.Equal(t, []int64{int64(len(data))}, b.board.awaited)
			b.arrives(data, int64(len(data)))
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 2)))
			require.NotNil(t, b.board.plan)
			for _, tr := range b.board.plan.Tracks {
				require.Zero(t, tr.Needs)
				for _, c := range tr.Chunks {
					require.Zero(t, c.Needs)
				}
			}
		})
	}
}

// A head that isn't all there is waited for, and no longer.
func TestHeadArrivesInParts(t *testing.T) {
	data := denseFile(t)
	// A box nobody knows, between the first and the index, moves that behind the first block.
	at := int(data[3])
	free := make([]byte, 3<<20)
	free[0], free[1], free[2], free[3] = 0, 0x30, 0, 0
	copy(free[4:], "free")
	padded := slices.Concat(data[:at], free, data[at:])
	b := newBenchBytes(t, padded, nil)
	b.arrives(padded, 2<<20)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	require.Nil(t, b.board.plan)
	require.Equal(t, []int64{4 << 20}, b.board.awaited)
}

// Where later bytes aren't what the head says the end is as ever: a typed failure, or
// what there is.
func TestHeadLies(t *testing.T) {
	t.Parallel()
	data := denseFile(t)
	lies := slices.Clone(data)
	for i := 4 << 20; i < len(lies); i++ {
		lies[i] = byte(i * 7)
	}
	noCopy := func(o *Options) { o.Profile.Copy = false }
	b := newBenchBytes(t, lies, noCopy)
	b.arrives(lies, 4<<20)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	require.NotNil(t, b.board.plan)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", 0, 1)))
	b.arrives(lies, int64(len(lies)))
	last := 0
	for i, c := range b.board.plan.Tracks[0].Chunks {
		if !c.Joined {
			last = i
		}
	}
	require.Greater(t, last, 0)
	require.Error(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", last, 1)))

	// An index that points behind the end.
	short := data[:len(data)-1<<20]
	b = newBenchBytes(t, short, nil)
	b.arrives(short, 4<<20)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	require.Equal(t, []int64{int64(len(short))}, b.board.awaited, "it is judged when all is there")
	b.arrives(short, int64(len(short)))
	var bad *probe.InputError
	require.ErrorAs(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 2)), &bad)
	require.Equal(t, probe.CodeTruncated, bad.Code)
}

// Bytes that don't come give the task back, and nothing is counted.
func TestBytesDontCome(t *testing.T) {
	data := denseFile(t)
	b := newBenchBytes(t, data, func(o *Options) { o.Profile.Copy = false })
	b.partPatience = 200 * time.Millisecond
	b.arrives(data, 2<<20)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", 1, 1)))
	require.Equal(t, []int64{int64(len(data))}, b.board.awaited, "all that is joined to it is wanted")
	require.NotContains(t, b.board.chunks["v0"], len(b.board.plan.Tracks[0].Chunks)-1)
}

// The ladder of a film that is arriving is measured where it is there.
func TestEarlyWindows(t *testing.T) {
	t.Parallel()
	short := makeFile(t, "short.mp4", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30:duration=3", "-c:v", "libx264", "-preset", "ultrafast", "-g", "30", "-pix_fmt", "yuv420p")
	data, err := os.ReadFile(makeFile(t, "front.mp4", "-stream_loop", "19", "-i", short, "-c", "copy", "-movflags", "+faststart"))
	require.NoError(t, err)
	b := newBenchBytes(t, data, func(o *Options) { o.Profile.Rungs = []int{720, 480, 360, 240} })
	b.complexityLimit = time.Minute
	b.arrives(data, int64(len(data))/2>>20<<20)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, b.Handle(ctx, b.task(catalog.KindPlan, "", 0, 1)))
	require.Empty(t, b.board.awaited)
	var run plan.Run
	require.NoError(t, json.Unmarshal(b.board.plan.Encoder, &run))
	require.Empty(t, run.PerTitle.Complexity.Missing)
	require.Greater(t, run.PerTitle.Complexity.Windows, 1)
}

// Over PostgreSQL, JetStream and two object stores: an upload that another process
// goes on with, its worker lost, is encoded as it arrives; one that is given up leaves nothing.
func TestEarlyOnTheRealQueue(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	start(t, (&jobs.Janitor{Catalog: q.cat, Conn: q.conn, Objects: q.store, Name: "j", Log: slog.New(slog.DiscardHandler)}).Run)
	data := denseFile(t)
	const size = 1 << 20
	part := func(cat *catalog.Catalog, asset, upload string, n int) {
		q.part(t, cat, asset, upload, n, n*size, data[n*size:min(len(data), (n+1)*size)], true)
	}
	good, up := q.begin(t, len(data))
	gone, goneUp := q.begin(t, len(data))
	for n := range 4 {
		part(q.cat, good, up, n)
		part(q.cat, gone, goneUp, n)
	}
	committed := func(asset, track string) int {
		records, err := q.cat.CommittedChunks(t.Context(), asset, 1, track)
		require.NoError(t, err)
		return len(records)
	}
	stop := q.worker(t, "eu", nil)
	require.Eventually(t, func() bool { return committed(good, "v0") > 0 && committed(gone, "v0") > 0 }, 2*time.Minute, lookEvery)
	require.Equal(t, catalog.Uploading, q.asset(t, good).State)
	require.NoError(t, q.cat.DeleteAsset(t.Context(), "o", gone))
	stop()

	elsewhere := q.other(t)
	q.worker(t, "us", nil)
	parts := (len(data) + size - 1) / size
	for n := 4; n < parts-1; n++ {
		part(elsewhere, good, up, n)
	}
	require.Eventually(t, func() bool { return committed(good, "v0") > 1 }, 2*time.Minute, lookEvery)
	require.Equal(t, catalog.Uploading, q.asset(t, good).State)
	part(elsewhere, good, up, parts-1)
	_, err := elsewhere.FinishUpload(t.Context(), up)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return q.asset(t, good).State == catalog.Ready }, 2*time.Minute, lookEvery)
	require.Equal(t, 1, q.asset(t, good).CurrentRun)
	records, err := q.cat.CommittedChunks(t.Context(), good, 1, "v0")
	require.NoError(t, err)
	var film []byte
	for _, r := range records {
		rs := r.Renditions[denseRung]
		keys := []string{}
		if film == nil {
			keys = append(keys, objects.InitKey(good, "r1", denseRung, rs.Init))
		}
		for n := range rs.Segments {
			keys = append(keys, objects.SegmentKey(good, "r1", denseRung, r.SegmentPath(denseRung, n)))
		}
		for _, k := range keys {
			b, err := q.store.ReadAll(t.Context(), k, 1<<26, objects.Placement{})
			require.NoError(t, err)
			film = append(film, b...)
		}
	}
	require.Equal(t, denseFrames, decoded(t, film))

	left := func() (keys []string) {
		for _, prefix := range []string{"sources/", "work/", "streams/"} {
			for _, b := range q.store.Regions() {
				require.NoError(t, b.List(t.Context(), prefix+gone+"/", "", func(o objects.Info) bool {
					if !strings.HasPrefix(o.Key, objects.PlaybackJournal(gone)) {
						keys = append(keys, o.Key)
					}
					return true
				}))
			}
		}
		return keys
	}
	require.Eventually(t, func() bool { return len(left()) == 0 }, time.Minute, lookEvery)
}
