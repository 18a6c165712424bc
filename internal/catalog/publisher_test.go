package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"encoding/json"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
)

// said reads playback record n without checking its signature.
func said(t *testing.T, m *memory, asset string, n int64) playback.Record {
	t.Helper()
	body := m.get(objects.JournalKey(objects.PlaybackJournal(asset), n))
	require.NotNil(t, body, "playback record %d", n)
	jws, err := jose.ParseSignedCompact(string(body), []jose.SignatureAlgorithm{jose.EdDSA})
	require.NoError(t, err)
	var r playback.Record
	require.NoError(t, json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &r))
	require.Equal(t, n, r.N)
	return r
}

func state(t *testing.T, c *Catalog, id string) State {
	t.Helper()
	return State(one[string](t, c, "SELECT state FROM assets WHERE id = $1", id))
}

func settled(t *testing.T, c *Catalog) {
	t.Helper()
	eventually(t, "the outbox is published", func() bool {
		return one[int64](t, c, "SELECT count(*) FROM outbox WHERE done_at IS NULL OR sent_at IS NULL") == 0
	})
}

// finishRun claims and commits everything testPlan asks for but what was done before.
func commitVideo(t *testing.T, c *Catalog, id, track string, n, segments int, last bool, bandwidth int64) {
	t.Helper()
	name := map[string]string{"v0": "v360", "v1": "v1080"}[track]
	task := claim(t, c, TrackTaskID(id, "r1", track, n))
	commit(t, c, task, chunk(task, n, segments, last, video(name, track, bandwidth)))
}

func commitAudio(t *testing.T, c *Catalog, id string, task Task, n int, last bool) {
	t.Helper()
	commit(t, c, task, chunk(task, n, 1, last, audio("a0-aac128", "a0")))
}

