package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
)

// Bounds of a plan: more is a mistake of the planner, not a video.
const (
	maxTracks = 64
	maxChunks = 100_000 // five digits in keys
)

func (p Plan) validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("plan: "+format, a...)) }
	if p.Target < 1 || p.DurationMS < 1 && !p.State.Grows() || p.Frames < 0 {
		bad("target %d s, duration %d ms, %d frames: out of range", p.Target, p.DurationMS, p.Frames)
	}
	if len(p.Tracks) == 0 || len(p.Tracks) > maxTracks {
		bad("%d tracks: want 1 to %d", len(p.Tracks), maxTracks)
	}
	required, seen := 0, map[string]bool{}
	for _, t := range p.Tracks {
		if !hls.ValidName(t.ID) || seen[t.ID] {
			bad("track %q: not a valid id, or used twice", t.ID)
		}
		seen[t.ID] = true
		if !t.Late {
			required++
		}
		if t.Kind != hls.Video && t.Kind != hls.Audio && t.Kind != hls.Text {
			bad("track %s: kind %q: want video, audio or text", t.ID, t.Kind)
		}
		if t.Kind == hls.Text && !t.Late {
			bad("track %s: text is late: nothing waits for it", t.ID)
		}
		if t.Timescale < 1 {
			bad("track %s: timescale %d", t.ID, t.Timescale)
		}
		if len(t.Renditions) == 0 {
			bad("track %s: no renditions", t.ID)
		}
		for _, r := range t.Renditions {
			if !hls.ValidName(r.ID) || seen["/"+r.ID] || r.Track != t.ID || r.Kind != t.Kind || r.Bandwidth < 1 {
				bad("track %s: rendition %+v: want a valid id of its own, the track's id and kind, and a bandwidth", t.ID, r)
			}
			seen["/"+r.ID] = true
		}
		if t.Kind == hls.Video && len(t.Chunks) == 0 && !p.State.Grows() || len(t.Chunks) > maxChunks {
			bad("track %s: %d chunks", t.ID, len(t.Chunks))
		}
		for i, c := range t.Chunks {
			if c.End <= c.Start || c.Frames < 0 || c.Needs < 0 || i > 0 && c.Start != t.Chunks[i-1].End {
				bad("track %s: chunk %d [%d, %d), %d frames: want dense, growing times", t.ID, i, c.Start, c.End, c.Frames)
			}
			if i == 0 && c.Joined {
				bad("track %s: the first chunk has none before it to be joined to", t.ID)
			}
		}
	}
	if required == 0 {
		bad("every track is late: nothing would make the asset playable")
	}
	return errors.Join(errs...)
}

// CommitPlan stores the run's plan, makes its tasks and marks the plan task
// done. Committing the same plan again is no error.
func (c *Catalog) CommitPlan(ctx context.Context, t Task, p Plan) error {
	if p.State.Grows() {
		return fmt.Errorf("commit %s: the plan isn't complete", t.ID)
	}
	return c.storePlan(ctx, "commit "+t.ID, t, p, func(s planStore) error {
		n, err := s.q.SetPlan(ctx, s.body, t.ID, int32(t.Attempt))
		if err != nil {
			return err
		}
		if n == 0 {
			if again, err := finish(ctx, s.q, t); again || err != nil {
				return err
			}
			return ErrFenced // the run has ended
		}
		if err := s.q.SetDuration(ctx, &p.DurationMS, t.Asset); err != nil {
			return err
		}
		if err := s.insertTracks(ctx, t, p); err != nil {
			return err
		}
		if State(s.asset.State) == Uploading {
			if err := s.q.ReleaseArrived(ctx, t.Asset); err != nil {
				return err
			}
		} else if err := s.q.ReleaseTasks(ctx, t.Asset, math.MaxInt64); err != nil {
			return err
		}
		event := Event{Type: EventPlanned, Run: t.RunName()}
		if s.have.State == PlanOffered {
			event.Type = EventProgress // how much there is to encode is known now
		}
		return emit(ctx, s.q, s.asset, event, outboxEntry{})
	})
}

// GrowPlan stores a plan that grows and makes the tasks it has more than before. Unless it
// is offered, the plan task is given back until its source has so many bytes, or is
// complete; else the attempt goes on. ErrState means that a worker was seen lately that
// doesn't know of such plans.
func (c *Catalog) GrowPlan(ctx context.Context, t Task, p Plan, bytes int64) error {
	if !p.State.Grows() {
		return fmt.Errorf("grow %s: the plan doesn't grow", t.ID)
	}
	return c.storePlan(ctx, "grow "+t.ID, t, p, func(s planStore) error {
		n, err := s.q.SetGrowingPlan(ctx, s.body, t.ID, int32(t.Attempt))
		if err != nil {
			return err
		}
		if n == 0 {
			row, err := s.q.GetTask(ctx, t.ID)
			if err == nil && row.State == "running" && int(row.Attempt) == t.Attempt && s.have.Tracks == nil {
				return fmt.Errorf("%w: not all workers know of plans that grow", ErrState)
			}
			return ErrFenced
		}
		if err := s.insertTracks(ctx, t, p); err != nil {
			return err
		}
		if p.State == PlanOffered {
			return s.offer(ctx, t, p)
		}
		n, err = s.q.AwaitBytes(ctx, db.AwaitBytesParams{ID: t.ID, Attempt: int32(t.Attempt), Asset: t.Asset, Needs: bytes})
		if err == nil && n == 0 {
			return ErrFenced
		}
		return err
	})
}

