package service

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/internal/region"
)

// Base is the configuration every component shares. Embed it in the
// component's configuration struct.
type Base struct {
	Regions string `help:"Region table (YAML)." default:"regions.yaml" env:"MERIDIAN_REGIONS" placeholder:"FILE"`
	Region  string `help:"Name of the region this process runs in." required:"" env:"MERIDIAN_REGION"`
	Process `embed:""`
	Table   *region.Table `kong:"-"`
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
	// Region is the component's own region, Table all of them; of what runs without
	// regions neither is set.
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
	return errors.Join(append(errs, b.Process.Validate())...)
}

// Run is Process.Run for a component of a region.
func Run(ctx context.Context, name string, base *Base, validate func() error,
	build func(ctx context.Context, rt *Runtime) (Component, error)) error {
	return base.Process.Run(ctx, name, validate, func(ctx context.Context, rt *Runtime) (Component, error) {
		rt.Region, _ = base.Table.Get(base.Region)
		rt.Table, rt.Log = base.Table, rt.Log.With("region", rt.Region.Name)
		return build(ctx, rt)
	})
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
