package catalog

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// dead makes a task of kind k fail for good.
func dead(t *testing.T, c *Catalog, task string) {
	t.Helper()
	require.NoError(t, c.Fail(t.Context(), claim(t, c, task), Failure{Code: InternalFailure, Detail: "no such encoder"}))
}

func TestReplayEncodesAnew(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := planned(t, c, false)
	v0 := TrackTaskID(id, "r1", "v0", 0)
	_, err := c.Replay(ctx, v0)
	require.ErrorIs(t, err, ErrState, "it is not dead")
	_, err = c.Replay(ctx, "nothing")
	require.ErrorIs(t, err, ErrNotFound)
	dead(t, c, v0)
	list, err := c.DeadTasks(ctx, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, v0, list[0].ID)
	require.Equal(t, "no such encoder", list[0].Failure.Detail)
	// The run's objects go, its source stays.
	require.Equal(t, 1, one[int](t, c, "SELECT count(*)::integer FROM tasks WHERE kind = 'cleanup' AND not_before < now() + interval '1 hour' AND spec::text NOT LIKE '%sources/%'"))
	run, err := c.Replay(ctx, v0)
	require.NoError(t, err)
	require.Equal(t, 2, run)
	a, err := c.GetAsset(ctx, "ann", id)
	require.NoError(t, err)
	require.Equal(t, Received, a.State)
	require.Nil(t, a.Failure)
	require.Equal(t, "queued", one[string](t, c, "SELECT state FROM tasks WHERE id = $1", id+"/r2/plan"))
	require.Zero(t, one[int](t, c, "SELECT count(*)::integer FROM tasks WHERE kind = 'cleanup' AND state = 'queued' AND spec::text LIKE '%sources/%'"))
	_, err = c.Replay(ctx, v0)
	require.ErrorIs(t, err, ErrState, "it isn't dead any more")

	// It fails again, and is given up.
	dead(t, c, id+"/r2/plan")
	require.NoError(t, c.Discard(ctx, id+"/r2/plan"))
	list, err = c.DeadTasks(ctx, 10)
	require.NoError(t, err)
	require.Empty(t, list)
	require.Equal(t, 1, one[int](t, c, "SELECT count(*)::integer FROM tasks WHERE kind = 'cleanup' AND state = 'queued' AND not_before <= now() AND spec::text LIKE '%sources/%'"))
	require.ErrorIs(t, c.Discard(ctx, id+"/r2/plan"), ErrState)
}

func TestReplayNeedsTheSource(t *testing.T) {
	c := fresh(t)
	id := planned(t, c, false)
	v0 := TrackTaskID(id, "r1", "v0", 0)
	dead(t, c, v0)
	_, err := c.leader.pool().Exec(t.Context(), "UPDATE tasks SET not_before = now() WHERE kind = 'cleanup'")
	require.NoError(t, err)
	for range 2 {
		cl, err := c.ClaimCleanup(t.Context(), "janitor")
		require.NoError(t, err)
		require.NotNil(t, cl)
	}
	_, err = c.Replay(t.Context(), v0)
	require.ErrorIs(t, err, ErrState)
	require.ErrorContains(t, err, "source")
}

func TestStuckRunsFail(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	fine, stuck := planned(t, c, false), planned(t, c, false)
	_, err := c.leader.pool().Exec(ctx, "UPDATE tasks SET created_at = now() - interval '2 days', not_before = now() - interval '2 days', ended_at = NULL, started_at = NULL WHERE asset = $1", stuck)
	require.NoError(t, err)
	_, err = c.leader.pool().Exec(ctx, "UPDATE runs SET created_at = now() - interval '2 days'")
	require.NoError(t, err)
	_, err = c.leader.pool().Exec(ctx, "UPDATE assets SET received_at = now() - interval '2 days'")
	require.NoError(t, err)
	list, err := c.Oldest(ctx)
	require.NoError(t, err)
	byWhat := map[string]WaitingFor{}
	for _, w := range list {
		byWhat[w.What] = w
	}
	require.EqualValues(t, 2, byWhat["asset received"].N)
	require.InDelta(t, (48 * time.Hour).Seconds(), byWhat["task queued"].Oldest.Seconds(), 60)
	n, err := c.FailStuck(ctx, 24*time.Hour)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	a, err := c.GetAsset(ctx, "ann", stuck)
	require.NoError(t, err)
	require.Equal(t, Failed, a.State)
	a, err = c.GetAsset(ctx, "ann", fine)
	require.NoError(t, err)
	require.Equal(t, Received, a.State)
	dead, err := c.Unburied(ctx)
	require.NoError(t, err)
	require.Len(t, dead, 1)
	tasks, err := c.Tasks(ctx, []string{"queued"}, fine, 100)
	require.NoError(t, err)
	require.NotEmpty(t, tasks)
}

// A run that nothing is left to do for, and that isn't complete, can't be: should it be all
// the same, it is seen at once, and fails in the end.
func TestIdleRunsFail(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	idle, published := planned(t, c, false), planned(t, c, false)
	exec := func(query string, args ...any) {
		t.Helper()
		_, err := c.leader.pool().Exec(ctx, query, args...)
		require.NoError(t, err)
	}
	exec("UPDATE outbox SET done_at = now(), sent_at = now()")
	exec("UPDATE assets SET state = 'playable', playable_at = now() - interval '2 days', received_at = now() - interval '2 days'")
	exec("UPDATE runs SET state = 'playable', created_at = now() - interval '2 days'")
	ends := func(ago string) {
		exec("UPDATE tasks SET state = 'done', created_at = now() - $1::interval, started_at = now() - $1::interval, ended_at = now() - $1::interval WHERE kind <> 'cleanup'", ago)
		exec("UPDATE tasks SET created_at = created_at - interval '1 minute' WHERE kind = 'plan'")
	}
	measured := func() (w WaitingFor) {
		t.Helper()
		list, err := c.Oldest(ctx)
		require.NoError(t, err)
		for _, l := range list {
			if l.What == "idle run" {
				w = l
			}
		}
		require.Equal(t, "idle run", w.What, "it is told of when there is none, too")
		return w
	}
	fails := func(want int) {
		t.Helper()
		n, err := c.FailStuck(ctx, 24*time.Hour)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	require.Zero(t, measured().N, "both have tasks that wait")
	ends("23 hours")
	// What is to be published may be all that another waits for, however long.
	exec("INSERT INTO outbox (lane, asset) VALUES ($1, $1)", published)
	require.EqualValues(t, 1, measured().N)
	require.InDelta(t, (23 * time.Hour).Seconds(), measured().Oldest.Seconds(), 60)
	fails(0)

	ends("25 hours")
	fails(1)
	fails(0)
	a, err := c.GetAsset(ctx, "ann", idle)
	require.NoError(t, err)
	require.Equal(t, Failed, a.State)
	require.Contains(t, a.Failure.Detail, "Nothing has been left to do")
	a, err = c.GetAsset(ctx, "ann", published)
	require.NoError(t, err)
	require.Equal(t, Playable, a.State)
	require.Zero(t, measured().N)
	// It is dead, and can be replayed.
	dead, err := c.Unburied(ctx)
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.Equal(t, idle+"/r1/plan", dead[0].ID)
	run, err := c.Replay(ctx, dead[0].ID)
	require.NoError(t, err)
	require.Equal(t, 2, run)
}
