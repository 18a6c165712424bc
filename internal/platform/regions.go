package platform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/wan"
)

const (
	// acquireTimeout is for an operation on the same region to end.
	acquireTimeout = 30 * time.Second
	// regionStartTimeout is for a whole region to be back.
	regionStartTimeout = 3 * time.Minute
	// prepareTimeout is for one attempt to prepare an object store.
	prepareTimeout = 5 * time.Second
)

// manner is how an operation gets along with others on its region.
type manner int

const (
	// ending operations interrupt a start under way.
	ending manner = iota
	// changing ones are refused meanwhile: it may take minutes.
	changing
	// surrounding ones change the region's network or disk, beside whatever else goes on.
	surrounding
)

// hold returns the named region and makes the caller the only one to change it.
func (p *platform) hold(ctx context.Context, name string, how manner) (*site, func(), error) {
	s := p.site(name)
	if s == nil {
		return nil, nil, refuse(UnknownRegion, "no region %q runs here: want one of %s", name, strings.Join(p.opt.Table.Names(), ", "))
	}
	if !p.started.Load() {
		return nil, nil, refuse(NotUp, "the platform is still starting: wait until `meridian up` says that it is ready")
	}
	if p.stopping.Load() {
		return nil, nil, errStopping // which holds all regions
	}
	claim := s.busy
	switch how {
	case ending:
		defer s.interruptStarts()()
	case changing:
		if s.underWay() {
			return nil, nil, refuse(NotUp, "%s is %s: wait until it is up, or end that with `meridian region kill %[1]s`", name, s.view().base)
		}
	case surrounding:
		claim = s.around
	}
	ctx, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	release, err := s.acquire(ctx, claim)
	if err == nil && p.stopping.Load() {
		release()
		err = errStopping
	}
	return s, release, err
}

var errStopping = refuse(NotUp, "the platform is stopping")

func (p *platform) site(name string) *site {
	for _, s := range p.sites {
		if s.region.Name == name {
			return s
		}
	}
	return nil
}

func downError(name string, v view) error {
	code := AlreadyDown
	if v.base == Killed {
		code = AlreadyKilled
	}
	return refuse(code, "%s is already %s; bring it back with `meridian region start %[1]s`", name, v.base)
}

// killRegion kills every process of a region at once.
func (p *platform) killRegion(ctx context.Context, name string) error {
	s, release, err := p.hold(ctx, name, ending)
	if err != nil {
		return err
	}
	defer release()
	// What couldn't be killed the last time is tried again.
	if v := s.view(); v.base == Killed && v.problem == "" {
		return downError(name, v)
	}
	s.set(Killed, "")
	// It is done even if the caller goes.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	if err := s.place.kill(ctx); err != nil {
		s.set(Killed, err.Error())
		return err
	}
	p.out.say("%-3s killed", name)
	return nil
}

// stopRegion stops a region in order, as for the maintenance of a machine.
func (p *platform) stopRegion(ctx context.Context, name string) error {
	s, release, err := p.hold(ctx, name, ending)
	if err != nil {
		return err
	}
	defer release()
	switch v := s.view(); {
	case v.down():
		return downError(name, v)
	case v.hung:
		return refuse(AlreadyHung, "%s hangs; let it go on first with `meridian region resume %[1]s`", name)
	}
	s.set(Stopped, "")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	var errs []error
	for _, names := range stopOrder(s.region) {
		errs = append(errs, s.place.stop(ctx, names...))
	}
	errs = append(errs, s.place.kill(ctx))
	if err := errors.Join(errs...); err != nil {
		s.set(Stopped, err.Error())
		return err
	}
	p.out.say("%-3s stopped", name)
	return nil
}

// hangRegion stops every process of a region where it stands.
func (p *platform) hangRegion(ctx context.Context, name string) error {
	s, release, err := p.hold(ctx, name, changing)
	if err != nil {
		return err
	}
	defer release()
	switch v := s.view(); {
	case v.down():
		return downError(name, v)
	case v.base != Up:
		return refuse(NotUp, "%s is %s: wait until it is up", name, v.base)
	case v.hung:
		return refuse(AlreadyHung, "%s hangs already; let it go on with `meridian region resume %[1]s`", name)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hangTimeout)
	defer cancel()
	s.place.status(ctx) // the last it can tell
	s.setHung(true)
	if err := s.place.hang(ctx); err != nil {
		s.setHung(false)
		return errors.Join(err, s.place.resume())
	}
	p.out.say("%-3s hung", name)
	return nil
}

