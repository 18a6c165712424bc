package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

func TestFromReceivedToReady(t *testing.T) {
	e := newEnv(t)
	e.startPublisher()
	e.startDispatcher("d1")
	e.startDispatcher("d2")
	id := e.upload("ann")
	sub, err := e.conn.Subscribe(t.Context(), id, 0)
	require.NoError(t, err)
	defer sub.Stop()
	e.start(e.worker("eu", 2, encode).Run)
	e.start(e.worker("us", 1, encode).Run)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var types []string
	var playable uint64
	for {
		ev, seq, err := sub.Next(ctx)
		require.NoError(t, err, types)
		require.Equal(t, id, ev.Asset)
		if ev.Type != catalog.EventProgress {
			types = append(types, ev.Type)
		}
		if ev.Type == catalog.EventPlayable {
			playable = seq
		}
		if ev.Type == catalog.EventReady {
			require.Equal(t, ev.Progress.FramesTotal, ev.Progress.FramesDone)
			break
		}
	}
	require.Equal(t, []string{catalog.EventPlayable, catalog.EventReady}, types[len(types)-2:])
	require.Equal(t, catalog.Ready, e.state(id))
	require.Equal(t, 6, sql[int](e, "SELECT count(*) FROM chunks WHERE published_at IS NOT NULL"))
	require.Zero(t, sql[int](e, "SELECT count(*) FROM tasks WHERE failures > 0 OR attempt > 1"))
	b, err := e.store.ReadAll(t.Context(), objects.RecordKey(id, "r1", "v0", 2), 1<<20, objects.Placement{})
	require.NoError(t, err)
	r, err := hls.DecodeRecord(b)
	require.NoError(t, err)
	require.True(t, r.Last)

	// A client that saw playable goes on after it.
	again, err := e.conn.Subscribe(t.Context(), id, playable)
	require.NoError(t, err)
	defer again.Stop()
	for {
		ev, seq, err := again.Next(ctx)
		require.NoError(t, err)
		require.Greater(t, seq, playable)
		if ev.Type == catalog.EventReady {
			break
		}
	}
	// Every message is settled: nothing is left in the work queue.
	e.eventually("the work queue is empty", 10*time.Second, func() bool {
		s, err := e.conn.js.Stream(t.Context(), streamJobs)
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
}

func TestHowTasksEnd(t *testing.T) {
	e := newEnv(t)
	e.startPublisher()
	e.startDispatcher("d")
	e.start((&Janitor{Catalog: e.cat, Conn: e.conn, Objects: e.store, Name: "j", Log: quiet()}).Run)
	outcomes := map[string]struct {
		handle Handler
		state  catalog.State
		code   string
		dead   bool
	}{
		"bad input": {func(context.Context, *Task) error { return BadInput("not-a-video", "No %s stream was found.", "video") }, catalog.Failed, "not-a-video", false},
		"ours":      {func(context.Context, *Task) error { return Permanent(errors.New("no such encoder")) }, catalog.Failed, catalog.InternalFailure, true},
		"panic":     {func(context.Context, *Task) error { panic("out of range") }, catalog.Failed, catalog.InternalFailure, true},
		"no result": {func(context.Context, *Task) error { return nil }, catalog.Failed, catalog.InternalFailure, true},
		"transient": {func(ctx context.Context, t *Task) error {
			if t.Attempt < 3 {
				return errors.New("the disk is full")
			}
			return t.CommitPlan(ctx, filmPlan())
		}, catalog.Received, "", false},
	}
	var mu sync.Mutex
	byAsset := map[string]string{}
	e.start(e.worker("eu", 3, func(ctx context.Context, task *Task) error {
		mu.Lock()
		name := byAsset[task.Asset]
		mu.Unlock()
		if task.Kind != catalog.KindPlan {
			<-ctx.Done()
			return ctx.Err()
		}
		return outcomes[name].handle(ctx, task)
	}).Run)
	dead, err := e.conn.js.OrderedConsumer(t.Context(), streamDead, jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	ids := map[string]string{}
	mu.Lock()
	for name := range outcomes {
		ids[name] = e.upload("ann")
		byAsset[ids[name]] = name
	}
	mu.Unlock()
	wantDead := map[string]bool{}
	for name, want := range outcomes {
		id := ids[name]
		e.eventually(name, 30*time.Second, func() bool {
			return e.state(id) == want.state && sql[string](e, "SELECT state FROM tasks WHERE id = $1", id+"/r1/plan") != "queued" &&
				(name != "transient" || sql[int](e, "SELECT count(*) FROM tasks WHERE asset = $1", id) > 1)
		})
		a, err := e.cat.GetAsset(t.Context(), "ann", id)
		require.NoError(t, err)
		if want.code == "" {
			require.Nil(t, a.Failure)
			require.Equal(t, 2, sql[int](e, "SELECT failures FROM tasks WHERE id = $1", id+"/r1/plan"))
		} else {
			require.Equal(t, want.code, a.Failure.Code, name)
		}
		if want.dead {
			wantDead[id+"/r1/plan"] = true
		}
	}
	for len(wantDead) > 0 {
		msg, err := dead.Next(jetstream.FetchMaxWait(15 * time.Second))
		require.NoError(t, err, wantDead)
		var d DeadLetter
		require.NoError(t, json.Unmarshal(msg.Data(), &d))
		require.True(t, wantDead[d.Task], "%+v", d)
		delete(wantDead, d.Task)
	}
	// The source of what can be replayed stays until that is decided against;
	// otherwise nothing is left behind of what failed.
	parts := func(id string) (n int) {
		require.NoError(t, e.store.Own().List(t.Context(), objects.SourcePrefix(id), "", func(objects.Info) bool { n++; return true }))
		return n
	}
	require.NotZero(t, parts(ids["ours"]))
	for name, want := range outcomes {
		if want.dead {
			require.NoError(t, e.cat.Discard(t.Context(), ids[name]+"/r1/plan"))
		}
	}
	e.eventually("parts are removed", 30*time.Second, func() bool {
		n := 0
		for name, id := range ids {
			if outcomes[name].state == catalog.Failed {
				n += parts(id)
			}
		}
		return n == 0
	})
}

func TestDeletingAnAssetCancelsItsWorkAtOnce(t *testing.T) {
	e := newEnv(t)
	e.startPublisher()
	e.startDispatcher("d")
	started, ended := make(chan struct{}), make(chan error, 1)
	e.start(e.worker("eu", 1, func(ctx context.Context, task *Task) error {
		close(started)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}).Run)
	id := e.upload("ann")
	<-started
	require.NoError(t, e.cat.DeleteAsset(t.Context(), "ann", id))
	select {
	case cause := <-ended:
		require.ErrorIs(t, cause, ErrCancelled)
	case <-time.After(4 * time.Second): // below the beat, which would find out too
		t.Fatal("the handler wasn't cancelled")
	}
	require.Equal(t, "cancelled", sql[string](e, "SELECT state FROM tasks WHERE kind = 'plan'"))
}

func TestAStoppingWorkerGivesItsTaskBack(t *testing.T) {
	e := newEnv(t)
	e.startDispatcher("d")
	started := make(chan struct{})
	stop := e.start(e.worker("eu", 1, func(ctx context.Context, task *Task) error {
		close(started)
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), ErrStopping) {
			t.Errorf("cause is %v", context.Cause(ctx))
		}
		return ctx.Err()
	}).Run)
	id := e.upload("ann")
	<-started
	stop()
	require.Zero(t, sql[int](e, "SELECT count(*) FROM workers WHERE slots > 0"))
	done := make(chan *Task, 1)
	e.start(e.worker("us", 1, func(ctx context.Context, task *Task) error {
		if task.Kind == catalog.KindPlan {
			done <- task
		}
		return encode(ctx, task)
	}).Run)
	select {
	case task := <-done:
		require.Equal(t, []any{id, 2, 0}, []any{task.Asset, task.Attempt, task.Failures})
	case <-time.After(10 * time.Second):
		t.Fatal("nobody took over")
	}
}

// A worker that freezes past its lease loses its task; what it brings when it
// wakes counts for nothing.
func TestTakeOverFromAFrozenWorker(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.startPublisher()
	e.startDispatcher("d")
	wake, frozen, woken := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	w := e.worker("eu", 1, func(ctx context.Context, task *Task) error {
		if task.Kind != catalog.KindVideo || task.Chunk != 1 {
			return encode(ctx, task)
		}
		first := false
		once.Do(func() { first = true })
		if !first {
			return encode(ctx, task)
		}
		close(frozen)
		<-wake // deaf to ctx, like a stopped process
		err := task.worker.Catalog.Beat(context.Background(), task.Task, 1)
		if errors.Is(err, catalog.ErrFenced) {
			_, _, err = task.worker.Catalog.CommitChunk(context.Background(), task.Task, result(task, 1, false, v360))
		}
		woken <- err
		return err
	})
	w.frozen = true
	e.start(w.Run)
	id := e.upload("ann")
	<-frozen
	e.start(e.worker("us", 2, encode).Run)
	e.eventually("ready through the other worker", 60*time.Second, func() bool { return e.state(id) == catalog.Ready })
	close(wake)
	require.ErrorIs(t, <-woken, catalog.ErrFenced)
	require.Equal(t, 2, sql[int](e, "SELECT attempt FROM chunks WHERE track = 'v0' AND chunk = 1"))
	require.Equal(t, 1, sql[int](e, "SELECT failures FROM tasks WHERE track = 'v0' AND chunk = 1 AND error_code = 'lost'"))
	require.Equal(t, 6, sql[int](e, "SELECT count(*) FROM chunks"))
}

// Work is done in its own region while that has room, else elsewhere.
func TestOwnRegionFirst(t *testing.T) {
	e := newEnv(t)
	e.startDispatcher("d")
	var mu sync.Mutex
	by := map[string]int{}
	block := make(chan struct{})
	handler := func(region string) Handler {
		return func(ctx context.Context, task *Task) error {
			if task.Kind != catalog.KindPlan {
				<-ctx.Done()
				return ctx.Err()
			}
			mu.Lock()
			by[region]++
			mu.Unlock()
			select {
			case <-block:
			case <-ctx.Done():
			}
			return BadInput("x", "x")
		}
	}
	count := func(region string) int {
		mu.Lock()
		defer mu.Unlock()
		return by[region]
	}
	eu, us := e.worker("eu", 3, handler("eu")), e.worker("us", 1, handler("us"))
	e.start(us.Run)
	e.start(eu.Run)
	e.eventually("both wait", 30*time.Second, func() bool {
		c, err := e.conn.js.Consumer(t.Context(), streamJobs, "first-eu-any")
		return err == nil && c.CachedInfo().NumWaiting == 2
	})
	for range 3 {
		e.upload("ann")
		n := count("eu")
		e.eventually("taken at home", 30*time.Second, func() bool { return count("eu") > n })
		e.eventually("waits again", 30*time.Second, func() bool {
			c, err := e.conn.js.Consumer(t.Context(), streamJobs, "first-eu-any")
			return err == nil && (c.CachedInfo().NumWaiting == 2 || count("eu") == 3)
		})
	}
	require.Zero(t, count("us"))
	e.upload("ann")
	e.eventually("taken elsewhere", 30*time.Second, func() bool { return count("us") == 1 })
	close(block)
}

// However many videos of one owner wait, another's first task begins when every slot
// has done one more of them at most.
func TestABacklogDelaysOthersByOneTask(t *testing.T) {
	const slots, backlog = 4, 500
	e := newEnv(t)
	film := e.upload("big")
	for _, c := range []struct{ table, key, change string }{
		{"assets", "id", "jsonb_build_object('id', name)"},
		{"runs", "asset", "jsonb_build_object('asset', name)"},
		{"tasks", "asset", "jsonb_build_object('asset', name, 'id', name || '/r1/plan')"},
	} {
		copies := sql[int](e, fmt.Sprintf(`WITH names AS (SELECT lpad(translate(n::text, '0123456789', 'abcdefghij'), 26, 'k') AS name FROM generate_series(2, %d) n),
			copies AS (INSERT INTO %s SELECT (jsonb_populate_record(x, %s)).* FROM %s x, names WHERE x.%s = $1 RETURNING 1) SELECT count(*) FROM copies`,
			backlog, c.table, c.change, c.table, c.key), film)
		require.Equal(t, backlog-1, copies, c.table)
	}
	var began, before atomic.Int64
	turn, other := make(chan struct{}), make(chan struct{})
	w := e.worker("eu", slots, func(ctx context.Context, task *Task) error {
		if task.Owner == "small" {
			before.Store(began.Load()) // the next one begins at once
			close(other)
			return BadInput("x", "x")
		}
		began.Add(1)
		select {
		case <-turn:
			return BadInput("x", "x")
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	e.startDispatcher("d")
	e.start(w.Run)
	begun := func() bool {
		select {
		case <-other:
			return true
		default:
			return false
		}
	}
	full := func() bool {
		return sql[int](e, "SELECT count(*) FROM tasks WHERE state = 'queued' AND dispatched_at IS NOT NULL") == windowPerSlot*slots
	}
	e.eventually("all slots are taken, and what comes next is under way", time.Minute, func() bool { return began.Load() == slots && full() })
	e.upload("small")
	more := int64(0)
	for ; !begun(); more++ {
		require.Less(t, more, int64(5*slots))
		turn <- struct{}{}
		e.eventually("the next one begins", time.Minute, func() bool { return begun() || began.Load() == slots+more+1 && full() })
	}
	require.LessOrEqual(t, before.Load()-slots, int64(slots))
}

func TestDispatchersTakeTurns(t *testing.T) {
	e := newEnv(t)
	stop := e.startDispatcher("d1")
	e.eventually("one is active", 10*time.Second, func() bool { return sql[int](e, "SELECT count(*) FROM leases WHERE holder = 'd1'") == 1 })
	e.startDispatcher("d2")
	e.upload("ann")
	e.eventually("dispatched", 10*time.Second, func() bool { return sql[int](e, "SELECT count(*) FROM tasks WHERE dispatch = 1") == 1 })
	stop()
	e.upload("ann")
	e.eventually("dispatched by the other", 10*time.Second, func() bool { return sql[int](e, "SELECT count(*) FROM tasks WHERE dispatch = 1") == 2 })
	require.Equal(t, "d2", sql[string](e, "SELECT holder FROM leases"))
	// Without workers the window stays small, whatever waits.
	for range 5 {
		e.upload("ann")
	}
	time.Sleep(2 * dispatchPoll) // proves an absence
	require.Equal(t, minWindow, sql[int](e, "SELECT count(*) FROM tasks WHERE dispatch > 0"))
}

// A dispatcher next to the leader takes over from one that is far away, and stays.
func TestTheNearestDispatches(t *testing.T) {
	e := newEnv(t)
	cat, err := catalog.Open(e.distant(2*catalog.FarRTT/3), 2*catalog.FarRTT, quiet())
	require.NoError(t, err)
	t.Cleanup(cat.Close)
	const term = time.Second
	e.start((&Dispatcher{Catalog: cat, Conn: e.conn, Name: "far", Regions: []string{"eu", "us"}, Log: quiet(), term: term}).Run)
	holder := func() string {
		return sql[string](e, "SELECT coalesce(max(holder), '') FROM leases WHERE held_until > now()")
	}
	e.eventually("the far one has nobody to leave it to", 10*time.Second, func() bool { return holder() == "far" })
	e.startDispatcher("near")
	e.eventually("the near one has it", 10*time.Second, func() bool { return holder() == "near" })
	e.upload("ann")
	e.eventually("dispatched", 10*time.Second, func() bool { return sql[int](e, "SELECT count(*) FROM tasks WHERE dispatch = 1") == 1 })
	time.Sleep(2 * term) // proves an absence
	require.Equal(t, "near", holder())
}

// Database connections cut again and again delay work, but lose and double nothing.
func TestCutConnections(t *testing.T) {
	e := newEnv(t)
	e.startPublisher()
	e.startDispatcher("d")
	e.start((&Janitor{Catalog: e.cat, Conn: e.conn, Objects: e.store, Name: "j", Log: quiet()}).Run)
	var ids []string
	for range 4 {
		ids = append(ids, e.upload("ann"))
	}
	e.start(e.worker("eu", 2, encode).Run)
	e.start(e.worker("us", 2, encode).Run)
	cuts := 0
	e.eventually("all ready", 90*time.Second, func() bool {
		if cuts < 12 {
			cuts++
			sql[int](e, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		}
		return sql[int](e, "SELECT count(*) FROM assets WHERE state = 'ready'") == len(ids)
	})
	require.Equal(t, 6*len(ids), sql[int](e, "SELECT count(*) FROM chunks"))
	for _, id := range ids {
		last, err := e.store.Own().Last(t.Context(), objects.PlaybackJournal(id))
		require.NoError(t, err)
		n, ok := objects.JournalNumber(objects.PlaybackJournal(id), last)
		require.True(t, ok)
		require.Equal(t, int(n), sql[int](e, "SELECT n FROM sequences WHERE scope = $1", "playback/"+id))
		for i := int64(1); i <= n; i++ {
			_, err := e.store.ReadAll(t.Context(), objects.JournalKey(objects.PlaybackJournal(id), i), 1<<20, objects.Placement{})
			require.NoError(t, err, i)
		}
	}
}

// Work pinned to a region goes only there, and holds up nobody while there is no worker.
func TestPinnedWorkStaysInItsRegion(t *testing.T) {
	e := newEnv(t)
	e.startDispatcher("d")
	var pinned []string
	for range 2 * minWindow {
		pinned = append(pinned, e.uploadTo("ann", objects.Placement{Mode: objects.PlacePinned, Regions: []string{"us"}}))
	}
	var mu sync.Mutex
	by := map[string]string{}
	handler := func(region string) Handler {
		return func(_ context.Context, task *Task) error {
			mu.Lock()
			defer mu.Unlock()
			by[task.Asset] = region
			return BadInput("x", "x")
		}
	}
	done := func(ids ...string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				if by[id] == "" {
					return false
				}
			}
			return true
		}
	}
	e.eventually("the pinned window is full", 10*time.Second, func() bool {
		return sql[int](e, "SELECT count(*) FROM tasks WHERE dispatched_to = 'us'") == minWindow
	})
	e.start(e.worker("eu", 2, handler("eu")).Run)
	free := e.upload("ann")
	e.eventually("done at once", 10*time.Second, done(free))
	e.start(e.worker("us", 2, handler("us")).Run)
	e.eventually("done once there is a worker", 20*time.Second, done(pinned...))
	for _, id := range pinned {
		require.Equal(t, "us", by[id])
	}
}

func TestWithoutNATS(t *testing.T) {
	c, err := Connect([]string{"nats://127.0.0.1:1"}, 1, quiet())
	require.NoError(t, err)
	defer c.Close()
	require.ErrorContains(t, c.Ready(t.Context()), "not connected")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.Error(t, c.Setup(ctx))
	require.Error(t, c.PublishEvent(ctx, catalog.Event{ID: 1, Asset: "a", Type: "x"}))
	w := &Worker{Conn: c, Slots: 1, Log: quiet()}
	require.NoError(t, w.Run(ctx), "stopped before it ever worked")
}
