package encoder

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/jobs"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/testenv"
)

// server is what can be away.
type server interface {
	Hang() error
	Resume() error
	Kill() error
	Start(ctx context.Context) error
}

// outages are the servers an encode needs; each makes a queue over one that a test can stop.
var outages = map[string]func(*testing.T) (*queue, server){
	"MinIO": func(t *testing.T) (*queue, server) {
		away, other := testenv.MinIO(t), testenv.MinIO(t)
		return newQueueOver(t, testenv.Postgres(t), []testenv.S3Server{other.S3Server, away.S3Server}), away
	},
	"PostgreSQL": func(t *testing.T) (*queue, server) {
		s, err := testenv.StartPostgres(t.Context())
		require.NoError(t, err)
		t.Cleanup(s.Stop)
		require.NoError(t, s.Durable())
		return newQueueOn(t, s.DSN), s
	},
	"NATS": func(t *testing.T) (*queue, server) {
		q := newQueue(t)
		return q, q.transport
	},
}

// The object store of a region without which nothing counts as stored, the only database,
// or the only transport hangs or is killed in the middle of an encode: it waits, and goes on
// as if nothing had been.
func TestOutages(t *testing.T) {
	t.Parallel()
	for name, over := range outages {
		for _, how := range []string{"hangs", "is killed"} {
			t.Run(name+" "+how, func(t *testing.T) {
				away := time.Minute
				if !testenv.IsLong() {
					if name != "NATS" || how != "is killed" {
						testenv.Long(t)
					}
					away = 3 * time.Second
				} else {
					t.Parallel()
				}
				q, s := over(t)
				q.outage(t, s, how == "hangs", away)
			})
		}
	}
}

// outage has a server away in the middle of an encode.
func (q *queue) outage(t *testing.T, s server, hangs bool, away time.Duration) {
	log := slog.New(slog.DiscardHandler)
	start(t, (&jobs.Janitor{Catalog: q.cat, Conn: q.conn, Objects: q.store, Name: "j", Log: log}).Run)
	film := readFile(t, mediaFile("small-426x240-27s.mp4"))
	const frames = 816
	up := &sending{q: q, data: film}
	up.asset = q.upload(t, film)
	w := q.process(t, "eu")
	require.Eventually(t, func() bool { return len(up.committed(t)) > 0 }, time.Minute, 20*time.Millisecond)
	before := up.committed(t)
	stop, back := s.Kill, func() error { return s.Start(context.Background()) }
	if hangs {
		stop, back = s.Hang, s.Resume
	}
	require.NoError(t, stop())
	gone := time.Now()
	time.Sleep(away)
	require.NoError(t, back())
	returned := time.Now()

	require.Eventually(t, func() bool {
		a, err := q.cat.GetAsset(t.Context(), "o", up.asset)
		return err == nil && (a.State == catalog.Ready || a.State == catalog.Failed)
	}, 3*time.Minute, lookEvery)
	a := q.asset(t, up.asset)
	require.Equal(t, catalog.Ready, a.State, "%+v", a.Failure)
	require.Equal(t, 1, a.CurrentRun)
	testenv.Figure(t, "server away in the middle of an encode", "%.0f s; ready %.1f s after it was back", returned.Sub(gone).Seconds(), time.Since(returned).Seconds())
	require.Eventually(t, func() bool { return q.open(t, up.asset) == 0 }, 2*time.Minute, lookEvery)
	after := up.committed(t)
	require.Greater(t, len(after), len(before), "all was done before the server was away")
	require.Equal(t, before, after[:len(before)], "what was committed is done again")
	records, err := q.cat.CommittedChunks(t.Context(), up.asset, 1, "v0")
	require.NoError(t, err)
	for _, rendition := range []string{"v240"} {
		got := q.film(t, up.asset, 1, rendition, records)
		require.Equal(t, frames, decoded(t, got))
		require.Len(t, slices.Compact(packets(t, got)), frames, "no frame is there twice")
	}
	require.Eventually(t, func() bool { return len(w.children(t)) == 0 }, 10*time.Second, 10*time.Millisecond, "a process is left")
	q.agrees(t, up.asset)
}

// agrees asserts that the stores have what the catalog names, byte for byte, and besides only
// what attempts left that lost.
func (q *queue) agrees(t *testing.T, asset string) {
	t.Helper()
	check := &repair.Check{Store: q.store, Catalog: q.cat, Read: true, Parallel: 4, Copies: q.table.Copies()}
	report, err := check.Run(t.Context())
	require.NoError(t, err)
	require.Positive(t, report.Named)
	for _, f := range report.Findings {
		m := keyOfSegment.FindStringSubmatch(f.Key)
		require.True(t, f.Kind == repair.Foreign && m != nil, "%+v", f)
		run, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		p, err := q.cat.RunPlan(t.Context(), asset, run)
		require.NoError(t, err)
		of := slices.IndexFunc(p.Tracks, func(tr catalog.PlanTrack) bool {
			return slices.ContainsFunc(tr.Renditions, func(r hls.Rendition) bool { return r.ID == m[2] })
		})
		require.GreaterOrEqual(t, of, 0, "%+v", f)
		records, err := q.cat.CommittedChunks(t.Context(), asset, run, p.Tracks[of].ID)
		require.NoError(t, err)
		for _, r := range records {
			require.NotEqual(t, m[3]+"-"+m[4], fmt.Sprintf("%05d-%d", r.Chunk, r.Attempt), "%+v", f)
		}
	}
	t.Logf("%d objects are named, %d are of attempts that lost", report.Named, len(report.Findings))
}
