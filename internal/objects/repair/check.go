package repair

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// Inventory is what a check asks PostgreSQL; *catalog.Catalog is one.
type Inventory interface {
	Inventories(ctx context.Context, area catalog.Area, after string, limit int) ([]catalog.Inventory, error)
}

// Check compares all regions' stores with the catalog. Set the fields, then call Run.
type Check struct {
	Store   *objects.Store
	Catalog Inventory
	// Settled is how old an object must be to be foreign: a younger one may be of
	// work that no row names yet.
	Settled time.Duration
	// Read has the bytes of every object read and compared, not only its size.
	Read bool
	// Parallel is how many objects are read at a time, at least 1.
	Parallel int
	// Copies is how many regions acknowledge an object: region.Table.Copies.
	Copies int

	report  Report
	regions []*objects.Bucket // those that answer
	rows    []*RegionReport   // of regions
	now     time.Time
	reads   *errgroup.Group
	mu      sync.Mutex // of report, while reads run
}

const (
	// inventoryPage is for how many assets the catalog is asked at a time: a long
	// video's records take megabytes.
	inventoryPage = 20
	inventoryTime = 20 * time.Second
	// recheckTimeout bounds the second look for what a listing lacked.
	recheckTimeout = 5 * time.Second
)

// Run compares. An error means that the comparison couldn't be made; what it
// found is in the report.
func (c *Check) Run(ctx context.Context) (Report, error) {
	c.now = time.Now()
	c.report = Report{Began: c.now.UTC(), Regions: make([]RegionReport, len(c.Store.Regions())), Findings: []Finding{}}
	for i, b := range c.Store.Regions() {
		row := &c.report.Regions[i]
		row.Region = b.Region
		if _, err := list(ctx, b, objects.HealthKey(b.Region), ""); err != nil {
			row.Problem = err.Error()
			continue
		}
		row.Reached = true
		c.regions, c.rows = append(c.regions, b), append(c.rows, row)
	}
	if len(c.regions) == 0 {
		return c.report, objects.ErrUnavailable
	}
	var rctx context.Context
	c.reads, rctx = errgroup.WithContext(ctx)
	c.reads.SetLimit(max(c.Parallel, 1))
	err := c.journals(rctx)
	for _, area := range catalog.Areas {
		if err == nil {
			err = c.area(rctx, area)
		}
	}
	if rerr := c.reads.Wait(); rerr != nil {
		err = rerr // what cancelled the rest
	}
	c.report.Seconds = time.Since(c.now).Seconds()
	return c.report, err
}

func (c *Check) walk(ctx context.Context, prefix string, f func(Entry) error) error {
	away, err := Merge(ctx, c.regions, 0, prefix, func(e Entry) error {
		c.mu.Lock()
		for i, row := range c.rows {
			if e.holders&(1<<i) != 0 {
				row.Objects++
				row.Bytes += e.sizeIn(i)
			}
		}
		c.mu.Unlock()
		return f(e)
	})
	for i, b := range c.regions {
		if away&(1<<i) != 0 && err == nil {
			err = fmt.Errorf("%s broke off in the middle of its listing: run the check again", b.Region)
		}
	}
	return err
}

