package repair

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/objects"
)

const (
	pageSize = 1000
	// pageTimeout bounds one page; a region that needs longer is left out of the pass.
	pageTimeout = 6 * time.Second
)

// list returns up to pageSize objects after a key; fewer are the last.
func list(ctx context.Context, b *objects.Bucket, prefix, after string) ([]objects.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	var page []objects.Info
	err := b.List(ctx, prefix, after, func(i objects.Info) bool {
		page = append(page, i)
		return len(page) < pageSize
	})
	return page, err
}

// pages lists everything below a prefix and calls f with each page.
func pages(ctx context.Context, b *objects.Bucket, prefix string, f func([]objects.Info) error) error {
	for after := ""; ; {
		page, err := list(ctx, b, prefix, after)
		if err != nil {
			return err
		}
		if err := f(page); err != nil || len(page) < pageSize {
			return err
		}
		after = page[len(page)-1].Key
	}
}

// cursor walks one region's listing, a page ahead of its reader.
type cursor struct {
	bucket *objects.Bucket
	in     chan []objects.Info
	err    error // why the listing broke off; read after in is closed
	page   []objects.Info
	ended  bool
}

func (c *cursor) fetch(ctx context.Context, prefix string) {
	defer close(c.in)
	c.err = pages(ctx, c.bucket, prefix, func(page []objects.Info) error {
		select {
		case c.in <- page:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// head returns the next object, nil at the end or after a failure.
func (c *cursor) head() *objects.Info {
	for len(c.page) == 0 && !c.ended {
		page, ok := <-c.in
		c.page, c.ended = page, !ok
	}
	if len(c.page) == 0 {
		return nil
	}
	return &c.page[0]
}

// Entry is one key over several buckets.
type Entry struct {
	objects.Info         // of the nearest region that has it
	holders      uint64  // bits by region
	sizes        []int64 // by region, if they aren't all Size
}

// In reports whether the bucket of that place among those merged holds the key.
func (e *Entry) In(i int) bool { return e.holders&(1<<i) != 0 }

// Differs reports whether buckets hold objects of different sizes under the key.
func (e *Entry) Differs() bool { return e.sizes != nil }

// deviates notes that a region holds an object of another size.
func (e *Entry) deviates(region int, size int64, regions int) {
	if e.sizes == nil {
		e.sizes = make([]int64, regions)
		for i := range e.sizes {
			e.sizes[i] = e.Size
		}
	}
	e.sizes[region] = size
}

// sizeIn is the size of the object in a region that holds it.
func (e *Entry) sizeIn(region int) int64 {
	if e.sizes == nil {
		return e.Size
	}
	return e.sizes[region]
}

// Merge calls f for every key below prefix in any of the regions but those in
// skip, in key order. Regions that can't be listed, or not to the end, are
// returned. Only a failure of the first region, the own, is an error.
func Merge(ctx context.Context, regions []*objects.Bucket, skip uint64, prefix string, f func(Entry) error) (away uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var fetching sync.WaitGroup
	defer fetching.Wait()
	defer cancel()
	cursors := make([]*cursor, len(regions))
	away = skip
	for i, b := range regions {
		if skip&(1<<i) != 0 {
			continue
		}
		c := &cursor{bucket: b, in: make(chan []objects.Info, 1)}
		cursors[i] = c
		fetching.Go(func() { c.fetch(ctx, prefix) })
	}
	for {
		var e Entry
		for i, c := range cursors {
			if c == nil {
				continue
			}
			h := c.head()
			if h == nil {
				cursors[i] = nil
				if c.err == nil {
					continue
				}
				if i == 0 {
					return away, fmt.Errorf("own listing: %w", c.err)
				}
				away |= 1 << i
				continue
			}
			switch {
			case e.holders == 0 || h.Key < e.Key:
				e = Entry{Info: *h, holders: 1 << i}
			case h.Key == e.Key:
				e.holders |= 1 << i
				if h.Size != e.Size {
					e.deviates(i, h.Size, len(cursors))
				}
			}
		}
		if e.holders == 0 {
			return away, ctx.Err()
		}
		for i, c := range cursors {
			if c != nil && e.holders&(1<<i) != 0 {
				c.page = c.page[1:]
			}
		}
		if err := f(e); err != nil {
			return away, err
		}
	}
}
