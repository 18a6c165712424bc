package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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
	if p.Target < 1 || p.DurationMS < 1 && !p.Growing || p.Frames < 0 {
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
		if t.Kind == hls.Video && len(t.Chunks) == 0 && !p.Growing || len(t.Chunks) > maxChunks {
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
		task.ID, task.Class, task.Kind, task.Spec = TrackTaskID(plan.Asset, plan.RunName(), t.ID, 0), string(First), string(KindAudio), json.RawMessage("{}")
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
			task.Class = string(First)
		default:
			task.Class = string(Ladder)
		}
		if err := q.InsertTask(ctx, task); err != nil {
			return err
		}
	}
	return nil
}
