package upload

import (
	"context"
	"errors"
	"time"

	"github.com/tus/tusd/v2/pkg/handler"
	"github.com/tus/tusd/v2/pkg/memorylocker"

	"github.com/meridian-video/meridian/api/problem"
)

// locker lets one request of this process at an upload: a newer one ends the
// older, which first stores what it has.
type locker struct{ *memorylocker.MemoryLocker }

func (l locker) NewLock(id string) (handler.Lock, error) {
	inner, err := l.MemoryLocker.NewLock(id)
	return lock{inner}, err
}

type lock struct{ inner handler.Lock }

func (l lock) Lock(ctx context.Context, _ func()) error {
	t := transferOf(ctx)
	err := l.inner.Lock(ctx, func() {
		t.interrupt(problem.New(problem.Interrupted, "Ask with HEAD where the upload stands and go on from there."))
	})
	if errors.Is(err, handler.ErrLockTimeout) {
		p := problem.New(problem.Locked, "Try again in a moment: another request is still storing bytes.")
		p.RetryAfter = 2 * time.Second
		return t.fail(p)
	}
	return err
}

func (l lock) Unlock() error { return l.inner.Unlock() }
