package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/telemetry"
)

// Base is the configuration every component shares. Embed it in the
// component's configuration struct.
type Base struct {
	Regions     string        `help:"Region table (YAML)." default:"regions.yaml" env:"MERIDIAN_REGIONS" placeholder:"FILE"`
	Region      string        `help:"Name of the region this process runs in." required:"" env:"MERIDIAN_REGION"`
	AdminListen string        `help:"Address of /livez, /readyz and /metrics; keep it private." default:"127.0.0.1:0" env:"MERIDIAN_ADMIN_LISTEN" placeholder:"HOST:PORT"`
	Log         telemetry.Log `embed:"" prefix:"log-" envprefix:"MERIDIAN_LOG_"`
	CheckConfig bool          `help:"Validate the configuration, name every problem and exit."`
	Table       *region.Table `kong:"-"`
}

// Component is a running part of the platform.
type Component interface {
	// Run blocks until ctx is cancelled and everything it started has ended.
	Run(ctx context.Context) error
	// Ready returns nil when the component can do its work, else why not.
	Ready(ctx context.Context) error
}

// Operator is a Component with admin endpoints of its own.
type Operator interface {
	// Operate adds them to the admin listener's.
	Operate(mux *http.ServeMux)
}

// Watched is a Component that others wait for in the middle of a request.
type Watched interface {
	// Patience is after how long the kernel ends the process if it stands still; 0
	// is never. See Watchdog.
	Patience() time.Duration
}

// Runtime is what a component is built from.
type Runtime struct {
	// Region is the component's own region, Table all of them.
	Region region.Region
	Table  *region.Table
	Log    *slog.Logger
	// Metrics is the process's registry, served at /metrics.
	Metrics *prometheus.Registry
}

// Validate loads the region table and checks what Base holds. Components call
// it from their own Validate and join the result with their own problems.
func (b *Base) Validate() error {
	var errs []error
	t, err := region.Load(b.Regions)
	if b.Region == "" {
		errs = append(errs, errors.New("--region: name the region this process runs in"))
	}
	if err != nil {
		errs = append(errs, err)
	} else if err := t.Check(b.Regions, b.Region); err != nil {
		errs = append(errs, err)
	}
	b.Table = t
	if _, _, err := net.SplitHostPort(b.AdminListen); err != nil {
		errs = append(errs, fmt.Errorf("--admin-listen: %w", err))
	}
	return errors.Join(errs...)
}

// Run validates the configuration, then builds and runs a component until ctx
// ends. With CheckConfig it only validates and says so. build must not wait for
// other services: the admin listener answers only once it has returned, and
// services start in any order.
func Run(ctx context.Context, name string, base *Base, validate func() error,
	build func(ctx context.Context, rt *Runtime) (Component, error)) error {
	if err := validate(); err != nil {
		return fmt.Errorf("%s: configuration is not valid:\n%w", name, err)
	}
	if base.CheckConfig {
		_, err := fmt.Printf("%s: configuration is valid\n", name)
		return err
	}
	r, _ := base.Table.Get(base.Region)
	log := base.Log.Logger(os.Stderr).With("component", name, "region", r.Name)
	rt := &Runtime{Region: r, Table: base.Table, Log: log, Metrics: telemetry.NewRegistry(name)}

	c, err := build(ctx, rt)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	// The admin listener outlives the component so that a draining process still answers.
	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	ready := func(rctx context.Context) error {
		if gctx.Err() != nil {
			return errors.New("shutting down")
		}
		return c.Ready(rctx)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", base.AdminListen)
	if err != nil {
		stopAdmin()
		return fmt.Errorf("%s: admin listener: %w", name, err)
	}
	admin := http.NewServeMux()
	admin.Handle("/", telemetry.Handler(rt.Metrics, ready))
	if o, ok := c.(Operator); ok {
		o.Operate(admin)
	}
	g.Go(func() error {
		srv := &http.Server{Handler: admin, ReadHeaderTimeout: 5 * time.Second,
			WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
		return ServeHTTP(adminCtx, srv, l, time.Second)
	})
	if w, ok := c.(Watched); ok && w.Patience() > 0 {
		g.Go(func() error { return watch(adminCtx, w.Patience()) })
	}
	g.Go(func() error {
		defer stopAdmin()
		log.Info("starting")
		err := c.Run(gctx)
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", name, err)
		}
		log.Info("stopped")
		return nil
	})
	return g.Wait()
}

// ServeHTTP serves srv on l until ctx ends, then refuses new connections and
// drains for at most grace before it closes what is left.
func ServeHTTP(ctx context.Context, srv *http.Server, l net.Listener, grace time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := srv.Shutdown(sctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-done
	return err
}
