package edgecache

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/origin"
	"github.com/meridian-video/meridian/edge-cache/peer"
	"github.com/meridian-video/meridian/internal/objects"
)

// storePatience is how long a region's store may take to its first byte: several
// round trips around the world.
const storePatience = 2 * time.Second

// origins are the regions' stores, nearest first, and the region's other edges.
type origins struct {
	set    *origin.Set
	stores []store
	peers  *peer.Peers // nil where edges don't share
}

type store struct {
	region string
	*origin.Origin
}

func newOrigins(s *objects.Store, reg prometheus.Registerer) *origins {
	o := &origins{set: origin.New(originEvents(reg))}
	for _, b := range s.Regions() {
		o.stores = append(o.stores, store{b.Region, o.set.Add(&origin.Origin{Name: b.Region, Patience: storePatience, Open: open(b)})})
	}
	return o
}

func open(b *objects.Bucket) func(context.Context, string, int64) (io.ReadCloser, cache.Info, error) {
	return func(ctx context.Context, key string, offset int64) (io.ReadCloser, cache.Info, error) {
		body, info, err := b.Get(ctx, key, offset, -1)
		if errors.Is(err, objects.ErrNotFound) {
			err = errors.Join(cache.ErrNotFound, err)
		}
		return body, cache.Info{Size: info.Size, ETag: info.ETag, SHA256: info.SHA256, Modified: info.Modified, Origin: info.Region}, err
	}
}

// shared opens an immutable object at the edge of the region that owns it, else
// as source does.
func (o *origins) shared(key string, p objects.Placement) cache.Source {
	return func(ctx context.Context, offset int64) (io.ReadCloser, cache.Info, error) {
		if o.peers != nil {
			if owner := o.peers.Owner(key); owner != nil {
				return o.set.Open(ctx, key, offset, append([]*origin.Origin{owner}, o.allowed(p)...))
			}
		}
		return o.set.Open(ctx, key, offset, o.allowed(p))
	}
}

// source opens an object in the regions its placement allows, nearest first.
func (o *origins) source(key string, p objects.Placement) cache.Source {
	return func(ctx context.Context, offset int64) (io.ReadCloser, cache.Info, error) {
		return o.set.Open(ctx, key, offset, o.allowed(p))
	}
}

func (o *origins) allowed(p objects.Placement) []*origin.Origin {
	var list []*origin.Origin
	for _, s := range o.stores {
		if p.Allows(s.region) {
			list = append(list, s.Origin)
		}
	}
	return list
}

// close ends what is under way; bodies must be closed by then.
func (o *origins) close() {
	o.set.Close()
	if o.peers != nil {
		o.peers.Close()
	}
}

func originEvents(reg prometheus.Registerer) origin.Events {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meridian_edge_origin_seconds", Help: "Time to an origin's first byte, or its failure.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}}, []string{"origin", "outcome"})
	hedges := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_edge_hedges_total", Help: "Fetches for which a second origin was asked because the first was late, by who was first."}, []string{"first"})
	over := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_edge_handovers_total", Help: "Bodies that were read on from another origin, by the origin left."}, []string{"origin"})
	reg.MustRegister(seconds, hedges, over)
	return origin.Events{
		Opened: func(name string, took time.Duration, err error) {
			outcome := "ok"
			switch {
			case errors.Is(err, cache.ErrNotFound):
				outcome = "missing"
			case err != nil:
				outcome = "failed"
			}
			seconds.WithLabelValues(name, outcome).Observe(took.Seconds())
		},
		Hedged: func(won bool) {
			first := "usual"
			if won {
				first = "hedge"
			}
			hedges.WithLabelValues(first).Inc()
		},
		HandedOver: func(name string, _ error) { over.WithLabelValues(name).Inc() },
	}
}