func TestFromUploadToReady(t *testing.T) {
	c := fresh(t)
	store, events := &memory{}, &sink{}
	var seen sync.Map // object key → state of the asset when it was PUT
	var id atomic.Value
	store.before = func(key string) error {
		var s string
		if err := c.leader.pool().QueryRow(context.Background(), "SELECT state FROM assets WHERE id = $1", id.Load()).Scan(&s); err != nil {
			return err
		}
		seen.Store(key, s)
		return nil
	}
	asset := upload(t, c)
	id.Store(asset)
	startPublisher(t, c, store, events)
	require.NoError(t, c.CommitPlan(t.Context(), claim(t, c, asset+"/r1/plan"), testPlan(true)))

	// Out of order, and audio last: playable only once every needed track has begun.
	commitVideo(t, c, asset, "v0", 1, 2, true, 900_000)
	commitVideo(t, c, asset, "v0", 0, 1, false, 900_000)
	settled(t, c)
	require.Equal(t, Received, state(t, c, asset))
	require.Empty(t, store.keys("streams/"+asset+"/playback/"))
	a0 := claim(t, c, TrackTaskID(asset, "r1", "a0", 0))
	commitAudio(t, c, asset, a0, 0, false)
	settled(t, c)
	require.Equal(t, Playable, state(t, c, asset))
	require.Equal(t, "playable", one[string](t, c, "SELECT state FROM runs"))
	first := said(t, store, asset, 1)
	require.Equal(t, playback.Record{Asset: asset, N: 1, State: "playable", Run: "r1", Master: 1, Visibility: playback.Public,
		Placement: objects.Placement{Mode: objects.PlaceAll}, Title: "A film", Duration: 6}, first)
	master := string(store.get(objects.MasterKey(asset, "r1", 1)))
	require.Contains(t, master, "BANDWIDTH=1040000") // caps
	require.NotContains(t, master, "v1080")

	// The late track joins with a master of its own.
	commitVideo(t, c, asset, "v1", 0, 3, true, 6_000_000)
	settled(t, c)
	require.Equal(t, Playable, state(t, c, asset))
	require.Contains(t, string(store.get(objects.MasterKey(asset, "r1", 2))), "v1080/index.m3u8")
	require.Equal(t, int64(2), said(t, store, asset, 2).Master)

	commitAudio(t, c, asset, a0, 1, true)
	settled(t, c)
	require.Equal(t, Ready, state(t, c, asset))
	require.Equal(t, "complete", one[string](t, c, "SELECT state FROM runs"))
	last := said(t, store, asset, 3)
	require.Equal(t, []any{"ready", int64(3)}, []any{last.State, last.Master})
	master = string(store.get(objects.MasterKey(asset, "r1", 3)))
	require.Contains(t, master, "AVERAGE-BANDWIDTH=93333", "(10+10+20 kB)·8/6 s of video and 10 kB·8/2 s of audio")
	require.NotContains(t, master, "BANDWIDTH=1040000")
	require.Equal(t, "work/"+asset+"/r1/", one[string](t, c, "SELECT spec->'prefixes'->>0 FROM tasks WHERE kind = 'cleanup'"))

	require.Equal(t, []string{EventCreated, EventUploading, EventReceived, EventPlanned, EventPlayable, EventReady}, events.types())
	for i, e := range events.events {
		require.Equal(t, []string{asset, "ann"}, []string{e.Asset, e.Owner})
		require.False(t, e.Time.IsZero())
		if i > 0 {
			require.Greater(t, e.ID, events.events[i-1].ID)
		}
		switch e.Type {
		case EventPlayable:
			require.Equal(t, Playable, e.State)
			require.Equal(t, Progress{30, 30, 180, 360, e.Progress.SecondsLeft}, *e.Progress)
			require.NotNil(t, e.Progress.SecondsLeft)
		case EventReady:
			require.Equal(t, Ready, e.State)
			require.Equal(t, "r1", e.Run)
			require.Zero(t, *e.Progress.SecondsLeft)
		}
	}
	// A state is never visible before its objects.
	for key, before := range map[string]string{objects.MasterKey(asset, "r1", 1): "received", objects.JournalKey(objects.PlaybackJournal(asset), 1): "received",
		objects.JournalKey(objects.PlaybackJournal(asset), 3): "playable"} {
		got, ok := seen.Load(key)
		require.True(t, ok, key)
		require.Equal(t, before, got, key)
	}

	// The poster comes with the run's pictures.
	require.NoError(t, c.CommitExtras(t.Context(), claim(t, c, asset+"/r1/extra"), hls.Extras{V: hls.ExtrasVersion, Asset: asset, Run: "r1",
		Posters: []hls.Poster{{Path: "poster-720.jpg-1", Width: 1280, Height: 720}, {Path: "poster-360.jpg-1", Width: 640, Height: 360}}}))
	settled(t, c)
	require.NotEmpty(t, store.get(objects.ExtrasKey(asset, "r1")))
	require.Equal(t, "r1/extra/poster-720.jpg-1", said(t, store, asset, 4).Poster)
	got, err := c.GetAsset(t.Context(), "ann", asset)
	require.NoError(t, err)
	require.Equal(t, "r1/extra/poster-720.jpg-1", got.Poster)
	sql(t, c, "UPDATE assets SET poster = 'r2/extra/poster-720.jpg-1'") // of a run viewers don't see
	got, err = c.GetAsset(t.Context(), "ann", asset)
	require.NoError(t, err)
	require.Empty(t, got.Poster)
	sql(t, c, "UPDATE assets SET poster = 'r1/extra/poster-720.jpg-1'")

	// What viewers may see changes with a new record, what they don't, doesn't.
	private := playback.Private
	_, err = c.UpdateAsset(t.Context(), "ann", asset, nil, &private)
	require.NoError(t, err)
	_, err = c.UpdateAsset(t.Context(), "ann", asset, nil, &private)
	require.NoError(t, err)
	settled(t, c)
	require.Equal(t, playback.Private, said(t, store, asset, 5).Visibility)
	require.Len(t, store.keys("streams/"+asset+"/playback/"), 5)

	require.NoError(t, c.DeleteAsset(t.Context(), "ann", asset))
	settled(t, c)
	tomb := said(t, store, asset, 6)
	require.True(t, tomb.Deleted)
	require.Len(t, store.keys("streams/"+asset+"/playback/"), 6)
	require.Equal(t, EventDeleted, events.types()[len(events.types())-1])
	require.Equal(t, int64(2), one[int64](t, c, "SELECT count(*) FROM tasks WHERE kind = 'cleanup'"))
}

