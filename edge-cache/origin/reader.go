package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

// reader is a body over origins. One goroutine reads it.
type reader struct {
	s       *Set
	ctx     context.Context
	key     string
	at      int64
	origins []*Origin // not asked yet
	first   cache.Info
	asked   []*Origin // whose bytes were handed out
	errs    []error
	missing bool

	attempt
	unbind func() bool
	watch  *time.Timer
	waited time.Duration // for this origin's bytes
	got    int64         // of them
	whole  bool
	failed error
}

// open asks the origins that are left, the next one early when one is late.
// want is what the body has to be, nil at the first time.
func (r *reader) open(want *cache.Info) (cache.Info, error) {
	results := make(chan attempt, len(r.origins))
	running := 0
	var asking []*Origin // those that run
	launch := func(hedge bool) *Origin {
		o := r.origins[0]
		r.origins = r.origins[1:]
		running++
		asking = append(asking, o)
		at, key, s := r.at, r.key, r.s
		if !s.begin() {
			results <- attempt{o: o, err: fmt.Errorf("%s: %w", o.Name, context.Canceled)}
			return o
		}
		go func() {
			defer s.late.Done()
			results <- s.try(o, key, at, hedge)
		}()
		return o
	}
	// settle leaves the rest to end by themselves.
	settle := func() {
		if running == 0 || !r.s.begin() {
			return
		}
		go func(n int) {
			defer r.s.late.Done()
			for range n {
				a := <-results
				_ = a.drop(nil)
			}
		}(running)
	}
	var timer *time.Timer
	var late <-chan time.Time
	for running > 0 || len(r.origins) > 0 {
		if r.ctx.Err() != nil {
			break
		}
		if running == 0 {
			o := launch(false)
			if len(r.origins) > 0 && timer == nil {
				timer = time.NewTimer(o.times.hedgeAfter())
				defer timer.Stop()
				late = timer.C
			}
		}
		select {
		case <-late:
			late = nil
			if len(r.origins) > 0 && r.s.budget.spend() {
				launch(true)
			}
			continue
		case <-r.ctx.Done():
			continue
		case a := <-results:
			running--
			asking = slices.DeleteFunc(asking, func(o *Origin) bool { return o == a.o })
			if a.err == nil && want != nil && (a.info.Size != want.Size || a.info.ETag != want.ETag) {
				a.err = fmt.Errorf("%s: %w: %s of %d bytes, not %s of %d", a.o.Name, errOther, a.info.ETag, a.info.Size, want.ETag, want.Size)
				_ = a.drop(nil)
			}
			if a.err != nil {
				r.missing = r.missing || errors.Is(a.err, cache.ErrNotFound)
				r.errs = append(r.errs, a.err)
				continue
			}
			if f := r.s.events.Hedged; f != nil && (a.hedge || running > 0) {
				f(a.hedge)
			}
			settle()
			// Who lost the race may be needed yet.
			r.origins = append(asking, r.origins...)
			r.attempt, r.asked = a, append(r.asked, a.o)
			r.waited, r.got = 0, 0
			r.unbind = context.AfterFunc(r.ctx, func() { a.cancel(context.Canceled) })
			r.watch = time.AfterFunc(time.Hour, func() { a.cancel(errSilent) })
			r.watch.Stop()
			return a.info, nil
		}
	}
	settle()
	return cache.Info{}, verdict(r.ctx, r.key, r.missing, r.errs)
}

// begin is the start of a goroutine of the set; false once that is closing.
func (s *Set) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.late.Add(1)
	return true
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		if r.whole || r.at >= r.first.Size {
			r.whole = true
			return 0, io.EOF
		}
		if r.failed != nil {
			return 0, r.failed
		}
		if left := r.first.Size - r.at; int64(len(p)) > left {
			p = p[:left]
		}
		started := time.Now()
		r.watch.Reset(silence)
		n, err := r.body.Read(p)
		r.watch.Stop()
		r.waited += time.Since(started)
		r.at += int64(n)
		r.got += int64(n)
		if r.whole = r.at >= r.first.Size; r.whole {
			return n, nil
		}
		if err == nil && r.waited > paceAfter && len(r.origins) > 0 {
			if float64(r.got)/r.waited.Seconds() < minPace {
				err = errSlow
			}
			r.waited, r.got = 0, 0
		}
		if err != nil {
			r.failed = r.handOver(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// handOver goes on at another origin after err.
func (r *reader) handOver(err error) error {
	if r.ctx.Err() != nil {
		_ = r.end(nil)
		return r.ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	} else if errors.Is(err, context.Canceled) {
		err = errSilent
	}
	// It may say that it has more than it gives: the next time, others first.
	r.s.distrust(r.key, r.o)
	name := r.o.Name
	r.errs = append(r.errs, fmt.Errorf("%s after %d bytes: %w", name, r.at, err))
	_ = r.end(err) // the error that counts is err
	if f := r.s.events.HandedOver; f != nil {
		f(name, err)
	}
	_, oerr := r.open(&r.first)
	return oerr
}

// end lets go of the origin being read.
func (r *reader) end(err error) error {
	if r.body == nil {
		return nil
	}
	r.unbind()
	r.watch.Stop()
	return r.drop(err)
}

// Reject implements cache.Rejecter.
func (r *reader) Reject() {
	for _, o := range r.asked {
		r.s.distrust(r.key, o)
	}
}

func (r *reader) Close() error {
	err := r.end(nil)
	if r.whole {
		return nil // all bytes are there, whatever came after them
	}
	return err
}
