package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/drill/browsers"
	"github.com/meridian-video/meridian/drill/creators"
	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	// stepTime bounds making or undoing a fault.
	stepTime = 4 * time.Minute
	// asked is how often the platform is looked at while it is waited for.
	asked     = 250 * time.Millisecond
	cleanTime = 2 * time.Minute
	readTime  = 5 * time.Minute
	// missedAfter is when everybody has seen that something is gone.
	missedAfter = 2 * time.Second
)

var usualWaits = Waits{Whole: 3 * time.Minute, Compared: time.Minute, Pause: 10 * time.Second, Open: 30 * time.Second}

// Runner runs scenarios on a platform. Make one with NewRunner.
type Runner struct {
	Target target.Target
	Desc   *target.Description
	// Say hears what happens, a line at a time.
	Say func(line string)
	// Read has every byte of every store compared at the end of a run.
	Read bool
	// Asset to watch, Private one to ask for without a token, and Template to
	// upload, if the caller has them.
	Asset, Private, Template string
	// Broken makes viewers misbehave, for tests.
	Broken fleet.Broken
	// Waits; NewRunner sets the usual ones.
	Waits Waits

	dir, asset, private, template string
	// accounting is of the scenario before; closed when it is done, nil without.
	accounting chan struct{}
}

// Waits are how long a runner waits for what.
type Waits struct {
	// Whole is for the platform before a run, and at least after one; Compared is,
	// at least, for uploads and stores after that.
	Whole, Compared time.Duration
	// Pause is between two uploads of a creator.
	Pause time.Duration
	// Open is how long viewers wait for a first picture.
	Open time.Duration
}

func (r *Runner) say(format string, a ...any) {
	if r.Say != nil {
		r.Say(fmt.Sprintf(format, a...))
	}
}

// NewRunner describes the target and makes what is watched and uploaded. Close it.
func NewRunner(ctx context.Context, t target.Target, say func(string)) (*Runner, error) {
	d, err := t.Describe(ctx)
	if err != nil {
		return nil, err
	}
	r := &Runner{Target: t, Desc: d, Say: say, Waits: usualWaits}
	if r.dir, err = os.MkdirTemp("", "meridian-drill-"); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return r, nil
}

// Prepare makes, or finds, what is watched and uploaded.
func (r *Runner) Prepare(ctx context.Context) error {
	if r.Asset != "" && r.Template != "" {
		r.asset, r.private, r.template = r.Asset, r.Private, r.Template
		return nil
	}
	return r.prepare(ctx)
}

// Close removes the runner's files and lets go of the target.
func (r *Runner) Close() error { return errors.Join(os.RemoveAll(r.dir), r.Desc.Close()) }

// run is one scenario under way.
type run struct {
	*Runner
	s       scenario.Scenario
	o       score.Observations
	watches []*fleet.Watch // one at each place with viewers
	edges   *fleet.Deliveries
	fleet   *fleet.Fleet
	real    *browsers.Group
	rec     *fleet.Recorder
	studio  *creators.Studio
	writers []*creators.Writer
	cpu     pressure
	guard   *guard // nil without a private video
	// before is closed once the scenario before has been accounted for; nil without.
	before <-chan struct{}

	mu sync.Mutex // of o.Steps, while they happen, and o.LostWrites
}

// Run runs a scenario until its people have left. What they were promised is
// accounted for in the background, while the next one's viewers fill their
// buffers; done is called once with what was observed, which score.Evaluate
// judges. Its error means that the scenario couldn't be run as written. Wait for
// it with Wait.
func (r *Runner) Run(ctx context.Context, s scenario.Scenario, done func(score.Observations, error)) {
	x := &run{Runner: r, s: s, rec: &fleet.Recorder{}, before: r.accounting}
	x.o.Table, x.o.Viewers = r.Desc.Table, s.Load.Viewers
	x.edges = fleet.NewDeliveries(r.Desc)
	err := x.setUp(ctx)
	if err == nil {
		err = x.live(ctx)
	}
	r.Wait()
	r.accounting = make(chan struct{})
	go func(accounted chan<- struct{}) {
		defer close(accounted)
		if err == nil {
			err = x.account(ctx)
		}
		done(x.o, errors.Join(err, x.clean()))
	}(r.accounting)
}

