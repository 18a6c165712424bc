package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// Bounds of work. A task is given up after MaxFailures bad attempts.
const (
	// Lease is how long a claim lasts without a beat.
	Lease = 15 * time.Second
	// MaxFailures is how many attempts of a task may end badly.
	MaxFailures = 5
	// BuildPatience is how long a run waits for a worker of its build after the last was seen.
	BuildPatience = time.Minute
	// buildPause is how long a task rests that a worker of another build was offered.
	buildPause = 2 * time.Second
	// recordHold is how long the publisher leaves a record's PUT to the worker that committed it.
	recordHold = time.Second
)

// Claim takes a task for a worker, which encodes with build. It returns ErrFenced when the
// task is finished or cancelled, ErrHeld when it isn't to be had now, and ErrBuild when it is
// for workers of another build; then its message is to be dropped, and another one follows.
// An empty build is any.
func (c *Catalog) Claim(ctx context.Context, task, worker, build string) (Task, error) {
	var claimed db.ClaimTaskRow
	err := c.direct(ctx, "claim "+task, func(ctx context.Context, q *db.Queries) error {
		var err error
		claimed, err = q.ClaimTask(ctx, db.ClaimTaskParams{ID: task, Worker: worker, Build: build, Lease: Lease, Patience: BuildPatience, MaxFailures: MaxFailures})
		return err
	})
	if !errors.Is(err, ErrNotFound) {
		return taskOf(db.Task(claimed)), err
	}
	var row db.Task
	left := int64(0)
	err = c.direct(ctx, "claim "+task, func(ctx context.Context, q *db.Queries) error {
		var err error
		if row, err = q.GetTask(ctx, task); err == nil && row.State == "queued" {
			left, err = q.LeaveToBuild(ctx, buildPause, task, build)
		}
		return err
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return Task{}, ErrFenced
	case err != nil:
		return Task{}, err
	case left > 0:
		return Task{}, ErrBuild
	case row.State == "queued" || row.State == "running":
		return Task{}, ErrHeld
	}
	return Task{}, ErrFenced
}

// Beat renews the claim of t and notes how many frames are done. ErrFenced
// means that the claim is lost or the task cancelled.
func (c *Catalog) Beat(ctx context.Context, t Task, frames int64) error {
	return c.fenced(ctx, "beat "+t.ID, func(ctx context.Context, q *db.Queries) (int64, error) {
		return q.BeatTask(ctx, db.BeatTaskParams{ID: t.ID, Attempt: int32(t.Attempt), Frames: frames, Lease: Lease})
	})
}

// Finish marks a task done whose result isn't a plan or a chunk.
func (c *Catalog) Finish(ctx context.Context, t Task) error {
	return c.fenced(ctx, "finish "+t.ID, func(ctx context.Context, q *db.Queries) (int64, error) {
		return q.FinishTask(ctx, t.ID, int32(t.Attempt))
	})
}

// Return gives back a task that was stopped through no fault of its own, such
// as a worker shutting down; nothing is counted.
func (c *Catalog) Return(ctx context.Context, t Task) error {
	return c.fenced(ctx, "return "+t.ID, func(ctx context.Context, q *db.Queries) (int64, error) {
		return q.ReturnTask(ctx, t.ID, int32(t.Attempt))
	})
}

func (c *Catalog) fenced(ctx context.Context, what string, fn func(ctx context.Context, q *db.Queries) (int64, error)) error {
	return c.direct(ctx, what, func(ctx context.Context, q *db.Queries) error {
		n, err := fn(ctx, q)
		if err == nil && n == 0 {
			return ErrFenced
		}
		return err
	})
}

// Await gives a task back until its source has so many bytes or is complete;
// nothing is counted.
func (c *Catalog) Await(ctx context.Context, t Task, bytes int64) error {
	return c.fenced(ctx, "await "+t.ID, func(ctx context.Context, q *db.Queries) (int64, error) {
		return q.AwaitBytes(ctx, db.AwaitBytesParams{ID: t.ID, Attempt: int32(t.Attempt), Asset: t.Asset, Needs: bytes})
	})
}

// Retry gives a task back after a failure that another attempt may not have:
// queued again after delay, and true; or, when it was the last one allowed,
// failed together with its run, and false.
func (c *Catalog) Retry(ctx context.Context, t Task, f Failure, delay time.Duration) (again bool, err error) {
	err = c.write(ctx, "retry "+t.ID, func(q *db.Queries) error {
		if _, err := q.LockAsset(ctx, t.Asset); err != nil {
			return err
		}
		row, err := q.RetryTask(ctx, db.RetryTaskParams{ID: t.ID, Attempt: int32(t.Attempt), Code: f.Code, Detail: f.Detail, Delay: delay, MaxFailures: MaxFailures})
		if errors.Is(err, errNoRows) {
			return ErrFenced
		}
		if err != nil {
			return err
		}
		if again = row.State == "queued"; again || t.Kind == KindExtra {
			return nil // a run is complete without its extras
		}
		return failRun(ctx, q, t.Asset, t.Run, f)
	})
	return again, err
}

// Fail ends a task, its run and, unless an earlier run stands, its asset, for good.
func (c *Catalog) Fail(ctx context.Context, t Task, f Failure) error {
	return c.write(ctx, "fail "+t.ID, func(q *db.Queries) error {
		if _, err := q.LockAsset(ctx, t.Asset); err != nil {
			return err
		}
		if f.Code == BuildFailure {
			// Where there was one build only, another run would end in the same way.
			run, err := q.GetRun(ctx, t.Asset, int32(t.Run))
			if err != nil {
				return err
			}
			if !run.Mixed {
				f.Code = InternalFailure
			}
		}
		n, err := q.FailTask(ctx, db.FailTaskParams{ID: t.ID, Attempt: int32(t.Attempt), Code: f.Code, Detail: f.Detail})
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrFenced
		}
		if t.Kind == KindExtra {
			return nil // a run is complete without its extras
		}
		return failRun(ctx, q, t.Asset, t.Run, f)
	})
}