func TestAudioOnly(t *testing.T) {
	c := fresh(t)
	store, events := &memory{}, &sink{}
	startPublisher(t, c, store, events)
	id := upload(t, c)
	plan := testPlan(false)
	plan.Tracks, plan.Frames = plan.Tracks[1:], 0
	require.NoError(t, c.CommitPlan(t.Context(), claim(t, c, id+"/r1/plan"), plan))
	commitAudio(t, c, id, claim(t, c, TrackTaskID(id, "r1", "a0", 0)), 0, true)
	settled(t, c)
	require.Equal(t, Ready, state(t, c, id))
	// Complete with the first record: ready at once, but by way of playable.
	require.Equal(t, []string{EventPlayable, EventReady}, events.types()[4:])
	require.NotEmpty(t, one[time.Time](t, c, "SELECT playable_at FROM assets"))
	require.Equal(t, "ready", said(t, store, id, 1).State)
	require.Contains(t, string(store.get(objects.MasterKey(id, "r1", 1))), "mp4a.40.2")
}

func TestBadInputFailsTheAsset(t *testing.T) {
	c := fresh(t)
	store, events := &memory{}, &sink{}
	startPublisher(t, c, store, events)
	id := upload(t, c)
	require.NoError(t, c.Fail(t.Context(), claim(t, c, id+"/r1/plan"), Failure{Code: "not-a-video", Detail: "No video or audio stream was found."}))
	settled(t, c)
	a, err := c.GetAsset(t.Context(), "ann", id)
	require.NoError(t, err)
	require.Equal(t, []any{Failed, "not-a-video"}, []any{a.State, a.Failure.Code})
	require.Empty(t, store.keys(""), "nothing was ever said, so nothing is left to say")
	require.Equal(t, "not-a-video", events.events[len(events.events)-1].Failure.Code)
}

func TestFailingAfterPlayableTakesItBack(t *testing.T) {
	c := fresh(t)
	store, events := &memory{}, &sink{}
	startPublisher(t, c, store, events)
	id := planned(t, c, false)
	commitVideo(t, c, id, "v0", 0, 1, false, 900_000)
	commitAudio(t, c, id, claim(t, c, TrackTaskID(id, "r1", "a0", 0)), 0, true)
	settled(t, c)
	require.Equal(t, Playable, state(t, c, id))
	require.NoError(t, c.Fail(t.Context(), claim(t, c, TrackTaskID(id, "r1", "v0", 1)), Failure{Code: "truncated", Detail: "The file ends early."}))
	settled(t, c)
	require.Equal(t, Failed, state(t, c, id))
	tomb := said(t, store, id, 2)
	require.True(t, tomb.Gone())
	require.Equal(t, EventFailed, events.types()[len(events.types())-1])
	require.Equal(t, `["sources/`+id+`/", "work/`+id+`/", "streams/`+id+`/r1/"]`, one[string](t, c, "SELECT spec->>'prefixes' FROM tasks WHERE kind = 'cleanup'"))
}

// A publisher that dies between PUT and mark leaves the row to another, which
// PUTs the same bytes and goes on.
func TestPublisherDiesBetweenPutAndMark(t *testing.T) {
	c := fresh(t)
	store, events := &memory{}, &sink{}
	id := planned(t, c, false)
	commitVideo(t, c, id, "v0", 0, 1, false, 900_000)
	commitAudio(t, c, id, claim(t, c, TrackTaskID(id, "r1", "a0", 0)), 0, false)
	playbackKey := objects.JournalKey(objects.PlaybackJournal(id), 1)
	died := make(chan struct{})
	dead := atomic.Bool{}
	store.after = func(key string) error {
		if key == playbackKey && dead.CompareAndSwap(false, true) {
			close(died)
			return context.Canceled
		}
		if dead.Load() && key != playbackKey && strings.Contains(key, "playback") {
			return fmt.Errorf("unexpected %s", key)
		}
		return nil
	}
	// The first publisher can't even put the row back.
	ctx, cancel := context.WithCancel(t.Context())
	p := &Publisher{Catalog: c, Objects: store, Events: events, Signer: newSigner(t), Log: slog.New(slog.DiscardHandler)}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	<-died
	cancel()
	require.NoError(t, <-done)
	require.Equal(t, Received, state(t, c, id))
	sql(t, c, "UPDATE outbox SET hold_until = now() WHERE done_at IS NULL")

	startPublisher(t, c, store, events) // another signing key: the stored bytes count
	settled(t, c)
	require.Equal(t, Playable, state(t, c, id))
	require.Equal(t, int64(1), said(t, store, id, 1).N)
}

