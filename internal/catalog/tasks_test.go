package catalog

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/hls"
)

func expireLeases(t *testing.T, c *Catalog) {
	t.Helper()
	sql(t, c, "UPDATE tasks SET lease_until = now() - interval '1 minute' WHERE state = 'running'")
}

// Of two attempts only the newest can commit, whatever the order.
func TestFence(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := planned(t, c, false)
	v0 := TrackTaskID(id, "r1", "v0", 0)
	frozen := claim(t, c, v0)
	require.Equal(t, []any{1, First, KindVideo, 0}, []any{frozen.Attempt, frozen.Class, frozen.Kind, frozen.Failures})
	_, err := c.Claim(ctx, v0, "other", "")
	require.ErrorIs(t, err, ErrHeld)
	require.NoError(t, c.Beat(ctx, frozen, 7))

	expireLeases(t, c)
	second := claim(t, c, v0)
	require.Equal(t, []int{2, 1}, []int{second.Attempt, second.Failures})
	require.ErrorIs(t, c.Beat(ctx, frozen, 9), ErrFenced)
	_, _, err = c.CommitChunk(ctx, frozen, chunk(frozen, 0, 1, false, video("v360", "v0", 900_000)))
	require.ErrorIs(t, err, ErrFenced)
	_, err = c.Retry(ctx, frozen, Failure{Code: InternalFailure}, 0)
	require.ErrorIs(t, err, ErrFenced)
	require.ErrorIs(t, c.Fail(ctx, frozen, Failure{Code: "x"}), ErrFenced)
	require.ErrorIs(t, c.Return(ctx, frozen), ErrFenced)
	require.Zero(t, one[int64](t, c, "SELECT count(*) FROM chunks"))
	rows := one[int64](t, c, "SELECT count(*) FROM outbox")

	ch := chunk(second, 0, 1, false, video("v360", "v0", 900_000))
	object, row, err := c.CommitChunk(ctx, second, ch)
	require.NoError(t, err)
	require.NotZero(t, row)
	require.Contains(t, string(object.Body), `"attempt":2`)
	// The answer was lost: again.
	_, row, err = c.CommitChunk(ctx, second, ch)
	require.NoError(t, err)
	require.Zero(t, row)
	_, _, err = c.CommitChunk(ctx, frozen, chunk(frozen, 0, 1, false, video("v360", "v0", 900_000)))
	require.ErrorIs(t, err, ErrFenced)
	require.Equal(t, int32(2), one[int32](t, c, "SELECT attempt FROM chunks"))
	require.Equal(t, rows+1, one[int64](t, c, "SELECT count(*) FROM outbox"))
	_, err = c.Claim(ctx, v0, "other", "")
	require.ErrorIs(t, err, ErrFenced)
	_, err = c.Claim(ctx, "no such task", "other", "")
	require.ErrorIs(t, err, ErrFenced)
}

func TestCommitChunkRefusesWhatIsNotTheTasks(t *testing.T) {
	c := fresh(t)
	id := planned(t, c, false)
	task := claim(t, c, TrackTaskID(id, "r1", "v0", 0))
	for want, change := range map[string]func(*ChunkCommit){
		"attempt 9":       func(ch *ChunkCommit) { ch.Record.Attempt = 9 },
		"v0/1":            func(ch *ChunkCommit) { ch.Record.Chunk = 1 },
		"isn't described": func(ch *ChunkCommit) { ch.Renditions = nil },
		"with codecs":     func(ch *ChunkCommit) { ch.Renditions[0].Codecs = "" },
		"out of range":    func(ch *ChunkCommit) { ch.Record.Timescale = 0 },
	} {
		ch := chunk(task, 0, 1, false, video("v360", "v0", 900_000))
		change(&ch)
		_, _, err := c.CommitChunk(t.Context(), task, ch)
		require.ErrorContains(t, err, want)
	}
}