// finish marks a task done by its attempt. again says that it was before: an
// earlier call's answer may have been lost. The attempt that lost gets ErrFenced.
func finish(ctx context.Context, q *db.Queries, t Task) (again bool, err error) {
	n, err := q.FinishTask(ctx, t.ID, int32(t.Attempt))
	if err != nil || n > 0 {
		return false, err
	}
	if done, err := q.GetTask(ctx, t.ID); err == nil && done.State == "done" && int(done.Attempt) == t.Attempt {
		return true, nil
	}
	return false, ErrFenced
}

// ChunkCommit is a finished chunk of a video or audio track.
type ChunkCommit struct {
	// Record of the chunk; Last in it ends the track.
	Record hls.Record
	// Renditions of the track as they turned out, Codecs included and Bandwidth
	// still the cap; needed with chunk 0, later ones may leave them out.
	Renditions []hls.Rendition
	// Frames done by the task so far, this chunk included.
	Frames int64
	// More says that a video task goes on with the chunk after this one.
	More bool
}

// Ends reports whether a task of kind k is done with the chunk.
func (ch ChunkCommit) Ends(k Kind) bool { return k == KindVideo && !ch.More || ch.Record.Last }

// describes checks that the master playlist can be composed of what is known
// once the first chunk is committed.
func (ch ChunkCommit) describes(t Task) error {
	described := map[string]bool{}
	for _, r := range ch.Renditions {
		if _, ok := ch.Record.Renditions[r.ID]; !ok || r.Track != t.Track || r.Codecs == "" || r.Bandwidth < 1 {
			return fmt.Errorf("rendition %+v: want one of the record's, of track %s, with codecs and bandwidth", r, t.Track)
		}
		described[r.ID] = true
	}
	for id := range ch.Record.Renditions {
		if ch.Record.Chunk == 0 && !described[id] {
			return fmt.Errorf("rendition %s isn't described with the track's first chunk", id)
		}
	}
	return nil
}

// does reports whether a chunk of its track is the task's to do.
func (t Task) does(chunk int) bool {
	if t.Kind != KindVideo {
		return true
	}
	var spec PlanChunk
	if err := json.Unmarshal(t.Spec, &spec); err != nil {
		return false
	}
	return chunk >= t.Chunk && chunk <= t.Chunk+spec.Joins
}

