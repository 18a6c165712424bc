package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

// Store puts objects in as many regions as their placement asks for, or in all;
// *objects.Store is one.
type Store interface {
	Put(ctx context.Context, key string, body objects.Body, p objects.Placement) ([]string, error)
	PutEverywhere(ctx context.Context, key string, body objects.Body) ([]string, error)
}

// EventSink takes events: each at least once, an asset's in order but for
// repeats, which the sink must drop by their ID.
type EventSink interface {
	PublishEvent(ctx context.Context, e Event) error
}

// Timing of the publisher.
const (
	// publishPoll is how often it looks unasked; notifications make it look at once.
	publishPoll = time.Second
	// publishAgain is how long a row rests after its first failure.
	publishAgain = 250 * time.Millisecond
	// publishLease is longer than the work on one row may take.
	publishLease   = 20 * time.Second
	publishTimeout = 12 * time.Second
	resendEvery    = 3 * time.Second
	publishAtOnce  = 8
	// awayPause is how long it rests while the catalog is away.
	awayPause = 2 * time.Second
	// Publishing a row takes some ten round trips to the leader. A publisher
	// farther from it than FarRTT leaves rows to nearer ones for remoteDelay.
	remoteDelay = time.Second
	// rttSamples is over how many claims the shortest counts as the round trip.
	rttSamples = maxRTTs
)

// Publisher makes outbox rows visible: it PUTs their objects, flips the state
// they stand for, decides what follows, and sends their events. Every api runs
// one; they share the work, one asset at a time. Set the fields, then call Run once.
type Publisher struct {
	Catalog *Catalog
	Objects Store
	Events  EventSink
	// Signer holds the record key, which signs playback records.
	Signer *token.Signer
	Log    *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics

	distance Distance // by claims
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	wake := make(chan struct{}, 1)
	nudge := func() {
		select {
		case wake <- struct{}{}:
		default: // a look is due already
		}
	}
	g.Go(func() error { return p.Catalog.Listen(ctx, OutboxChannel, nudge) })
	g.Go(func() error { return p.resend(ctx) })
	g.Go(func() error { return p.publish(ctx, wake, nudge) })
	return g.Wait()
}

// publish claims rows and works on a bounded number of them at once.
func (p *Publisher) publish(ctx context.Context, wake <-chan struct{}, nudge func()) error {
	var work errgroup.Group
	defer func() { _ = work.Wait() }() // its functions return nil
	free := make(chan struct{}, publishAtOnce)
	for range publishAtOnce {
		free <- struct{}{}
	}
	pause := publishPoll
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-time.After(pause):
		}
		room := len(free)
		if room == 0 {
			continue
		}
		rows, err := p.claim(ctx, room)
		if err != nil {
			if ctx.Err() == nil {
				p.Log.Warn("outbox: trying again", "err", err, "in", awayPause)
			}
			pause = awayPause
			continue
		}
		pause = publishPoll
		for _, row := range rows {
			<-free
			work.Go(func() error {
				defer func() { free <- struct{}{}; nudge() }()
				p.row(ctx, row)
				return nil
			})
		}
	}
}

func (p *Publisher) claim(ctx context.Context, n int) ([]db.ClaimOutboxRow, error) {
	var age time.Duration
	if p.remote() {
		age = remoteDelay
	}
	var rows []db.ClaimOutboxRow
	err := p.Catalog.direct(ctx, "claim outbox rows", func(ctx context.Context, q *db.Queries) error {
		started := time.Now()
		var err error
		if rows, err = q.ClaimOutbox(ctx, publishLease, age, int32(n)); err == nil {
			p.distance.Note(time.Since(started))
		}
		return err
	})
	return rows, err
}

// remote reports whether the leader is far away.
func (p *Publisher) remote() bool {
	return p.distance.Far(rttSamples, rttSamples)
}

// row publishes one row. On failure it is put back for a while that grows.
func (p *Publisher) row(ctx context.Context, row db.ClaimOutboxRow) {
	log := p.Log.With("lane", row.Lane, "row", row.ID)
	rctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	err := p.store(rctx, row)
	if err == nil {
		err = p.mark(rctx, row)
	}
	if err == nil {
		p.Metrics.published(time.Since(row.CreatedAt))
		p.send(rctx, row.Lane)
		return
	}
	if ctx.Err() != nil {
		return // stopping: the hold runs out, another publisher takes it
	}
	if errors.Is(err, objects.ErrConflict) {
		// Derived bytes differ from what is stored: never to be healed by trying.
		log.Error("outbox: an object exists with other content", "err", err)
	} else {
		log.Warn("outbox: trying again", "err", err, "failures", row.Failures+1)
	}
	p.Metrics.failed()
	delay := publishAgain << min(row.Failures, 5)
	err = p.Catalog.direct(ctx, "put back outbox row", func(ctx context.Context, q *db.Queries) error {
		return q.DelayOutbox(ctx, err.Error(), delay, row.ID)
	})
	if err != nil && ctx.Err() == nil {
		log.Warn("outbox: the row stays held for a while", "err", err)
	}
}