func TestCommitPlan(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := upload(t, c)
	lost := claim(t, c, id+"/r1/plan")
	_, err := c.RunPlan(ctx, id, 1)
	require.ErrorIs(t, err, ErrNotFound)
	expireLeases(t, c)
	task := claim(t, c, id+"/r1/plan")
	require.ErrorIs(t, c.CommitPlan(ctx, lost, testPlan(false)), ErrFenced)
	require.NoError(t, c.CommitPlan(ctx, task, testPlan(true)))
	require.NoError(t, c.CommitPlan(ctx, task, testPlan(true)), "repeated after a lost answer")
	require.Error(t, c.CommitPlan(ctx, task, Plan{}))
	got, err := c.RunPlan(ctx, id, 1)
	require.NoError(t, err)
	require.Equal(t, mustJSON(t, testPlan(true)), mustJSON(t, got))

	rows, err := c.leader.pool().Query(ctx, "SELECT id, class, kind FROM tasks WHERE kind <> 'plan' ORDER BY id")
	require.NoError(t, err)
	defer rows.Close()
	var tasks []string
	for rows.Next() {
		var id, class, kind string
		require.NoError(t, rows.Scan(&id, &class, &kind))
		tasks = append(tasks, id[27:]+" "+class+" "+kind)
	}
	require.Equal(t, []string{"r1/a0/00000 first audio", "r1/v0/00000 first video", "r1/v0/00001 ladder video", "r1/v1/00000 extra video"}, tasks)
	a, err := c.GetAsset(ctx, "ann", id)
	require.NoError(t, err)
	require.Equal(t, 6*time.Second, a.Duration)
	require.Equal(t, Progress{BytesReceived: 30, BytesTotal: 30, FramesTotal: 360}, a.Progress)
}

func TestAudioIsCommittedChunkByChunkAndTakenOver(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := planned(t, c, false)
	a0 := TrackTaskID(id, "r1", "a0", 0)
	first := claim(t, c, a0)
	commit(t, c, first, chunk(first, 0, 1, false, audio("a0-aac128", "a0")))
	commit(t, c, first, chunk(first, 1, 1, false, audio("a0-aac128", "a0")))
	expireLeases(t, c)
	second := claim(t, c, a0)
	done, err := c.CommittedChunks(ctx, id, 1, "a0")
	require.NoError(t, err)
	require.Len(t, done, 2)
	require.Equal(t, 1, done[1].Attempt)
	_, _, err = c.CommitChunk(ctx, first, chunk(first, 2, 1, true, audio("a0-aac128", "a0")))
	require.ErrorIs(t, err, ErrFenced)
	_, _, err = c.CommitChunk(ctx, second, chunk(second, 1, 1, false, audio("a0-aac128", "a0")))
	require.ErrorIs(t, err, ErrFenced, "chunk 1 was won by the first attempt")
	commit(t, c, second, chunk(second, 2, 1, true, audio("a0-aac128", "a0")))
	require.Equal(t, "done", one[string](t, c, "SELECT state FROM tasks WHERE id = $1", a0))
}

func TestFailuresAreCounted(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := planned(t, c, false)
	v0 := TrackTaskID(id, "r1", "v0", 0)
	for n := 1; ; n++ {
		task := claim(t, c, v0)
		again, err := c.Retry(ctx, task, Failure{Code: InternalFailure, Detail: "disk full"}, 0)
		require.NoError(t, err)
		if !again {
			require.Equal(t, MaxFailures, n)
			break
		}
	}
	a, err := c.GetAsset(ctx, "ann", id)
	require.NoError(t, err)
	require.Equal(t, Failed, a.State)
	require.Equal(t, Failure{Code: InternalFailure, Detail: "disk full"}, *a.Failure)
	require.Equal(t, int64(3), one[int64](t, c, "SELECT count(*) FROM tasks WHERE state IN ('cancelled', 'failed')"))
	dead, err := c.Unburied(ctx)
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.Equal(t, v0, dead[0].ID)
	require.NoError(t, c.MarkBuried(ctx, v0))
	dead, err = c.Unburied(ctx)
	require.NoError(t, err)
	require.Empty(t, dead)
}