// CommitChunk makes a chunk count, in one statement fenced by the task's
// attempt: chunk row, outbox row with the record, progress; the task is done
// with it when the chunk is its last. It returns the
// outbox row, to be passed to MarkStored once the record is PUT. Committing the
// same chunk again is no error.
func (c *Catalog) CommitChunk(ctx context.Context, t Task, ch ChunkCommit) (Object, int64, error) {
	r := ch.Record
	if r.Asset != t.Asset || r.Run != t.RunName() || r.Track != t.Track || r.Attempt != t.Attempt || !t.does(r.Chunk) {
		return Object{}, 0, fmt.Errorf("commit %s attempt %d: record is of %s/%s/%s/%d attempt %d", t.ID, t.Attempt, r.Asset, r.Run, r.Track, r.Chunk, r.Attempt)
	}
	if err := ch.describes(t); err != nil {
		return Object{}, 0, fmt.Errorf("commit %s: %w", t.ID, err)
	}
	body, err := r.Encode()
	if err != nil {
		return Object{}, 0, fmt.Errorf("commit %s: %w", t.ID, err)
	}
	object := Object{Key: objects.RecordKey(r.Asset, r.Run, r.Track, r.Chunk), Body: body}
	params := db.CommitChunkParams{Task: t.ID, Attempt: int32(t.Attempt), Chunk: int32(r.Chunk), Last: r.Last, Record: body,
		Frames: ch.Frames, Finished: ch.Ends(t.Kind), Hold: recordHold}
	for _, f := range []struct {
		to *json.RawMessage
		v  any
	}{
		{&params.Objects, []Object{object}}, {&params.Renditions, nonNil(ch.Renditions)},
		{&params.Event, Event{Type: EventProgress, Asset: t.Asset, Owner: t.Owner, Run: r.Run}},
		{&params.Inits, r.Inits()},
		{&params.Effect, effect{Chunk: &chunkRef{Run: t.Run, Track: r.Track, Chunk: r.Chunk}}},
	} {
		if *f.to, err = json.Marshal(f.v); err != nil {
			return Object{}, 0, fmt.Errorf("commit %s: %w", t.ID, err)
		}
	}
	var id int64
	err = c.direct(ctx, "commit "+t.ID, func(ctx context.Context, q *db.Queries) error {
		var err error
		if id, err = q.CommitChunk(ctx, params); err == nil {
			return nil
		}
		if !errors.Is(err, errNoRows) && !constraint(err, "chunks_pkey") {
			return err
		}
		// Not held any more, or committed already: by this attempt, if an earlier
		// call's answer was lost.
		attempt, err := q.ChunkAttempt(ctx, db.ChunkAttemptParams{Asset: t.Asset, Run: int32(t.Run), Track: t.Track, Chunk: int32(r.Chunk)})
		if err == nil && int(attempt) == t.Attempt {
			return nil
		}
		if err != nil && !errors.Is(err, errNoRows) {
			return err
		}
		return refused(ctx, q, t, r)
	})
	return object, id, err
}

// refused says why a chunk isn't committed.
func refused(ctx context.Context, q *db.Queries, t Task, r hls.Record) error {
	row, err := q.GetTask(ctx, t.ID)
	if err != nil {
		return err
	}
	if row.State != "running" || int(row.Attempt) != t.Attempt {
		return ErrFenced
	}
	renditions, err := q.Renditions(ctx, t.Asset, int32(t.Run))
	if err != nil {
		return err
	}
	inits := r.Inits()
	for _, x := range renditions {
		if init, ok := inits[x.ID]; ok && x.Init != "" && x.Init != init {
			return fmt.Errorf("%w: rendition %s has %s, chunk %d was encoded with %s", ErrInit, x.ID, x.Init, r.Chunk, init)
		}
	}
	return ErrFenced
}

// CommitExtras ends an extra task: the index of what it has stored becomes
// visible. Committing again is no error.
func (c *Catalog) CommitExtras(ctx context.Context, t Task, x hls.Extras) error {
	if x.Asset != t.Asset || x.Run != t.RunName() {
		return fmt.Errorf("commit %s: extras are of %s/%s", t.ID, x.Asset, x.Run)
	}
	body, err := x.Encode()
	if err != nil {
		return fmt.Errorf("commit %s: %w", t.ID, err)
	}
	return c.write(ctx, "commit "+t.ID, func(q *db.Queries) error {
		asset, err := q.LockAsset(ctx, t.Asset)
		if err != nil {
			return err
		}
		if again, err := finish(ctx, q, t); again || err != nil {
			return err
		}
		o := outboxEntry{objects: []Object{{Key: objects.ExtrasKey(x.Asset, x.Run), Body: body}}}
		if len(x.Posters) > 0 {
			o.effect.Poster = objects.ExtraPath(x.Run, x.Posters[0].Path)
		}
		return emit(ctx, q, asset, Event{Type: EventChanged, Run: x.Run}, o)
	})
}

