package order

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/certificate"
)

const (
	// orderTimeout bounds one order.
	orderTimeout = 5 * time.Minute
	// lease is how long a lock is held at most: longer than an order takes and two
	// clocks part, so that nobody takes it from a holder that lives.
	lease = orderTimeout + 2*time.Minute
	// afterTimeout bounds what is due even when an order's time is over.
	afterTimeout = 15 * time.Second
)

// ErrLockLost: a lock's time was over before its holder gave it back.
var ErrLockLost = errors.New("the lock was lost: its time was over")

// lock is a lock in the shared state, for one process at a time. It ends by itself
// after the lease, so that a holder that dies blocks others no longer than that.
type lock struct {
	shared *certificate.Shared
	name   string
	owner  string
	lease  time.Duration
	now    func() time.Time
}

func newLock(shared *certificate.Shared, name string) *lock {
	return &lock{shared: shared, name: name, owner: rand.Text(), lease: lease, now: time.Now}
}

// errHeld says that somebody else holds a lock.
var errHeld = errors.New("somebody else holds the lock")

// take waits for the holder to give the lock back, or for the end of its time. The
// state known afterwards is no older than the lock.
func (l *lock) take(ctx context.Context) error {
	for {
		changed := l.shared.Changed()
		var until time.Time
		err := l.shared.Change(ctx, func(st *certificate.State) error {
			if held, ok := st.Locks[l.name]; ok && held.Owner != l.owner && l.now().Before(held.Until) {
				until = held.Until
				return errHeld
			}
			st.Locks[l.name] = certificate.Lock{Owner: l.owner, Until: l.now().Add(l.lease).UTC()}
			return nil
		})
		if !errors.Is(err, errHeld) {
			return err
		}
		t := time.NewTimer(until.Sub(l.now()) + time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("lock %q: %w", l.name, ctx.Err())
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// giveBack ends the lock; ErrLockLost when it had ended.
func (l *lock) giveBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, afterTimeout)
	defer cancel()
	return l.shared.Change(ctx, func(st *certificate.State) error {
		if st.Locks[l.name].Owner != l.owner {
			return fmt.Errorf("lock %q: %w", l.name, ErrLockLost)
		}
		delete(st.Locks, l.name)
		return nil
	})
}
