package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
)

// advance decides what an asset's published rows amount to: a new master when a
// track becomes offerable or all are complete, and a new playback record when
// what it should say differs from what the last one said. It puts their bytes
// into an outbox row; they become visible with that. The caller holds the
// asset's lock, so numbers are allocated in the order of the rows.
func (p *Publisher) advance(ctx context.Context, q *db.Queries, a db.Asset) error {
	gone := a.DeletedAt != nil || State(a.State) == Failed
	run, err := q.NewestRun(ctx, a.ID)
	if err != nil {
		if err = ignoreNoRows(err); err != nil || !gone {
			return err
		}
	}
	var out outboxEntry
	wasFinal, first := run.Final, run.Master == 0
	if !gone && a.ReceivedAt != nil && run.Plan != nil && !run.Final && !endedBadly(run) {
		if out, err = p.offer(ctx, q, a, &run); err != nil {
			return err
		}
	}
	record, ok, err := desired(ctx, q, a, run)
	if err != nil {
		return err
	}
	if ok {
		object, err := p.playbackRecord(ctx, q, a, record)
		if err != nil {
			return err
		}
		if object != nil {
			out.objects = append(out.objects, *object)
		}
	}
	if len(out.objects) == 0 {
		return nil
	}
	// Every state is passed through, also when the first record is the last.
	playable := first && run.Master > 0 && State(a.State) == Received
	ready := run.Final && !wasFinal
	switch {
	case playable:
		out.effect.Playable = int(run.N)
		err = emit(ctx, q, a, Event{Type: EventPlayable, Run: runOf(run.N)}, out)
		out = outboxEntry{}
	case !ready:
		err = insertOutbox(ctx, q, a.ID, &a.ID, nil, out)
	}
	if err != nil || !ready {
		return err
	}
	out.effect.Ready = int(run.N)
	if err := emit(ctx, q, a, Event{Type: EventReady, Run: runOf(run.N)}, out); err != nil {
		return err
	}
	if err := insertExtra(ctx, q, a, run); err != nil {
		return err
	}
	return insertCleanup(ctx, q, a, int(run.N), "work", workGrace, objects.WorkPrefix(a.ID, runOf(run.N)))
}

// workGrace leaves a run's intermediate objects to its extras.
const workGrace = 30 * time.Minute

// insertExtra makes the task of a complete run's pictures.
func insertExtra(ctx context.Context, q *db.Queries, a db.Asset, run db.Run) error {
	var plan Plan
	if err := json.Unmarshal(run.Plan, &plan); err != nil {
		return fmt.Errorf("plan of %s: %w", runOf(run.N), err)
	}
	for _, t := range plan.Tracks {
		if t.Kind == hls.Video && !t.Late {
			return q.InsertTask(ctx, db.InsertTaskParams{ID: fmt.Sprintf("%s/%s/extra", a.ID, runOf(run.N)), Asset: a.ID, Run: run.N, Owner: a.Owner,
				Class: string(Extra), Kind: string(KindExtra), Track: t.ID, Spec: json.RawMessage("{}"), Region: a.Region, Pinned: a.Regions})
		}
	}
	return nil
}

// runOf is a run's name in keys and events.
func runOf(n int32) string { return hls.RunName(int(n)) }

func endedBadly(r db.Run) bool {
	return RunState(r.State) == RunFailed || RunState(r.State) == RunCancelled
}

// offer allocates a run's next master if its tracks have come further, and
// notes that in run.
func (p *Publisher) offer(ctx context.Context, q *db.Queries, a db.Asset, run *db.Run) (outboxEntry, error) {
	var plan Plan
	if err := json.Unmarshal(run.Plan, &plan); err != nil {
		return outboxEntry{}, fmt.Errorf("plan of %s: %w", runOf(run.N), err)
	}
	if plan.State == PlanGrowing { // not before its source is complete
		return outboxEntry{}, nil
	}
	heads, err := q.TrackHeads(ctx, a.ID, run.N)
	if err != nil {
		return outboxEntry{}, err
	}
	byTrack := map[string]db.TrackHeadsRow{}
	for _, h := range heads {
		byTrack[h.Track] = h
	}
	ended := true
	for _, t := range plan.Tracks {
		h := byTrack[t.ID]
		if !h.Started && !t.Late {
			return outboxEntry{}, nil
		}
		ended = ended && h.LastChunk >= 0 && h.Published == h.LastChunk+1
	}
	if ended {
		open, err := q.OpenTasks(ctx, a.ID, run.N)
		if err != nil {
			return outboxEntry{}, err
		}
		ended = open == 0
	}
	rows, err := q.Renditions(ctx, a.ID, run.N)
	if err != nil {
		return outboxEntry{}, err
	}
	var renditions []hls.Rendition
	var offered []string
	for _, r := range rows {
		if !byTrack[r.Track].Started {
			continue
		}
		var d hls.Rendition
		if err := json.Unmarshal(r.Description, &d); err != nil {
			return outboxEntry{}, fmt.Errorf("rendition %s: %w", r.ID, err)
		}
		renditions, offered = append(renditions, d), append(offered, d.ID)
	}
	if !ended && slices.Equal(offered, run.Offered) {
		return outboxEntry{}, nil
	}
	if ended {
		if err := measure(ctx, q, a.ID, run.N, plan.Target, renditions); err != nil {
			return outboxEntry{}, err
		}
	}
	master, err := hls.Master(renditions)
	if err != nil {
		return outboxEntry{}, err
	}
	run.Offered, run.Final = offered, ended
	if run.Master, err = q.Offer(ctx, db.OfferParams{Asset: a.ID, N: run.N, Offered: offered, Final: ended}); err != nil {
		return outboxEntry{}, err
	}
	return outboxEntry{objects: []Object{{Key: objects.MasterKey(a.ID, runOf(run.N), int64(run.Master)), Body: master}}}, nil
}