// MarkStored tells that the objects of an outbox row are PUT, which spares the
// publisher doing it.
func (c *Catalog) MarkStored(ctx context.Context, row int64) error {
	return c.direct(ctx, "mark stored", func(ctx context.Context, q *db.Queries) error { return q.MarkStored(ctx, row) })
}

// CommittedChunks returns the records of a track that count, in order: what an
// attempt that takes over must not do again.
func (c *Catalog) CommittedChunks(ctx context.Context, asset string, run int, track string) ([]hls.Record, error) {
	var out []hls.Record
	err := c.direct(ctx, "committed chunks", func(ctx context.Context, q *db.Queries) error {
		rows, err := q.Chunks(ctx, asset, int32(run), track)
		if err != nil {
			return err
		}
		out = make([]hls.Record, len(rows))
		for i, b := range rows {
			if out[i], err = hls.DecodeRecord(b); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// RunPlan returns the plan of a run, or ErrNotFound before it is committed.
func (c *Catalog) RunPlan(ctx context.Context, asset string, run int) (Plan, error) {
	var p Plan
	err := c.direct(ctx, "plan", func(ctx context.Context, q *db.Queries) error {
		row, err := q.GetRun(ctx, asset, int32(run))
		if err != nil {
			return err
		}
		if row.Plan == nil {
			return ErrNotFound
		}
		return json.Unmarshal(row.Plan, &p)
	})
	return p, err
}

// RunProfile returns the name of the profile a run is encoded with.
func (c *Catalog) RunProfile(ctx context.Context, asset string, run int) (string, error) {
	var profile string
	err := c.direct(ctx, "profile", func(ctx context.Context, q *db.Queries) error {
		row, err := q.GetRun(ctx, asset, int32(run))
		profile = row.Profile
		return err
	})
	return profile, err
}

// Source returns the parts of an asset's source, from the leader.
func (c *Catalog) Source(ctx context.Context, asset string) (Source, error) {
	var s Source
	err := c.direct(ctx, "source of "+asset, func(ctx context.Context, q *db.Queries) error {
		rows, err := q.Source(ctx, asset)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return ErrNotFound
		}
		u := rows[0]
		s = Source{Asset: asset, Filename: u.Filename, ContentType: u.ContentType, Size: -1, Complete: u.State == "finished",
			Placement: placementOf(u.Placement, u.Regions)}
		if u.Size != nil {
			s.Size = *u.Size
		}
		for _, r := range rows {
			if r.N != nil {
				s.Parts = append(s.Parts, Part{N: int(*r.N), ID: deref(r.ID), Start: deref(r.Start), Size: deref(r.PartSize), SHA256: r.Sha256, Regions: r.PartRegions})
			}
		}
		return nil
	})
	return s, err
}

// BeatWorker notes that a worker lives, how many tasks it takes at once, and what it encodes with.
func (c *Catalog) BeatWorker(ctx context.Context, id, region string, slots int, build string) error {
	return c.direct(ctx, "beat worker", func(ctx context.Context, q *db.Queries) error {
		return q.BeatWorker(ctx, db.BeatWorkerParams{ID: id, Region: region, Slots: int32(slots), Build: build})
	})
}

// LeaveWorker notes that a worker stops.
func (c *Catalog) LeaveWorker(ctx context.Context, id string) error {
	return c.direct(ctx, "leave worker", func(ctx context.Context, q *db.Queries) error { return q.LeaveWorker(ctx, id) })
}

// lostCode is how the queries note that an attempt's lease ran out.
const lostCode = "lost"

func taskOf(r db.Task) Task {
	return Task{ID: r.ID, Asset: r.Asset, Run: int(r.Run), Owner: r.Owner, Class: Class(r.Class), Kind: Kind(r.Kind), Track: r.Track,
		Chunk: int(r.Chunk), Spec: r.Spec, Attempt: int(r.Attempt), Failures: int(r.Failures), Lost: r.ErrorCode == lostCode, Placement: pinnedTo(r.Pinned)}
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
