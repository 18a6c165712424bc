package platform

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/durable"
	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/wan"
	"github.com/meridian-video/meridian/tools"
)

const (
	// startTimeout is for each of the two halves of a start; on an idle machine all takes seconds.
	startTimeout = 2 * time.Minute
	stopTimeout  = 90 * time.Second
	bucket       = "meridian"
)

// Options of a platform.
type Options struct {
	Table      *region.Table
	StateDir   string
	Fresh      bool
	StoresOnly bool
	// Isolated gives each region a PID and a network namespace; Table is then one
	// of region.Isolated.
	Isolated bool
	// TLS has services answer with TLS as well, with a development CA's certificate.
	TLS bool
	// RegionDisk is the size in bytes of a disk that each region has of its own, as a
	// file that is mounted; 0 for none.
	RegionDisk uint64
	// Backup of PostgreSQL; nil for none.
	Backup *Backup
	// ClientConfig is the file the command line reads; empty to write none.
	ClientConfig string
	// Executable is this program. Program, if set, is another version of it, whose
	// subcommands the services are.
	Executable, Program string
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
	net   *wan.Network // nil unless isolated
	disks *disks       // nil unless regions have disks of their own
	sites []*site
	out   *progress
	begin time.Time

	// started and stopping bound the time in which regions may be changed.
	started, stopping atomic.Bool
	// life is the platform's context; work what runs beside the start.
	life context.Context
	work sync.WaitGroup
}

// Run runs the platform until ctx ends; when it returns nothing of it is alive.
func Run(ctx context.Context, opt Options) (err error) {
	p := &platform{opt: opt, out: &progress{w: opt.Out}, begin: time.Now()}
	p.out.say("state in %s", opt.StateDir)
	st, err := openState(opt.StateDir, opt.Fresh, opt.layout(), p.supervise)
	defer func() {
		err = errors.Join(err, p.close())
		// The next run may begin only now.
		if st != nil {
			st.release()
		}
	}()
	if err != nil {
		return err
	}
	life, cancel := context.WithCancel(ctx)
	defer cancel()
	p.life = life
	if err := p.prepare(st); err != nil {
		return err
	}
	ctl, err := serveControl(st.path(controlSocket), p)
	if err != nil {
		return err
	}
	defer ctl.close()
	err = p.start(life)
	if err == nil {
		p.begun()
		if opt.Started != nil {
			opt.Started()
		}
		err = p.wait(life)
	}
	cancel()
	if err := p.stop(context.WithoutCancel(ctx)); err != nil {
		p.out.say("not everything stopped in order: %v", err)
	}
	if err != nil && ctx.Err() != nil {
		return nil // interrupted while starting: that is no failure
	}
	return err
}

// wait returns when the platform shall end, or can't go on.
func (p *platform) wait(ctx context.Context) error {
	if p.net == nil {
		<-ctx.Done()
		return nil
	}
	// Regions stop over the network, so it is closed last.
	return p.net.Watch(ctx)
}

// close ends what is left, in the order things stand on each other.
func (p *platform) close() error {
	var errs []error
	p.work.Wait()
	if p.net != nil {
		errs = append(errs, p.net.Close())
	}
	if p.sup != nil {
		errs = append(errs, p.sup.Close())
	}
	if p.disks != nil {
		errs = append(errs, p.disks.close())
	}
	return errors.Join(errs...)
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
	return unmountLeft(p.opt.StateDir)
}

// prepare does and checks all that can be before the first process starts.
func (p *platform) prepare(st *state) error {
	if err := checkPrograms(p.opt.StoresOnly); err != nil {
		return err
	}
	if !p.opt.Isolated {
		var all []listener
		for _, r := range p.opt.Table.Regions {
			all = append(all, listeners(r, p.opt.StoresOnly, p.opt.TLS)...)
		}
		if err := checkPorts(all); err != nil {
			return err
		}
	}
	if err := issueDevelopment(st.path("secrets"), p.opt.Table, p.opt.TLS); err != nil {
		return fmt.Errorf("development certificate: %w", diskFull(err, st.dir))
	}
	if b := p.opt.Backup; b != nil && b.Restore != "" {
		if err := st.checkRestore(p.opt.Table.Names()); err != nil {
			return err
		}
	}
	if err := keepBackup(st.path("secrets"), p.opt.Backup); err != nil {
		return fmt.Errorf("backup: %w", diskFull(err, st.dir))
	}
	sec, err := loadSecrets(st.path("secrets"), p.opt.Table)
	if err != nil {
		return err
	}
	if p.opt.RegionDisk > 0 || haveDisks(st) {
		if p.disks, err = mountDisks(st, p.opt.Table.Names(), p.opt.RegionDisk); err != nil {
			return err
		}
	}
	b, err := p.opt.Table.Marshal()
	if err != nil {
		return err
	}
	if err := durable.Write(st.path("regions.yaml"), b, 0o644); err != nil {
		return diskFull(err, st.dir)
	}
	if err := writeGeo(st.path("geo", geoFile)); err != nil {
		return diskFull(err, st.dir)
	}
	p.plan = &plan{table: p.opt.Table, state: st, secrets: sec, exe: cmp.Or(p.opt.Program, p.opt.Executable)}
	return p.settle(string(b))
}

