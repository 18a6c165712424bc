package encoder

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/hls/validate"
	"github.com/meridian-video/meridian/internal/objects"
)

// output shows a run as an edge does: playlists composed of records, and what is named in
// them as it is stored.
type output struct {
	asset, run string
	tracks     []catalog.PlanTrack
	master     func(ctx context.Context) ([]byte, error)
	// records of a track that are there, without a gap from the first.
	records func(ctx context.Context, track string) ([]hls.Record, error)
	read    func(ctx context.Context, key string) ([]byte, error)

	mu sync.Mutex
	// versions are the media playlists that were shown, each once.
	versions map[string]bool
}

const masterName = "master.m3u8"

// Open composes a playlist, or reads what is named in one.
func (o *output) Open(ctx context.Context, u *url.URL) ([]byte, string, error) {
	rendition, file, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	var b []byte
	var err error
	switch {
	case rendition == masterName:
		b, err = o.master(ctx)
	case file == hls.MediaName:
		b, err = o.compose(ctx, hls.Media, rendition)
	case file == hls.IFrameName:
		b, err = o.compose(ctx, hls.IFrames, rendition)
	case path.Dir(file) == ".":
		b, err = o.read(ctx, objects.InitKey(o.asset, o.run, rendition, file))
		return b, "", err
	default:
		b, err = o.read(ctx, objects.SegmentKey(o.asset, o.run, rendition, file))
		return b, "", err
	}
	return b, hls.ContentType, err
}

func (o *output) compose(ctx context.Context, playlist func([]hls.Record, string, string) ([]byte, error), rendition string) ([]byte, error) {
	i := slices.IndexFunc(o.tracks, func(tr catalog.PlanTrack) bool {
		return slices.ContainsFunc(tr.Renditions, func(r hls.Rendition) bool { return r.ID == rendition })
	})
	if i < 0 {
		return nil, fmt.Errorf("no track has a rendition %q", rendition)
	}
	records, err := o.records(ctx, o.tracks[i].ID)
	if err != nil {
		return nil, err
	}
	b, err := playlist(records, rendition, "")
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.versions == nil {
		o.versions = map[string]bool{}
	}
	o.versions[string(b)] = true
	return b, nil
}

// check has everything a run shows validated, segments included. Whether it has ended is
// returned.
func (o *output) check(t testing.TB) (ended bool) {
	t.Helper()
	// Outputs are checked when their tests, and the contexts of these, have ended.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	report, err := validate.Check(ctx, o, &url.URL{Path: "/" + masterName}, validate.Options{})
	require.NoError(t, err, "%s/%s", o.asset, o.run)
	require.Empty(t, report.Problems, "%s/%s", o.asset, o.run)
	return report.Ended
}

// output shows what a bench has committed of its run.
func (b *bench) output() *output {
	return &output{asset: asset, run: "r1", tracks: b.board.plan.Tracks, master: b.master,
		records: func(_ context.Context, track string) ([]hls.Record, error) { return records(b, track), nil },
		read: func(_ context.Context, key string) ([]byte, error) {
			b.store.mu.Lock()
			defer b.store.mu.Unlock()
			data, ok := b.store.objects[key]
			if !ok {
				return nil, fmt.Errorf("%s: %w", key, objects.ErrNotFound)
			}
			return data, nil
		}}
}

// master is composed as a publisher does it: of the tracks that have begun, with the rates
// that are planned for them until all have ended.
func (b *bench) master(context.Context) ([]byte, error) {
	var out []hls.Rendition
	ended := b.ended()
	for _, tr := range b.board.plan.Tracks {
		of := records(b, tr.ID)
		for _, r := range tr.Renditions {
			if len(of) == 0 {
				continue
			}
			r.Codecs = b.board.codecs[r.ID]
			if ended {
				r.Bandwidth, r.AverageBandwidth = catalog.Measure(of, r.ID, of[0].Target)
				r.KeyBandwidth = keyframeRate(of, r.ID)
			}
			out = append(out, r)
		}
	}
	return hls.Master(out)
}

// ended says whether all tracks have their last record.
func (b *bench) ended() bool {
	return !slices.ContainsFunc(b.board.plan.Tracks, func(tr catalog.PlanTrack) bool {
		of := records(b, tr.ID)
		return len(of) == 0 || !of[len(of)-1].Last
	})
}

// keyframeRate is the peak bit rate of a rendition's keyframes alone; 0 for sound and text.
func keyframeRate(of []hls.Record, rendition string) int64 {
	var sizes []hls.SegmentSize
	for _, r := range of {
		for _, s := range r.Renditions[rendition].Segments {
			if s.Key == 0 {
				return 0
			}
			sizes = append(sizes, hls.SegmentSize{Seconds: float64(s.Duration) / float64(r.Timescale), Bytes: s.Key})
		}
	}
	peak, _ := hls.Rates(sizes, of[0].Target)
	return peak
}