func (p *Publisher) store(ctx context.Context, row db.ClaimOutboxRow) error {
	if row.Stored {
		return nil
	}
	var objs []Object
	if err := json.Unmarshal(row.Objects, &objs); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	for _, o := range objs {
		var err error
		// Playback records and purges tell every edge what to refuse.
		if row.Asset == nil || strings.HasPrefix(o.Key, objects.PlaybackJournal(*row.Asset)) {
			_, err = p.Objects.PutEverywhere(ctx, o.Key, objects.Bytes(o.Body))
		} else {
			_, err = p.Objects.Put(ctx, o.Key, objects.Bytes(o.Body), placementOf(row.Placement, row.Regions))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mark makes the row visible and decides what follows from it, in one transaction.
func (p *Publisher) mark(ctx context.Context, row db.ClaimOutboxRow) error {
	var eff effect
	if err := json.Unmarshal(row.Effect, &eff); err != nil {
		return fmt.Errorf("effect: %w", err)
	}
	var event *Event
	if row.Event != nil {
		event = &Event{}
		if err := json.Unmarshal(row.Event, event); err != nil {
			return fmt.Errorf("event: %w", err)
		}
	}
	return p.Catalog.write(ctx, "mark outbox row", func(q *db.Queries) error {
		if row.Asset == nil {
			if _, err := q.MarkDone(ctx, row.Event, row.ID); err != nil {
				return ignoreNoRows(err) // another publisher was faster
			}
			if eff.Purge == nil {
				return nil
			}
			return p.purge(ctx, q, *eff.Purge)
		}
		if _, err := q.LockAsset(ctx, *row.Asset); err != nil {
			return err
		}
		if err := apply(ctx, q, *row.Asset, eff); err != nil {
			return err
		}
		a, err := q.GetAsset(ctx, *row.Asset)
		if err != nil {
			return err
		}
		body, err := finishEvent(ctx, q, a, row.ID, event)
		if err != nil {
			return err
		}
		if _, err := q.MarkDone(ctx, body, row.ID); err != nil {
			return ignoreNoRows(err) // another publisher was faster; what apply did again was done before
		}
		return p.advance(ctx, q, a)
	})
}

func ignoreNoRows(err error) error {
	if errors.Is(err, errNoRows) {
		return nil
	}
	return err
}

// apply flips the state a row stands for. Doing it again changes nothing.
func apply(ctx context.Context, q *db.Queries, asset string, e effect) error {
	if c := e.Chunk; c != nil {
		if err := q.MarkChunkPublished(ctx, db.MarkChunkPublishedParams{Asset: asset, Run: int32(c.Run), Track: c.Track, Chunk: int32(c.Chunk)}); err != nil {
			return err
		}
	}
	if run := int32(e.Playable); run > 0 {
		if err := q.SetRunState(ctx, string(RunPlayable), asset, run); err != nil {
			return err
		}
		if err := q.MarkPlayable(ctx, &run, asset); err != nil {
			return err
		}
	}
	if run := int32(e.Ready); run > 0 {
		if err := q.SetRunState(ctx, string(RunComplete), asset, run); err != nil {
			return err
		}
		if err := show(ctx, q, asset, run); err != nil {
			return err
		}
	}
	if e.Poster != "" {
		return q.SetPoster(ctx, e.Poster, asset)
	}
	return nil
}

// finishEvent fills in what is only known now. An event that isn't true any more,
// because the asset was deleted or has failed meanwhile, becomes none.
func finishEvent(ctx context.Context, q *db.Queries, a db.Asset, row int64, e *Event) (json.RawMessage, error) {
	if e == nil {
		return nil, nil
	}
	gone := a.DeletedAt != nil || State(a.State) == Failed
	if gone && e.Type != EventDeleted && e.Type != EventFailed {
		return nil, nil
	}
	progress, err := progress(ctx, q, a.ID)
	if err != nil {
		return nil, err
	}
	e.ID, e.Asset, e.Owner, e.State, e.Time, e.Progress = row, a.ID, a.Owner, State(a.State), time.Now().UTC(), &progress
	return json.Marshal(e)
}

// send sends the events of a lane that are due, in order, up to the first that
// fails: resend goes on there.
func (p *Publisher) send(ctx context.Context, lane string) {
	var rows []db.UnsentOfLaneRow
	err := p.Catalog.direct(ctx, "unsent events", func(ctx context.Context, q *db.Queries) error {
		var err error
		rows, err = q.UnsentOfLane(ctx, lane)
		return err
	})
	for _, row := range rows {
		var e Event
		if err = json.Unmarshal(row.Event, &e); err != nil {
			break
		}
		if err = p.Events.PublishEvent(ctx, e); err != nil {
			break
		}
		if err = p.Catalog.direct(ctx, "mark event sent", func(ctx context.Context, q *db.Queries) error { return q.MarkSent(ctx, row.ID) }); err != nil {
			break
		}
	}
	if err != nil && ctx.Err() == nil {
		p.Log.Warn("events wait", "lane", lane, "err", err)
	}
}

// resend sends events whose first sending failed, or whose publisher died before it.
func (p *Publisher) resend(ctx context.Context) error {
	tick := time.NewTicker(resendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var lanes []string
		err := p.Catalog.direct(ctx, "unsent lanes", func(ctx context.Context, q *db.Queries) error {
			var err error
			lanes, err = q.UnsentLanes(ctx)
			return err
		})
		if err != nil && ctx.Err() == nil {
			p.Log.Warn("outbox: unsent events", "err", err)
		}
		for _, lane := range lanes {
			p.send(ctx, lane)
			if ctx.Err() != nil {
				return nil
			}
		}
	}
}
