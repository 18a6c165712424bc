package catalog

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// grownPlan is testPlan as it is in the end; growingPlan what is known of it with so
// many chunks of the picture.
func grownPlan() Plan {
	p := testPlan(false)
	p.State = PlanGrown
	return p
}

func growingPlan(chunks int) Plan {
	p := testPlan(false)
	p.State, p.DurationMS, p.Frames, p.Tracks = PlanGrowing, 0, 0, p.Tracks[:1]
	p.Tracks[0].Chunks = p.Tracks[0].Chunks[:chunks]
	return p
}

// A plan that grows gets tasks as its source arrives, is shown when it is complete,
// and gives way to another run when it fails.
func TestGrowingRun(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	startPublisher(t, c, &memory{}, &sink{})
	id, up := arriving(t, c)
	plan, v0, v1, a0 := id+"/r1/plan", TrackTaskID(id, "r1", "v0", 0), TrackTaskID(id, "r1", "v0", 1), TrackTaskID(id, "r1", "a0", 0)
	// The version before lists its workers so.
	sql(t, c, "INSERT INTO workers (id, region, slots, early, grows) VALUES ('old', 'eu', 4, true, true)")
	task := claim(t, c, plan)
	require.ErrorContains(t, c.GrowPlan(ctx, task, grownPlan(), 40), "doesn't grow")
	require.ErrorContains(t, c.CommitPlan(ctx, task, growingPlan(1)), "isn't complete")
	require.ErrorIs(t, c.GrowPlan(ctx, task, growingPlan(1), 40), ErrState)
	require.NoError(t, c.BeatWorker(ctx, "old", "eu", 4, ""))
	require.NoError(t, c.GrowPlan(ctx, task, growingPlan(1), 40))
	require.ErrorIs(t, c.GrowPlan(ctx, task, growingPlan(1), 40), ErrFenced)
	require.Equal(t, []string{v0}, waiting(t, c))
	video0 := claim(t, c, v0)
	commit(t, c, video0, chunk(video0, 0, 1, false, video("v360", "v0", 900_000)))

	appendPart(t, c, up, 1)
	require.Equal(t, []string{plan}, waiting(t, c))
	task = claim(t, c, plan)
	joined := growingPlan(2)
	joined.Tracks[0].Chunks[1].Joined = true
	require.ErrorContains(t, c.GrowPlan(ctx, task, joined, 60), "doesn't go on")
	require.NoError(t, c.GrowPlan(ctx, task, growingPlan(2), 60))
	require.Equal(t, []string{v1}, waiting(t, c))

	appendPart(t, c, up, 2)
	_, err := c.FinishUpload(ctx, up)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{plan, v1}, waiting(t, c))
	eventually(t, "chunks are published", func() bool {
		return one[int64](t, c, "SELECT count(*) FROM chunks WHERE published_at IS NOT NULL") == 1
	})
	require.Zero(t, one[int32](t, c, "SELECT master FROM runs"), "nothing is shown of a plan that grows")
	total := func() int64 {
		a, err := c.GetAsset(ctx, "", id)
		require.NoError(t, err)
		return a.Progress.FramesTotal
	}
	require.Zero(t, total(), "not known yet: a share of what is known would go back")
	task = claim(t, c, plan)
	require.NoError(t, c.CommitPlan(ctx, task, grownPlan()))
	require.Positive(t, total())
	require.NoError(t, c.CommitPlan(ctx, task, grownPlan()), "an answer may be lost")
	require.ElementsMatch(t, []string{a0, v1}, waiting(t, c))
	sound := claim(t, c, a0)
	commit(t, c, sound, chunk(sound, 0, 1, false, audio("a0-aac128", "a0")))
	eventually(t, "playable", func() bool { return one[string](t, c, "SELECT state FROM assets") == "playable" })

	require.NoError(t, c.Fail(ctx, claim(t, c, v1), Failure{Code: "damaged", Detail: "x"}))
	require.Equal(t, "failed", one[string](t, c, "SELECT state FROM runs WHERE n = 1"))
	require.Equal(t, "playable", one[string](t, c, "SELECT state FROM assets"))
	require.Equal(t, []string{id + "/r2/plan"}, waiting(t, c))
	profile, err := c.RunProfile(ctx, id, 2)
	require.NoError(t, err)
	require.Equal(t, "archive", profile)
	require.NoError(t, c.Fail(ctx, claim(t, c, id+"/r2/plan"), Failure{Code: "damaged", Detail: "x"}))
	require.Equal(t, "failed", one[string](t, c, "SELECT state FROM assets"), "what is judged whole is judged for good")
}

// offeredPlan is what is known of grownPlan while its complete source is remuxed.
func offeredPlan(chunks int) Plan {
	p := testPlan(false)
	p.State, p.DurationMS, p.Frames = PlanOffered, 6010, 0
	p.Tracks[0].Chunks = p.Tracks[0].Chunks[:chunks]
	return p
}

