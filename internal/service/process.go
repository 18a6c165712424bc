package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/telemetry"
)

// Process is the configuration of everything that runs until it is stopped, in a
// region or without any.
type Process struct {
	AdminListen string        `help:"Address of /livez, /readyz and /metrics; keep it private." default:"127.0.0.1:0" env:"MERIDIAN_ADMIN_LISTEN" placeholder:"HOST:PORT"`
	Log         telemetry.Log `embed:"" prefix:"log-" envprefix:"MERIDIAN_LOG_"`
	CheckConfig bool          `help:"Validate the configuration, name every problem and exit."`
}

// Validate names every problem of it.
func (p *Process) Validate() error {
	if _, _, err := net.SplitHostPort(p.AdminListen); err != nil {
		return fmt.Errorf("--admin-listen: %w", err)
	}
	return nil
}

// Run validates the configuration, then builds and runs a component until ctx
// ends. With CheckConfig it only validates and says so. build must not wait for
// other services: the admin listener answers only once it has returned, and
// services start in any order.
func (p *Process) Run(ctx context.Context, name string, validate func() error,
	build func(ctx context.Context, rt *Runtime) (Component, error)) error {
	if err := validate(); err != nil {
		return fmt.Errorf("%s: configuration is not valid:\n%w", name, err)
	}
	if p.CheckConfig {
		_, err := fmt.Printf("%s: configuration is valid\n", name)
		return err
	}
	rt := &Runtime{Log: p.Log.Logger(os.Stderr).With("component", name), Metrics: telemetry.NewRegistry(name)}
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
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.AdminListen)
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
		rt.Log.Info("starting")
		err := c.Run(gctx)
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", name, err)
		}
		rt.Log.Info("stopped")
		return nil
	})
	return g.Wait()
}
