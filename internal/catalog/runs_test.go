package catalog

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/objects"
)

// encoded does all of a run of an asset.
func encoded(t *testing.T, c *Catalog, id, run string) {
	t.Helper()
	require.NoError(t, c.CommitPlan(t.Context(), claim(t, c, id+"/"+run+"/plan"), testPlan(false)))
	for n := range 2 {
		task := claim(t, c, TrackTaskID(id, run, "v0", n))
		commit(t, c, task, chunk(task, n, n+1, n == 1, video("v360", "v0", 900_000)))
	}
	a0 := claim(t, c, TrackTaskID(id, run, "a0", 0))
	commitAudio(t, c, id, a0, 0, false)
	commitAudio(t, c, id, a0, 1, true)
	settled(t, c)
}

func TestEncodeAnew(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	store, events := &memory{}, &sink{}
	startPublisher(t, c, store, events)
	id := upload(t, c)
	_, err := c.Encode(ctx, "ann", id, "")
	require.ErrorIs(t, err, ErrState, "it isn't ready")
	require.ErrorIs(t, c.CancelRun(ctx, "ann", id, 1), ErrState, "it is the first")
	encoded(t, c, id, "r1")
	require.Equal(t, Ready, state(t, c, id))

	run, err := c.Encode(ctx, "ann", id, "archive")
	require.NoError(t, err)
	require.Equal(t, Run{N: 2, State: RunPlanned, Profile: "archive", CreatedAt: run.CreatedAt}, run)
	_, err = c.Encode(ctx, "ann", id, "")
	require.ErrorIs(t, err, ErrState)
	settled(t, c)
	require.Equal(t, "r1", said(t, store, id, int64(len(store.keys("streams/"+id+"/playback/")))).Run)
	records := len(store.keys("streams/" + id + "/playback/"))
	encoded(t, c, id, "r2")
	require.Equal(t, []string{"ladder"}, one[[]string](t, c, "SELECT array_agg(DISTINCT class) FROM tasks WHERE run = 2 AND kind IN ('plan', 'video', 'audio')"))
	now := store.keys("streams/" + id + "/playback/")
	require.Len(t, now, records+1, "its viewers hear of it once it is complete")
	require.Equal(t, []any{"r2", "ready"}, []any{said(t, store, id, int64(len(now))).Run, said(t, store, id, int64(len(now))).State})
	list, err := c.Runs(ctx, "ann", id)
	require.NoError(t, err)
	require.Equal(t, []any{RunReplaced, false, RunComplete, true}, []any{list[0].State, list[0].Current, list[1].State, list[1].Current})
	require.NotNil(t, list[1].EndedAt)
	_, err = c.Runs(ctx, "bob", id)
	require.ErrorIs(t, err, ErrNotFound)

	// What it replaced leaves once its last viewer has gone.
	leaves := one[time.Time](t, c, "SELECT not_before FROM tasks WHERE id = $1 AND spec->'prefixes' = jsonb_build_array($2::text)", id+"/r1/cleanup/replaced", objects.RunPrefix(id, "r1"))
	require.WithinDuration(t, time.Now().Add(replacedGrace), leaves, time.Minute)
	inventory := func() []string {
		all, err := c.Inventories(ctx, AreaStreams, "", 10)
		require.NoError(t, err)
		require.Len(t, all, 1)
		var keys []string
		for _, n := range all[0].Named {
			keys = append(keys, n.Key)
		}
		return keys
	}
	require.NotContains(t, inventory(), objects.MasterKey(id, "r1", 1))
	require.Contains(t, inventory(), objects.MasterKey(id, "r2", 1))

	// One that is cancelled, and one that fails, change nothing.
	_, err = c.Encode(ctx, "ann", id, "")
	require.NoError(t, err)
	plan := claim(t, c, id+"/r3/plan")
	require.NoError(t, c.CancelRun(ctx, "ann", id, 3))
	require.ErrorIs(t, c.Beat(ctx, plan, 0), ErrFenced)
	require.ErrorIs(t, c.CancelRun(ctx, "ann", id, 3), ErrState)
	run, err = c.Encode(ctx, "ann", id, "")
	require.NoError(t, err)
	require.Equal(t, []any{4, "archive"}, []any{run.N, run.Profile}, "as what viewers see")
	require.NoError(t, c.Fail(ctx, claim(t, c, id+"/r4/plan"), Failure{Code: "unknown-profile", Detail: "x"}))
	settled(t, c)
	a, err := c.GetAsset(ctx, "ann", id)
	require.NoError(t, err)
	require.Equal(t, []any{Ready, 2}, []any{a.State, a.CurrentRun})
	require.Nil(t, a.Failure)
	require.Len(t, store.keys("streams/"+id+"/playback/"), len(now))
	var told []string
	events.mu.Lock()
	for _, e := range events.events {
		if e.Type == EventEncoding || e.Type == EventCancelled {
			what := e.Type + " " + e.Run
			if e.Failure != nil {
				what += " " + e.Failure.Code
			}
			told = append(told, what)
		}
	}
	events.mu.Unlock()
	require.Equal(t, []string{"encoding r2", "encoding r3", "cancelled r3", "encoding r4", "cancelled r4 unknown-profile"}, told)
	require.Equal(t, 2, one[int](t, c, "SELECT count(*)::integer FROM tasks WHERE id IN ($1, $2) AND state = 'queued'", id+"/r3/cleanup/run", id+"/r4/cleanup/run"))

	_, err = c.Encode(ctx, "ann", id, "")
	require.NoError(t, err)
	require.NoError(t, c.DeleteAsset(ctx, "ann", id))
	_, err = c.Runs(ctx, "ann", id)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = c.Encode(ctx, "ann", id, "")
	require.ErrorIs(t, err, ErrNotFound)
}
