package encoder

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/hls/validate"
	"github.com/meridian-video/meridian/internal/objects"
)

// recorded shows the media playlists of a track as an edge composes them, from the records
// and segments that are in the store.
type recorded struct {
	q          *queue
	asset, run string
	track      string

	mu sync.Mutex
	// versions are the playlists that were shown, each once.
	versions map[string]bool
}

// Open composes {rendition}/index.m3u8, or reads what is named in it.
func (r *recorded) Open(ctx context.Context, u *url.URL) ([]byte, string, error) {
	rendition, file, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if file != hls.MediaName {
		key := objects.SegmentKey(r.asset, r.run, rendition, file)
		if path.Dir(file) == "." {
			key = objects.InitKey(r.asset, r.run, rendition, file)
		}
		b, err := r.q.store.ReadAll(ctx, key, 1<<26, objects.Placement{})
		return b, "", err
	}
	records, err := r.records(ctx)
	if err != nil {
		return nil, "", err
	}
	b, err := hls.Media(records, rendition, "")
	if err != nil {
		return nil, "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.versions[string(b)] = true
	return b, hls.ContentType, nil
}

func (r *recorded) records(ctx context.Context) ([]hls.Record, error) {
	var records []hls.Record
	for {
		b, err := r.q.store.ReadAll(ctx, objects.RecordKey(r.asset, r.run, r.track, len(records)), 1<<20, objects.Placement{})
		if errors.Is(err, objects.ErrNotFound) {
			return records, nil
		}
		if err != nil {
			return nil, err
		}
		record, err := hls.DecodeRecord(b)
		if err != nil {
			return nil, fmt.Errorf("record %d of %s: %w", len(records), r.track, err)
		}
		records = append(records, record)
	}
}

// validates has a track's playlists validated as they grow, segments included, from its first
// record on. What it returns waits for their end: nothing was wrong, and they did grow.
func (q *queue) validates(t *testing.T, asset, run, track string) (ends func()) {
	t.Helper()
	r := &recorded{q: q, asset: asset, run: run, track: track, versions: map[string]bool{}}
	var renditions []string
	require.Eventually(t, func() bool {
		records, err := r.records(t.Context())
		if err != nil || len(records) == 0 {
			return false
		}
		require.False(t, records[len(records)-1].Last, "track %s was complete at once", track)
		for id := range records[0].Renditions {
			renditions = append(renditions, id)
		}
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