// Wait returns once every scenario that was run is accounted for.
func (r *Runner) Wait() {
	if r.accounting != nil {
		<-r.accounting
	}
}

func (x *run) setUp(ctx context.Context) error {
	if len(x.s.Load.Viewers) > len(x.Desc.Places) || len(x.s.Load.Creators) > len(x.Desc.Places) || len(x.s.Load.Browsers) > len(x.Desc.Places) {
		return fmt.Errorf("scenario %s wants people near %d regions, the platform has %d", x.s.Name, max(len(x.s.Load.Viewers), len(x.s.Load.Creators), len(x.s.Load.Browsers)), len(x.Desc.Places))
	}
	for i, n := range x.s.Load.Viewers {
		if n > 0 {
			x.watches = append(x.watches, fleet.NewWatch(x.Desc, i, cmp.Or(x.s.Load.Askers, scenario.UsualAskers), x.asset))
		}
	}
	if len(x.watches) == 0 {
		return fmt.Errorf("scenario %s has no viewers", x.s.Name)
	}
	x.say("waiting until the platform is whole")
	wctx, cancel := context.WithTimeout(ctx, x.Waits.Whole)
	defer cancel()
	if _, err := x.await(wctx, x.whole); err != nil {
		return fmt.Errorf("scenario %s can't begin: %w", x.s.Name, err)
	}
	var err error
	x.fleet, err = fleet.New(fleet.Config{Target: x.Desc, Asset: x.asset, Viewers: x.s.Load.Viewers, Buffer: x.s.Load.Buffer.Std(),
		Over: (x.s.WarmUp - x.s.Load.Buffer).Std(), Patience: x.Waits.Open, Broken: x.Broken}, x.rec)
	if err != nil {
		return err
	}
	n := 0
	for _, v := range x.s.Load.Viewers {
		n += v
	}
	x.real, err = browsers.New(browsers.Config{Target: x.Desc, Asset: x.asset, Browsers: x.s.Load.Browsers, Buffer: x.s.Load.Buffer.Std(),
		Patience: x.Waits.Open, First: n}, x.rec)
	if err != nil {
		return fmt.Errorf("scenario %s wants browsers: %w; or leave them out with --no-browsers", x.s.Name, err)
	}
	return x.hire(ctx)
}

// hire finds creators.
func (x *run) hire(ctx context.Context) error {
	var near []string
	for i, n := range x.s.Load.Creators {
		for range n {
			near = append(near, x.Desc.Places[i].Near)
		}
	}
	x.o.Creators = len(near)
	apis := map[string]string{}
	for _, r := range x.Desc.Table.Regions {
		apis[r.Name] = r.API
	}
	dir, err := os.MkdirTemp(x.dir, x.s.Name+"-")
	if err != nil {
		return err
	}
	x.studio = creators.New(creators.Config{APIs: apis, Key: x.Desc.APIKey, Template: x.template, Dir: dir,
		Near: near, Order: x.nearest, Pause: x.Waits.Pause})
	if len(near) == 0 {
		return nil
	}
	x.writers = make([]*creators.Writer, len(x.Desc.Table.Regions))
	g, ctx := errgroup.WithContext(ctx)
	for i, r := range x.Desc.Table.Regions {
		g.Go(func() (err error) {
			x.writers[i], err = creators.NewWriter(ctx, r.Name, r.API, x.Desc.APIKey)
			return err
		})
	}
	err = g.Wait()
	x.writers = slices.DeleteFunc(x.writers, func(w *creators.Writer) bool { return w == nil })
	return err
}

