package geodns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/certificate/order"
	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/geo/health"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/service"
)

// drain is how long open requests may take when the router stops.
const drain = 5 * time.Second

// Server is a router.
type Server struct {
	cfg     *Command
	rt      *service.Runtime
	log     *slog.Logger
	board   *geo.Board
	db      *geo.Database
	asn     *geo.ASNDatabase
	monitor *health.Monitor
	pulse   *health.Pulse
	keys    *journal.Keys
	routes  *journal.Routes
	router  *router
	zone    *zone
	metrics *metrics
	// certificates shared between the regions, who orders them, and those of the
	// encrypted listener; each nil without.
	certificates *certificate.Shared
	orders       *order.Orders
	tls          certificate.Source

	listening atomic.Bool
	// Where it listens, for port 0; set before listening.
	webAddr, tlsAddr, nameAddr net.Addr
}

func newServer(c *Command, rt *service.Runtime) (*Server, error) {
	s := &Server{cfg: c, rt: rt, log: rt.Log, board: geo.NewBoard(geo.NewSnapshot(rt.Table))}
	var err error
	if s.metrics, err = newMetrics(rt.Metrics); err != nil {
		return nil, err
	}
	targets := health.Targets(rt.Table, rt.Region.Name)
	s.pulse = health.NewPulse(targets)
	s.monitor, err = health.New(s.board, targets,
		health.Options{Region: rt.Region.Name, Farthest: rt.Table.Farthest(rt.Region.Name), Log: rt.Log, Metrics: rt.Metrics})
	if err != nil {
		return nil, err
	}
	s.board.Update(func(sn *geo.Snapshot) { sn.OverflowKm = c.OverflowKm })
	if err := s.openGeo(); err != nil {
		return nil, err
	}
	s.openASN()
	store, err := objects.New(rt.Table, rt.Region.Name, c.S3, rt.Log)
	if err != nil {
		return nil, err
	}
	s.keys = journal.NewKeys(store, c.root, rt.Log)
	if s.zone, err = c.zone(s.board, s.metrics); err != nil {
		return nil, err
	}
	for _, name := range s.zone.withoutAddress(rt.Table) {
		s.log.Warn("a URL of the region table names a host that has no address in the zone: add it to the records", "host", name)
	}
	s.routes = journal.NewRoutes(store, s.keys, s.applyRouting, rt.Log)
	s.router = &router{
		table: rt.Table, routes: storedRoutes{s.routes, store, s.keys}, board: s.board, zone: s.zone, self: rt.Region.Name, records: playback.NewFinder(store, s.keys.Current, rt.Log),
		proxies: c.proxies, pulse: s.pulse, rate: newRate(c.SteerCapacity, time.Now), now: time.Now, log: rt.Log, metrics: s.metrics,
	}
	if err := s.openCertificates(store); err != nil {
		return nil, err
	}
	return s, nil
}

// openCertificates prepares what the encrypted listener answers with, and who
// orders it.
func (s *Server) openCertificates(store *objects.Store) error {
	c := s.cfg
	if c.TLS.Listen == "" && !c.ACME.Enabled() && c.Certificates.Key == "" {
		return nil
	}
	m, err := certificate.NewMetrics(s.rt.Metrics)
	if err != nil {
		return err
	}
	// Every router with the key answers challenges, whoever orders.
	if c.Certificates.Key != "" {
		s.certificates, err = certificate.NewShared(store, s.rt.Table, c.Certificates.Key.Reveal(), s.zone.setChallenges, m, s.log)
		if err != nil {
			return err
		}
	}
	if c.ACME.Enabled() {
		if s.orders, err = order.New(c.ACME, s.certificates, s.rt.Table, m, s.log); err != nil {
			return err
		}
	}
	s.tls, err = c.TLS.Source(s.certificates, "play", m, s.log)
	return err
}

// openGeo reads the geo database. Without one the router works, by table order.
func (s *Server) openGeo() error {
	if err := s.placeAll(nil); err != nil {
		return err
	}
	if s.cfg.GeoDatabase == "" {
		s.log.Warn("no geo database: every location is unknown, regions are offered in table order")
		return nil
	}
	db, err := geo.OpenDatabase(s.cfg.GeoDatabase)
	if err != nil {
		s.refused(s.metrics.geo, "geo database refused: every location is unknown until it can be read", err)
		return nil
	}
	s.useGeo(db)
	return nil
}

