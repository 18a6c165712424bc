package encoder

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/testenv"
)

// encodes waits until one of a worker's processes encodes.
func (w *workerProcess) encodes(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(w.children(t), encoding)
	}, time.Minute, 5*time.Millisecond, "no process encodes")
}

// encoding says whether a process encodes a film: a worker that starts asks x264 for its
// version with a picture, which isn't under any cap.
func encoding(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(line), "libx264") && strings.Contains(string(line), "-maxrate")
}

// beforeBeat is less than a worker takes to find out by itself that its work isn't wanted.
const beforeBeat = 4 * time.Second

// ends asserts that a worker's processes end at once.
func (w *workerProcess) ends(t *testing.T, why string) {
	t.Helper()
	began := time.Now()
	require.Eventually(t, func() bool { return len(w.children(t)) == 0 }, beforeBeat, 5*time.Millisecond, "%s: ffmpeg goes on", why)
	testenv.Figure(t, "the last ffmpeg ends", "%s: after %d ms", why, time.Since(began).Milliseconds())
}

// clean asserts that all regions have what the catalog names, and nothing else.
func (q *queue) clean(t *testing.T) {
	t.Helper()
	report, err := (&repair.Check{Store: q.store, Catalog: q.cat, Read: true, Parallel: 4, Copies: q.table.Copies()}).Run(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	require.Positive(t, report.Named)
}

// of are the objects of one of an asset's runs.
func (q *queue) of(t *testing.T, asset, run string) (keys []string) {
	t.Helper()
	for _, k := range q.stored(t, asset) {
		if strings.HasPrefix(k, objects.RunPrefix(asset, run)) {
			keys = append(keys, k)
		}
	}
	return keys
}

// A ready asset is encoded anew: what there is stays until the new run is complete, also when
// that is cancelled or fails. Whatever isn't wanted any more ends at once, and leaves nothing.
func TestEncodedAnew(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.janitor(t)
	w := q.process(t, "eu")
	asset := q.upload(t, readFile(t, mediaFile("bikes-noaudio.mp4")))
	settled := func(run int) {
		t.Helper()
		require.Eventually(t, func() bool {
			a, err := q.cat.GetAsset(t.Context(), "o", asset)
			return err == nil && a.State == catalog.Ready && a.CurrentRun == run && q.open(t, asset) == 0
		}, 4*time.Minute, lookEvery)
	}
	settled(1)
	first := q.of(t, asset, "r1")
	_, err := q.cat.Encode(t.Context(), "other", asset, "small")
	require.ErrorIs(t, err, catalog.ErrNotFound)

	run, err := q.cat.Encode(t.Context(), "o", asset, "small")
	require.NoError(t, err)
	require.Equal(t, []any{2, "small", catalog.RunPlanned}, []any{run.N, run.Profile, run.State})
	_, err = q.cat.Encode(t.Context(), "o", asset, "")
	require.ErrorIs(t, err, catalog.ErrState, "one is under way")
	require.ErrorIs(t, q.cat.CancelRun(t.Context(), "o", asset, 1), catalog.ErrState, "it has ended")
	settled(2)
	q.frames(t, asset, 2, 250)
	plan, err := q.cat.RunPlan(t.Context(), asset, 2)
	require.NoError(t, err)
	require.Len(t, plan.Tracks[0].Renditions, 1)
	var urgent int
	q.sql(t, "SELECT count(*) FROM tasks WHERE asset = $1 AND run = 2 AND class = 'first'", []any{asset}, &urgent)
	require.Zero(t, urgent, "nobody waits for it")
	require.Equal(t, first, q.of(t, asset, "r1"), "somebody may still watch it")
	q.clean(t)
	// As it will be in some hours.
	q.sql(t, "UPDATE tasks SET not_before = now() WHERE id = $1", []any{asset + "/r1/cleanup/replaced"})
	require.Eventually(t, func() bool { return len(q.of(t, asset, "r1")) == 0 }, time.Minute, lookEvery)
	require.Eventually(t, func() bool {
		var n int
		q.sql(t, "UPDATE tasks SET not_before = now() WHERE kind = 'cleanup' AND asset = $1 AND state = 'queued'", []any{asset})
		q.sql(t, "SELECT count(*) FROM tasks WHERE id = $1 AND state = 'done'", []any{asset + "/r1/cleanup/replaced"}, &n)
		return n == 1
	}, time.Minute, lookEvery)
	q.clean(t)

	_, err = q.cat.Encode(t.Context(), "o", asset, "slow")
	require.NoError(t, err)
	w.encodes(t)
	require.NoError(t, q.cat.CancelRun(t.Context(), "o", asset, 3))
	w.ends(t, "a run is cancelled")
	require.Eventually(t, func() bool { return len(q.of(t, asset, "r3")) == 0 && q.open(t, asset) == 0 }, time.Minute, lookEvery)
	settled(2)

	_, err = q.cat.Encode(t.Context(), "o", asset, "nonesuch")
	require.NoError(t, err)
	var list []catalog.Run
	require.Eventually(t, func() bool {
		list, err = q.cat.Runs(t.Context(), "o", asset)
		require.NoError(t, err)
		return list[len(list)-1].State == catalog.RunFailed
	}, time.Minute, lookEvery)
	var states []catalog.RunState
	for _, r := range list {
		states = append(states, r.State)
		require.Equal(t, r.N == 2, r.Current)
	}
	require.Equal(t, []catalog.RunState{catalog.RunReplaced, catalog.RunComplete, catalog.RunCancelled, catalog.RunFailed}, states)
	require.Equal(t, string(probe.CodeProfile), list[3].Failure.Code)
	settled(2)
	q.frames(t, asset, 2, 250)

	_, err = q.cat.Encode(t.Context(), "o", asset, "slow")
	require.NoError(t, err)
	w.encodes(t)
	require.NoError(t, q.cat.DeleteAsset(t.Context(), "o", asset))
	w.ends(t, "an asset is deleted")
	require.Eventually(t, func() bool { return len(q.stored(t, asset)) == 0 }, time.Minute, lookEvery)
}

// A worker is paused in the middle of its work for longer than its lease, and wakes up when
// another one has done it: nothing it has made counts, and nothing of it goes on.
func TestPausedWorkerWakesUp(t *testing.T) {
	testenv.Long(t) // for it waits; TestEncodersLostInMidWork pauses one of a platform's
	t.Parallel()
	q := newQueue(t)
	q.janitor(t)
	s := &sending{q: q, data: readFile(t, mediaFile("small-426x240-27s.mp4"))}
	paused := q.process(t, "eu")
	s.asset = q.upload(t, s.data)
	paused.encodes(t)
	paused.signal(t, syscall.SIGSTOP)
	before := s.committed(t)
	const picture = "SELECT count(*) FROM tasks WHERE asset = $1 AND kind = 'video' AND "
	var held, again int
	q.sql(t, picture+"state = 'running'", []any{s.asset}, &held)
	require.Positive(t, held)
	// As it will be in a while.
	q.sql(t, "UPDATE tasks SET lease_until = now() - interval '1 minute' WHERE asset = $1 AND state = 'running'", []any{s.asset})
	q.process(t, "us")
	q.becomes(t, s.asset, catalog.Ready, 4*time.Minute)
	require.Eventually(t, func() bool { return q.open(t, s.asset) == 0 }, time.Minute, lookEvery)
	attempts := s.committed(t)
	require.Truef(t, slices.Equal(before, attempts[:len(before)]), "what was committed, %v, is done again: %v", before, attempts)
	q.sql(t, picture+"attempt > 1", []any{s.asset}, &again)
	require.GreaterOrEqual(t, again, held)

	paused.signal(t, syscall.SIGCONT)
	require.Eventually(t, func() bool { return len(paused.children(t)) == 0 }, 30*time.Second, 10*time.Millisecond, "it goes on with what isn't its any more")
	fits := q.upload(t, readFile(t, mediaFile("bikes-noaudio.mp4")))
	q.becomes(t, fits, catalog.Ready, 2*time.Minute)
	require.Equal(t, attempts, s.committed(t), "what it has made counts")
	q.frames(t, s.asset, 1, 816)
	q.agrees(t, s.asset)
}