// checkStream has what a bench has committed validated, if its test went well.
func checkStream(t testing.TB, b *bench) {
	t.Helper()
	if t.Failed() || b.board.plan == nil || !slices.ContainsFunc(b.board.plan.Tracks, func(tr catalog.PlanTrack) bool { return tr.Kind != hls.Text && len(records(b, tr.ID)) > 0 }) {
		return
	}
	// Of some only one track is made.
	ended := b.output().check(t)
	require.True(t, ended || !b.ended(), "all tracks have ended, their playlists grow")
}

// output shows a run as it is stored, with its newest master playlist. A record is read once: it
// is never another afterwards.
func (q *queue) output(asset, run string, tracks []catalog.PlanTrack, masters int) *output {
	read := func(ctx context.Context, key string) ([]byte, error) {
		return q.store.ReadAll(ctx, key, 1<<26, objects.Placement{})
	}
	var mu sync.Mutex
	have := map[string][]hls.Record{}
	return &output{asset: asset, run: run, tracks: tracks, read: read,
		master: func(ctx context.Context) ([]byte, error) {
			// A number is given before the playlist of it is stored.
			for n := masters; n > 1; n-- {
				b, err := read(ctx, objects.MasterKey(asset, run, int64(n)))
				if !errors.Is(err, objects.ErrNotFound) {
					return b, err
				}
			}
			return read(ctx, objects.MasterKey(asset, run, 1))
		},
		records: func(ctx context.Context, track string) (list []hls.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			list = have[track]
			defer func() { have[track] = slices.Clip(list) }()
			for {
				b, err := read(ctx, objects.RecordKey(asset, run, track, len(list)))
				if errors.Is(err, objects.ErrNotFound) {
					return list, nil
				}
				if err != nil {
					return nil, err
				}
				record, err := hls.DecodeRecord(b)
				if err != nil {
					return nil, fmt.Errorf("record %d of %s: %w", len(list), track, err)
				}
				list = append(list, record)
			}
		}}
}

// checkRuns has every run validated that is shown to viewers, or may be later, if the test
// went well. It is called when the test's workers have ended.
func (q *queue) checkRuns(t *testing.T) {
	if t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var list []struct {
		Asset, State string
		N, Master    int
	}
	var b []byte
	q.mu.Lock()
	err := q.ask(ctx, `SELECT coalesce(json_agg(json_build_object('asset', r.asset, 'state', r.state, 'n', r.n, 'master', r.master)), '[]') FROM runs r JOIN assets a ON a.id = r.asset
		WHERE a.deleted_at IS NULL AND r.master > 0 AND r.state IN ('encoding', 'playable', 'complete')`, nil, []any{&b})
	q.mu.Unlock()
	require.NoError(t, err)
	decodeJSON(t, b, &list)
	for _, r := range list {
		p, err := q.cat.RunPlan(ctx, r.Asset, r.N)
		require.NoError(t, err)
		o := q.output(r.Asset, hls.RunName(r.N), p.Tracks, r.Master)
		if _, err := o.master(ctx); errors.Is(err, objects.ErrNotFound) && r.State != string(catalog.RunComplete) {
			continue // its publisher was stopped before
		}
		ended := o.check(t)
		require.True(t, ended || r.State != string(catalog.RunComplete), "%s/r%d is complete, its playlists grow", r.Asset, r.N)
	}
}

// validates has a track's playlists validated as they grow, segments included, from its first
// record on. What it returns waits for their end: nothing was wrong, and they did grow.
func (q *queue) validates(t *testing.T, asset, run, track string) (ends func()) {
	t.Helper()
	r := q.output(asset, run, nil, 0)
	var renditions []string
	require.Eventually(t, func() bool {
		records, err := r.records(t.Context(), track)
		if err != nil || len(records) == 0 {
			return false
		}
		require.False(t, records[len(records)-1].Last, "track %s was complete at once", track)
		shown := catalog.PlanTrack{ID: track}
		for id := range records[0].Renditions {
			renditions = append(renditions, id)
			shown.Renditions = append(shown.Renditions, hls.Rendition{ID: id})
		}
		r.tracks = []catalog.PlanTrack{shown}
		return true
	}, time.Minute, 10*time.Millisecond)
	type result struct {
		rendition string
		report    validate.Report
		err       error
	}
	results := make(chan result, len(renditions))
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	for _, id := range renditions {
		go func() {
			report, err := validate.Check(ctx, r, &url.URL{Path: "/" + id + "/" + hls.MediaName}, validate.Options{Follow: true, Every: 50 * time.Millisecond})
			results <- result{id, report, err}
		}()
	}
	wait := sync.OnceValue(func() (all []result) {
		for range renditions {
			all = append(all, <-results)
		}
		cancel()
		return all
	})
	t.Cleanup(func() { cancel(); wait() })
	return func() {
		t.Helper()
		for _, got := range wait() {
			require.NoError(t, got.err, got.rendition)
			require.Empty(t, got.report.Problems, got.rendition)
			require.True(t, got.report.Ended, got.rendition)
			require.Positive(t, got.report.Segments, got.rendition)
		}
		require.Greater(t, len(r.versions), 2*len(renditions), "no playlist of %s was seen as it grew", track)
	}
}