// live runs the phases.
func (x *run) live(ctx context.Context) error {
	people, leave := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { leave(); wg.Wait() }()
	// Browsers take a moment to start, and the processors meanwhile.
	wg.Go(func() { x.real.Run(people) })
	x.real.Playing()
	wg.Go(func() { x.fleet.Run(people) })
	wg.Go(func() { x.cpu.run(people) })
	for _, w := range x.watches {
		wg.Go(func() { w.Run(people) })
	}
	wg.Go(func() { x.edges.Run(people) })
	creating, stopCreators := context.WithCancel(people)
	made := make(chan struct{})
	// What is new would be taken for what the scenario before left undone.
	go func() {
		defer close(made)
		if x.accounted(creating) == nil {
			x.studio.Run(creating)
		}
	}()
	defer func() { stopCreators(); <-made }()
	for _, w := range x.writers {
		wg.Go(func() {
			if x.accounted(people) == nil {
				w.Run(people)
			}
		})
	}
	if x.private != "" {
		x.guard = newGuard(x.Desc, x.Desc.Places[0], x.private)
		wg.Go(func() { x.guard.run(people) })
	}
	n := 0
	for _, v := range x.s.Load.Viewers {
		n += v
	}
	x.say("%d viewers and %d creators; warming up for %v", n, x.o.Creators, x.s.WarmUp.Std())
	if err := sleep.For(ctx, x.s.WarmUp.Std()); err != nil {
		return err
	}
	if err := x.accounted(ctx); err != nil {
		return err
	}
	x.o.ControlBegan = time.Now()
	x.say("control phase, %v without a fault", x.s.Control.Std())
	if err := sleep.For(ctx, x.s.Control.Std()); err != nil {
		return err
	}
	x.o.FaultBegan = time.Now()
	err := x.steps(ctx)
	if !x.s.Unhealed() {
		// What they were promised is made while the platform recovers.
		stopCreators()
	}
	if err == nil {
		var settling sync.WaitGroup
		settling.Go(func() { x.settle(ctx) })
		err = sleep.For(ctx, x.s.Watch.Std())
		settling.Wait()
	}
	stopCreators()
	if err != nil {
		return err
	}
	x.o.End = time.Now()
	leave()
	wg.Wait()
	<-made
	x.o.Browsers = x.real.Seen()
	x.o.Events, x.o.Samples, x.o.Pressure = x.rec.Events(), x.rec.Samples(), x.cpu.all()
	x.o.Delivered, x.o.Dropped = x.edges.All(), x.rec.Dropped()+x.edges.Dropped()
	for _, w := range x.watches {
		x.o.Answers = append(x.o.Answers, w.Answers()...)
		x.o.Dropped += w.Dropped()
	}
	if x.guard != nil {
		saw := x.guard.seen()
		x.o.Guarded = &saw
	}
	return ctx.Err()
}

