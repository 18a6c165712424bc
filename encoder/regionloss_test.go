package encoder

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// repairs runs a region's repair loop.
func (q *queue) repairs(t *testing.T, region string) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	store, err := objects.New(q.table, region, q.s3, log)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	cfg := repair.Config{Interval: time.Second, Collect: time.Hour, Parallel: 4, Bandwidth: 64}
	require.NoError(t, cfg.Validate())
	start(t, repair.New(cfg, repair.Deps{Store: store, Catalog: q.cat, Keys: func() *token.KeySet { return nil }, Log: log}).Run)
}

// TestRegionLost: a region dies with its object store and the worker that encodes, while
// chunks are stored, and doesn't come back. A worker of another region does the rest, nothing
// that counts is done twice, and in the end all that is shown is in both regions that are left.
func TestRegionLost(t *testing.T) {
	t.Parallel()
	lost, living := testenv.MinIO(t), testenv.S3(t, 2)
	q := newQueueOver(t, testenv.Postgres(t), []testenv.S3Server{living[0], lost.S3Server, living[1]})
	s := &sending{q: q, data: readFile(t, mediaFile("small-426x240-27s.mp4"))}
	const frames = 816
	w := q.process(t, "us")
	s.asset = q.upload(t, s.data)
	require.Eventually(t, func() bool { return len(s.committed(t)) > 0 }, time.Minute, 20*time.Millisecond)
	w.encodes(t)
	require.NoError(t, lost.Kill())
	w.kill(t)
	before := s.committed(t)
	require.Positive(t, q.open(t, s.asset), "all was done before the region was lost")
	// As it will be in a while.
	q.sql(t, "UPDATE tasks SET lease_until = now() - interval '1 minute' WHERE asset = $1 AND state = 'running'", []any{s.asset})

	q.process(t, "ap")
	q.becomes(t, s.asset, catalog.Ready, 4*time.Minute)
	require.Equal(t, 1, q.asset(t, s.asset).CurrentRun)
	attempts := s.committed(t)
	require.Greater(t, len(attempts), len(before))
	require.Equal(t, before, attempts[:len(before)], "what was committed is done again")
	var failed int
	q.sql(t, "SELECT count(*) FROM tasks WHERE asset = $1 AND state = 'failed'", []any{s.asset}, &failed)
	require.Zero(t, failed)

	q.repairs(t, "eu")
	q.repairs(t, "ap")
	require.Eventually(t, func() bool {
		report, err := (&repair.Check{Store: q.store, Catalog: q.cat, Parallel: 4, Copies: q.table.Copies()}).Run(t.Context())
		require.NoError(t, err)
		return !slices.ContainsFunc(report.Findings, func(f repair.Finding) bool { return f.Kind != repair.Foreign })
	}, time.Minute, lookEvery, "the regions that are left don't have everything")
	q.agrees(t, s.asset)

	records, err := q.cat.CommittedChunks(t.Context(), s.asset, 1, "v0")
	require.NoError(t, err)
	for _, rendition := range []string{"v240"} {
		film := q.film(t, s.asset, 1, rendition, records, "eu", "ap")
		require.Equal(t, frames, decoded(t, film))
		require.Len(t, slices.Compact(packets(t, film)), frames, "no frame is there twice")
	}
}
