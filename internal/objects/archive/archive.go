package archive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/repair"
)

// ErrRestoredFrom says that the archive is closed.
var ErrRestoredFrom = errors.New("this archive was restored from and takes nothing more: archive to a new bucket, and keep this one for as long as you may want what was before")

// restoredKey marks a closed archive; no key of the platform's looks like it.
const restoredKey = "restored"

const (
	// A copy may take copyTimeout, and a second more per slowest bytes.
	copyTimeout = time.Minute
	slowest     = 256 << 10
	// maxFindings bounds what a report names; the counts are always whole.
	maxFindings = 100
)

// Archive is a bucket outside of the platform, beside the regions'.
type Archive struct {
	Bucket *objects.Bucket
	Store  *objects.Store
	// Parallel is how many objects are copied at a time, at least 1.
	Parallel int
}

// Report is what was done.
type Report struct {
	// Objects and Bytes copied, or removed.
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// Present were there already.
	Present int64 `json:"present"`
	// Later are objects of the archive that the catalog doesn't know, left there.
	Later int64 `json:"later,omitempty"`
	// Failed objects, the first of which Findings names with the reason.
	Failed   int64    `json:"failed"`
	Findings []string `json:"findings,omitempty"`

	mu sync.Mutex
}

func (r *Report) copied(size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Objects++
	r.Bytes += size
}

func (r *Report) failed(key string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Failed++
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, fmt.Sprintf("%s: %v", key, err))
	}
}

// Err is nil if nothing failed.
func (r *Report) Err() error {
	if r.Failed > 0 {
		return fmt.Errorf("%d objects failed", r.Failed)
	}
	return nil
}

// prefixes are all that is kept. Health objects are made with a bucket.
func prefixes() []string { return append(objects.Journals(), "sources/", "streams/", "work/") }

// Save copies to the archive what it lacks.
func (a *Archive) Save(ctx context.Context) (*Report, error) {
	report := &Report{}
	if err := a.Bucket.Prepare(ctx); err != nil {
		return report, err
	}
	switch _, err := a.Bucket.Stat(ctx, restoredKey); {
	case err == nil:
		return report, ErrRestoredFrom
	case !errors.Is(err, objects.ErrNotFound):
		return report, fmt.Errorf("archive: %w", err)
	}
	regions := a.Store.Regions()
	var away uint64
	for _, prefix := range prefixes() {
		copies, cctx := a.group(ctx)
		left, err := repair.Merge(cctx, append([]*objects.Bucket{a.Bucket}, regions...), away, prefix, func(e repair.Entry) error {
			switch {
			case e.Differs():
				report.failed(e.Key, errors.New("not the same size everywhere: `meridian reconcile` tells which is right"))
			case e.In(0):
				report.Present++
			default:
				copies.Go(func() error { return a.save(cctx, e, regions, report) })
			}
			return nil
		})
		away = left
		if err := errors.Join(err, copies.Wait()); err != nil {
			return report, fmt.Errorf("archive %s: %w", prefix, err)
		}
	}
	var errs []error
	for i, b := range regions {
		if away&(1<<(i+1)) != 0 {
			errs = append(errs, fmt.Errorf("%s could not be listed: what it alone has isn't archived", b.Region))
		}
	}
	return report, errors.Join(append(errs, report.Err())...)
}

func (a *Archive) group(ctx context.Context) (*errgroup.Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(a.Parallel, 1))
	return g, ctx
}

// save copies one object from the nearest region that has it right.
func (a *Archive) save(ctx context.Context, e repair.Entry, regions []*objects.Bucket, report *Report) error {
	var errs []error
	for i, from := range regions {
		if !e.In(i + 1) {
			continue
		}
		err := transfer(ctx, a.Bucket, from, e.Key, e.Size)
		if err == nil {
			report.copied(e.Size)
			return nil
		}
		errs = append(errs, err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, err := range errs {
		if !errors.Is(err, objects.ErrNotFound) {
			report.failed(e.Key, errors.Join(errs...))
			return nil
		}
	}
	return nil // deleted meanwhile
}

func transfer(ctx context.Context, to, from *objects.Bucket, key string, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout+time.Duration(size/slowest)*time.Second)
	defer cancel()
	_, err := to.CopyFrom(ctx, from, key)
	return err
}

// Trim removes from the archive what no region has any more, and with it the
// moments at which it was there. Every region must be listed to the end.
func (a *Archive) Trim(ctx context.Context) (*Report, error) {
	report := &Report{}
	regions := a.Store.Regions()
	for _, prefix := range prefixes() {
		var gone []repair.Entry
		kept := 0
		away, err := repair.Merge(ctx, append([]*objects.Bucket{a.Bucket}, regions...), 0, prefix, func(e repair.Entry) error {
			for i := range regions {
				if e.In(i + 1) {
					kept++
					return nil
				}
			}
			gone = append(gone, e)
			return nil
		})
		switch {
		case err != nil:
			return report, fmt.Errorf("trim %s: %w", prefix, err)
		case away != 0:
			return report, fmt.Errorf("trim %s: not all regions could be listed: nothing more is removed", prefix)
		case len(gone) > 100 && kept == 0:
			return report, fmt.Errorf("trim %s: no region has anything there, the archive %d objects: are these the regions it is of?", prefix, len(gone))
		}
		removals, rctx := a.group(ctx)
		for _, e := range gone {
			removals.Go(func() error {
				if err := a.Bucket.Delete(rctx, e.Key); err != nil {
					return err
				}
				report.copied(e.Size)
				return nil
			})
		}
		if err := removals.Wait(); err != nil {
			return report, fmt.Errorf("trim %s: %w", prefix, err)
		}
		report.Present += int64(kept)
	}
	return report, nil
}
