package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
)

// Purger is a cache that obeys purges. Its methods are called by one goroutine.
type Purger interface {
	// Checkpoint is the number of the last purge the cache's content has seen; ok
	// is false when it isn't known.
	Checkpoint() (n int64, ok bool)
	// Purge drops what the entry names, refuses it from now on, and notes the
	// checkpoint.
	Purge(p Purge) error
	// Revoke refuses the tokens with these TokenNames from now on.
	Revoke(names []string)
	// Empty drops everything, and notes n as the checkpoint: what was purged up
	// to it can't be told any more.
	Empty(n int64) error
}

// Purges follows the purges journal on behalf of a cache.
type Purges struct {
	store    *objects.Store
	keys     *Keys
	purger   Purger
	log      *slog.Logger
	follower *follower[Purge]
}

// NewPurges returns a follower that believes purges signed by a record key.
func NewPurges(store *objects.Store, keys *Keys, purger Purger, log *slog.Logger) *Purges {
	p := &Purges{store: store, keys: keys, purger: purger, log: log}
	p.follower = &follower[Purge]{store: store, journal: objects.PurgesJournal, entries: purgeEntries{p}, log: log}
	return p
}

// Ready returns nil once every purge there was has been obeyed.
func (p *Purges) Ready(context.Context) error {
	if !p.follower.caughtUp() {
		return errors.New("the purges journal hasn't been read to its end yet")
	}
	return nil
}

// Run follows the journal until ctx ends; it waits for a key set first.
func (p *Purges) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.keys.Known():
	}
	return p.follower.run(ctx)
}

type purgeEntries struct{ *Purges }

// start goes on after the cache's checkpoint. Without one the cache is emptied,
// and the newest purge is as good as all of them.
func (p purgeEntries) start(ctx context.Context, newest int64) (int64, error) {
	if err := p.revoked(ctx, newest); err != nil {
		return 0, err
	}
	if n, ok := p.purger.Checkpoint(); ok {
		return n + 1, nil
	}
	return newest + 1, p.purger.Empty(newest)
}

// maxRevoking bounds the purges with revoked tokens that are read at a start.
const maxRevoking = 10_000

// revoked reads the revoked tokens of all purges up to the newest: those live in
// memory alone.
func (p purgeEntries) revoked(ctx context.Context, newest int64) error {
	n := newest
	for range maxRevoking {
		if n == 0 {
			return nil
		}
		b, err := Read(ctx, p.store, objects.PurgesJournal, n)
		if errors.Is(err, objects.ErrNotFound) && n != newest {
			return nil // trimmed
		}
		if err != nil {
			return err
		}
		entry, got, err := p.decode(b)
		if err != nil || got != n {
			// What can't be believed revokes nothing, and must not keep the edge from starting.
			p.log.Error("purges: an entry can't be verified; tokens revoked in it and before stay valid", "n", n, "err", err)
			return nil
		}
		p.purger.Revoke(entry.JTIs)
		n = entry.Revoking
	}
	p.log.Error("purges: too many entries with revoked tokens; older ones are not read", "read", maxRevoking)
	return nil
}

func (p purgeEntries) decode(b []byte) (Purge, int64, error) {
	entry, err := VerifyPurge(b, p.keys.Current(), time.Now())
	return entry, entry.N, err
}

func (p purgeEntries) apply(n int64, entry Purge) error {
	p.purger.Revoke(entry.JTIs)
	if err := p.purger.Purge(entry); err != nil {
		return err
	}
	p.log.Info("purge", "n", n, "assets", len(entry.Assets), "tokens", len(entry.JTIs))
	return nil
}

func (p purgeEntries) lost(n, newest int64, why error) (int64, error) {
	if err := p.purger.Empty(newest); err != nil {
		return n, fmt.Errorf("%w (after %w)", err, why)
	}
	return newest + 1, nil
}
