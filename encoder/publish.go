package encoder

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// uploads bounds the PUTs of one task; a full one holds the encode back.
const uploads = 6

// holdFor is how long a PUT is repeated while too few regions answer.
const holdFor = 5 * time.Minute

// publisher PUTs a task's segments while it goes on encoding.
type publisher struct {
	e     *Encoder
	t     Task
	group *errgroup.Group
	ctx   context.Context
}

func (e *Encoder) publisher(ctx context.Context, t Task) *publisher {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	return &publisher{e: e, t: t, group: g, ctx: gctx}
}

// stores tells when the PUTs of one chunk have ended. The zero value has none.
type stores struct {
	pending sync.WaitGroup
	failed  atomic.Bool
}

// wait returns when all have ended: whether they succeeded.
func (s *stores) wait() bool {
	s.pending.Wait()
	return !s.failed.Load()
}

// segment starts the PUT of a chunk's segment and returns its entry in the record.
func (p *publisher) segment(rendition string, chunk, n int, s *fmp4.Segment, of *stores) hls.Segment {
	body := objects.Bytes(s.Data)
	key := objects.SegmentKey(p.t.Asset, p.t.RunName(), rendition, hls.SegmentPath(chunk, p.t.Attempt, n))
	p.put(key, body, of, nil)
	return hls.Segment{Duration: s.Duration, Bytes: body.Size, SHA256: hex.EncodeToString(body.SHA256[:]), Key: int64(s.Key)}
}

// init starts the PUT of an initialisation segment, once per process.
func (p *publisher) init(rendition string, i fmp4.Init, of *stores) {
	key := objects.InitKey(p.t.Asset, p.t.RunName(), rendition, i.Name)
	p.e.mu.Lock()
	_, known := p.e.inits[key]
	p.e.mu.Unlock()
	if known {
		return
	}
	p.put(key, objects.Bytes(i.Data), of, func() { p.e.remember(key) })
}

// put starts a PUT; then, if not nil, is called when it has succeeded.
func (p *publisher) put(key string, body objects.Body, of *stores, then func()) {
	of.pending.Add(1)
	p.group.Go(func() error {
		defer of.pending.Done()
		err := p.e.put(p.ctx, key, body, p.t.Placement)
		switch {
		case err != nil:
			of.failed.Store(true)
		case then != nil:
			then()
		}
		return err
	})
}

// remember notes that an initialisation segment is stored.
func (e *Encoder) remember(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.inits) >= maxInits {
		clear(e.inits)
	}
	e.inits[key] = struct{}{}
}

// wait returns when every PUT has ended.
func (p *publisher) wait() error { return p.group.Wait() }

// put repeats a PUT while too few regions answer: what is encoded is worth
// holding on to for a while.
func (e *Encoder) put(ctx context.Context, key string, body objects.Body, placement objects.Placement) error {
	ctx, cancel := context.WithTimeout(ctx, holdFor)
	defer cancel()
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		_, err := e.store.Put(ctx, key, body, placement)
		if err == nil {
			e.metrics.stored(body.Size)
			return nil
		}
		if !errors.Is(err, objects.ErrTooFewRegions) && !errors.Is(err, objects.ErrUnavailable) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, ctx.Err())
		}
	}
}

func segmentCount(r hls.Record) int {
	for _, rs := range r.Renditions {
		return len(rs.Segments)
	}
	return 0
}

func (e *Encoder) record(t Task, p catalog.Plan, tr catalog.PlanTrack, chunk int) hls.Record {
	return hls.Record{V: hls.RecordVersion, Asset: t.Asset, Run: t.RunName(), Track: t.Track, Chunk: chunk, Attempt: t.Attempt,
		Timescale: tr.Timescale, Target: p.Target, Renditions: make(map[string]hls.RenditionSegments, len(tr.Renditions))}
}

// describe completes the plan's renditions with what the encode turned out to be.
func describe(tr catalog.PlanTrack, codecs map[string]string) ([]hls.Rendition, error) {
	out := make([]hls.Rendition, len(tr.Renditions))
	for i, r := range tr.Renditions {
		c, ok := codecs[r.ID]
		if !ok {
			return nil, fmt.Errorf("rendition %s was not encoded", r.ID)
		}
		r.Codecs = c
		out[i] = r
	}
	return out, nil
}