func TestExpiredTasksAreQueuedAgainAndInTheEndFail(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := upload(t, c)
	for n := 1; n <= MaxFailures; n++ {
		require.Equal(t, n > 1, claim(t, c, id+"/r1/plan").Lost)
		requeued, failed, err := c.RequeueExpired(ctx, time.Second)
		require.NoError(t, err)
		require.Zero(t, requeued+failed, "its lease stands")
		expireLeases(t, c)
		requeued, failed, err = c.RequeueExpired(ctx, time.Second)
		require.NoError(t, err)
		if n < MaxFailures {
			require.Equal(t, []int{1, 0}, []int{requeued, failed})
		} else {
			require.Equal(t, []int{0, 1}, []int{requeued, failed})
		}
	}
	a, err := c.GetAsset(ctx, "ann", id)
	require.NoError(t, err)
	require.Equal(t, Failed, a.State)
	require.Equal(t, InternalFailure, a.Failure.Code)
}

func TestReturnCountsNothing(t *testing.T) {
	c := fresh(t)
	id := upload(t, c)
	for range MaxFailures + 2 {
		task := claim(t, c, id+"/r1/plan")
		require.Zero(t, task.Failures)
		require.NoError(t, c.Return(t.Context(), task))
	}
}

func TestBacklogAndLeases(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := upload(t, c)
	waiting, underWay, err := c.Backlog(ctx, First, time.Minute, 10)
	require.NoError(t, err)
	require.Empty(t, underWay)
	require.Equal(t, []WaitingTask{{ID: id + "/r1/plan", Owner: "ann", Region: "eu", Pinned: []string{}}}, waiting)
	require.NoError(t, c.MarkDispatched(ctx, waiting[0], ""))
	require.NoError(t, c.MarkDispatched(ctx, waiting[0], "us"), "a second dispatcher: counted once")
	waiting, underWay, err = c.Backlog(ctx, First, time.Minute, 10)
	require.NoError(t, err)
	require.Empty(t, waiting)
	require.Equal(t, map[string]int{"": 1}, underWay)
	sql(t, c, "UPDATE tasks SET dispatched_at = now() - interval '2 minutes'")
	waiting, underWay, err = c.Backlog(ctx, First, time.Minute, 10)
	require.NoError(t, err)
	require.Equal(t, []int{1, 1, 0}, []int{len(waiting), waiting[0].Dispatch, len(underWay)})

	// A dispatcher that notes its message only after the task was claimed and
	// queued again must not make it look dispatched.
	late := waiting[0]
	_, err = c.Retry(ctx, claim(t, c, late.ID), Failure{Code: InternalFailure}, 0)
	require.NoError(t, err)
	require.NoError(t, c.MarkDispatched(ctx, late, ""))
	waiting, _, err = c.Backlog(ctx, First, time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, waiting, 1)
	require.Greater(t, waiting[0].Dispatch, late.Dispatch)

	ok, err := c.HoldLease(ctx, "x", "a", time.Minute)
	require.NoError(t, err)
	require.True(t, ok)
	ok, err = c.HoldLease(ctx, "x", "b", time.Minute)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, c.DropLease(ctx, "x", "a"))
	ok, err = c.HoldLease(ctx, "x", "b", time.Minute)
	require.NoError(t, err)
	require.True(t, ok)

	require.NoError(t, c.BeatWorker(ctx, "w1", "eu", 3, ""))
	require.NoError(t, c.BeatWorker(ctx, "w2", "us", 2, ""))
	n, err := c.WorkerSlots(ctx, time.Minute)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"eu": 3, "us": 2}, n)
	require.NoError(t, c.LeaveWorker(ctx, "w2"))
	require.NoError(t, c.Forget(ctx))
	n, err = c.WorkerSlots(ctx, time.Minute)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"eu": 3}, n)
}

