package repair

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	// watchEvery is how often stores are looked at, to notice that one is back, or
	// the own one back and empty.
	watchEvery   = 2 * time.Second
	watchTimeout = 3 * time.Second
	// againAfter is the least between two passes that a region's return starts: one
	// that comes and goes must not have its stores listed all the time.
	againAfter = 15 * time.Second
	// retryPause follows a pass that failed.
	retryPause = 5 * time.Second
	// silentFor is how long a region that didn't answer isn't asked for hints.
	silentFor   = 10 * time.Second
	hintTimeout = 2 * time.Minute
	dueEvery    = time.Second
	// collectFirst is when the first search for what no longer counts starts.
	collectFirst = time.Minute
)

// everything is what a full pass compares, what edges need to decide first.
var everything = append(objects.Journals(), "streams/", "sources/", "work/")

// Run repairs until ctx ends.
func (r *Repair) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { r.watch(ctx); return nil })
	for _, b := range r.regions[1:] {
		g.Go(func() error { r.watchOther(ctx, b); return nil })
	}
	g.Go(func() error { r.compare(ctx); return nil })
	g.Go(func() error { r.follow(ctx); return nil })
	g.Go(func() error { r.collect(ctx); return nil })
	return g.Wait()
}

// watch has a pass start at once when the own store comes back.
func (r *Repair) watch(ctx context.Context) {
	own, away, said := r.regions[0], false, ""
	for sleep.For(ctx, watchEvery) == nil {
		wctx, cancel := context.WithTimeout(ctx, watchTimeout)
		_, err := own.Stat(wctx, objects.HealthKey(own.Region))
		if errors.Is(err, objects.ErrNotFound) {
			// Its disk is empty, or new.
			away = true
			err = own.Prepare(wctx)
		}
		cancel()
		if err != nil {
			away = true
			if ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				r.Log.Warn("repair: the own store doesn't answer", "err", err)
			}
			continue
		}
		if away {
			away, said = false, ""
			r.Log.Info("repair: the own store is back; comparing it with the others")
			r.Soon()
		}
	}
}

// watchOther has a pass start at once when another region's store is reached again:
// it holds what was written without it, or this region lacks what was written while
// it was cut off.
func (r *Repair) watchOther(ctx context.Context, b *objects.Bucket) {
	away, began := false, time.Time{}
	for sleep.For(ctx, watchEvery) == nil {
		wctx, cancel := context.WithTimeout(ctx, watchTimeout)
		_, err := b.Stat(wctx, objects.HealthKey(b.Region))
		cancel()
		switch {
		case err != nil && !errors.Is(err, objects.ErrNotFound):
			away = true
		case away && time.Since(began) > againAfter:
			away, began = false, time.Now()
			r.Log.Info("repair: another region's store is reached again; comparing", "store", b.Region)
			r.Soon()
		}
	}
}

// compare makes one full pass after the other.
func (r *Repair) compare(ctx context.Context) {
	for {
		pause := jitter(r.cfg.Interval)
		again, err := r.fullPass(ctx)
		switch {
		case err != nil:
			pause = min(retryPause, r.cfg.Interval)
		case r.Status().Unplaced > 0:
			// Nobody could say where some objects belong; soon somebody can.
			pause = min(againAfter, r.cfg.Interval)
		}
		if again {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-r.kick:
		case <-time.After(pause):
		}
	}
}

func (r *Repair) fullPass(ctx context.Context) (again bool, err error) {
	started := time.Now()
	p := r.newPass(true)
	err = p.run(ctx, everything...)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	s := r.Status()
	s.Behind, s.Unplaced, s.Skipped, s.Err = int(p.behind.Load()), p.unplaced, p.skipped(), err
	if err == nil {
		s.Passes, s.LastPass = s.Passes+1, time.Now()
	}
	r.status.Store(&s)
	r.Metrics.passed(s, p.names, time.Since(started))
	switch {
	case err != nil:
		r.Log.Warn("repair: pass failed", "err", err, "behind", s.Behind)
	case s.Behind > 0 || s.Unplaced > 0 || len(s.Skipped) > 0:
		r.Log.Info("repair: pass", "behind", s.Behind, "unplaced", s.Unplaced, "skipped", s.Skipped, "took", time.Since(started))
	}
	return err == nil && p.overflow, err
}

// follow works on hints, one prefix at a time.
func (r *Repair) follow(ctx context.Context) {
	tick := time.NewTicker(dueEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			r.due(now)
			continue
		case <-r.hinted:
		}
		for prefix, settled, ok := r.nextHint(); ok && ctx.Err() == nil; prefix, settled, ok = r.nextHint() {
			r.look(ctx, prefix, settled)
		}
	}
}

// nextHint takes a hint, if there is one.
func (r *Repair) nextHint() (prefix string, settled, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for prefix, settled = range r.hints {
		delete(r.hints, prefix)
		return prefix, settled, true
	}
	return "", false, false
}

// look compares what is below a prefix.
func (r *Repair) look(ctx context.Context, prefix string, settled bool) {
	ctx, cancel := context.WithTimeout(ctx, hintTimeout)
	defer cancel()
	p := r.newPass(false)
	p.settled = settled
	for i, name := range p.names {
		if i > 0 && time.Now().Before(r.silent[name]) {
			p.away |= 1 << i
		}
	}
	before := p.away
	if err := p.run(ctx, prefix); err != nil && ctx.Err() == nil {
		r.Log.Debug("repair: hint; the next pass does it", "prefix", prefix, "err", err)
	}
	for i, name := range p.names {
		if (p.away&^before)&(1<<i) != 0 {
			r.silent[name] = time.Now().Add(silentFor)
		}
	}
}

// jitter spreads passes of regions over time.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}

func (s Status) skipped(name string) bool { return slices.Contains(s.Skipped, name) }