// journals are the same everywhere: what one region has, all must have.
func (c *Check) journals(ctx context.Context) error {
	for _, prefix := range objects.Journals() {
		err := c.walk(ctx, prefix, func(e Entry) error {
			return c.compare(ctx, catalog.Named{Key: e.Key, Size: -1}, objects.Placement{}, &e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// area compares one area: listing and catalog are walked side by side, both in
// the order of asset ids.
func (c *Check) area(ctx context.Context, area catalog.Area) error {
	rows := &inventories{source: c.Catalog, area: area}
	var id string
	var group []Entry
	settle := func() error {
		for {
			inv, err := rows.head(ctx)
			if err != nil {
				return err
			}
			switch {
			case inv != nil && (id == "" || inv.Asset < id):
				rows.next()
				err = c.asset(ctx, area, *inv, nil)
			case inv != nil && inv.Asset == id:
				rows.next()
				return c.asset(ctx, area, *inv, group)
			default:
				for _, e := range group {
					c.foreign(e, reasonUnknown)
				}
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	prefix := string(area) + "/"
	err := c.walk(ctx, prefix, func(e Entry) error {
		asset, _, ok := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
		if !ok || !hls.ValidAssetID(asset) {
			c.foreign(e, reasonForm)
			return nil
		}
		if asset != id {
			if id != "" {
				if err := settle(); err != nil {
					return err
				}
			}
			id, group = asset, group[:0]
		}
		group = append(group, e)
		return nil
	})
	if err == nil && id != "" {
		err = settle()
	}
	if err == nil {
		id = "" // the assets that have nothing stored after the last that has
		group = nil
		err = settle()
	}
	return err
}

// asset compares what the catalog says of one asset with what is stored of it.
func (c *Check) asset(ctx context.Context, area catalog.Area, inv catalog.Inventory, stored []Entry) error {
	c.mu.Lock()
	if area == catalog.AreaStreams {
		c.report.Assets++
	}
	c.report.Named += int64(len(inv.Named))
	c.mu.Unlock()
	at := make(map[string]*Entry, len(stored))
	for i := range stored {
		at[stored[i].Key] = &stored[i]
	}
	for _, n := range inv.Named {
		if err := c.compare(ctx, n, inv.Placement, at[n.Key]); err != nil {
			return err
		}
		delete(at, n.Key)
	}
	for _, e := range stored {
		if at[e.Key] != nil && !expected(area, inv, e.Key) {
			reason := reasonUnnamed
			if inv.Gone {
				reason = reasonRemoved
			}
			c.foreign(e, reason)
		}
	}
	return nil
}

// expected reports whether an object no row names may be there all the same:
// one that is being stored or removed, and what rows don't tell of.
func expected(area catalog.Area, inv catalog.Inventory, key string) bool {
	if inv.Pending[key] {
		return true
	}
	for _, p := range inv.Leaving {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	rest := strings.TrimPrefix(key, string(area)+"/"+inv.Asset+"/")
	return !inv.Gone && (area == catalog.AreaWork && inv.Working || area == catalog.AreaStreams && (strings.Contains(rest, "/extra/") || strings.HasPrefix(rest, "text/")))
}

// compare looks whether a named object is where it should be, and what it should be.
func (c *Check) compare(ctx context.Context, n catalog.Named, p objects.Placement, e *Entry) error {
	o, ok := classify(n.Key)
	if !ok {
		return fmt.Errorf("the catalog names %s, which this version doesn't know", n.Key)
	}
	var holders uint64
	if e != nil {
		holders = e.holders
	}
	have, allowed := 0, 0
	for i, b := range c.regions {
		must := o.reach == everywhere || p.Allows(b.Region)
		if must {
			allowed++
		}
		bit := uint64(1) << i
		if holders&bit == 0 && must {
			// Stored since the listing went past it?
			info, err := c.stat(ctx, b, n.Key)
			if err != nil {
				return err
			}
			if info != nil {
				holders |= bit
			}
		}
		switch {
		case holders&bit != 0:
			have++
		case must && (o.reach == everywhere || o.reach == placed && p.Mode != objects.PlaceTwo):
			c.find(c.rows[i], Missing, n.Key, "")
		}
	}
	// The regions that don't answer may hold it too, but nobody can tell.
	if want := min(c.Copies, allowed); have < want {
		c.mu.Lock()
		kind := Short
		if have == 0 {
			kind = Lost
			c.report.Lost++
		} else {
			c.report.Short++
		}
		c.mu.Unlock()
		c.find(nil, kind, n.Key, fmt.Sprintf("in %d of %d regions", have, want))
	}
	for i := range c.regions {
		if e == nil || e.holders&(1<<i) == 0 {
			continue
		}
		if size := e.sizeIn(i); n.Size >= 0 && size != n.Size || n.Size < 0 && size != e.Size {
			want := n.Size
			if want < 0 {
				want = e.Size
			}
			c.find(c.rows[i], Wrong, n.Key, fmt.Sprintf("%d bytes, want %d", size, want))
			continue
		}
		if c.Read {
			c.reads.Go(func() error { return c.read(ctx, i, n) })
		}
	}
	return nil
}

// stat is nil for an object that isn't there.
func (c *Check) stat(ctx context.Context, b *objects.Bucket, key string) (*objects.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, recheckTimeout)
	defer cancel()
	info, err := b.Stat(ctx, key)
	if errors.Is(err, objects.ErrNotFound) {
		return nil, nil
	}
	return &info, err
}

// read compares an object's bytes with its hash: the catalog's, else the one it
// was stored with and the one its name holds.
func (c *Check) read(ctx context.Context, i int, n catalog.Named) error {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout+time.Duration(max(n.Size, 0)/slowest)*time.Second)
	defer cancel()
	body, info, err := c.regions[i].Get(ctx, n.Key, 0, -1)
	if errors.Is(err, objects.ErrNotFound) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(sum, body)
	if err = errors.Join(err, body.Close()); err != nil {
		return fmt.Errorf("%s: read %s: %w", c.regions[i].Region, n.Key, err)
	}
	got, want := hex.EncodeToString(sum.Sum(nil)), n.SHA256
	if want == "" {
		want = info.SHA256
	}
	detail := ""
	switch short, named := strings.CutPrefix(path.Base(n.Key), "init-"); {
	case want == "":
		detail = "stored without a hash"
	case got != want:
		detail = fmt.Sprintf("sha256 %s, want %s", got, want)
	case info.SHA256 != want:
		detail = fmt.Sprintf("stored with sha256 %s, want %s", info.SHA256, want)
	case named && !strings.HasPrefix(got, strings.TrimSuffix(short, ".mp4")):
		detail = fmt.Sprintf("sha256 %s isn't its name's", got)
	}
	c.mu.Lock()
	c.rows[i].Read++
	c.mu.Unlock()
	if detail != "" {
		c.find(c.rows[i], Wrong, n.Key, detail)
	}
	return nil
}

// foreign notes an object that shouldn't be there, unless it is young.
func (c *Check) foreign(e Entry, reason string) {
	young := c.now.Sub(e.Modified) < c.Settled
	for i, row := range c.rows {
		if e.holders&(1<<i) == 0 {
			continue
		}
		if young {
			c.mu.Lock()
			row.Young++
			c.mu.Unlock()
			continue
		}
		c.find(row, Foreign, e.Key, reason)
	}
}

// find counts a finding and notes it, if there is room.
func (c *Check) find(row *RegionReport, kind, key, detail string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := Finding{Kind: kind, Key: key, Detail: detail}
	if row != nil {
		f.Region = row.Region
		switch kind {
		case Missing:
			row.Missing++
		case Foreign:
			row.Foreign++
		case Wrong:
			row.Wrong++
		}
	}
	if len(c.report.Findings) < maxFindings {
		c.report.Findings = append(c.report.Findings, f)
	}
}

// inventories walks the catalog's assets, a page at a time.
type inventories struct {
	source Inventory
	area   catalog.Area
	page   []catalog.Inventory
	after  string
	ended  bool
}

// head is the next asset, nil at the end.
func (i *inventories) head(ctx context.Context) (*catalog.Inventory, error) {
	if len(i.page) == 0 && !i.ended {
		ctx, cancel := context.WithTimeout(ctx, inventoryTime)
		defer cancel()
		page, err := i.source.Inventories(ctx, i.area, i.after, inventoryPage)
		if err != nil {
			return nil, err
		}
		for _, inv := range page {
			if inv.Asset <= i.after {
				return nil, fmt.Errorf("the database sorts %s after %s: its collation isn't one that asset ids have the order of their bytes in", i.after, inv.Asset)
			}
			i.after = inv.Asset
		}
		i.page, i.ended = page, len(page) < inventoryPage
	}
	if len(i.page) == 0 {
		return nil, nil
	}
	return &i.page[0], nil
}

func (i *inventories) next() { i.page = i.page[1:] }
