package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/api/feed"
	"github.com/meridian-video/meridian/api/upload"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/jobs"
	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/service"
)

const (
	// drain is how long requests may go on after shutdown began: an upload's
	// last part must reach two regions.
	drain = 15 * time.Second
	// bootstrapOwner owns the bootstrap API key.
	bootstrapOwner = "default"

	prepareTimeout  = 30 * time.Second
	prepareRetryMin = 250 * time.Millisecond
	prepareRetryMax = 3 * time.Second
)

// component is a running api.
type component struct {
	cfg     *Command
	rt      *service.Runtime
	keys    keys
	catalog *catalog.Catalog
	store   *objects.Store
	conn    *jobs.Conn
	feed    *feed.Feed
	uploads *upload.Handler
	server  *Server
	keySets *journal.Keys
	repair  *repair.Repair
	// Those of the encrypted listener; nil without.
	tls    certificate.Source
	shared *certificate.Shared

	// Steps of preparation that aren't done yet; Ready names them.
	migrated, bucket, published atomic.Bool
}

func (c *Command) build(_ context.Context, rt *service.Runtime) (service.Component, error) {
	k, err := c.keys()
	if err != nil {
		return nil, err
	}
	store, err := objects.New(rt.Table, rt.Region.Name, c.S3, rt.Log)
	if err != nil {
		return nil, err
	}
	cm, err := certificate.NewMetrics(rt.Metrics)
	if err != nil {
		return nil, err
	}
	certs, shared, err := c.TLS.Open(c.Certificates, "api", store, rt.Table, cm, rt.Log)
	if err != nil {
		return nil, err
	}
	cat, err := catalog.Open(c.Postgres.DSN(rt.Table.PostgresDSNHosts(rt.Region.Name)), rt.Table.Farthest(rt.Region.Name), rt.Log)
	if err != nil {
		return nil, err
	}
	control := 0
	for _, r := range rt.Table.Regions {
		if r.Control {
			control++
		}
	}
	conn, err := jobs.Connect(rt.Table.NATSURLs(rt.Region.Name), control, rt.Log)
	if err != nil {
		cat.Close()
		return nil, err
	}
	a := &component{cfg: c, rt: rt, keys: k, catalog: cat, store: store, conn: conn, keySets: journal.NewKeys(store, k.root, rt.Log),
		tls: certs, shared: shared}
	a.repair = repair.New(c.Repair, repair.Deps{Store: store, Catalog: cat, Keys: a.keySets.Current, Log: rt.Log, Metrics: repair.NewMetrics(rt.Metrics)})
	a.feed = feed.New(func(ctx context.Context, after uint64) (feed.Subscription, error) {
		if err := conn.Setup(ctx); err != nil {
			return nil, err
		}
		return conn.Subscribe(ctx, "*", after)
	}, rt.Log)
	a.uploads, err = upload.New(c.Upload, upload.Deps{Assets: cat, Uploads: cat, Objects: store, Table: rt.Table, Self: rt.Region.Name, Log: rt.Log, Metrics: rt.Metrics})
	if err != nil {
		conn.Close()
		cat.Close()
		return nil, err
	}
	a.server = NewServer(Deps{Assets: cat, Keys: cat, Uploads: a.uploads, Feed: a.feed, Playback: k.playback, Region: rt.Region, Table: rt.Table,
		Streams: c.EventStreams, Log: rt.Log, Metrics: rt.Metrics})
	return a, nil
}

