package fleet

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/meridian-video/meridian/drill/target"
)

const (
	followEvery = 100 * time.Millisecond
	followTime  = time.Second
	maxFollowed = 200_000
)

// Delivery is something that an edge delivered.
type Delivery struct {
	// At is when it was asked for.
	At   time.Time
	Edge string
}

// Deliveries asks every edge for a byte, again and again, from near its region:
// what is lost is lost from the last one on.
type Deliveries struct {
	d    *target.Description
	list kept[Delivery]
}

// NewDeliveries returns one that begins with Run.
func NewDeliveries(d *target.Description) *Deliveries { return &Deliveries{d: d} }

// Run asks until ctx ends.
func (f *Deliveries) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for i, r := range f.d.Table.Regions {
		at := f.d.Places[i]
		c := newClient(at.From(at.Sources[len(at.Sources)-1]))
		defer c.CloseIdleConnections()
		for _, e := range r.Edges {
			wg.Go(func() { f.follow(ctx, c, e.Name, e.URL+"/health/segment") })
		}
	}
	wg.Wait()
}

func (f *Deliveries) follow(ctx context.Context, c *http.Client, edge, u string) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if at := time.Now(); f.fetch(ctx, c, u) {
			f.list.add(Delivery{at, edge}, maxFollowed)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// fetch reports whether the edge delivers.
func (f *Deliveries) fetch(ctx context.Context, c *http.Client, u string) bool {
	ctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return false
	}
	req.Header.Set("Range", "bytes=0-0")
	res, err := c.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	var b [1]byte
	n, _ := res.Body.Read(b[:]) // the byte counts, however it ends
	return n > 0 && (res.StatusCode == http.StatusPartialContent || res.StatusCode == http.StatusOK)
}

// All so far; the slice isn't changed any more.
func (f *Deliveries) All() []Delivery { return f.list.all() }

// Dropped is how many had no room.
func (f *Deliveries) Dropped() int { return f.list.lost() }
