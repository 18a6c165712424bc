package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/sleep"
	"github.com/meridian-video/meridian/internal/token"
)

const (
	// interval between looks for a journal's next entry in the own region.
	interval = time.Second
	// elsewhereEvery is at how many looks the other regions are asked too: an entry
	// is in two regions when it counts, and the repair loop brings it to the others.
	elsewhereEvery = 2
	// gapEvery is at how many looks for an entry that isn't there a follower asks
	// whether later ones are.
	gapEvery = 60
	// patience is how many looks an entry that can't be verified gets: the key
	// that signed it may be on its way.
	patience = 10
	// readTimeout bounds one look at all regions.
	readTimeout = 15 * time.Second
)

// entries is what a follower does with a journal's entries of type T.
type entries[T any] interface {
	// start returns the number of the first entry wanted; newest is 0 while the
	// journal is empty.
	start(ctx context.Context, newest int64) (int64, error)
	// decode verifies an entry and returns it with the number it says it has.
	decode(b []byte) (T, int64, error)
	// apply is called with every entry from the first wanted, in order.
	apply(n int64, entry T) error
	// lost is called when entry n is wanted but can't be had, though newest is
	// there, and returns the number to go on from. The same number means: keep asking.
	lost(n, newest int64, why error) (int64, error)
}

// follower reads a journal's entries one after the other.
type follower[T any] struct {
	store   *objects.Store
	journal string
	entries entries[T]
	log     *slog.Logger

	next    int64 // 0 until the start is known
	looks   int   // at entries; see look
	absent  int   // looks in a row that found no next entry
	refused int   // looks in a row at an entry that can't be verified
	caught  atomic.Bool
}

// started is when all followers of this process look, whole intervals later: one
// waking of it and of its store serves them all, and processes don't look in step.
var started = time.Now()

// run follows the journal until ctx ends.
func (f *follower[T]) run(ctx context.Context) error {
	complained := false
	for {
		err := f.advance(ctx)
		if err != nil && ctx.Err() == nil && !complained {
			f.log.Warn("journal: keeping what is known", "journal", f.journal, "err", err)
		}
		complained = err != nil
		if sleep.For(ctx, interval-time.Since(started)%interval) != nil {
			return nil
		}
	}
}

// caughtUp reports whether the journal's end has been reached once.
func (f *follower[T]) caughtUp() bool { return f.caught.Load() }

// advance reads every entry that is there.
func (f *follower[T]) advance(ctx context.Context) error {
	if f.next == 0 {
		newest, err := f.newest(ctx)
		if err != nil {
			return err
		}
		if f.next, err = f.entries.start(ctx, newest); err != nil {
			return err
		}
	}
	for {
		more, err := f.step(ctx)
		if err != nil || !more {
			return err
		}
	}
}

func (f *follower[T]) newest(ctx context.Context) (int64, error) {
	n, err := Newest(ctx, f.store, f.journal)
	if errors.Is(err, objects.ErrNotFound) {
		return 0, nil
	}
	return n, err
}

// read returns the next entry from the nearest region that has it.
func (f *follower[T]) read(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return Read(ctx, f.store, f.journal, f.next)
}

// look is read, but asks the other regions at every other look only.
func (f *follower[T]) look(ctx context.Context) ([]byte, error) {
	if f.looks++; f.looks%elsewhereEvery == 0 || !f.caughtUp() {
		return f.read(ctx)
	}
	octx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	b, err := ReadOwn(octx, f.store, f.journal, f.next)
	if err == nil || errors.Is(err, objects.ErrNotFound) {
		return b, err
	}
	return f.read(ctx)
}

// step reads the next entry and reports whether there may be more.
func (f *follower[T]) step(ctx context.Context) (bool, error) {
	b, err := f.look(ctx)
	if errors.Is(err, objects.ErrNotFound) {
		return f.missing(ctx)
	}
	if err != nil {
		return false, err
	}
	f.absent = 0
	entry, n, err := f.entries.decode(b)
	if err == nil && n != f.next {
		err = fmt.Errorf("%w: it says it is number %d", token.ErrForged, n)
	}
	if err != nil {
		err = fmt.Errorf("entry %d of %s: %w", f.next, f.journal, err)
		if f.refused++; f.refused < patience {
			return false, err
		}
		f.refused = 0
		return f.skip(f.next, err)
	}
	f.refused = 0
	if err := f.entries.apply(f.next, entry); err != nil {
		return false, fmt.Errorf("entry %d of %s: %w", f.next, f.journal, err)
	}
	f.next++
	return true, nil
}

// missing tells an entry that isn't written yet from one that is gone.
func (f *follower[T]) missing(ctx context.Context) (bool, error) {
	f.absent++
	if f.absent%gapEvery == 1 {
		newest, err := f.newest(ctx)
		if err != nil {
			return false, err
		}
		if newest >= f.next {
			// Asked again: it may have been written meanwhile.
			if _, err := f.read(ctx); !errors.Is(err, objects.ErrNotFound) {
				f.absent = 0
				return err == nil, err
			}
			return f.skip(newest, fmt.Errorf("entry %d of %s: %w, but %d is there", f.next, f.journal, objects.ErrNotFound, newest))
		}
	}
	f.caught.Store(true)
	return false, nil
}

func (f *follower[T]) skip(newest int64, why error) (bool, error) {
	next, err := f.entries.lost(f.next, newest, why)
	if err != nil {
		return false, err
	}
	if next == f.next {
		return false, why
	}
	f.log.Error("journal: going on after entries that can't be had", "journal", f.journal, "from", f.next, "to", next, "err", why)
	f.next, f.absent = next, 0
	return true, nil
}
