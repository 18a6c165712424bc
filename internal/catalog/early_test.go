package catalog

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

// arriving makes an asset of which the first 20 of 60 bytes are there.
func arriving(t *testing.T, c *Catalog) (asset, upload string) {
	t.Helper()
	a, err := c.CreateAsset(t.Context(), NewAsset{Owner: "ann", Title: "A film", Region: "eu"})
	require.NoError(t, err)
	u, err := c.CreateUpload(t.Context(), NewUpload{Owner: "ann", Asset: a.ID, Size: 60, Filename: "a.mp4", Metadata: map[string]string{ProfileKey: "archive"}})
	require.NoError(t, err)
	appendPart(t, c, u.ID, 0)
	return a.ID, u.ID
}

// appendPart adds the nth of parts of 20 bytes.
func appendPart(t *testing.T, c *Catalog, upload string, n int) {
	t.Helper()
	require.NoError(t, c.AppendPart(t.Context(), upload, Part{N: n, ID: "p", Start: int64(20 * n), Size: 20, SHA256: hash("p"), Regions: []string{"eu"}}, true))
}

// earlyPlan is testPlan with what its tasks need: the first chunk what is there.
func earlyPlan() Plan {
	p := testPlan(false)
	p.Tracks[0].Chunks[0].Needs, p.Tracks[0].Chunks[1].Needs, p.Tracks[1].Needs = 20, 60, 30
	return p
}

func waiting(t *testing.T, c *Catalog) []string {
	t.Helper()
	var ids []string
	for _, class := range []Class{First, Ladder} {
		tasks, _, err := c.Backlog(t.Context(), class, time.Minute, 10)
		require.NoError(t, err)
		for _, w := range tasks {
			ids = append(ids, w.ID)
		}
	}
	return ids
}

// A run that begins with the first part goes on as parts arrive, and is playable
// only when all are there.
func TestEarlyRun(t *testing.T) {
	c := fresh(t)
	events := &sink{}
	startPublisher(t, c, &memory{}, events)
	id, up := arriving(t, c)
	plan := id + "/r1/plan"
	require.Equal(t, []string{plan}, waiting(t, c))
	profile, err := c.RunProfile(t.Context(), id, 1)
	require.NoError(t, err)
	require.Equal(t, "archive", profile)
	require.NoError(t, c.CommitPlan(t.Context(), claim(t, c, plan), earlyPlan()))

	v0, v1, a0 := TrackTaskID(id, "r1", "v0", 0), TrackTaskID(id, "r1", "v0", 1), TrackTaskID(id, "r1", "a0", 0)
	require.Equal(t, []string{v0}, waiting(t, c))
	_, err = c.Claim(t.Context(), a0, "w", "")
	require.ErrorIs(t, err, ErrHeld, "a message for it came too soon")
	task := claim(t, c, v0)
	commit(t, c, task, chunk(task, 0, 1, false, video("v360", "v0", 900_000)))
	appendPart(t, c, up, 1)
	require.Equal(t, []string{a0}, waiting(t, c))
	sound := claim(t, c, a0)
	commit(t, c, sound, chunk(sound, 0, 1, false, audio("a0-aac128", "a0")))
	eventually(t, "chunks are published", func() bool {
		return one[int64](t, c, "SELECT count(*) FROM chunks WHERE published_at IS NOT NULL") == 2
	})
	require.Equal(t, "uploading", one[string](t, c, "SELECT state FROM assets"))
	require.Zero(t, one[int32](t, c, "SELECT master FROM runs"), "nothing is offered of an upload under way")

	require.Empty(t, waiting(t, c))
	appendPart(t, c, up, 2)
	require.Equal(t, []string{v1}, waiting(t, c))
	a, err := c.FinishUpload(t.Context(), up)
	require.NoError(t, err)
	require.Equal(t, Received, a.State)
	eventually(t, "playable", func() bool { return one[string](t, c, "SELECT state FROM assets") == "playable" })
	commit(t, c, sound, chunk(sound, 1, 2, true, audio("a0-aac128", "a0")))
	task = claim(t, c, v1)
	commit(t, c, task, chunk(task, 1, 2, true, video("v360", "v0", 900_000)))
	eventually(t, "ready", func() bool { return one[string](t, c, "SELECT state FROM assets") == "ready" })
	require.EqualValues(t, 1, one[int64](t, c, "SELECT count(*) FROM runs"))
	eventually(t, "events", func() bool { return len(events.types()) == 6 })
	require.Equal(t, []string{EventCreated, EventUploading, EventPlanned, EventReceived, EventPlayable, EventReady}, events.types())
}