// planStore is a transaction that stores a plan.
type planStore struct {
	q     *db.Queries
	asset db.Asset
	body  json.RawMessage
	// have is the plan the run has already, if p grows or has grown.
	have Plan
}

// offer tells of a plan that is offered while it grows, once.
func (s planStore) offer(ctx context.Context, t Task, p Plan) error {
	if s.have.State == PlanOffered {
		return nil
	}
	if p.DurationMS > 0 {
		if err := s.q.SetDuration(ctx, &p.DurationMS, t.Asset); err != nil {
			return err
		}
	}
	return emit(ctx, s.q, s.asset, Event{Type: EventPlanned, Run: t.RunName()}, outboxEntry{})
}

// storePlan has a plan stored that is valid, while its asset is locked.
func (c *Catalog) storePlan(ctx context.Context, what string, t Task, p Plan, store func(planStore) error) error {
	if err := p.validate(); err != nil {
		return err
	}
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("plan %s: %w", t.ID, err)
	}
	return c.write(ctx, what, func(q *db.Queries) error {
		s := planStore{q: q, body: body}
		var err error
		if s.asset, err = q.LockAsset(ctx, t.Asset); err != nil {
			return err
		}
		if p.State != PlanWhole {
			if s.have, err = planOf(ctx, q, t); err != nil {
				return err
			}
		}
		return store(s)
	})
}

// planOf is what a run has of a plan already.
func planOf(ctx context.Context, q *db.Queries, t Task) (p Plan, err error) {
	run, err := q.GetRun(ctx, t.Asset, int32(t.Run))
	if err != nil || run.Plan == nil {
		return p, err
	}
	err = json.Unmarshal(run.Plan, &p)
	return p, err
}

// insertTracks makes the renditions and tasks a plan has more than before.
func (s planStore) insertTracks(ctx context.Context, t Task, p Plan) error {
	for _, track := range p.Tracks {
		if err := insertTrack(ctx, s.q, s.asset, t, track, s.have.Tracks); err != nil {
			return err
		}
	}
	return nil
}

// TrackTaskID names the task of a track's chunk; an audio track has one, chunk 0.
func TrackTaskID(asset, run, track string, chunk int) string {
	return fmt.Sprintf("%s/%s/%s/%05d", asset, run, track, chunk)
}

// insertTrack makes a track's renditions and tasks; of one that has some of its chunks
// already, the tasks of the others.
func insertTrack(ctx context.Context, q *db.Queries, asset db.Asset, plan Task, t PlanTrack, have []PlanTrack) error {
	old, known := 0, false
	for _, h := range have {
		if h.ID == t.ID {
			old, known = len(h.Chunks), true
		}
	}
	if known && (old > len(t.Chunks) || old < len(t.Chunks) && t.Chunks[old].Joined) {
		return fmt.Errorf("plan of %s: track %s doesn't go on where it ended", plan.ID, t.ID)
	}
	for _, r := range t.Renditions {
		if known {
			break
		}
		description, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := q.InsertRendition(ctx, db.InsertRenditionParams{Asset: plan.Asset, Run: int32(plan.Run), ID: r.ID, Track: t.ID, Description: description}); err != nil {
			return err
		}
	}
	task := db.InsertTaskParams{Asset: plan.Asset, Run: int32(plan.Run), Owner: plan.Owner, Track: t.ID, Region: asset.Region, Pinned: asset.Regions}
	if t.Kind == hls.Audio {
		task.Needs = t.Needs
		task.ID, task.Class, task.Kind, task.Spec = TrackTaskID(plan.Asset, plan.RunName(), t.ID, 0), string(firstOf(asset)), string(KindAudio), json.RawMessage("{}")
		return q.InsertTask(ctx, task)
	}
	if t.Kind == hls.Text {
		task.Needs = t.Needs
		task.ID, task.Class, task.Kind, task.Spec = TrackTaskID(plan.Asset, plan.RunName(), t.ID, 0), string(Extra), string(KindText), json.RawMessage("{}")
		return q.InsertTask(ctx, task)
	}
	for i, c := range t.Chunks {
		if c.Joined || i < old {
			continue
		}
		frames := c.Frames
		for _, next := range t.Chunks[i+1:] {
			if !next.Joined {
				break
			}
			frames += next.Frames
			c.Joins++
		}
		// Its first half is enough for a task to begin with: the rest arrives meanwhile.
		done := c.Frames
		for _, next := range t.Chunks[i+1 : i+1+c.Joins] {
			if done += next.Frames; 2*done > frames {
				break
			}
			c.Needs = max(c.Needs, next.Needs)
		}
		spec, err := json.Marshal(c)
		if err != nil {
			return err
		}
		task.ID, task.Kind, task.Chunk, task.Spec, task.FramesTotal = TrackTaskID(plan.Asset, plan.RunName(), t.ID, i), string(KindVideo), int32(i), spec, frames
		task.Needs = c.Needs
		switch {
		case t.Late:
			task.Class = string(Extra)
		case i == 0:
			task.Class = string(firstOf(asset))
		default:
			task.Class = string(Ladder)
		}
		if err := q.InsertTask(ctx, task); err != nil {
			return err
		}
	}
	return nil
}