// Run prepares what the platform needs, serves, and keeps the control plane
// moving until ctx ends.
func (a *component) Run(ctx context.Context) error {
	defer a.store.Close()
	defer a.catalog.Close()
	defer a.conn.Close()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.Listen)
	if err != nil {
		return fmt.Errorf("API listener: %w", err)
	}
	var encrypted net.Listener
	if a.tls != nil {
		if encrypted, err = (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.TLS.Listen); err != nil {
			return errors.Join(fmt.Errorf("API TLS listener: %w", err), l.Close())
		}
	}
	backups := newArchive(a.rt.Metrics)
	jm, name := jobs.NewMetrics(a.rt.Metrics), a.rt.Region.Name+"/"+l.Addr().String()
	publisher := &catalog.Publisher{Catalog: a.catalog, Objects: a.store, Events: a.conn, Signer: a.keys.record, Log: a.rt.Log, Metrics: catalog.NewMetrics(a.rt.Metrics)}
	dispatcher := &jobs.Dispatcher{Catalog: a.catalog, Conn: a.conn, Name: name, Regions: a.rt.Table.Names(), Log: a.rt.Log, Metrics: jm}
	janitor := &jobs.Janitor{Catalog: a.catalog, Conn: a.conn, Objects: a.store, Name: name, Log: a.rt.Log, Metrics: jm}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.serve(ctx, l, nil) })
	if encrypted != nil {
		g.Go(func() error { return a.serve(ctx, encrypted, a.tls) })
	}
	if a.shared != nil {
		g.Go(func() error { return a.shared.Run(ctx) })
	}
	g.Go(func() error { return a.feed.Run(ctx) })
	g.Go(func() error { return a.keySets.Run(ctx) })
	g.Go(func() error { return hintRepair(ctx, a.feed, a.repair) })
	g.Go(func() error {
		err := a.until(ctx, "prepare the bucket", &a.bucket, func(ctx context.Context) error { return a.store.Own().Prepare(ctx) })
		if err != nil || !a.bucket.Load() {
			return err
		}
		return a.repair.Run(ctx)
	})
	g.Go(func() error { return a.until(ctx, "publish the first key set", &a.published, a.publishKeys) })
	g.Go(func() error {
		if err := a.until(ctx, "prepare the catalog", &a.migrated, a.prepareCatalog); err != nil || !a.migrated.Load() {
			return err
		}
		g.Go(func() error { return publisher.Run(ctx) })
		g.Go(func() error { return dispatcher.Run(ctx) })
		g.Go(func() error { return janitor.Run(ctx) })
		g.Go(func() error { backups.watch(ctx, a.catalog); return nil })
		return nil
	})
	return g.Wait()
}

// serve answers on a listener until ctx ends, with TLS if certs isn't nil.
func (a *component) serve(ctx context.Context, l net.Listener, certs certificate.Source) error {
	srv := &http.Server{Handler: a.server, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(a.rt.Log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, a.uploads.Stop)
	defer stop()
	a.rt.Log.Info("serving", "listen", l.Addr().String(), "tls", certs != nil)
	if certs != nil {
		srv.TLSConfig = certificate.Config(certs)
		l = tls.NewListener(l, srv.TLSConfig)
	}
	return service.ServeHTTP(ctx, srv, l, drain)
}

// Patience implements service.Watched.
func (a *component) Patience() time.Duration { return a.cfg.Watchdog.Patience }

// Ready returns nil when the leader answers, streams exist and the region is prepared.
func (a *component) Ready(ctx context.Context) error {
	var errs []error
	for _, step := range []struct {
		done *atomic.Bool
		what string
	}{{&a.bucket, "the region's bucket isn't prepared yet"}, {&a.published, "no key set is published yet"}, {&a.migrated, "the catalog isn't prepared yet"}} {
		if !step.done.Load() {
			errs = append(errs, errors.New(step.what))
		}
	}
	if a.tls != nil {
		errs = append(errs, a.tls.Ready())
	}
	return errors.Join(append(errs, a.catalog.Ready(ctx), a.conn.Ready(ctx))...)
}

func (a *component) prepareCatalog(ctx context.Context) error {
	if err := a.catalog.Migrate(ctx); err != nil {
		return err
	}
	if a.cfg.BootstrapAPIKey == "" {
		return nil
	}
	return a.catalog.EnsureKey(ctx, bootstrapOwner, a.cfg.BootstrapAPIKey.Reveal())
}

// publishKeys writes the key set given unless the journal has one.
func (a *component) publishKeys(ctx context.Context) error {
	_, err := journal.Newest(ctx, a.store, objects.KeysJournal)
	if !errors.Is(err, objects.ErrNotFound) {
		return err
	}
	if a.keys.set == nil {
		return errors.New("there is none: give one api --key-set")
	}
	_, err = a.store.PutEverywhere(ctx, objects.JournalKey(objects.KeysJournal, a.keys.setN), objects.Bytes(a.keys.set))
	if errors.Is(err, objects.ErrConflict) {
		return fmt.Errorf("--key-set isn't the one this platform was started with: %w", err)
	}
	return err
}

// until tries a step, each time under a deadline, until it is done or ctx ends.
func (a *component) until(ctx context.Context, what string, done *atomic.Bool, step func(context.Context) error) error {
	said := ""
	for wait := prepareRetryMin; ; wait = min(2*wait, prepareRetryMax) {
		sctx, cancel := context.WithTimeout(ctx, prepareTimeout)
		err := step(sctx)
		cancel()
		if err == nil {
			done.Store(true)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != said {
			said = err.Error()
			a.rt.Log.Warn(what+": trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