// What viewers wait for never stands behind rungs that come later, of any video.
func TestLateTracksAreExtra(t *testing.T) {
	c := fresh(t)
	for range 2 {
		planned(t, c, true)
	}
	for class, track := range map[Class]string{Ladder: "v0", Extra: "v1"} {
		waiting, _, err := c.Backlog(t.Context(), class, time.Minute, 100)
		require.NoError(t, err)
		require.Len(t, waiting, 2)
		for _, w := range waiting {
			require.Equal(t, track, strings.Split(w.ID, "/")[2])
		}
	}
}

// A task of several chunks commits each as it comes; who takes over does the rest.
func TestJoinedChunksAreOneTask(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	p := testPlan(false)
	p.Tracks = p.Tracks[:1]
	p.Tracks[0].Chunks = []PlanChunk{{End: 2000, Frames: 60, Segments: 1}, {Start: 2000, End: 4000, Frames: 60, Segments: 1}, {Start: 4000, End: 6000, Frames: 60, Segments: 1, Joined: true}}
	id := upload(t, c)
	require.NoError(t, c.CommitPlan(ctx, claim(t, c, id+"/r1/plan"), p))
	require.Equal(t, int64(2), one[int64](t, c, "SELECT count(*) FROM tasks WHERE kind = 'video'"))
	task := TrackTaskID(id, "r1", "v0", 1)
	require.Equal(t, int64(120), one[int64](t, c, "SELECT frames_total FROM tasks WHERE id = $1", task))
	rung := video("v360", "v0", 900_000)

	first := claim(t, c, task)
	ch := chunk(first, 1, 1, false, rung)
	ch.More = true
	commit(t, c, first, ch)
	commit(t, c, first, ch)
	require.Equal(t, "running", one[string](t, c, "SELECT state FROM tasks WHERE id = $1", task))
	_, _, err := c.CommitChunk(ctx, first, chunk(first, 0, 1, false, rung))
	require.Error(t, err, "another task's")
	expireLeases(t, c)
	second := claim(t, c, task)
	last := chunk(second, 2, 1, true, rung)
	_, _, err = c.CommitChunk(ctx, first, chunk(first, 2, 1, true, rung))
	require.ErrorIs(t, err, ErrFenced)
	commit(t, c, second, last)
	commit(t, c, second, last)
	require.Equal(t, "done", one[string](t, c, "SELECT state FROM tasks WHERE id = $1", task))
	require.Error(t, Plan{Target: 2, DurationMS: 1, Tracks: []PlanTrack{{ID: "v0", Kind: hls.Video, Timescale: 1, Renditions: []hls.Rendition{rung}, Chunks: []PlanChunk{{End: 1, Joined: true}}}}}.validate())
}

// A run stays complete whatever becomes of its extras.
func TestExtras(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := planned(t, c, false)
	sql(t, c, "INSERT INTO tasks (id, asset, run, owner, class, kind, track, region) SELECT asset || '/r1/extra', asset, 1, owner, 'extra', 'extra', 'v0', region FROM tasks WHERE kind = 'plan'")
	for {
		again, err := c.Retry(ctx, claim(t, c, id+"/r1/extra"), Failure{Code: InternalFailure}, 0)
		require.NoError(t, err)
		if !again {
			break
		}
	}
	a, err := c.GetAsset(ctx, "ann", id)
	require.NoError(t, err)
	require.Nil(t, a.Failure)
	sql(t, c, "UPDATE tasks SET state = 'queued', failures = 0 WHERE kind = 'extra'")
	task := claim(t, c, id+"/r1/extra")
	x := hls.Extras{V: hls.ExtrasVersion, Asset: id, Run: "r1"}
	require.NoError(t, c.CommitExtras(ctx, task, x))
	require.NoError(t, c.CommitExtras(ctx, task, x), "repeated after a lost answer")
	require.Equal(t, int64(1), one[int64](t, c, "SELECT count(*) FROM outbox WHERE objects::text LIKE '%extra/index.json%'"))
	x.Run = "r2"
	require.Error(t, c.CommitExtras(ctx, task, x))
}