func (p *platform) resumeRegion(ctx context.Context, name string) error {
	s, release, err := p.hold(ctx, name, changing)
	if err != nil {
		return err
	}
	defer release()
	if v := s.view(); !v.hung {
		return refuse(NotHung, "%s doesn't hang, it is %s", name, v.condition())
	}
	if err := s.place.resume(); err != nil {
		return err
	}
	s.setHung(false)
	p.out.say("%-3s goes on", name)
	return nil
}

func (p *platform) silenceRegion(ctx context.Context, name, direction string) error {
	s, release, err := p.hold(ctx, name, surrounding)
	if err != nil {
		return err
	}
	defer release()
	d, ok := directions[direction]
	v := s.view()
	switch {
	case p.net == nil:
		return refuse(NotIsolated, "silence needs regions with a network of their own: start the platform with `meridian up --isolated` (as root), or use `meridian region hang`")
	case !ok:
		return refuse(BadRequest, "direction %q: want in, out or both", direction)
	case v.down():
		return downError(name, v)
	}
	if err := p.net.Silence(name, d); err != nil {
		return err
	}
	s.setNetwork(v.silence|d, v.slow)
	p.out.say("%-3s silent (%s)", name, directionName(v.silence|d))
	return nil
}

// slowRegion adds to the condition of the region's network; what it was slowed by
// before no longer counts.
func (p *platform) slowRegion(ctx context.Context, name string, by wan.Link) error {
	s, release, err := p.hold(ctx, name, surrounding)
	if err != nil {
		return err
	}
	defer release()
	v := s.view()
	switch {
	case p.net == nil:
		return refuse(NotIsolated, "slow needs regions with a network of their own: start the platform with `meridian up --isolated` (as root)")
	case v.down():
		return downError(name, v)
	}
	if err := p.net.Worsen(name, by); err != nil {
		return err
	}
	s.setNetwork(v.silence, true)
	p.out.say("%-3s slow (%s)", name, linkName(by))
	return nil
}

// linkName says what a link's condition is: "delay 300ms, 2 % lost".
func linkName(l wan.Link) string {
	var parts []string
	if l.Delay > 0 {
		parts = append(parts, "delay "+l.Delay.String())
	}
	if l.Loss > 0 {
		parts = append(parts, fmt.Sprintf("%.3g %% lost", 100*l.Loss))
	}
	if l.Rate > 0 {
		parts = append(parts, humanize.SI(float64(l.Rate), "bit/s"))
	}
	return strings.Join(parts, ", ")
}

// fillRegion leaves no room on the region's disk.
func (p *platform) fillRegion(ctx context.Context, name string) error {
	s, release, err := p.hold(ctx, name, surrounding)
	if err != nil {
		return err
	}
	defer release()
	if p.disks == nil {
		return refuse(NoDisk, "%s has no disk of its own to fill: start the platform with `meridian up --region-disk 4GiB` (as root)", name)
	}
	if err := p.disks.fill(name); err != nil {
		return err
	}
	s.setFull(true)
	p.out.say("%-3s has a full disk", name)
	return nil
}

// freeRegion gives the room back.
func (p *platform) freeRegion(ctx context.Context, name string) error {
	s, release, err := p.hold(ctx, name, surrounding)
	if err != nil {
		return err
	}
	defer release()
	if !s.view().full {
		return refuse(NotFull, "the disk of %s wasn't filled", name)
	}
	if err := p.disks.free(name); err != nil {
		return err
	}
	s.setFull(false)
	p.out.say("%-3s has room on its disk again", name)
	return nil
}

func (p *platform) healRegion(ctx context.Context, name string) error {
	s, release, err := p.hold(ctx, name, surrounding)
	if err != nil {
		return err
	}
	defer release()
	if p.net == nil {
		return refuse(NotIsolated, "%s has no network of its own: there is nothing to heal", name)
	}
	if v := s.view(); v.silence == 0 && !v.slow {
		return refuse(NotSilent, "%s is neither silent nor slow, it is %s", name, v.condition())
	}
	if err := p.heal(s); err != nil {
		return err
	}
	p.out.say("%-3s heard again", name)
	return nil
}

