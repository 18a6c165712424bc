package edgecache

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/load"
)

// playedWithin is how long after its last request a viewer may be thought to play
// on: some segments' time.
const playedWithin = 10 * time.Second

// drainer takes a cache out of the choice of routers, or of whatever is before it,
// while it answers on: probes get 503, so new sessions and those that are steered go
// elsewhere. It happens on request, until taken back, and before the cache stops.
type drainer struct {
	notice  time.Duration
	log     *slog.Logger
	asked   atomic.Bool
	leaving atomic.Bool
	// played is the second of the last request of a viewer.
	played atomic.Int64
}

func newDrainer(notice time.Duration, log *slog.Logger) *drainer {
	return &drainer{notice: notice, log: log}
}

var errDrained = errors.New("drained: send no new clients here")

// ready is why nobody is to be sent here.
func (d *drainer) ready() error {
	if d.asked.Load() || d.leaving.Load() {
		return errDrained
	}
	return nil
}

// seen notes a viewer's request.
func (d *drainer) seen(now time.Time) {
	if s := now.Unix(); d.played.Load() != s {
		d.played.Store(s)
	}
}

// group runs a cache's parts. Their context ends a notice after ctx; call end when
// all have ended.
func (d *drainer) group(ctx context.Context) (g *errgroup.Group, parts context.Context, end func()) {
	stop := ctx.Done()
	ctx, end = context.WithCancel(context.WithoutCancel(ctx))
	g, parts = errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-stop:
			d.leave(parts)
			end()
		case <-parts.Done():
		}
		return nil
	})
	return g, parts, end
}

// leave tells the routers, by their probes, and gives them the notice to act on
// it; a cache nobody asks needs none.
func (d *drainer) leave(ctx context.Context) {
	d.leaving.Store(true)
	if d.notice <= 0 || time.Since(time.Unix(d.played.Load(), 0)) > playedWithin {
		return
	}
	d.log.Info("stopping: /readyz says so first", "notice", d.notice)
	t := time.NewTimer(d.notice)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// operate adds POST /drain and DELETE /drain to the admin listener.
func (d *drainer) operate(mux *http.ServeMux) {
	set := func(on bool) http.HandlerFunc {
		text := "undrained\n"
		if on {
			text = "drained\n"
		}
		return func(w http.ResponseWriter, _ *http.Request) {
			if d.asked.Swap(on) != on {
				d.log.Info("drain", "on", on)
			}
			_, _ = io.WriteString(w, text)
		}
	}
	mux.HandleFunc("POST /drain", set(true))
	mux.HandleFunc("DELETE /drain", set(false))
}

// newMeter measures what a cache runs out of. bandwidth may be 0: not known.
func newMeter(g *gate, bandwidth Size, store *cache.Cache) *load.Meter {
	sources := []load.Source{load.CPU(), load.Level("connections", g.traffic.Open.Load, int64(g.maxConnections)),
		load.Level("fills", func() int64 { return int64(store.Filling()) }, cache.MaxFills)}
	if bandwidth > 0 {
		sources = append(sources, load.Rate("bandwidth", g.traffic.Sent.Load, int64(bandwidth)))
	}
	return load.New(sources...)
}

// observeShedding registers what of new sessions is refused.
func observeShedding(reg prometheus.Registerer, m *load.Meter) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meridian_edge_shed_share", Help: "Share of new sessions refused."}, m.Share))
}

// observeLoad registers what the load is.
func observeLoad(reg prometheus.Registerer, component string, m *load.Meter, d *drainer, g *gate) {
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meridian_" + component + "_" + name, Help: help}, f))
	}
	gauge("load", "Share of the capacity in use, as routers are told.", m.Load)
	gauge("connections_open", "Connections open.", func() float64 { return float64(g.traffic.Open.Load()) })
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "meridian_" + component + "_connections_refused_total",
		Help: "Connections closed because their client had too many."}, func() float64 { return float64(g.refused.Load()) }))
	gauge("drained", "1 while whoever sends clients is told to send nobody here.", func() float64 {
		if d.ready() != nil {
			return 1
		}
		return 0
	})
}
