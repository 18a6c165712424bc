package catalog

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// beatOf lists a worker that encodes with a build.
func beatOf(t *testing.T, c *Catalog, id, region, build string) {
	t.Helper()
	require.NoError(t, c.BeatWorker(t.Context(), id, region, 4, build))
}

// begun is an asset whose run a worker of build A has begun: its plan and its first chunk.
func begun(t *testing.T, c *Catalog) (asset string) {
	t.Helper()
	id := upload(t, c)
	beatOf(t, c, "a", "eu", "A")
	plan, err := c.Claim(t.Context(), id+"/r1/plan", "a", "A")
	require.NoError(t, err)
	require.NoError(t, c.CommitPlan(t.Context(), plan, testPlan(false)))
	v0, err := c.Claim(t.Context(), TrackTaskID(id, "r1", "v0", 0), "a", "A")
	require.NoError(t, err)
	commit(t, c, v0, chunk(v0, 0, 1, false, video("v360", "v0", 900_000)))
	return id
}

func buildOf(t *testing.T, c *Catalog, asset string) (build string, mixed bool) {
	t.Helper()
	return one[string](t, c, "SELECT build FROM runs WHERE asset = $1 AND n = 1", asset), one[bool](t, c, "SELECT mixed FROM runs WHERE asset = $1 AND n = 1", asset)
}

// TestRunsAreForOneBuild: tasks of a run aren't given to workers of another build, nor offered
// where only these are, until those of its own have been gone for a while.
func TestRunsAreForOneBuild(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := begun(t, c)
	next := TrackTaskID(id, "r1", "v0", 1)
	offered := func() []string {
		list, _, err := c.Backlog(ctx, Ladder, time.Minute, 100)
		require.NoError(t, err)
		for _, w := range list {
			if w.ID == next {
				return w.Pinned
			}
		}
		return []string{"not at all"}
	}
	require.Empty(t, offered(), "all workers are alike")
	beatOf(t, c, "b", "us", "B")
	require.Equal(t, []string{"eu"}, offered())

	_, err := c.Claim(ctx, next, "b", "B")
	require.ErrorIs(t, err, ErrBuild)
	_, err = c.Claim(ctx, next, "b", "B")
	require.ErrorIs(t, err, ErrHeld, "it rests for a moment")
	require.Equal(t, []string{"not at all"}, offered())
	sql(t, c, "UPDATE tasks SET not_before = now()")
	require.Zero(t, one[int32](t, c, "SELECT attempt + failures FROM tasks WHERE id = $1", next), "nothing is counted")

	// What is pinned to regions without any doesn't wait.
	sql(t, c, "UPDATE tasks SET not_before = now(), pinned = '{us}' WHERE id = $1", next)
	require.Equal(t, []string{"us"}, offered())
	pinned, err := c.Claim(ctx, next, "b", "B")
	require.NoError(t, err)
	require.NoError(t, c.Return(ctx, pinned))
	sql(t, c, "UPDATE tasks SET pinned = '{}'")
	sql(t, c, "UPDATE runs SET build = 'A', mixed = false")

	// One that stops may be back soon, and takes nothing meanwhile.
	require.NoError(t, c.LeaveWorker(ctx, "a"))
	require.Empty(t, offered())
	_, err = c.Claim(ctx, next, "b", "B")
	require.ErrorIs(t, err, ErrBuild)
	sql(t, c, "UPDATE tasks SET not_before = now()")
	sql(t, c, "UPDATE workers SET seen_at = now() - $1::interval WHERE id = 'a'", BuildPatience)
	got, err := c.Claim(ctx, next, "b", "B")
	require.NoError(t, err)
	build, mixed := buildOf(t, c, id)
	require.Equal(t, "B", build)
	require.True(t, mixed)
	beatOf(t, c, "a", "eu", "A")
	_, err = c.Claim(ctx, TrackTaskID(id, "r1", "a0", 0), "a", "A")
	require.ErrorIs(t, err, ErrBuild, "it is B's now")

	// What has another initialisation segment isn't part of the rendition.
	other := chunk(got, 1, 2, true, video("v360", "v0", 900_000))
	rs := other.Record.Renditions["v360"]
	rs.Init = "init-89abcdef.mp4"
	other.Record.Renditions["v360"] = rs
	_, _, err = c.CommitChunk(ctx, got, other)
	require.ErrorIs(t, err, ErrInit)
	require.False(t, errors.Is(err, ErrFenced))
	commit(t, c, got, chunk(got, 1, 2, true, video("v360", "v0", 900_000)))
	commit(t, c, got, chunk(got, 1, 2, true, video("v360", "v0", 900_000)))
}

// TestRunIsBegunAnew: a run that two builds can't share gives way to another one; one of a
// single build would end in the same way again.
func TestRunIsBegunAnew(t *testing.T) {
	for name, mixed := range map[string]bool{"two builds": true, "one build": false} {
		t.Run(name, func(t *testing.T) {
			c := fresh(t)
			id := begun(t, c)
			sql(t, c, "UPDATE runs SET mixed = $1", mixed)
			v1, err := c.Claim(t.Context(), TrackTaskID(id, "r1", "v0", 1), "a", "A")
			require.NoError(t, err)
			require.NoError(t, c.Fail(t.Context(), v1, Failure{Code: BuildFailure, Detail: "another initialisation segment"}))
			a, err := c.GetAsset(t.Context(), "ann", id)
			require.NoError(t, err)
			require.EqualValues(t, map[bool]int{true: 2, false: 1}[mixed], one[int64](t, c, "SELECT count(*) FROM runs"))
			require.Equal(t, "failed", one[string](t, c, "SELECT state FROM runs WHERE n = 1"))
			if !mixed {
				require.Equal(t, Failed, a.State)
				require.Equal(t, InternalFailure, a.Failure.Code)
				return
			}
			require.Equal(t, Received, a.State)
			require.EqualValues(t, 1, one[int64](t, c, "SELECT count(*) FROM tasks WHERE run = 2 AND kind = 'plan' AND state = 'queued'"))
			require.EqualValues(t, 1, one[int64](t, c, "SELECT count(*) FROM tasks WHERE kind = 'cleanup'"))
			require.Zero(t, one[int64](t, c, "SELECT count(*) FROM tasks WHERE run = 1 AND kind <> 'cleanup' AND state IN ('queued', 'running')"))
		})
	}
}
