package journal

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

// interval between looks for a journal's next entry.
const interval = time.Second

// Keys follows the keys journal. Safe for concurrent use.
type Keys struct {
	store   *objects.Store
	root    ed25519.PublicKey
	log     *slog.Logger
	current atomic.Pointer[token.KeySet]
}

// NewKeys returns a follower that trusts key sets signed by root.
func NewKeys(store *objects.Store, root ed25519.PublicKey, log *slog.Logger) *Keys {
	return &Keys{store: store, root: root, log: log}
}

// Current returns the newest key set seen, nil before the first.
func (k *Keys) Current() *token.KeySet { return k.current.Load() }

// Ready returns nil once a key set is known.
func (k *Keys) Ready(context.Context) error {
	if k.Current() == nil {
		return errors.New("no signed key set has been read yet")
	}
	return nil
}

// Run follows the journal until ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	complained := false
	for {
		err := k.advance(ctx)
		if err != nil && ctx.Err() == nil && !complained {
			k.log.Warn("keys journal: keeping the key set known", "err", err)
		}
		complained = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// advance reads every entry after the current one.
func (k *Keys) advance(ctx context.Context) error {
	for {
		next := int64(0)
		if cur := k.Current(); cur != nil {
			next = cur.N + 1
		} else {
			n, err := Newest(ctx, k.store, objects.KeysJournal)
			if err != nil {
				return err
			}
			next = n
		}
		b, err := Read(ctx, k.store, objects.KeysJournal, next)
		if errors.Is(err, objects.ErrNotFound) && k.Current() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		ks, err := token.VerifyKeySet(b, k.root)
		if err != nil {
			return fmt.Errorf("key set %d: %w", next, err)
		}
		if ks.N != next {
			return fmt.Errorf("key set %d: %w: it says it is number %d", next, token.ErrForged, ks.N)
		}
		k.current.Store(&ks)
		k.log.Info("key set", "n", ks.N, "keys", len(ks.Keys))
	}
}