// What needs no early run has none: a source of one part, one of unknown size, and
// where it isn't wanted.
func TestNoEarlyRun(t *testing.T) {
	c := fresh(t)
	for _, n := range []struct {
		size, part int64
		early      bool
	}{{20, 20, true}, {-1, 20, true}, {60, 20, false}} {
		a, err := c.CreateAsset(t.Context(), NewAsset{Owner: "ann", Region: "eu"})
		require.NoError(t, err)
		u, err := c.CreateUpload(t.Context(), NewUpload{Owner: "ann", Asset: a.ID, Size: n.size})
		require.NoError(t, err)
		require.NoError(t, c.AppendPart(t.Context(), u.ID, Part{ID: "p", Size: n.part, SHA256: hash("p"), Regions: []string{"eu"}}, n.early))
	}
	// The version before lists its workers so.
	sql(t, c, "INSERT INTO workers (id, region, slots) VALUES ('old', 'eu', 4)")
	_, up := arriving(t, c)
	require.Zero(t, one[int64](t, c, "SELECT count(*) FROM tasks"))
	sql(t, c, "UPDATE workers SET seen_at = now() - interval '2 minutes'")
	require.NoError(t, c.BeatWorker(t.Context(), "new", "eu", 4, ""))
	appendPart(t, c, up, 1)
	require.Zero(t, one[int64](t, c, "SELECT count(*) FROM runs"), "it begins with a first part or not")
	arriving(t, c)
	require.EqualValues(t, 1, one[int64](t, c, "SELECT count(*) FROM runs"))
}

// A task that wants more than is there waits for it, and not in vain when it has
// arrived meanwhile.
func TestAwait(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id, up := arriving(t, c)
	plan := id + "/r1/plan"
	task := claim(t, c, plan)
	require.NoError(t, c.Await(ctx, task, 40))
	require.ErrorIs(t, c.Await(ctx, task, 40), ErrFenced)
	require.Empty(t, waiting(t, c))
	require.NoError(t, c.Forget(ctx))
	sql(t, c, "UPDATE runs SET created_at = now() - interval '2 days'")
	sql(t, c, "UPDATE tasks SET created_at = now() - interval '2 days', started_at = now() - interval '2 days'")
	stuck := func() int {
		n, err := c.FailStuck(ctx, 24*time.Hour)
		require.NoError(t, err)
		return n
	}
	require.Zero(t, stuck(), "it waits for its creator")
	appendPart(t, c, up, 1)
	require.Equal(t, []string{plan}, waiting(t, c))
	task = claim(t, c, plan)
	require.Zero(t, task.Failures)
	require.NoError(t, c.Await(ctx, task, 40))
	require.Equal(t, []string{plan}, waiting(t, c), "that much is there")
	task = claim(t, c, plan)
	require.NoError(t, c.Await(ctx, task, 60))
	appendPart(t, c, up, 2)
	_, err := c.FinishUpload(ctx, up)
	require.NoError(t, err)
	sql(t, c, "UPDATE tasks SET started_at = now() - interval '2 days'")
	require.Zero(t, stuck(), "all is there since a moment ago")
	task = claim(t, c, plan)
	require.NoError(t, c.Await(ctx, task, 1<<40))
	require.Equal(t, []string{plan}, waiting(t, c), "no more will come")
	require.NoError(t, c.CommitPlan(ctx, claim(t, c, plan), earlyPlan()))
	require.Len(t, waiting(t, c), 3)
}

// An early run that fails is dropped with all it stored, and its asset gets another
// when all is there.
func TestEarlyRunFails(t *testing.T) {
	c := fresh(t)
	id, up := arriving(t, c)
	require.NoError(t, c.CommitPlan(t.Context(), claim(t, c, id+"/r1/plan"), earlyPlan()))
	require.NoError(t, c.Fail(t.Context(), claim(t, c, TrackTaskID(id, "r1", "v0", 0)), Failure{Code: "damaged", Detail: "x"}))
	require.Equal(t, "uploading", one[string](t, c, "SELECT state FROM assets"))
	require.Equal(t, "failed", one[string](t, c, "SELECT state FROM runs"))
	require.Equal(t, "open", one[string](t, c, "SELECT state FROM uploads"))
	sql(t, c, "UPDATE tasks SET not_before = now() WHERE kind = 'cleanup'")
	cl, err := c.ClaimCleanup(t.Context(), "j")
	require.NoError(t, err)
	require.Equal(t, runPrefixes(id, 1), cl.Prefixes)
	appendPart(t, c, up, 1)
	appendPart(t, c, up, 2)
	require.Empty(t, waiting(t, c))
	_, err = c.FinishUpload(t.Context(), up)
	require.NoError(t, err)
	require.Equal(t, []string{id + "/r2/plan"}, waiting(t, c))
	profile, err := c.RunProfile(t.Context(), id, 2)
	require.NoError(t, err)
	require.Equal(t, "archive", profile)
}

