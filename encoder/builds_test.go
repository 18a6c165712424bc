package encoder

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/jobs"
)

// begins uploads a film and lets a worker of a build encode its first chunk, no more.
func (q *queue) begins(t *testing.T, build string, film []byte) (asset string) {
	t.Helper()
	stop := q.workerOf(t, "eu", growing, func(w *jobs.Worker) {
		w.Build = build
		all := w.Handle
		w.Handle = func(ctx context.Context, task *jobs.Task) error {
			if task.Kind == catalog.KindVideo && task.Chunk > 0 {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return all(ctx, task)
		}
	})
	asset = q.upload(t, film)
	s := &sending{q: q, asset: asset}
	require.Eventually(t, func() bool { return len(s.committed(t)) > 0 }, 2*time.Minute, lookEvery)
	stop()
	require.Equal(t, []int{1}, s.committed(t))
	return asset
}

// shared is what became of a run's build.
func (q *queue) shared(t *testing.T, asset string) (build string, mixed bool) {
	t.Helper()
	q.sql(t, "SELECT build, mixed FROM runs WHERE asset = $1 AND n = 1", []any{asset}, &build, &mixed)
	return build, mixed
}

// TestRunHoldsToOneBuild: workers of another build leave a run to those of its own, and do
// other films meanwhile. When these are gone for good, others go on where what they make can
// be joined, else the run is begun anew.
func TestRunHoldsToOneBuild(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.janitor(t)
	film := readFile(t, makeFile(t, "film.mp4", "-f", "lavfi", "-i", "testsrc2=s=160x90:r=25:d=10", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"))
	const frames = 250
	of := func(build string) func(*jobs.Worker) { return func(w *jobs.Worker) { w.Build = build } }

	first := q.begins(t, "A", film)
	stopOther := q.workerOf(t, "us", growing, of("B"))
	attempts := func() (attempts, messages, failures int) {
		q.sql(t, "SELECT sum(attempt), sum(dispatch), sum(failures) FROM tasks WHERE asset = $1 AND kind = 'video'", []any{first}, &attempts, &messages, &failures)
		return attempts, messages, failures
	}
	before, sent, _ := attempts()
	others := q.upload(t, film)
	q.becomes(t, others, catalog.Ready, 2*time.Minute)
	require.Eventually(t, func() bool { _, now, _ := attempts(); return now > sent+1 }, time.Minute, lookEvery, "nobody was asked")
	now, _, failures := attempts()
	require.Equal(t, before, now, "a worker of another build took a task")
	require.Zero(t, failures)
	build, mixed := q.shared(t, others)
	require.Equal(t, []any{"B", false}, []any{build, mixed})

	stop := q.workerOf(t, "eu", growing, of("A"))
	q.becomes(t, first, catalog.Ready, 2*time.Minute)
	stop()
	build, mixed = q.shared(t, first)
	require.Equal(t, []any{"A", false}, []any{build, mixed})
	q.frames(t, first, 1, frames)
	stopOther()

	joined, apart := q.begins(t, "A", film), q.begins(t, "A", film)
	// As if their parameter sets had been others.
	q.sql(t, "UPDATE renditions SET init = 'init-00000000.mp4' WHERE asset = $1 AND track = 'v0'", []any{apart})
	// As it will be in a while.
	q.sql(t, "UPDATE workers SET seen_at = now() - $1::interval WHERE build = 'A'", []any{catalog.BuildPatience})
	q.workerOf(t, "us", growing, of("B"))
	for asset, run := range map[string]int{joined: 1, apart: 2} {
		q.becomes(t, asset, catalog.Ready, 2*time.Minute)
		require.Equal(t, run, q.asset(t, asset).CurrentRun)
		build, mixed := q.shared(t, asset)
		require.Equal(t, []any{"B", true}, []any{build, mixed})
		q.frames(t, asset, run, frames)
	}
	var again int
	q.sql(t, "SELECT count(*) FROM chunks WHERE asset = $1 AND run = 1 AND chunk = 0 AND attempt = 1 AND track = 'v0'", []any{joined}, &again)
	require.Equal(t, 1, again, "what was committed stays")
}
