package playback

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

// ErrNotFound: no region that answered has a playback record of the asset.
var ErrNotFound = errors.New("no such asset, or nothing of it is playable yet")

// How often a requested asset's next record is looked for.
const (
	ownInterval = 2 * time.Second
	allInterval = 5 * time.Second
	// ahead is how long before that a look begins for an asset that is asked for. What
	// is known answers until it ends, so nobody waits for it.
	ahead = 500 * time.Millisecond
	// missingFor is how long an asset without a record is not looked for again.
	missingFor = time.Second
	// patience is how long a caller waits for news of an asset it has a record of:
	// a store that hangs must not hold up what plays.
	patience = 300 * time.Millisecond
	// pause is how long after such a wait callers don't wait again.
	pause = time.Second
	// lookTimeout bounds a look: it runs for everyone who waits, so no single caller's deadline applies.
	lookTimeout = 5 * time.Second
	// maxEntries bounds the records kept; the least recently asked go first.
	maxEntries = 100_000
)

// Finder finds the newest playback record of assets. Safe for concurrent use.
type Finder struct {
	store *objects.Store
	keys  func() *token.KeySet
	log   *slog.Logger
	now   func() time.Time

	flight singleflight.Group
	mu     sync.Mutex
	byID   map[string]*list.Element
	recent list.List // of *entry, most recently asked first
}

type entry struct {
	asset   string
	record  Record // N is 0 while none is known
	ownNext time.Time
	allNext time.Time
	renews  bool // a look was begun ahead and hasn't ended
}

// NewFinder returns a finder over the store that accepts records signed by a
// key of the newest key set.
func NewFinder(store *objects.Store, keys func() *token.KeySet, log *slog.Logger) *Finder {
	return &Finder{store: store, keys: keys, log: log, now: time.Now, byID: map[string]*list.Element{}}
}

// Newest returns the newest record of the asset: from memory when it was looked
// for within the last two seconds, or asked for so lately that a look has begun
// since, else after a look that all concurrent callers share. Where a record is
// known, callers wait at most 300 ms for a newer one. A gone asset's record is
// returned as it is: look at Gone.
func (f *Finder) Newest(ctx context.Context, asset string) (Record, error) {
	now := f.now()
	f.mu.Lock()
	e := f.entry(asset)
	record, fresh, renew := e.answers(now)
	f.mu.Unlock()
	if renew {
		f.begin(context.WithoutCancel(ctx), asset)
	}
	if fresh {
		return answer(record)
	}
	ch := f.begin(context.WithoutCancel(ctx), asset)
	var enough <-chan time.Time
	if record.N > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		enough = t.C
	}
	select {
	case r := <-ch:
		if r.Err != nil {
			return Record{}, r.Err
		}
		return answer(r.Val.(Record))
	case <-enough: // the look goes on, and for a moment nobody else waits for it
		f.mu.Lock()
		if e := f.entry(asset); e.record.N == record.N {
			e.ownNext = f.now().Add(pause)
		}
		f.mu.Unlock()
		return record, nil
	case <-ctx.Done():
		return Record{}, ctx.Err()
	}
}

// begin looks for the asset's newest record, unless that is being done.
func (f *Finder) begin(ctx context.Context, asset string) <-chan singleflight.Result {
	return f.flight.DoChan(asset, func() (any, error) {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		return f.look(ctx, asset)
	})
}

// answers returns the record, whether it is the newest as far as one needs to know,
// and whether the next look is to begin. The caller holds the finder's mu.
func (e *entry) answers(now time.Time) (record Record, fresh, renew bool) {
	fresh = now.Before(e.ownNext)
	switch {
	case e.record.N == 0:
	case !fresh && e.renews:
		e.ownNext, fresh = now.Add(pause), true
	case fresh && !e.renews && !now.Before(e.ownNext.Add(-ahead)):
		e.renews, renew = true, true
	}
	return e.record, fresh, renew
}

