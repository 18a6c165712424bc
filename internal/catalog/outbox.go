package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// Object is a derived object, its bytes fixed.
type Object struct {
	Key  string `json:"key"`
	Body []byte `json:"body"`
}

// effect is what becomes visible once a row's objects are stored.
type effect struct {
	// Chunk becomes published.
	Chunk *chunkRef `json:"chunk,omitempty"`
	// Playable and Ready are the run that takes the asset to that state.
	Playable int `json:"playable,omitempty"`
	Ready    int `json:"ready,omitempty"`
	// Poster becomes the asset's; its path below the asset's objects, run first.
	Poster string `json:"poster,omitempty"`
	// Purge becomes the next entry of the purges journal.
	Purge *purgeEffect `json:"purge,omitempty"`
}

type chunkRef struct {
	Run   int    `json:"run"`
	Track string `json:"track"`
	Chunk int    `json:"chunk"`
}

type outboxEntry struct {
	objects []Object
	effect  effect
}

// emit inserts an outbox row in the asset's lane. Callers hold the asset's lock
// when the order to other rows matters.
func emit(ctx context.Context, q *db.Queries, a db.Asset, e Event, o outboxEntry) error {
	e.Asset, e.Owner = a.ID, a.Owner
	event, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("event %s: %w", e.Type, err)
	}
	return insertOutbox(ctx, q, a.ID, &a.ID, event, o)
}

func insertOutbox(ctx context.Context, q *db.Queries, lane string, asset *string, event json.RawMessage, o outboxEntry) error {
	objs, err := json.Marshal(nonNil(o.objects))
	if err != nil {
		return fmt.Errorf("outbox objects: %w", err)
	}
	eff, err := json.Marshal(o.effect)
	if err != nil {
		return fmt.Errorf("outbox effect: %w", err)
	}
	return q.InsertOutbox(ctx, db.InsertOutboxParams{Lane: lane, Asset: asset, Objects: objs, Event: event, Effect: eff})
}

// Delays of the two passes of a clean-up: the first as soon as cancelled work
// has stopped, the second after anything that was still under way then.
var cleanupPasses = []time.Duration{2 * time.Second, 2 * time.Minute}

// cleanupSpec is the spec of a clean-up task.
type cleanupSpec struct {
	Prefixes []string `json:"prefixes"`
	// Passes left, each after its delay.
	Passes []time.Duration `json:"passes"`
}

func insertCleanup(ctx context.Context, q *db.Queries, a db.Asset, run int, why string, grace time.Duration, prefixes ...string) error {
	spec, err := json.Marshal(cleanupSpec{Prefixes: prefixes, Passes: cleanupPasses[1:]})
	if err != nil {
		return err
	}
	return q.InsertTask(ctx, db.InsertTaskParams{ID: cleanupID(a.ID, run, why), Asset: a.ID, Run: int32(run), Owner: a.Owner,
		Class: string(Extra), Kind: string(KindCleanup), Spec: spec, Region: a.Region, Pinned: a.Regions, Delay: max(grace, cleanupPasses[0])})
}

func cleanupID(asset string, run int, why string) string {
	return fmt.Sprintf("%s/%s/cleanup/%s", asset, hls.RunName(max(run, 1)), why)
}

// whyDead names the clean-up of the source of an asset that failed through no
// fault of its own.
const whyDead = "dead"

// failRun ends a run and cancels its tasks. The asset fails with it, unless it
// is ready: a failed re-encode changes nothing for viewers; or still uploading:
// what was made of a part of the source says nothing about all of it, and another
// run follows when all is there; or its build is gone, and another run begins at once.
// The caller holds the asset's lock.
func failRun(ctx context.Context, q *db.Queries, asset string, run int, f Failure) error {
	n, err := q.FailRun(ctx, db.FailRunParams{Asset: asset, N: int32(run), Code: &f.Code, Detail: &f.Detail})
	if err != nil {
		return err
	}
	if n == 0 {
		return nil // ended before
	}
	r := int32(run)
	if err := q.CancelTasks(ctx, asset, &r); err != nil {
		return err
	}
	a, err := q.GetAsset(ctx, asset)
	if err != nil {
		return err
	}
	if f.Code == BuildFailure && State(a.State) != Failed && State(a.State) != Uploading {
		return beginAnew(ctx, q, a, run)
	}
	if State(a.State) == Ready || State(a.State) == Failed || State(a.State) == Uploading {
		if err := insertCleanup(ctx, q, a, run, "run", 0, runPrefixes(asset, run)...); err != nil || State(a.State) != Ready {
			return err
		}
		return emit(ctx, q, a, Event{Type: EventCancelled, Run: runOf(r), Failure: &f}, outboxEntry{})
	}
	failed, err := q.GetRun(ctx, asset, r)
	if err != nil {
		return err
	}
	var plan Plan
	if failed.Plan != nil {
		if err := json.Unmarshal(failed.Plan, &plan); err != nil {
			return fmt.Errorf("plan of %s: %w", runOf(r), err)
		}
	}
	if plan.State != PlanWhole {
		return beginAnew(ctx, q, a, run)
	}
	return failAsset(ctx, q, a, run, f)
}

// beginAnew removes what a run that has failed stored, and starts another one.
func beginAnew(ctx context.Context, q *db.Queries, a db.Asset, run int) error {
	failed, err := q.GetRun(ctx, a.ID, int32(run))
	if err != nil {
		return err
	}
	grace := time.Duration(0)
	if State(a.State) == Playable {
		grace = workGrace // there are viewers
	}
	if err := insertCleanup(ctx, q, a, run, "run", grace, runPrefixes(a.ID, run)...); err != nil {
		return err
	}
	return startRun(ctx, q, a, run+1, failed.Profile)
}

// failAsset makes an asset failed and has its objects removed, except playback
// records, which tell edges so. The source of a run that failed through no fault
// of its own is kept for a while.
func failAsset(ctx context.Context, q *db.Queries, a db.Asset, run int, f Failure) error {
	if err := q.MarkFailed(ctx, &f.Code, &f.Detail, a.ID); err != nil {
		return err
	}
	if err := q.CloseUploadOfAsset(ctx, a.ID); err != nil {
		return err
	}
	content := contentPrefixes(a.ID, run)
	if run > 0 && f.Code == InternalFailure {
		if err := insertCleanup(ctx, q, a, run, whyDead, deadGrace, content[0]); err != nil {
			return err
		}
		// Only of runs that have ended: another may follow soon.
		content = nil
		for n := 1; n <= run; n++ {
			content = append(content, runPrefixes(a.ID, n)...)
		}
	}
	if err := insertCleanup(ctx, q, a, run, "failed", 0, content...); err != nil {
		return err
	}
	if err := purgeAsset(ctx, q, a.ID); err != nil {
		return err
	}
	e := Event{Type: EventFailed, Failure: &f}
	if run > 0 {
		e.Run = hls.RunName(run)
	}
	return emit(ctx, q, a, e, outboxEntry{})
}

// contentPrefixes are, the source first, everything an asset has stored up to its newest run, but
// its playback records.
func contentPrefixes(asset string, newestRun int) []string {
	out := []string{objects.SourcePrefix(asset), "work/" + asset + "/"}
	for n := 1; n <= newestRun; n++ {
		out = append(out, objects.RunPrefix(asset, hls.RunName(n)))
	}
	return out
}
