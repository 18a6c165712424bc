// Package sleep pauses as long as somebody still waits for what comes after.
package sleep

import (
	"context"
	"time"
)

// For returns nil after d, or ctx's error as soon as ctx ends. A d of zero or
// less is over at once.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