// Two publishers share the work and never publish a row twice.
func TestPublishersShareTheWork(t *testing.T) {
	c := fresh(t)
	store, events := &memory{}, &sink{}
	var ids []string
	for range 6 {
		ids = append(ids, planned(t, c, false))
	}
	startPublisher(t, c, store, events)
	startPublisher(t, c, store, events)
	for _, id := range ids {
		commitVideo(t, c, id, "v0", 0, 1, false, 900_000)
		commitVideo(t, c, id, "v0", 1, 2, true, 900_000)
		commitAudio(t, c, id, claim(t, c, TrackTaskID(id, "r1", "a0", 0)), 0, true)
	}
	settled(t, c)
	require.Equal(t, len(ids), one[int](t, c, "SELECT count(*) FROM assets WHERE state = 'ready'"))
	require.Len(t, events.types(), 6*len(ids))
	for _, id := range ids {
		keys := store.keys("streams/" + id + "/playback/")
		for i, k := range keys { // dense
			require.Equal(t, objects.JournalKey(objects.PlaybackJournal(id), int64(i+1)), k)
		}
		require.Equal(t, "ready", said(t, store, id, int64(len(keys))).State)
	}
}

func TestStoreAndEventsMayBeAway(t *testing.T) {
	c := fresh(t)
	store, events := &memory{}, &sink{}
	var away atomic.Bool
	away.Store(true)
	store.before = func(string) error {
		if away.Load() {
			return objects.ErrTooFewRegions
		}
		return nil
	}
	events.fail = errors.New("no NATS")
	startPublisher(t, c, store, events)
	id := planned(t, c, false)
	commitVideo(t, c, id, "v0", 0, 1, false, 900_000)
	commitAudio(t, c, id, claim(t, c, TrackTaskID(id, "r1", "a0", 0)), 0, false)
	eventually(t, "the row was tried again", func() bool {
		return one[int32](t, c, "SELECT coalesce(max(failures), 0) FROM outbox") >= 2
	})
	require.Equal(t, Received, state(t, c, id))
	away.Store(false)
	eventually(t, "playable without NATS", func() bool { return state(t, c, id) == Playable })
	require.Empty(t, events.types())
	events.mu.Lock()
	events.fail = nil
	events.mu.Unlock()
	settled(t, c)
	require.Equal(t, []string{EventCreated, EventUploading, EventReceived, EventPlanned, EventPlayable}, events.types())
}

// The worker PUTs its record itself; the publisher then only marks.
func TestStoredRecordIsNotPutAgain(t *testing.T) {
	c := fresh(t)
	store := &memory{}
	startPublisher(t, c, store, &sink{})
	id := planned(t, c, false)
	settled(t, c)
	task := claim(t, c, TrackTaskID(id, "r1", "v0", 0))
	_, row, err := c.CommitChunk(t.Context(), task, chunk(task, 0, 1, false, video("v360", "v0", 900_000)))
	require.NoError(t, err)
	require.NoError(t, c.MarkStored(t.Context(), row))
	settled(t, c)
	require.Empty(t, store.keys(""))
	require.Equal(t, int64(1), one[int64](t, c, "SELECT count(*) FROM chunks WHERE published_at IS NOT NULL"))
}

func TestRemotePublishersWait(t *testing.T) {
	p := &Publisher{}
	record := func(d time.Duration) {
		p.distance.Note(d)
	}
	require.False(t, p.remote(), "unknown yet")
	for range rttSamples {
		record(90 * time.Millisecond)
	}
	require.True(t, p.remote())
	record(2 * time.Millisecond) // load was to blame
	require.False(t, p.remote())
	for range rttSamples {
		record(90 * time.Millisecond) // the leader has moved
	}
	require.True(t, p.remote())
}