// A plan that grows while its complete source is remuxed is offered meanwhile. Its task stays
// its attempt's, also when the asset is playable; should it fail then, another run begins.
func TestOfferedWhileItGrows(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	startPublisher(t, c, &memory{}, &sink{})
	state := func() string { return one[string](t, c, "SELECT state FROM assets") }
	id := upload(t, c)
	plan, v0, v1, a0 := id+"/r1/plan", TrackTaskID(id, "r1", "v0", 0), TrackTaskID(id, "r1", "v0", 1), TrackTaskID(id, "r1", "a0", 0)
	task := claim(t, c, plan)
	sql(t, c, "INSERT INTO workers (id, region, slots, early, grows) VALUES ('old', 'eu', 4, true, true)")
	require.ErrorIs(t, c.GrowPlan(ctx, task, offeredPlan(1), 0), ErrState)
	require.NoError(t, c.LeaveWorker(ctx, "old"))
	require.NoError(t, c.GrowPlan(ctx, task, offeredPlan(1), 0))
	require.NoError(t, c.GrowPlan(ctx, task, offeredPlan(1), 0), "an answer may be lost")
	require.ElementsMatch(t, []string{v0, a0}, waiting(t, c))
	require.NoError(t, c.Beat(ctx, task, 0), "the attempt goes on")
	require.EqualValues(t, 6010, one[int64](t, c, "SELECT duration_ms FROM assets"))
	video0, sound := claim(t, c, v0), claim(t, c, a0)
	commit(t, c, video0, chunk(video0, 0, 1, false, video("v360", "v0", 900_000)))
	commit(t, c, sound, chunk(sound, 0, 1, false, audio("a0-aac128", "a0")))
	eventually(t, "playable", func() bool { return state() == "playable" })
	require.Equal(t, "playable", one[string](t, c, "SELECT state FROM runs WHERE n = 1"))
	a, err := c.GetAsset(ctx, "", id)
	require.NoError(t, err)
	require.Zero(t, a.Progress.FramesTotal, "not known yet")

	// The worker dies; another one goes on.
	sql(t, c, "UPDATE tasks SET lease_until = now() - interval '1 s' WHERE id = $1", plan)
	late := task
	task = claim(t, c, plan)
	require.ErrorIs(t, c.GrowPlan(ctx, late, offeredPlan(2), 0), ErrFenced)
	require.NoError(t, c.GrowPlan(ctx, task, offeredPlan(2), 0))
	require.Equal(t, "playable", one[string](t, c, "SELECT state FROM runs WHERE n = 1"))
	require.Equal(t, []string{v1}, waiting(t, c))
	require.ErrorContains(t, c.CommitPlan(ctx, task, offeredPlan(2)), "isn't complete")
	require.NoError(t, c.CommitPlan(ctx, task, grownPlan()))
	require.NoError(t, c.CommitPlan(ctx, task, grownPlan()), "an answer may be lost")
	require.Equal(t, "playable", one[string](t, c, "SELECT state FROM runs WHERE n = 1"))
	require.EqualValues(t, 6000, one[int64](t, c, "SELECT duration_ms FROM assets"))
	require.EqualValues(t, 1, one[int64](t, c, "SELECT count(*) FROM outbox WHERE event ->> 'type' = 'planned'"), "told once")
	commit(t, c, sound, chunk(sound, 1, 2, true, audio("a0-aac128", "a0")))
	commitVideo(t, c, id, "v0", 1, 2, true, 900_000)
	eventually(t, "ready", func() bool { return state() == "ready" })

	other := upload(t, c)
	task = claim(t, c, other+"/r1/plan")
	require.NoError(t, c.GrowPlan(ctx, task, offeredPlan(1), 0))
	require.NoError(t, c.Fail(ctx, task, Failure{Code: "changed", Detail: "x"}))
	require.Contains(t, waiting(t, c), other+"/r2/plan")
	require.Equal(t, "received", one[string](t, c, "SELECT state FROM assets WHERE id = $1", other))
}

// The version that brought plans that grow reads what this one writes, and writes what
// this one reads.
func TestStoredPlans(t *testing.T) {
	// As that version declared its plans.
	type before struct {
		Target     int             `json:"target"`
		DurationMS int64           `json:"duration_ms"`
		Frames     int64           `json:"frames"`
		Tracks     []PlanTrack     `json:"tracks"`
		Encoder    json.RawMessage `json:"encoder,omitempty"`
		Growing    bool            `json:"growing,omitempty"`
		Grown      bool            `json:"grown,omitempty"`
	}
	for state, want := range map[PlanState]before{PlanWhole: {}, PlanGrowing: {Growing: true}, PlanGrown: {Grown: true}} {
		p := testPlan(true)
		p.State, p.Encoder = state, json.RawMessage(`{"a":1}`)
		want.Target, want.DurationMS, want.Frames, want.Tracks, want.Encoder = p.Target, p.DurationMS, p.Frames, p.Tracks, p.Encoder
		now, err := json.Marshal(p)
		require.NoError(t, err)
		var read before
		dec := json.NewDecoder(strings.NewReader(string(now)))
		dec.DisallowUnknownFields()
		require.NoError(t, dec.Decode(&read))
		require.Equal(t, want, read)

		then, err := json.Marshal(want)
		require.NoError(t, err)
		require.JSONEq(t, string(then), string(now))
		got := growingPlan(1) // nothing of what was there stays
		require.NoError(t, json.Unmarshal(then, &got))
		require.Equal(t, p, got)
	}
	// What it doesn't know of grows, to it.
	offered, err := json.Marshal(offeredPlan(1))
	require.NoError(t, err)
	var read before
	require.NoError(t, json.Unmarshal(offered, &read))
	require.True(t, read.Growing)
	_, err = json.Marshal(Plan{State: "shrinking"})
	require.ErrorContains(t, err, "shrinking")
}

// What is read as a plan, from whatever, is written as it was read.
func FuzzPlan(f *testing.F) {
	for _, p := range []Plan{grownPlan(), growingPlan(1), offeredPlan(1), testPlan(true)} {
		b, err := json.Marshal(p)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte(`{"growing":true,"grown":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, again Plan
		if json.Unmarshal(b, &p) != nil {
			return
		}
		_ = p.validate()
		written, err := json.Marshal(p)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(written, &again))
		twice, err := json.Marshal(again)
		require.NoError(t, err)
		require.JSONEq(t, string(written), string(twice))
		require.Equal(t, p.State, again.State)
	})
}
