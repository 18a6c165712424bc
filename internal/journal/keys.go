package journal

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

// Keys follows the keys journal. Safe for concurrent use.
type Keys struct {
	root     ed25519.PublicKey
	log      *slog.Logger
	current  atomic.Pointer[token.KeySet]
	known    chan struct{} // closed with the first key set
	follower *follower[token.KeySet]
}

// NewKeys returns a follower that trusts key sets signed by root.
func NewKeys(store *objects.Store, root ed25519.PublicKey, log *slog.Logger) *Keys {
	k := &Keys{root: root, log: log, known: make(chan struct{})}
	k.follower = &follower[token.KeySet]{store: store, journal: objects.KeysJournal, entries: keyEntries{k}, log: log}
	return k
}

// Current returns the newest key set seen, nil before the first.
func (k *Keys) Current() *token.KeySet { return k.current.Load() }

// Known is closed once a key set is known.
func (k *Keys) Known() <-chan struct{} { return k.known }

// Ready returns nil once a key set is known.
func (k *Keys) Ready(context.Context) error {
	if k.Current() == nil {
		return errors.New("no signed key set has been read yet")
	}
	return nil
}

// Run follows the journal until ctx ends.
func (k *Keys) Run(ctx context.Context) error { return k.follower.run(ctx) }

// ErrKeysRace says that someone else changed the key set at the same time.
var ErrKeysRace = errors.New("the key set was changed by someone else at the same time: look, and try again")

// NewestKeys reads the newest key set.
func NewestKeys(ctx context.Context, store *objects.Store, root ed25519.PublicKey) (*token.KeySet, error) {
	n, err := Newest(ctx, store, objects.KeysJournal)
	if err != nil {
		return nil, err
	}
	b, err := Read(ctx, store, objects.KeysJournal, n)
	if err != nil {
		return nil, err
	}
	ks, err := token.VerifyKeySet(b, root)
	return &ks, err
}

// WriteKeys writes a signed key set under its number: to all regions, and a
// majority must take it. ErrKeysRace when one of them has another.
func WriteKeys(ctx context.Context, store *objects.Store, n int64, body []byte) error {
	return write(ctx, store, objects.KeysJournal, n, body, ErrKeysRace)
}

// keyEntries: every key set holds all keys, so only the newest counts.
type keyEntries struct{ *Keys }

func (k keyEntries) start(_ context.Context, newest int64) (int64, error) { return max(newest, 1), nil }

func (k keyEntries) decode(b []byte) (token.KeySet, int64, error) {
	ks, err := token.VerifyKeySet(b, k.root)
	return ks, ks.N, err
}

func (k keyEntries) apply(_ int64, ks token.KeySet) error {
	if k.current.Swap(&ks) == nil {
		close(k.known)
	}
	k.log.Info("key set", "n", ks.N, "keys", len(ks.Keys))
	return nil
}

// lost: a key set the root didn't sign changes nothing, also not what is asked for next.
func (k keyEntries) lost(_, newest int64, _ error) (int64, error) { return newest, nil }