// settle gives every region its place.
func (p *platform) settle(table string) error {
	if p.opt.Isolated {
		cfg, err := wan.Topology(p.opt.Table)
		if err != nil {
			return err
		}
		if p.net, err = wan.New(cfg); err != nil {
			return err
		}
	}
	for _, r := range p.opt.Table.Regions {
		if !p.opt.Isolated {
			p.sites = append(p.sites, newSite(r, &local{p.plan, p.sup.Group(r.Name), r, p.opt.StoresOnly}))
			continue
		}
		ns, err := p.net.Namespace(r.Name)
		if err != nil {
			return err
		}
		place := &isolated{namespace: ns, log: p.plan.log(r, "agent"), report: p.out.event,
			setup: setup{Region: r.Name, StateDir: p.opt.StateDir, Table: table, Executable: p.plan.exe}}
		s := newSite(r, place)
		place.lost = func(err error) { p.regionLost(s, err) }
		p.sites = append(p.sites, s)
	}
	return nil
}

// namespaces are where programs enter the network: regions and viewers.
func (p *platform) namespaces() map[string]string {
	if p.net == nil {
		return nil
	}
	out := map[string]string{}
	for _, r := range p.opt.Table.Regions {
		for _, node := range []string{r.Name, wan.ViewersNode(r.Name)} {
			if ns, err := p.net.Namespace(node); err == nil {
				out[node] = ns.Path()
			}
		}
	}
	return out
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

// start starts all regions at the same time, and each part of a region once what
// it must find is there: a service doesn't wait for a copy of the database that is
// still on its way to its region.
func (p *platform) start(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	database := make(chan struct{})
	g.Go(func() error {
		ctx, cancel := context.WithTimeout(gctx, startTimeout)
		defer cancel()
		defer close(database)
		return p.plan.prepareDatabase(ctx)
	})
	for _, s := range p.sites {
		g.Go(func() error { return p.startStores(gctx, s) })
		g.Go(func() error { return p.startServices(gctx, s, database) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, s := range p.sites {
		s.set(Up, "")
	}
	p.out.started()
	return p.announce()
}

// startStores starts a region's stores and waits until PostgreSQL has what its
// leader has.
func (p *platform) startStores(ctx context.Context, s *site) error {
	if err := s.place.open(ctx); err != nil {
		return err
	}
	if err := s.place.start(ctx, kindStores); err != nil {
		return err
	}
	if !s.region.Control {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_, err := p.plan.awaitRejoined(ctx, s.region)
	return err
}

// startServices prepares a region's object store as soon as it answers, and
// starts the services once the database is there, too.
func (p *platform) startServices(ctx context.Context, s *site, database <-chan struct{}) error {
	if err := p.plan.prepareObjects(ctx, s.region); err != nil {
		return err
	}
	select {
	case <-database:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.opt.StoresOnly || ctx.Err() != nil {
		return ctx.Err()
	}
	return s.place.start(ctx, kindServices)
}

// stopOrder are the processes of a region in the order they stop: services
// before the stores they drain into, etcd last.
func stopOrder(r region.Region) [][]string {
	return [][]string{
		append([]string{"api", "encoder", "geodns"}, edgeNames(r)...),
		{procPostgres, procNATS, procMinIO},
		{procEtcd},
	}
}

// stop ends all regions. PostgreSQL's followers go before their leader, so that
// nobody is elected on the way out.
func (p *platform) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	p.stopping.Store(true)
	p.out.stopping()
	held := make([]error, len(p.sites))
	p.eachSite(func(i int, s *site) { held[i] = p.holdToStop(ctx, s) })
	errs := &collected{errs: held}
	each := func(f func(*site) error) { p.eachSite(func(_ int, s *site) { errs.add(f(s)) }) }
	stop := func(group int) func(s *site) error {
		return func(s *site) error { return s.place.stop(ctx, stopOrder(s.region)[group]...) }
	}
	each(stop(0))
	if len(p.sites) > 1 {
		each(func(s *site) error {
			probe, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if isLeader(probe, s.region) {
				return nil
			}
			return s.place.stop(ctx, procPostgres)
		})
	}
	each(stop(1))
	each(stop(2))
	each(func(s *site) error { return s.place.kill(ctx) })
	err := errs.join()
	if err == nil {
		p.out.stopped(time.Since(p.begin))
	}
	return err
}

// holdToStop takes a site for good, and makes it able to stop.
func (p *platform) holdToStop(ctx context.Context, s *site) error {
	s.interruptStarts()
	// Their release never comes: the platform ends.
	for _, c := range []claim{s.busy, s.around} {
		if _, err := s.acquire(ctx, c); err != nil {
			return err
		}
	}
	var err error
	v := s.view()
	if v.hung {
		err = s.place.resume()
	}
	if v.silence != 0 || v.slow {
		err = errors.Join(err, p.heal(s))
	}
	if v.full {
		err = errors.Join(err, p.disks.free(s.region.Name)) // stores write as they stop
	}
	return err
}

// collected gathers errors of goroutines.
type collected struct {
	mu   sync.Mutex
	errs []error
}

func (c *collected) add(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
}

func (c *collected) join() error { return errors.Join(c.errs...) }

func (p *platform) eachSite(f func(int, *site)) {
	var wg sync.WaitGroup
	for i, s := range p.sites {
		wg.Go(func() { f(i, s) })
	}
	wg.Wait()
}