// heal lets a region be heard again. The caller holds what is around it.
func (p *platform) heal(s *site) error {
	if p.net == nil {
		return nil
	}
	if err := p.net.Heal(s.region.Name); err != nil {
		return err
	}
	s.setNetwork(0, false)
	return nil
}

// startRegion brings a region back and tells say what it waited for.
func (p *platform) startRegion(ctx context.Context, name string, wipeObjects bool, how startup, say func(string)) error {
	s, release, err := p.hold(ctx, name, changing)
	if err != nil {
		return err
	}
	defer release()
	start, done := p.interruptible(s)
	defer done()
	switch v := s.view(); {
	case !v.down() && v.problem != "":
		return refuse(NotDown, "%s is %s, though not whole (%s): end it with `meridian region kill %[1]s` first", name, v.condition(), v.problem)
	case !v.down():
		return refuse(NotDown, "%s is %s: only a region that was killed or stopped can be started", name, v.condition())
	case v.problem != "":
		if err := p.killAgain(ctx, s); err != nil {
			return err
		}
	}
	if err := s.place.change(how); err != nil {
		return err
	}
	was := s.view().base
	s.set(Starting, "")
	if err := p.clear(start, s, wipeObjects, say); err != nil {
		s.set(was, err.Error())
		return err
	}
	return p.bringUp(start, s, say)
}

// killAgain ends what a kill or a stop that failed has left of a held site.
func (p *platform) killAgain(ctx context.Context, s *site) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	if err := s.place.kill(ctx); err != nil {
		return fmt.Errorf("%s: end what was left of it: %w", s.region.Name, err)
	}
	return nil
}

// clear has a site begin with a network that is well, and without its objects if asked.
func (p *platform) clear(ctx context.Context, s *site, wipeObjects bool, say func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	release, err := s.acquire(ctx, s.around)
	if err != nil {
		return err
	}
	defer release()
	if err := p.heal(s); err != nil || !wipeObjects {
		return err
	}
	if err := os.RemoveAll(p.plan.state.path(s.region.Name, procMinIO)); err != nil {
		return fmt.Errorf("wipe objects of %s: %w", s.region.Name, err)
	}
	say("its objects are wiped")
	return nil
}

// interruptible returns the context of a start, which operations that end the region
// end, too.
func (p *platform) interruptible(s *site) (_ context.Context, done func()) {
	ctx, interrupt := context.WithCancelCause(p.life)
	s.setInterrupt(interrupt)
	return ctx, func() {
		s.setInterrupt(nil)
		interrupt(nil)
	}
}

// bringUp starts a held site; it is Up afterwards, with a problem if not all is ready.
func (p *platform) bringUp(ctx context.Context, s *site, say func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, regionStartTimeout)
	defer cancel()
	unfollow := p.out.follow(s.region.Name, say)
	err := p.startSite(ctx, s, say)
	unfollow()
	problem := ""
	if err != nil {
		switch {
		case errors.Is(context.Cause(ctx), errInterrupted):
			err = refuse(Interrupted, "%s: %v", s.region.Name, errInterrupted)
		case p.life.Err() != nil:
			err = errStopping
		}
		problem = err.Error()
	}
	s.set(Up, problem)
	return err
}

func (p *platform) startSite(ctx context.Context, s *site, say func(string)) error {
	begin := time.Now()
	if err := s.place.open(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := s.place.start(gctx, kindStores); err != nil || !s.region.Control {
			return err
		}
		how, err := p.plan.awaitRejoined(gctx, s.region)
		if err == nil {
			say("PostgreSQL " + how + " after " + seconds(time.Since(begin)))
		}
		return err
	})
	// Until their own PostgreSQL is back, services use that of others.
	g.Go(func() error {
		if err := p.plan.prepareObjects(gctx, s.region); err != nil {
			return err
		}
		say("buckets are there after " + seconds(time.Since(begin)))
		if p.opt.StoresOnly {
			return nil
		}
		return s.place.start(gctx, kindServices)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	p.out.say("%-3s up again after %s", s.region.Name, seconds(time.Since(begin)))
	return nil
}

// prepareObjects makes what services expect in the region's object store, as soon
// as that answers.
func (p *plan) prepareObjects(ctx context.Context, r region.Region) error {
	s, err := objects.New(p.table, r.Name, objects.Config{AccessKey: s3AccessKey,
		SecretKey: service.Secret(p.secrets.s3), Bucket: bucket}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, prepareTimeout)
		err := s.Own().Prepare(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
