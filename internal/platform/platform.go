package platform

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/tools"
)

const (
	// startTimeout is for each of the two halves of a start; on an idle machine all takes seconds.
	startTimeout = 2 * time.Minute
	bucket       = "meridian"
)

// Options of a platform.
type Options struct {
	Table      *region.Table
	StateDir   string
	Fresh      bool
	StoresOnly bool
	// ClientConfig is the file the command line reads; empty to write none.
	ClientConfig string
	// Executable is the program whose subcommands the services are.
	Executable string
	// Out takes progress and the closing table.
	Out io.Writer
	// Started is called once everything is ready; may be nil.
	Started func()
}

// platform is a running set of regions.
type platform struct {
	opt   Options
	plan  *plan
	sup   *supervise.Supervisor
	out   *progress
	begin time.Time
}

// Run runs the platform until ctx ends; when it returns nothing of it is alive.
func Run(ctx context.Context, opt Options) (err error) {
	p := &platform{opt: opt, out: &progress{w: opt.Out}, begin: time.Now()}
	p.out.say("state in %s", opt.StateDir)
	st, err := openState(opt.StateDir, opt.Fresh, opt.Table.Names(), p.supervise)
	defer func() {
		if p.sup != nil {
			err = errors.Join(err, p.sup.Close())
		}
		// The next run may begin only now.
		if st != nil {
			st.release()
		}
	}()
	if err != nil {
		return err
	}
	if err := p.prepare(st); err != nil {
		return err
	}
	ctl, err := serveControl(st.path(controlSocket), p.sup)
	if err != nil {
		return err
	}
	defer ctl.close()
	err = p.start(ctx)
	if err == nil {
		if opt.Started != nil {
			opt.Started()
		}
		<-ctx.Done()
	}
	if len(p.sup.Status()) > 0 {
		p.stop(context.WithoutCancel(ctx))
	}
	if err != nil && ctx.Err() != nil {
		return nil // interrupted while starting: that is no failure
	}
	return err
}

func (p *platform) supervise() error {
	sup, healed, err := supervise.New(supervise.Options{Mark: p.opt.StateDir, Owns: postmasters(p.opt.StateDir), Report: p.out.event})
	if err != nil {
		return err
	}
	if healed > 0 {
		p.out.say("ended %d processes which an earlier run had left", healed)
	}
	p.sup = sup
	return nil
}

// prepare does and checks all that can be before the first process starts.
func (p *platform) prepare(st *state) error {
	if err := checkPrograms(p.opt.StoresOnly); err != nil {
		return err
	}
	var listeners []listener
	for _, r := range p.opt.Table.Regions {
		listeners = append(listeners, storeListeners(r)...)
		if !p.opt.StoresOnly {
			listeners = append(listeners, serviceListeners(r)...)
		}
	}
	if err := checkPorts(listeners); err != nil {
		return err
	}
	sec, err := loadSecrets(st.path("secrets"), p.opt.Table)
	if err != nil {
		return err
	}
	b, err := p.opt.Table.Marshal()
	if err != nil {
		return err
	}
	if err := writeAtomic(st.path("regions.yaml"), b, 0o644); err != nil {
		return diskFull(err, st.dir)
	}
	if err := writeGeo(st.path("geo", geoFile)); err != nil {
		return diskFull(err, st.dir)
	}
	p.plan = &plan{table: p.opt.Table, state: st, secrets: sec, exe: p.opt.Executable}
	return nil
}

// checkPrograms names every program that is missing.
func checkPrograms(storesOnly bool) error {
	system := []string{"etcd", "patroni"}
	if !storesOnly {
		system = append(system, "ffmpeg", "ffprobe")
	}
	var errs []error
	for _, name := range system {
		_, err := tools.System(name)
		errs = append(errs, err)
	}
	_, _, err := tools.PostgresBin()
	errs = append(errs, err)
	for _, name := range []string{"nats-server", "minio"} {
		_, err := tools.Path(name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (p *platform) start(ctx context.Context) error {
	if err := p.startAll(ctx, p.plan.stores); err != nil {
		return err
	}
	if err := p.fill(ctx); err != nil {
		return err
	}
	if !p.opt.StoresOnly {
		if err := p.startAll(ctx, p.plan.services); err != nil {
			return err
		}
	}
	p.out.started()
	return p.announce()
}

// startAll starts the processes of one kind in all regions and waits for them.
func (p *platform) startAll(ctx context.Context, specs func(region.Region) ([]supervise.Spec, error)) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	for _, r := range p.opt.Table.Regions {
		list, err := specs(r)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		for _, spec := range list {
			proc, err := p.sup.Group(r.Name).Start(spec)
			if err != nil {
				return errors.Join(err, g.Wait())
			}
			g.Go(func() error { return proc.WaitReady(gctx) })
		}
	}
	return g.Wait()
}

// fill makes what services expect their stores to hold.
func (p *platform) fill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.plan.prepareDatabase(ctx) })
	for _, r := range p.opt.Table.Regions {
		g.Go(func() error {
			s, err := objects.New(p.opt.Table, r.Name, objects.Config{AccessKey: s3AccessKey,
				SecretKey: service.Secret(p.plan.secrets.s3), Bucket: bucket}, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			return s.Own().Prepare(ctx)
		})
	}
	return g.Wait()
}

// stop ends services before the stores they drain into, PostgreSQL's followers
// before their leader, so that nobody is elected on the way out, and etcd last.
func (p *platform) stop(ctx context.Context) {
	p.out.stopping()
	var services []string
	for _, r := range p.opt.Table.Regions {
		services = append(services, "api", "encoder", "geodns")
		services = append(services, edgeNames(r)...)
	}
	p.eachRegion(func(r region.Region) { p.sup.Group(r.Name).Stop(services...) })
	var leaders []region.Region
	for _, r := range p.opt.Table.Regions {
		probe, cancel := context.WithTimeout(ctx, time.Second)
		if len(p.opt.Table.Regions) > 1 && isLeader(probe, r) {
			leaders = append(leaders, r)
		}
		cancel()
	}
	p.eachRegion(func(r region.Region) {
		for _, l := range leaders {
			if l.Name == r.Name {
				return
			}
		}
		p.sup.Group(r.Name).Stop(procPostgres)
	})
	p.eachRegion(func(r region.Region) { p.sup.Group(r.Name).Stop(procPostgres, procNATS, procMinIO) })
	p.eachRegion(func(r region.Region) { p.sup.Group(r.Name).Stop(procEtcd) })
	p.out.stopped(time.Since(p.begin))
}

func (p *platform) eachRegion(f func(region.Region)) {
	var wg sync.WaitGroup
	for _, r := range p.opt.Table.Regions {
		wg.Go(func() { f(r) })
	}
	wg.Wait()
}