// An upload that ends before its last byte leaves nothing to do, and everything made
// of it is removed.
func TestEarlyRunEndsWithItsUpload(t *testing.T) {
	for name, end := range map[string]func(c *Catalog, asset, upload string) error{
		"given up": func(c *Catalog, asset, _ string) error { return c.DeleteAsset(t.Context(), "ann", asset) },
		"failed": func(c *Catalog, _, upload string) error {
			return c.FailUpload(t.Context(), upload, Failure{Code: "checksum", Detail: "x"})
		},
		"expired": func(c *Catalog, _, _ string) error {
			sql(t, c, "UPDATE uploads SET expires_at = now() - interval '1 second'")
			_, err := c.ExpireUploads(t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := fresh(t)
			id, up := arriving(t, c)
			require.NoError(t, c.CommitPlan(t.Context(), claim(t, c, id+"/r1/plan"), earlyPlan()))
			task := claim(t, c, TrackTaskID(id, "r1", "v0", 0))
			require.NoError(t, end(c, id, up))
			require.Zero(t, one[int64](t, c, "SELECT count(*) FROM tasks WHERE kind <> 'cleanup' AND state IN ('queued', 'running')"))
			_, _, err := c.CommitChunk(t.Context(), task, chunk(task, 0, 1, false, video("v360", "v0", 900_000)))
			require.ErrorIs(t, err, ErrFenced)
			require.Equal(t, "cancelled", one[string](t, c, "SELECT state FROM runs"))
			sql(t, c, "UPDATE tasks SET not_before = now() WHERE kind = 'cleanup'")
			cl, err := c.ClaimCleanup(t.Context(), "j")
			require.NoError(t, err)
			require.Equal(t, contentPrefixes(id, 1), cl.Prefixes)
			require.Error(t, c.AppendPart(t.Context(), up, Part{N: 1, ID: "p", Start: 20, Size: 20, SHA256: hash("p"), Regions: []string{"eu"}}, true))
		})
	}
}

// However a first part and a deletion meet, no task outlives the asset.
func TestDeletionMeetsFirstPart(t *testing.T) {
	c := fresh(t)
	for range 20 {
		a, err := c.CreateAsset(t.Context(), NewAsset{Owner: "ann", Region: "eu"})
		require.NoError(t, err)
		u, err := c.CreateUpload(t.Context(), NewUpload{Owner: "ann", Asset: a.ID, Size: 60})
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = c.AppendPart(t.Context(), u.ID, Part{ID: "p", Size: 20, SHA256: hash("p"), Regions: []string{"eu"}}, true) // one of both comes too late
		})
		wg.Go(func() {
			if err := c.DeleteAsset(t.Context(), "ann", a.ID); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	}
	require.Zero(t, one[int64](t, c, "SELECT count(*) FROM tasks WHERE kind <> 'cleanup' AND state <> 'cancelled'"))
	require.Zero(t, one[int64](t, c, "SELECT count(*) FROM runs WHERE state <> 'cancelled'"))
}

// What stands between an upload's last byte and its first picture, in round trips to the leader.
func TestRoundTripsOfAnEncode(t *testing.T) {
	c, w := overWire(t, testenv.Postgres(t))
	require.NoError(t, c.Migrate(t.Context()))
	trips := func(call func() error) int {
		w.dieBefore(0)
		require.NoError(t, call())
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.trips
	}
	least := map[string]int{}
	note := func(what string, n int) {
		if had, ok := least[what]; !ok || n < had {
			least[what] = n // the pools have their own traffic too
		}
	}
	for range 3 {
		id, up := arriving(t, c)
		appendPart(t, c, up, 1)
		var task Task
		note("part", trips(func() error {
			return c.AppendPart(t.Context(), up, Part{N: 2, ID: "p", Start: 40, Size: 20, SHA256: hash("p"), Regions: []string{"eu"}}, true)
		}))
		note("finish", trips(func() error { _, err := c.FinishUpload(t.Context(), up); return err }))
		note("claim", trips(func() (err error) { task, err = c.Claim(t.Context(), id+"/r1/plan", "w", ""); return err }))
		note("source", trips(func() error { _, err := c.Source(t.Context(), id); return err }))
		note("plan", trips(func() error { return c.CommitPlan(t.Context(), task, earlyPlan()) }))
	}
	require.Equal(t, map[string]int{"part": 3, "finish": 4, "claim": 1, "source": 1, "plan": 3}, least)
}