// measure replaces the renditions' caps by what their segments turned out to be.
func measure(ctx context.Context, q *db.Queries, asset string, run int32, target int, renditions []hls.Rendition) error {
	records := map[string][]hls.Record{}
	for i, r := range renditions {
		if records[r.Track] == nil {
			rows, err := q.Chunks(ctx, asset, run, r.Track)
			if err != nil {
				return err
			}
			for _, b := range rows {
				rec, err := hls.DecodeRecord(b)
				if err != nil {
					return err
				}
				records[r.Track] = append(records[r.Track], rec)
			}
		}
		peak, average := Measure(records[r.Track], r.ID, target)
		if peak == 0 {
			continue
		}
		renditions[i].Bandwidth, renditions[i].AverageBandwidth = peak, average
		renditions[i].KeyBandwidth = measureKeys(records[r.Track], r.ID, target)
		description, err := json.Marshal(renditions[i])
		if err != nil {
			return err
		}
		if err := q.DescribeRendition(ctx, db.DescribeRenditionParams{Asset: asset, Run: run, ID: r.ID, Description: description}); err != nil {
			return err
		}
	}
	return nil
}

// desired is what the asset's playback record should say; ok is false as long as
// there is nothing to say. A re-encode of a ready asset is shown once it is
// complete, until then the current run stays.
func desired(ctx context.Context, q *db.Queries, a db.Asset, run db.Run) (r playback.Record, ok bool, err error) {
	r = playback.Record{Asset: a.ID, Visibility: playback.Visibility(a.Visibility), Placement: placementOf(a.Placement, a.Regions),
		Title: a.Title, Duration: float64(deref(a.DurationMs)) / 1000, State: a.State}
	if a.DeletedAt != nil || State(a.State) == Failed {
		// A tombstone, if anything was ever said.
		r.Deleted = true
		return r, a.Playback != nil, nil
	}
	if State(a.State) == Ready && !run.Final && a.CurrentRun != nil && run.N != *a.CurrentRun {
		if run, err = q.GetRun(ctx, a.ID, *a.CurrentRun); err != nil {
			return r, false, err
		}
	}
	if run.Master == 0 || endedBadly(run) {
		return r, false, nil
	}
	r.Run, r.Master, r.State = runOf(run.N), int64(run.Master), string(Playable)
	if run.Final {
		r.State = string(Ready)
	}
	r.Poster = posterOf(a, r.Run)
	return r, true, nil
}

// playbackRecord allocates and signs the next playback record if it differs from the last.
func (p *Publisher) playbackRecord(ctx context.Context, q *db.Queries, a db.Asset, r playback.Record) (*Object, error) {
	said, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if a.Playback != nil {
		var last playback.Record
		if err := json.Unmarshal(a.Playback, &last); err != nil {
			return nil, fmt.Errorf("last playback record: %w", err)
		}
		// Compared as bytes written by this program, for PostgreSQL reorders JSON.
		before, err := json.Marshal(last)
		if err != nil {
			return nil, err
		}
		if string(before) == string(said) {
			return nil, nil
		}
	}
	if r.N, err = q.NextInSequence(ctx, "playback/"+a.ID); err != nil {
		return nil, err
	}
	if err := q.SetPlayback(ctx, said, a.ID); err != nil {
		return nil, err
	}
	body, err := playback.Sign(r, p.Signer)
	if err != nil {
		return nil, err
	}
	return &Object{Key: objects.JournalKey(objects.PlaybackJournal(a.ID), r.N), Body: body}, nil
}

// Measure returns the peak and average bit rate of a rendition over its
// records, in bits per second; see hls.Rates.
func Measure(records []hls.Record, rendition string, target int) (peak, average int64) {
	return hls.Rates(sizes(records, rendition, func(s hls.Segment) int64 { return s.Bytes }), target)
}

// measureKeys returns the peak bit rate of a rendition's keyframes alone, 0 unless
// all its segments have one.
func measureKeys(records []hls.Record, rendition string, target int) int64 {
	all := sizes(records, rendition, func(s hls.Segment) int64 { return s.Key })
	if slices.ContainsFunc(all, func(s hls.SegmentSize) bool { return s.Bytes == 0 }) {
		return 0
	}
	peak, _ := hls.Rates(all, target)
	return peak
}

// sizes are what a rendition's segments weigh, by the measure given.
func sizes(records []hls.Record, rendition string, bytes func(hls.Segment) int64) []hls.SegmentSize {
	var out []hls.SegmentSize
	for _, r := range records {
		for _, s := range r.Renditions[rendition].Segments {
			out = append(out, hls.SegmentSize{Seconds: float64(s.Duration) / float64(r.Timescale), Bytes: bytes(s)})
		}
	}
	return out
}