// Known returns what Newest would without waiting: the asset's record when it was
// looked for lately. With false, ask Newest.
func (f *Finder) Known(asset string) (Record, bool) {
	now := f.now()
	f.mu.Lock()
	el, ok := f.byID[asset]
	if !ok {
		f.mu.Unlock()
		return Record{}, false
	}
	f.recent.MoveToFront(el)
	record, fresh, renew := el.Value.(*entry).answers(now)
	f.mu.Unlock()
	if renew {
		f.begin(context.Background(), record.Asset)
	}
	return record, fresh && record.N > 0
}

func answer(r Record) (Record, error) {
	if r.N == 0 {
		return Record{}, ErrNotFound
	}
	return r, nil
}

// Hint says that the asset may have a newer record: the next request looks in
// every region at once. Never needed, only faster.
func (f *Finder) Hint(asset string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if el, ok := f.byID[asset]; ok {
		e := el.Value.(*entry)
		e.ownNext, e.allNext, e.renews = time.Time{}, time.Time{}, false
	}
}

// entry returns the asset's entry, making it; f.mu is held.
func (f *Finder) entry(asset string) *entry {
	if el, ok := f.byID[asset]; ok {
		f.recent.MoveToFront(el)
		return el.Value.(*entry)
	}
	e := &entry{asset: asset}
	f.byID[asset] = f.recent.PushFront(e)
	if f.recent.Len() > maxEntries {
		last := f.recent.Back()
		f.recent.Remove(last)
		delete(f.byID, last.Value.(*entry).asset)
	}
	return e
}

// look asks the stores. It returns an error only when nothing is known and no
// region answered.
func (f *Finder) look(ctx context.Context, asset string) (Record, error) {
	now := f.now()
	f.mu.Lock()
	e := f.entry(asset)
	record, all := e.record, !now.Before(e.allNext)
	f.mu.Unlock()

	var err error
	if record.N == 0 {
		record, err = f.cold(ctx, asset)
	} else {
		record, err = f.warm(ctx, record, all)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e = f.entry(asset)
	e.renews = false
	if record.N > e.record.N {
		e.record = record
	}
	now = f.now()
	switch {
	case e.record.N == 0 && err != nil:
		return Record{}, err // ask again at once: nothing is known
	case e.record.N == 0:
		e.ownNext = now.Add(missingFor)
	default:
		e.ownNext = now.Add(ownInterval)
		if all {
			e.allNext = now.Add(allInterval)
		}
	}
	if err != nil {
		f.log.Warn("playback record: serving the last one known", "asset", asset, "n", e.record.N, "err", err)
	}
	return e.record, nil
}

// cold finds the newest record of an asset nothing is known of.
func (f *Finder) cold(ctx context.Context, asset string) (Record, error) {
	j := objects.PlaybackJournal(asset)
	n, err := journal.Newest(ctx, f.store, j)
	if errors.Is(err, objects.ErrNotFound) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, err
	}
	return f.read(ctx, asset, n, journal.Read)
}

// warm reads the records after the known one, in the own region or in all.
func (f *Finder) warm(ctx context.Context, known Record, all bool) (Record, error) {
	read := journal.ReadOwn
	if all {
		read = journal.Read
	}
	for {
		next, err := f.read(ctx, known.Asset, known.N+1, read)
		if errors.Is(err, objects.ErrNotFound) {
			return known, nil
		}
		if err != nil {
			return known, err
		}
		known = next
	}
}

func (f *Finder) read(ctx context.Context, asset string, n int64,
	read func(context.Context, *objects.Store, string, int64) ([]byte, error)) (Record, error) {
	b, err := read(ctx, f.store, objects.PlaybackJournal(asset), n)
	if err != nil {
		return Record{}, err
	}
	if len(b) > maxRecord {
		return Record{}, fmt.Errorf("playback record %s/%d: %d bytes, more than %d", asset, n, len(b), maxRecord)
	}
	r, err := Verify(b, f.keys(), f.now())
	if err != nil {
		return Record{}, err
	}
	if r.Asset != asset || r.N != n {
		return Record{}, fmt.Errorf("playback record %s/%d: %w: it says %s/%d", asset, n, token.ErrForged, r.Asset, r.N)
	}
	return r, nil
}
