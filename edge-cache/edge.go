package edgecache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/deliver"
	"github.com/meridian-video/meridian/edge-cache/fastpath"
	"github.com/meridian-video/meridian/edge-cache/h2"
	"github.com/meridian-video/meridian/edge-cache/load"
	"github.com/meridian-video/meridian/edge-cache/pages"
	"github.com/meridian-video/meridian/edge-cache/peer"
	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/token"
)

const (
	// drainTime is how long responses may take to finish after the stop signal.
	drainTime   = 15 * time.Second
	geoInterval = 10 * time.Second
)

// edge is the running component.
type edge struct {
	cmd     *Command
	log     *slog.Logger
	keys    *journal.Keys
	purges  *journal.Purges
	cache   *cache.Cache
	handler *handler
	geo     atomic.Pointer[geo.Database]
	gate    *gate
	drain   *drainer
	meter   *load.Meter
	status  *statusPage
	// shared certificates, and those of the encrypted listener; nil without.
	shared *certificate.Shared
	tls    certificate.Source
	// addr is where it listens; nil until then.
	addr atomic.Pointer[net.TCPAddr]
}

func newEdge(c *Command, rt *service.Runtime) (*edge, error) {
	root, err := token.ParsePublic(c.RootPublicKey.Reveal())
	if err != nil {
		return nil, err
	}
	session, err := token.ParseSigner(c.SessionKey.Reveal())
	if err != nil {
		return nil, err
	}
	store, err := objects.New(rt.Table, rt.Region.Name, c.S3, rt.Log)
	if err != nil {
		return nil, err
	}
	self, here, ok := rt.Table.Edge(c.Edge)
	if !ok {
		return nil, fmt.Errorf("edge %q isn't in the region table", c.Edge)
	}
	e := &edge{cmd: c, log: rt.Log.With("edge", c.Edge), keys: journal.NewKeys(store, root, rt.Log)}
	if c.GeoDatabase != "" {
		db, err := geo.OpenDatabase(c.GeoDatabase)
		if err != nil {
			// Looked at again while running; until then country rules refuse.
			e.log.Warn("geo database: assets limited to countries are refused until it can be read", "err", err)
		} else {
			e.geo.Store(db)
		}
	}
	m := newMetrics(rt.Metrics)
	e.cache, err = cache.Open(cache.Config{Memory: int64(c.CacheMemory), Dir: c.CacheDir, Disk: int64(c.CacheDisk),
		MaxObject: min(64<<20, int64(c.CacheMemory)/8, int64(c.CacheDisk)/16), Log: e.log, Events: m.events()})
	if err != nil {
		return nil, err
	}
	observeCache(rt.Metrics, "edge", e.cache)
	finder := playback.NewFinder(store, e.keys.Current, e.log)
	e.gate = newGate(c.MaxConnections, c.ClientConnections)
	e.drain = newDrainer(c.DrainNotice, e.log)
	e.meter = newMeter(e.gate, c.Bandwidth, e.cache)
	e.status = &statusPage{name: self.Name, place: here.Place, component: "edge", hits: []string{"memory", "disk", "collapsed", composedLabel},
		ready: e.Ready, meter: e.meter, cache: e.cache, metrics: rt.Metrics, started: time.Now(), more: e.statusTables}
	observeLoad(rt.Metrics, "edge", e.meter, e.drain, e.gate)
	observeShedding(rt.Metrics, e.meter)
	from := newOrigins(store, rt.Metrics)
	key, err := peer.NewKey(c.SessionKey.Reveal())
	if err != nil {
		return nil, err
	}
	if c.Peers && len(here.Edges) > 1 {
		var edges []peer.Edge
		for _, x := range here.Edges {
			edges = append(edges, peer.Edge{Name: x.Name, URL: x.URL})
		}
		from.peers = peer.New(c.Edge, edges, key, from.set)
	}
	e.handler = &handler{
		sites: sites{table: rt.Table, self: self, here: here}, origins: from, peerKey: key, limits: newLimits(c.ClientFetches, c.AssetFetches), cache: e.cache, session: session,
		composer: newComposer(store, e.log, m), metrics: m, log: e.log, sample: uint64(c.AccessSample), ready: e.serving,
		meter: e.meter, drain: e.drain,
		guard: guard{finder: finder, keys: e.keys.Current, country: e.country, now: time.Now},
	}
	e.purges = journal.NewPurges(store, e.keys, &purger{cache: e.cache, guard: &e.handler.guard, hint: finder.Hint, file: filepath.Join(c.CacheDir, checkpointFile), log: e.log, metrics: m}, e.log)
	if err := e.openCertificates(store, rt); err != nil {
		return nil, errors.Join(err, e.cache.Close())
	}
	return e, nil
}

