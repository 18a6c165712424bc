package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/sleep"
)

// Sealed is a journal that only holders of a key can read and write. An entry
// holds everything, not a change, so readers need the newest alone. Safe for
// concurrent use.
type Sealed struct {
	store   *objects.Store
	table   *region.Table
	journal string
	key     SealKey
	log     *slog.Logger
	changed func(plain []byte) error

	mu       sync.Mutex
	n        int64         // number of the entry in force
	known    chan struct{} // closed once that is known
	follower *follower[sealedPlain]
}

// sealedPlain is an opened entry and the number it is stored under.
type sealedPlain struct {
	n     int64
	plain []byte
}

// NewSealed returns a follower of a journal ("certificates/") that calls changed
// with each newer entry, one at a time. An entry that changed refuses is offered
// again.
func NewSealed(store *objects.Store, table *region.Table, journal string, key SealKey, changed func(plain []byte) error, log *slog.Logger) *Sealed {
	s := &Sealed{store: store, table: table, journal: journal, key: key, log: log, changed: changed, known: make(chan struct{})}
	s.follower = &follower[sealedPlain]{store: store, journal: journal, entries: sealedEntries{s}, log: log}
	return s
}

// Known is closed once the newest entry was read, or there is none.
func (s *Sealed) Known() <-chan struct{} { return s.known }

// Run follows the journal until ctx ends.
func (s *Sealed) Run(ctx context.Context) error { return s.follower.run(ctx) }

// take hands on an entry unless a newer one was.
func (s *Sealed) take(n int64, plain []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n <= s.n {
		return nil
	}
	if err := s.changed(plain); err != nil {
		return err
	}
	s.n = n
	s.nowKnown()
	return nil
}

func (s *Sealed) nowKnown() {
	select {
	case <-s.known:
	default:
		close(s.known)
	}
}

type sealedEntries struct{ *Sealed }

// start at the newest: an entry holds everything.
func (s sealedEntries) start(_ context.Context, newest int64) (int64, error) {
	if newest == 0 {
		s.mu.Lock()
		s.nowKnown()
		s.mu.Unlock()
	}
	return max(newest, 1), nil
}

func (s sealedEntries) decode(b []byte) (sealedPlain, int64, error) {
	// The object's key is sealed in: an entry that opens under it has its number.
	n := s.follower.next
	plain, err := s.key.open(objects.JournalKey(s.journal, n), b)
	return sealedPlain{n, plain}, n, err
}

func (s sealedEntries) apply(n int64, e sealedPlain) error { return s.take(n, e.plain) }

// lost: an entry that can't be opened is asked for until it can, or a newer one is there.
func (s sealedEntries) lost(n, newest int64, _ error) (int64, error) {
	if newest > n {
		return newest, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	newest, err := Newest(ctx, s.store, s.journal)
	return max(n, newest), err
}

const (
	// changeAttempts bounds how often a change is made again because somebody else
	// wrote at the same time.
	changeAttempts = 20
	// changePause is the longest pause before that; it is random, so that two who
	// write at once part.
	changePause = 400 * time.Millisecond
	// arbiterTimeout is how long one region may take to say who was first.
	arbiterTimeout = 2 * time.Second
)

// Change writes the next entry, which is what change makes of the newest one's
// content, nil before the first. It asks nothing but the object stores: most
// regions must take the entry, and none may have another with its number. When
// somebody else was faster, change is called again with what they wrote.
// ErrSealed when the newest entry can't be opened: it is never written over.
func (s *Sealed) Change(ctx context.Context, change func(plain []byte) ([]byte, error)) error {
	for attempt := 1; ; attempt++ {
		err := s.changeOnce(ctx, change)
		if !errors.Is(err, errTaken) || attempt == changeAttempts {
			return err
		}
		if err := sleep.For(ctx, rand.N(changePause)); err != nil {
			return err
		}
	}
}

func (s *Sealed) changeOnce(ctx context.Context, change func([]byte) ([]byte, error)) error {
	n, err := Newest(ctx, s.store, s.journal)
	var plain []byte
	switch {
	case errors.Is(err, objects.ErrNotFound):
	case err != nil:
		return err
	default:
		b, err := Read(ctx, s.store, s.journal, n)
		if err != nil {
			return err
		}
		if plain, err = s.key.open(objects.JournalKey(s.journal, n), b); err != nil {
			return err
		}
	}
	next, err := change(plain)
	if err != nil || plain != nil && bytes.Equal(plain, next) {
		return err
	}
	n++
	body, err := s.key.seal(objects.JournalKey(s.journal, n), next)
	if err != nil {
		return err
	}
	if len(body) > maxEntry {
		return fmt.Errorf("entry %d of %s: %d bytes, want at most %d", n, s.journal, len(body), maxEntry)
	}
	if err := s.write(ctx, n, body); err != nil {
		return err
	}
	return s.take(n, next)
}

// errTaken says that another entry has the number.
var errTaken = errors.New("somebody else wrote at the same time")

// write writes an entry to all regions. The first in table order that answers
// decides who was first, so that the loser leaves nothing behind anywhere.
func (s *Sealed) write(ctx context.Context, n int64, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	key := objects.JournalKey(s.journal, n)
	buckets := s.store.Regions()
	slices.SortStableFunc(buckets, func(a, b *objects.Bucket) int { return s.place(a) - s.place(b) })
	var errs []error
	for i, b := range buckets {
		actx, cancel := context.WithTimeout(ctx, arbiterTimeout)
		err := b.Put(actx, key, objects.Bytes(body))
		cancel()
		if errors.Is(err, objects.ErrConflict) {
			return fmt.Errorf("entry %d of %s: %w", n, s.journal, errTaken)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		taken, conflict, rest := putAll(ctx, buckets[i+1:], key, body)
		if conflict {
			return fmt.Errorf("entry %d of %s: %w", n, s.journal, errTaken)
		}
		if taken+1 > len(buckets)/2 {
			return nil
		}
		return fmt.Errorf("entry %d of %s: taken by %d of %d regions, want most: %w", n, s.journal, taken+1, len(buckets),
			errors.Join(append(errs, rest...)...))
	}
	return fmt.Errorf("entry %d of %s: %w: %w", n, s.journal, objects.ErrUnavailable, errors.Join(errs...))
}

func (s *Sealed) place(b *objects.Bucket) int {
	return slices.IndexFunc(s.table.Regions, func(r region.Region) bool { return r.Name == b.Region })
}

// putAll writes an object to all the buckets at once and returns how many have
// it, and whether one has another.
func putAll(ctx context.Context, buckets []*objects.Bucket, key string, body []byte) (taken int, conflict bool, errs []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, len(buckets))
	for _, b := range buckets {
		go func() { results <- b.Put(ctx, key, objects.Bytes(body)) }()
	}
	for range buckets {
		switch err := <-results; {
		case err == nil:
			taken++
		case errors.Is(err, objects.ErrConflict):
			return taken, true, errs
		default:
			errs = append(errs, err)
		}
	}
	return taken, false, errs
}
