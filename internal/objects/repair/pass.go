package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
)

const (
	// batchSize is for how many objects placement is looked up at a time.
	batchSize = 500
	// maxPending bounds what waits for its turn; a pass that found more is
	// followed by another at once.
	maxPending = 100_000
	// young is the age below which an object may still be on its writer's way here.
	young = 5 * time.Second
	// burst is the least the bandwidth limit lets through at once.
	burst = 8 << 20
	// A copy may take copyTimeout, and a second more per slowest bytes.
	copyTimeout = 30 * time.Second
	slowest     = 256 << 10
	// tooMany failures in a row: of a region, which is then asked last; of the own
	// store, which ends the pass.
	tooMany    = 3
	tooManyOwn = 32
)

// pass is one comparison of the own store with the others, and the copies due.
type pass struct {
	r    *Repair
	full bool
	// settled leaves young objects to their writers, and has them looked at again.
	settled bool
	away    uint64
	names   []string
	cancel  context.CancelCauseFunc

	asset  string // of the key visited last
	record int64  // its newest playback record so far

	batch    []object
	pending  []object
	overflow bool
	unplaced int

	copying  sync.WaitGroup
	behind   atomic.Int64
	failures []atomic.Int32 // in a row, by region
}

func (r *Repair) newPass(full bool) *pass {
	p := &pass{r: r, full: full, settled: full, failures: make([]atomic.Int32, len(r.regions))}
	for _, b := range r.regions {
		p.names = append(p.names, b.Region)
	}
	return p
}

var errOwnStore = errors.New("the own store takes no copies")

// run compares everything below the prefixes and makes the copies due. It
// returns when they have ended.
func (p *pass) run(ctx context.Context, prefixes ...string) error {
	ctx, p.cancel = context.WithCancelCause(ctx)
	defer p.cancel(nil)
	err := p.compare(ctx, prefixes)
	if err == nil {
		slices.SortFunc(p.pending, before)
		for _, o := range p.pending {
			if err = p.start(ctx, o); err != nil {
				break
			}
		}
	}
	p.copying.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, errOwnStore) {
		err = cause
	}
	return err
}