// openCertificates prepares what the encrypted listener answers with.
func (e *edge) openCertificates(store *objects.Store, rt *service.Runtime) error {
	if e.cmd.TLS.Listen == "" {
		return nil
	}
	m, err := certificate.NewMetrics(rt.Metrics)
	if err != nil {
		return err
	}
	e.tls, e.shared, err = e.cmd.TLS.Open(e.cmd.Certificates, "edge", store, rt.Table, m, e.log)
	return err
}

func (e *edge) country(a netip.Addr) string { return e.geo.Load().Locate(a).Country }

// serving returns nil when viewers can be answered.
func (e *edge) serving(ctx context.Context) error {
	if e.addr.Load() == nil {
		return errors.New("not listening")
	}
	return errors.Join(e.keys.Ready(ctx), e.purges.Ready(ctx))
}

// Patience implements service.Watched.
func (e *edge) Patience() time.Duration { return e.cmd.Watchdog.Patience }

// Ready implements service.Component.
func (e *edge) Ready(ctx context.Context) error {
	err := e.cache.DiskErr()
	if err != nil {
		err = fmt.Errorf("cache directory: %w", err)
	}
	if e.tls != nil {
		err = errors.Join(err, e.tls.Ready())
	}
	return errors.Join(e.serving(ctx), e.drain.ready(), err)
}

// Operate implements service.Operator.
func (e *edge) Operate(mux *http.ServeMux) {
	e.drain.operate(mux)
	mux.Handle("GET /status", e.status)
}

// Run implements service.Component.
func (e *edge) Run(ctx context.Context) error {
	g, ctx, end := e.drain.group(ctx)
	defer end()
	g.Go(func() error { e.meter.Run(ctx); return nil })
	g.Go(func() error { return e.keys.Run(ctx) })
	g.Go(func() error { return e.purges.Run(ctx) })
	if e.cmd.GeoDatabase != "" {
		g.Go(func() error {
			geo.WatchDatabase(ctx, e.cmd.GeoDatabase, geoInterval, e.geo.Load(), e.geo.Store, func(err error) {
				e.log.Warn("geo database: keeping the one in use", "err", err)
			})
			return nil
		})
	}
	g.Go(func() error { return e.serve(ctx) })
	if e.shared != nil {
		g.Go(func() error { return e.shared.Run(ctx) })
	}
	g.Go(func() error { return e.cmd.TLS.serve(ctx, e.tls, e.handler, newFast(e.handler), e.log, e.gate, nil) })
	err := g.Wait()
	e.handler.composer.close()
	err = errors.Join(err, e.cache.Close())
	e.handler.origins.close()
	return err
}

func (e *edge) serve(ctx context.Context) error {
	l, err := (&net.ListenConfig{KeepAlive: 30 * time.Second}).Listen(ctx, "tcp", e.cmd.Listen)
	if err != nil {
		return fmt.Errorf("playback listener: %w", err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		e.addr.Store(a)
	}
	e.log.Info("listening", "addr", l.Addr().String())
	return serveFast(ctx, newServer(e.handler, e.log), l, e.gate, newFast(e.handler), e.cache.Window(), e.log)
}

// serveFast serves until ctx ends, with a fast path before srv, which speaks TLS
// where it is configured to. window may be nil.
func serveFast(ctx context.Context, srv *http.Server, l net.Listener, g *gate, r fastpath.Responder, window *pages.Window, log *slog.Logger) error {
	two := h2.New(h2.Config{Handler: srv.Handler, Responder: r, HeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, WriteTimeout: deliver.WriteTimeout,
		WriteSize: deliver.WriteSize, MaxHeaderBytes: srv.MaxHeaderBytes, Panicked: panicked(log)})
	fl, err := fastpath.New(l, fastpath.Config{Panicked: panicked(log), HeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, WriteTimeout: deliver.WriteTimeout,
		WriteSize: deliver.WriteSize, MaxConnections: g.maxConnections, Traffic: &g.traffic, Admit: g.admit, Window: window, TLS: srv.TLSConfig.Clone(), HTTP2: two.Session}, r)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	srv.ConnState = fl.ConnState
	err = service.ServeHTTP(ctx, srv, fl, drainTime)
	// What is being answered past net/http has the same time.
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	fl.Drain(dctx)
	return err
}

const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 75 * time.Second
)

// newServer bounds what a client can hold: headers by time and size, idle
// connections by time; response bodies have a deadline per write (serve.go), so
// there is no limit to how long a living one takes.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           endUnclear(h),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// endUnclear ends the connection after requests whose end isn't clear to both
// sides: of HTTP/1.0, whose Transfer-Encoding net/http leaves out, so what follows
// might be a body (RFC 9112 section 6.1), and CONNECT, after which a client may
// have sent what it takes for the tunnel's.
func endUnclear(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !r.ProtoAtLeast(1, 1) || r.Method == http.MethodConnect {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// panicked notes a fault of ours that one request has brought out.
func panicked(log *slog.Logger) func(any) {
	return func(why any) {
		log.Error("answering a request panicked", "panic", why, "stack", string(debug.Stack()))
	}
}
