package repair

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
)

const (
	// fresh is how long what is known of an asset may be acted on unasked: a
	// deleted one must not be copied for long.
	fresh = 30 * time.Second
	// catalogPause is how long a catalog that didn't answer isn't asked again.
	catalogPause = 10 * time.Second
	askTimeout   = 6 * time.Second
	// maxVerdicts bounds the assets remembered.
	maxVerdicts = 100_000
)

// verdict is what is known of an asset.
type verdict struct {
	placement objects.Placement
	// known: the placement is; otherwise the asset isn't in the catalog, or
	// nobody could be asked.
	known bool
	gone  bool
	at    time.Time
}

// resolver finds out where assets belong. Safe for concurrent use.
type resolver struct {
	Deps
	now func() time.Time

	mu       sync.Mutex
	verdicts map[string]verdict
	rest     time.Time // the catalog isn't asked before
}

func newResolver(d Deps) *resolver {
	return &resolver{Deps: d, now: time.Now, verdicts: map[string]verdict{}}
}

// resolve returns a verdict for each asset; records are the numbers of their newest known
// playback records (0: to be looked for), for when the catalog is away.
func (r *resolver) resolve(ctx context.Context, records map[string]int64) map[string]verdict {
	out := make(map[string]verdict, len(records))
	var ask []string
	now := r.now()
	r.mu.Lock()
	for asset := range records {
		if v, ok := r.verdicts[asset]; ok {
			out[asset] = v
			if v.known && now.Sub(v.at) < fresh {
				continue
			}
		}
		ask = append(ask, asset)
	}
	resting := now.Before(r.rest)
	r.mu.Unlock()
	if len(ask) == 0 {
		return out
	}
	var holdings map[string]catalog.Holding
	err := errors.New("the catalog didn't answer a moment ago")
	if !resting {
		actx, cancel := context.WithTimeout(ctx, askTimeout)
		holdings, err = r.Catalog.Holdings(actx, ask)
		cancel()
	}
	for _, asset := range ask {
		v := verdict{at: now}
		switch h, ok := holdings[asset]; {
		case err == nil && ok:
			v.placement, v.gone, v.known = h.Placement, h.Gone, true
		case err == nil:
			// Not heard of, by the leader either.
		default:
			rec, rerr := r.record(ctx, asset, records[asset])
			if rerr == nil {
				v.placement, v.gone, v.known = rec.Placement, rec.Gone(), true
				break
			}
			if !errors.Is(rerr, objects.ErrNotFound) && ctx.Err() == nil {
				r.Log.Warn("repair: placement", "asset", asset, "err", rerr)
			}
			v = out[asset] // placements don't change
		}
		out[asset] = v
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && !resting && ctx.Err() == nil {
		r.rest = now.Add(catalogPause)
		r.Log.Warn("repair: the catalog is away; going by playback records", "err", err)
	}
	if len(r.verdicts)+len(ask) > maxVerdicts {
		clear(r.verdicts)
	}
	for _, asset := range ask {
		if out[asset].known {
			r.verdicts[asset] = out[asset]
		} else {
			delete(r.verdicts, asset)
		}
	}
	return out
}

// record reads the asset's playback record n, the newest if n is 0.
func (r *resolver) record(ctx context.Context, asset string, n int64) (playback.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if n == 0 {
		var err error
		if n, err = journal.Newest(ctx, r.Store, objects.PlaybackJournal(asset)); err != nil {
			return playback.Record{}, err
		}
	}
	b, err := journal.Read(ctx, r.Store, objects.PlaybackJournal(asset), n)
	if err != nil {
		return playback.Record{}, err
	}
	rec, err := playback.Verify(b, r.Keys(), r.now())
	if err == nil && rec.Asset != asset {
		err = fmt.Errorf("playback record of %s under the key of %s", rec.Asset, asset)
	}
	return rec, err
}
