package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
)

// Grace is how long other regions may take to answer a listing once the own
// region has.
const Grace = 300 * time.Millisecond

// listTimeout bounds one region's listing.
const listTimeout = 2 * time.Second

// maxEntry bounds an entry's size in bytes.
const maxEntry = 1 << 20

// Newest returns the number of a journal's newest entry over all regions asked
// at once: the highest known 300 ms after the first (normally the own) region's
// answer. No entry anywhere gives objects.ErrNotFound, no answer at all
// objects.ErrUnavailable.
func Newest(ctx context.Context, store *objects.Store, journal string) (int64, error) {
	buckets := store.Regions()
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	type answer struct {
		n   int64
		err error
	}
	answers := make(chan answer, len(buckets))
	for _, b := range buckets {
		go func() {
			n, err := last(ctx, b, journal)
			answers <- answer{n, err}
		}()
	}
	var newest int64
	var grace <-chan time.Time
	var errs []error
	answered := false
	for range buckets {
		select {
		case a := <-answers:
			if a.err != nil && !errors.Is(a.err, objects.ErrNotFound) {
				errs = append(errs, a.err)
				continue
			}
			answered = true
			newest = max(newest, a.n)
			if grace == nil {
				t := time.NewTimer(Grace)
				defer t.Stop()
				grace = t.C
			}
		case <-grace:
			return found(journal, newest)
		}
	}
	if !answered {
		return 0, fmt.Errorf("journal %s: %w: %w", journal, objects.ErrUnavailable, errors.Join(errs...))
	}
	return found(journal, newest)
}

// probe is how many entries are listed before the search takes strides: a power of
// two, so that halving leaves no number out.
const probe = 128

// last returns the number of a region's newest entry, 0 when there is none. In a
// long journal it doesn't list all entries: it doubles its stride until there is
// nothing behind, then halves it. Numbers missing in between don't mislead it.
func last(ctx context.Context, b *objects.Bucket, journal string) (int64, error) {
	after := func(n int64, most int) (newest int64, full bool, err error) {
		seen := 0
		err = b.List(ctx, journal, objects.JournalKey(journal, n), func(i objects.Info) bool {
			if k, ok := objects.JournalNumber(journal, i.Key); ok {
				newest = k
			}
			seen++
			return seen < most
		})
		return newest, seen == most, err
	}
	newest, full, err := after(0, probe)
	if err != nil || !full {
		return newest, err
	}
	stride := int64(probe)
	for grow := true; stride > 0; {
		n, _, err := after(newest+stride-1, 1)
		switch {
		case err != nil:
			return 0, err
		case n > 0:
			newest = n
		default:
			grow = false
		}
		if grow {
			stride *= 2
		} else {
			stride /= 2
		}
	}
	return newest, nil
}

func found(journal string, n int64) (int64, error) {
	if n == 0 {
		return 0, fmt.Errorf("journal %s: %w", journal, objects.ErrNotFound)
	}
	return n, nil
}

// Read returns entry n from the nearest region that has it.
func Read(ctx context.Context, store *objects.Store, journal string, n int64) ([]byte, error) {
	return store.ReadAll(ctx, objects.JournalKey(journal, n), maxEntry, objects.Placement{})
}

// ReadOwn returns entry n from the own region alone.
func ReadOwn(ctx context.Context, store *objects.Store, journal string, n int64) ([]byte, error) {
	return store.Own().ReadAll(ctx, objects.JournalKey(journal, n), maxEntry)
}