// placeAll publishes a database, or none, with the orders it leads to.
func (s *Server) placeAll(db *geo.Database) error {
	orders, err := s.board.Orders(db)
	if err != nil {
		return err
	}
	s.board.Update(func(sn *geo.Snapshot) { err = sn.SetGeo(db, orders) })
	return err
}

// refused notes a database that isn't used, and why.
func (s *Server) refused(m databaseMetrics, what string, err error) {
	m.reads.WithLabelValues("refused").Inc()
	s.log.Error(what, "err", err)
}

// loaded notes a database that is in use from now on.
func (s *Server) loaded(m databaseMetrics, what, kind string, built time.Time) {
	m.reads.WithLabelValues("loaded").Inc()
	m.built.Set(float64(built.Unix()))
	s.log.Info(what, "type", kind, "built", built)
}

func (s *Server) useGeo(db *geo.Database) {
	if err := s.placeAll(db); err != nil {
		s.refused(s.metrics.geo, "geo database refused, the one in use stays", err)
		return
	}
	s.db = db
	s.loaded(s.metrics.geo, "geo database", db.Type, db.Built)
}

// openASN reads the ASN database. Without one nobody's system is known.
func (s *Server) openASN() {
	if s.cfg.ASNDatabase == "" {
		return
	}
	db, err := geo.OpenASNDatabase(s.cfg.ASNDatabase)
	if err != nil {
		s.refused(s.metrics.asn, "ASN database refused: no viewer's system is known until it can be read", err)
		return
	}
	s.useASN(db)
}

func (s *Server) useASN(db *geo.ASNDatabase) {
	var err error
	s.board.Update(func(sn *geo.Snapshot) { err = sn.SetSystems(db) })
	if err != nil {
		s.refused(s.metrics.asn, "ASN database refused, the one in use stays", err)
		return
	}
	s.asn = db
	s.loaded(s.metrics.asn, "ASN database", db.Type, db.Built)
}

// applyRouting has the board obey what operators want. Regions the table doesn't
// know are left out: the operator's table may be newer than this router's.
func (s *Server) applyRouting(r journal.Routing) error {
	var overrides []geo.Override
	for _, o := range r.Overrides {
		if s.board.Load().Region(o.Region) == nil {
			s.log.Warn("routing: override to a region that is not in the region table", "network", o.Network, "region", o.Region)
			continue
		}
		overrides = append(overrides, geo.Override{Network: o.Network, Region: o.Region})
	}
	systems := s.systemOverrides(r)
	var err error
	s.board.Update(func(sn *geo.Snapshot) {
		if err = sn.SetOverrides(overrides, systems...); err != nil {
			return
		}
		for i := range sn.Regions {
			g := &sn.Regions[i]
			want := r.Regions[g.Name]
			if g.Drained != want.Drained {
				g.DrainedSince = time.Now()
			}
			weight := 1.0
			if want.Weight != nil {
				weight = *want.Weight
			}
			if weight > g.Weight {
				g.GrewSince = time.Now()
			}
			g.Drained, g.Weight = want.Drained, weight
		}
	})
	return err
}

// systemOverrides are an entry's overrides of autonomous systems. Those that change
// nothing stay: the next ASN database may know their networks.
func (s *Server) systemOverrides(r journal.Routing) []geo.SystemOverride {
	var out []geo.SystemOverride
	unknown, sn := "", s.board.Load()
	for _, o := range r.Systems {
		n := geo.AS(o.AS)
		if sn.Region(o.Region) == nil {
			s.log.Warn("routing: override to a region that is not in the region table", "as", n, "region", o.Region)
			continue
		}
		if !sn.Systems.Has(n) && unknown == "" {
			unknown = n.String()
		}
		out = append(out, geo.SystemOverride{AS: n, Region: o.Region})
	}
	switch {
	case unknown == "":
	case sn.Systems == nil:
		s.log.Warn("routing: overrides of autonomous systems are ignored without --asn-database", "overrides", len(out))
	default:
		s.log.Warn("routing: override of an autonomous system of which the ASN database knows no network", "as", unknown)
	}
	return out
}