// accounted waits for the scenario before.
func (x *run) accounted(ctx context.Context) error {
	if x.before == nil {
		return ctx.Err()
	}
	select {
	case <-x.before:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle waits until the platform is whole. Viewers go on watching.
func (x *run) settle(ctx context.Context) {
	limit := x.Waits.Whole
	if o := x.s.Objectives.Recovery; o != nil {
		limit = max(limit, 2*o.Std())
	}
	wctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// What is killed and not undone must first be missed.
	if x.s.Unhealed() && sleep.For(ctx, missedAfter) != nil {
		return
	}
	at, err := x.await(wctx, x.whole)
	if err != nil {
		x.o.Why = append(x.o.Why, "platform: "+err.Error())
		return
	}
	x.o.Whole = at
	x.say("the platform is whole")
}

// account waits for what creators were promised, and compares the stores.
func (x *run) account(ctx context.Context) error {
	defer func() {
		x.o.Uploads, x.o.Advances = x.studio.Uploads(), x.studio.Advances()
		x.o.Writes = map[string][]creators.Write{}
		for _, w := range x.writers {
			x.o.Writes[w.Region] = w.Writes()
		}
	}()
	limit := func(d *scenario.Duration) (context.Context, context.CancelFunc) {
		most := x.Waits.Compared
		if d != nil {
			most = max(most, 2*d.Std())
		}
		return context.WithTimeout(ctx, most)
	}
	if x.o.Creators > 0 {
		rctx, cancel := limit(x.s.Objectives.Ready)
		_, err := x.await(rctx, x.studio.Look)
		cancel()
		if err != nil {
			x.o.Why = append(x.o.Why, "uploads: "+err.Error())
		} else {
			// Since when they are ready is known better than since when we know.
			at := x.o.Whole
			for _, u := range x.studio.Uploads() {
				if u.Ready.After(at) {
					at = u.Ready
				}
			}
			x.o.AllReady = at
		}
	}
	lost := make([]error, len(x.writers))
	var checks sync.WaitGroup
	for i, w := range x.writers {
		checks.Go(func() {
			rctx, cancel := limit(nil)
			defer cancel()
			_, lost[i] = x.await(rctx, func(ctx context.Context) error {
				err := w.Check(ctx, x.apis(w.Region)[0])
				if errors.Is(err, creators.ErrLost) {
					x.mu.Lock()
					defer x.mu.Unlock()
					x.o.LostWrites = append(x.o.LostWrites, err.Error())
					return nil
				}
				return err
			})
		})
	}
	checks.Wait()
	for _, err := range lost {
		if err != nil {
			x.o.LostWrites = append(x.o.LostWrites, err.Error())
		}
	}
	x.say("comparing stores and catalog")
	lacking := ""
	rctx, cancel := limit(x.s.Objectives.Reconciled)
	defer cancel()
	at, err := x.await(rctx, func(ctx context.Context) error {
		report, err := x.Desc.Reconcile(ctx, false)
		if err != nil {
			return err
		}
		x.o.Stores = &report
		err = report.Err()
		if err != nil && err.Error() != lacking {
			lacking = err.Error()
			first := ""
			if len(report.Findings) > 0 {
				f := report.Findings[0]
				first = fmt.Sprintf("; first %s %s %s", f.Kind, f.Region, f.Key)
			}
			x.say("not yet: %s%s", lacking, first)
		}
		return err
	})
	if err != nil {
		x.o.Why = append(x.o.Why, "stores: "+err.Error())
	} else {
		x.o.Reconciled = at
	}
	if x.Read {
		return x.readAll(ctx)
	}
	return ctx.Err()
}

// readAll has every byte compared once.
func (x *run) readAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	report, err := x.Desc.Reconcile(ctx, true)
	if err != nil {
		return fmt.Errorf("read all objects: %w", err)
	}
	x.o.Stores = &report
	return nil
}

// whole is nil when the platform says it is and all routers find all edges.
func (x *run) whole(ctx context.Context) error {
	st, err := x.Target.Status(ctx)
	if err == nil {
		err = st.Whole
	}
	if err == nil {
		err = x.watches[0].Everyone(ctx)
	}
	return err
}

// await asks until there is no error, and returns since when. When ctx ends it
// returns the last error.
func (x *run) await(ctx context.Context, ask func(context.Context) error) (time.Time, error) {
	var last error
	for {
		at := time.Now()
		err := ask(ctx)
		if err == nil {
			return at, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if sleep.For(ctx, asked) != nil {
			return at, last
		}
	}
}

// clean deletes what creators made, also when the run was interrupted.
func (x *run) clean() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTime)
	defer cancel()
	errs := make([]error, len(x.writers)+1)
	var cleaning sync.WaitGroup
	if x.studio != nil {
		cleaning.Go(func() { errs[len(x.writers)] = x.studio.Clean(ctx) })
	}
	for i, w := range x.writers {
		cleaning.Go(func() { errs[i] = w.Clean(ctx, x.apis(w.Region)) })
	}
	cleaning.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete what the drill's creators made: %w", err)
	}
	return nil
}

// regionsLost are the regions with a fault that takes all their edges.
func regionsLost(active map[int]target.Fault, d *target.Description) []string {
	var out []string
	for _, i := range slices.Sorted(maps.Keys(active)) {
		if f := active[i]; f.TakesRegion(d.Table) {
			out = append(out, f.Region)
		}
	}
	return out
}