func (p *pass) compare(ctx context.Context, prefixes []string) error {
	for _, prefix := range prefixes {
		away, err := Merge(ctx, p.r.regions, p.away, prefix, func(e Entry) error { return p.visit(ctx, e) })
		p.away = away
		if err != nil {
			return err
		}
		if err := p.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *pass) visit(ctx context.Context, e Entry) error {
	o, ok := classify(e.Key)
	if !ok {
		return nil
	}
	if o.asset != p.asset {
		p.asset, p.record = o.asset, 0
	}
	if n, ok := objects.JournalNumber(objects.PlaybackJournal(o.asset), e.Key); ok && o.asset != "" {
		p.record = n
	}
	if e.sizes != nil {
		p.r.Metrics.alarm("conflict", p.names[0])
		p.r.Log.Error("repair: regions hold different objects under one key", "key", e.Key)
	}
	if e.holders&1 != 0 {
		return nil
	}
	o.Info, o.holders, o.record = e.Info, e.holders, p.record
	if o.reach == everywhere {
		return p.want(ctx, o)
	}
	p.batch = append(p.batch, o)
	if len(p.batch) < batchSize {
		return nil
	}
	return p.flush(ctx)
}

// flush finds out where the objects of the batch belong.
func (p *pass) flush(ctx context.Context) error {
	if len(p.batch) == 0 {
		return nil
	}
	records := map[string]int64{}
	for _, o := range p.batch {
		records[o.asset] = max(records[o.asset], o.record)
	}
	verdicts := p.r.resolver.resolve(ctx, records)
	for _, o := range p.batch {
		v := verdicts[o.asset]
		switch {
		case !v.known:
			p.unplaced++
		case v.gone:
		case !due(o, v.placement, p.names, p.away, min(2, len(p.names))):
		case p.settled && o.isYoung():
			p.r.lookAgain(o.prefix())
		default:
			if err := p.want(ctx, o); err != nil {
				return err
			}
		}
	}
	p.batch = p.batch[:0]
	return ctx.Err()
}

// want notes a copy that is due, or starts it if it is urgent.
func (p *pass) want(ctx context.Context, o object) error {
	p.count(1)
	if o.urgency == urgent {
		return p.start(ctx, o)
	}
	if len(p.pending) >= maxPending {
		p.overflow = true
		return nil
	}
	p.pending = append(p.pending, o)
	return nil
}

func (p *pass) count(n int64) {
	behind := p.behind.Add(n)
	if p.full {
		p.r.Metrics.lacks(behind)
	}
}

// start copies the object as soon as there is a slot.
func (p *pass) start(ctx context.Context, o object) error {
	if err := p.r.slots.Acquire(ctx, 1); err != nil {
		return err
	}
	p.copying.Go(func() {
		defer p.r.slots.Release(1)
		if p.copy(ctx, o) {
			p.count(-1)
		}
	})
	return nil
}

// copy brings one object here; false when it is still lacking.
func (p *pass) copy(ctx context.Context, o object) bool {
	var place objects.Placement
	if o.reach != everywhere {
		v := p.r.resolver.resolve(ctx, map[string]int64{o.asset: o.record})[o.asset]
		if !v.known || v.gone {
			return v.gone
		}
		place = v.placement
	}
	for left := int(o.Size); left > 0; left -= burst {
		if err := p.r.limiter.WaitN(ctx, min(left, burst)); err != nil {
			return false
		}
	}
	missing := true
	for _, i := range p.sources(o, place) {
		from := p.r.regions[i]
		cctx, cancel := context.WithTimeout(ctx, copyTimeout+time.Duration(o.Size/slowest)*time.Second)
		info, err := p.r.regions[0].CopyFrom(cctx, from, o.Key)
		cancel()
		var source *objects.SourceError
		switch {
		case err == nil:
			p.failures[i].Store(0)
			p.failures[0].Store(0)
			p.r.Metrics.copied(from.Region, info.Size)
			return true
		case ctx.Err() != nil:
			return false
		case errors.Is(err, objects.ErrDamaged), errors.Is(err, objects.ErrNoHash):
			missing = false
			p.r.Metrics.alarm(reason(err), from.Region)
			p.r.Log.Error("repair: not copied", "key", o.Key, "from", from.Region, "err", err)
		case errors.Is(err, objects.ErrConflict):
			p.r.Metrics.alarm("conflict", p.names[0])
			p.r.Log.Error("repair: the own store holds another object under the key", "key", o.Key, "err", err)
			return true // nothing that copying could mend
		case errors.As(err, &source):
			if errors.Is(err, objects.ErrNotFound) {
				continue // deleted meanwhile
			}
			missing = false
			if p.failures[i].Add(1) == tooMany {
				p.r.Log.Warn("repair: asking this region last", "from", from.Region, "err", err)
			}
		default:
			if p.failures[0].Add(1) == tooManyOwn {
				p.cancel(fmt.Errorf("%w: %w", errOwnStore, err))
			}
			p.r.Metrics.failed()
			return false
		}
	}
	if !missing {
		p.r.Metrics.failed()
	}
	return missing
}

func reason(err error) string {
	if errors.Is(err, objects.ErrNoHash) {
		return "no_hash"
	}
	return "damaged"
}

// sources are the regions to copy from, nearest first, those that keep failing last.
func (p *pass) sources(o object, place objects.Placement) []int {
	var good, bad []int
	for i, name := range p.names {
		switch {
		case i == 0 || o.holders&(1<<i) == 0 || !place.Allows(name):
		case p.failures[i].Load() >= tooMany:
			bad = append(bad, i)
		default:
			good = append(good, i)
		}
	}
	return append(good, bad...)
}

// skipped names the regions that could not be compared with.
func (p *pass) skipped() []string {
	var out []string
	for i, name := range p.names {
		if p.away&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}