// Patience implements service.Watched.
func (s *Server) Patience() time.Duration { return s.cfg.Watchdog.Patience }

// Ready returns nil when DNS and HTTP listen and every edge was probed once.
func (s *Server) Ready(context.Context) error {
	if !s.listening.Load() {
		return errors.New("not listening yet")
	}
	return s.monitor.Ready()
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	names, err := listenDNS(ctx, s.cfg.DNSListen, s.cfg.MaxConnections)
	if err != nil {
		return err
	}
	web, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.RouterListen)
	if err != nil {
		return errors.Join(fmt.Errorf("--router-listen: %w", err), names.close())
	}
	s.webAddr, s.nameAddr = web.Addr(), names.tcp[0].Addr()
	if s.tls != nil {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.TLS.Listen)
		if err != nil {
			return errors.Join(fmt.Errorf("--tls-listen: %w", err), names.close(), web.Close())
		}
		s.tlsAddr = l.Addr()
		s.log.Info("listening with TLS", "addr", l.Addr().String())
		g.Go(func() error {
			cfg := certificate.Config(s.tls)
			srv := s.httpServer()
			srv.TLSConfig = cfg
			return service.ServeHTTP(ctx, srv, tls.NewListener(netutil.LimitListener(l, s.cfg.MaxConnections), cfg), drain)
		})
	}
	s.listening.Store(true)
	s.log.Info("listening", "http", web.Addr().String(), "dns", strings.Join(s.cfg.DNSListen, ","))
	g.Go(func() error {
		return service.ServeHTTP(ctx, s.httpServer(), netutil.LimitListener(web, s.cfg.MaxConnections), drain)
	})
	if s.certificates != nil {
		g.Go(func() error { return s.certificates.Run(ctx) })
	}
	if s.orders != nil {
		g.Go(func() error { return s.orders.Run(ctx) })
	}
	g.Go(func() error { return names.serve(ctx, s.zone, s.monitor.Reached) })
	g.Go(func() error { return s.monitor.Run(ctx) })
	g.Go(func() error { return s.pulse.Run(ctx) })
	g.Go(func() error { return s.keys.Run(ctx) })
	g.Go(func() error { return s.routes.Run(ctx) })
	g.Go(func() error { return s.joinBus(ctx) })
	if path := s.cfg.GeoDatabase; path != "" {
		g.Go(func() error {
			geo.WatchDatabase(ctx, path, s.cfg.GeoReload, s.db, s.useGeo, func(err error) {
				s.refused(s.metrics.geo, "changed geo database refused, the one in use stays", err)
			})
			return nil
		})
	}
	if path := s.cfg.ASNDatabase; path != "" {
		g.Go(func() error {
			geo.WatchASNDatabase(ctx, path, s.cfg.GeoReload, s.asn, s.useASN, func(err error) {
				s.refused(s.metrics.asn, "changed ASN database refused, the one in use stays", err)
			})
			return nil
		})
	}
	err = g.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler: s.router.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		ConnState: func(_ net.Conn, to http.ConnState) {
			if to == http.StateNew {
				s.monitor.Reached()
			}
		},
		WriteTimeout: 15 * time.Second, IdleTimeout: 90 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// joinBus connects to NATS and hands the connection to the health monitor. The
// first round over the servers may take seconds while regions are silent, which
// is why nothing waits for it.
func (s *Server) joinBus(ctx context.Context) error {
	nc, err := nats.Connect(strings.Join(s.rt.Table.NATSURLs(s.rt.Region.Name), ","),
		nats.Name("geodns/"+s.rt.Region.Name), nats.DontRandomize(), nats.NoEcho(),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond), nats.Timeout(time.Second),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2), nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(c *nats.Conn) { s.log.Info("nats connected", "server", c.ConnectedUrlRedacted()) }),
		nats.ReconnectHandler(func(c *nats.Conn) { s.log.Info("nats connected again", "server", c.ConnectedUrlRedacted()) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if ctx.Err() == nil {
				s.log.Warn("nats lost: health is the own view until it is back", "err", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.log.Warn("nats", "err", err) }),
	)
	if err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	defer nc.Close()
	s.monitor.Attach(nc)
	<-ctx.Done()
	return nil
}
