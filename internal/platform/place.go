package platform

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
)

// kind of processes of a region.
type kind string

const (
	kindStores   kind = "stores"
	kindServices kind = "services"
)

const (
	// killTimeout and hangTimeout bound how long signals may take to show.
	killTimeout = 15 * time.Second
	hangTimeout = 10 * time.Second
)

// place is where a region's processes run. One goroutine at a time changes it.
type place interface {
	// open makes the place ready for processes; again after kill.
	open(ctx context.Context) error
	// start starts the processes of a kind and waits until they are ready.
	start(ctx context.Context, k kind) error
	// stop stops the named processes at the same time; names it doesn't hold are ignored.
	stop(ctx context.Context, names ...string) error
	// kill ends all at once. When it returns without error nothing is alive or listening.
	kill(ctx context.Context) error
	hang(ctx context.Context) error
	resume() error
	// change says how processes are started from the next open on.
	change(how startup) error
	// status may be older than now if the place doesn't answer.
	status(ctx context.Context) []supervise.Status
}

// local is a place in this process's supervisor, on loopback addresses.
type local struct {
	plan       *plan
	group      *supervise.Group
	region     region.Region
	storesOnly bool
}

func (l *local) open(context.Context) error { return nil }

func (l *local) start(ctx context.Context, k kind) error {
	return startProcesses(ctx, l.group, l.plan, l.region, k)
}

func (l *local) stop(_ context.Context, names ...string) error {
	l.group.Stop(names...)
	return nil
}

func (l *local) kill(context.Context) error {
	if err := l.group.Kill(); err != nil {
		return err
	}
	return checkPorts(listeners(l.region, l.storesOnly, l.plan.secrets.tls))
}

func (l *local) hang(ctx context.Context) error            { return l.group.Hang(ctx) }
func (l *local) resume() error                             { return l.group.Resume() }
func (l *local) status(context.Context) []supervise.Status { return l.group.Status() }

// startup is how a region's services are started.
type startup struct {
	// program is another version of this one; empty for the one it had.
	program string
	// clock is what the services' clocks are ahead, in whole seconds.
	clock time.Duration
}

func (l *local) change(how startup) error {
	if how != (startup{}) {
		return refuse(NotIsolated, "another program or clock needs regions with an agent of their own: start the platform with `meridian up --isolated` (as root)")
	}
	return nil
}

// listeners are the addresses a region's processes listen on.
func listeners(r region.Region, storesOnly, tls bool) []listener {
	out := storeListeners(r)
	if !storesOnly {
		out = append(out, serviceListeners(r)...)
		if tls {
			out = append(out, tlsListeners(r)...)
		}
	}
	return out
}

// startProcesses starts the processes of one kind and waits until they are ready.
func startProcesses(ctx context.Context, group *supervise.Group, p *plan, r region.Region, k kind) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	specs := p.stores
	if k == kindServices {
		specs = p.services
	}
	list, err := specs(r)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, spec := range list {
		proc, err := group.Start(spec)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		g.Go(func() error { return proc.WaitReady(gctx) })
	}
	return g.Wait()
}
