package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/repair"
)

// Inventory is what the restored catalog tells; *catalog.Catalog is one.
type Inventory interface {
	Inventories(ctx context.Context, area catalog.Area, after string, limit int) ([]catalog.Inventory, error)
	Purges(ctx context.Context) (int64, error)
}

// inventoryPage is for how many assets the catalog is asked at a time.
const inventoryPage = 20

// ErrNotEmpty says that there are objects where a restore would put its own.
var ErrNotEmpty = errors.New("there are objects already, and a restore goes into empty stores")

// Restore brings every object the catalog names to the regions that are to have
// it, and closes the archive. The regions' stores have their buckets and nothing
// of the catalog's time in them, unless it is done again after it failed.
func (a *Archive) Restore(ctx context.Context, inv Inventory, again bool) (*Report, error) {
	report := &Report{}
	if !again {
		if err := a.requireEmpty(ctx); err != nil {
			return report, err
		}
	}
	mark, err := json.Marshal(map[string]time.Time{"at": time.Now().UTC()})
	if err != nil {
		return report, err
	}
	if err := a.Bucket.Put(ctx, restoredKey, objects.Bytes(mark)); err != nil && !errors.Is(err, objects.ErrConflict) {
		return report, fmt.Errorf("close the archive: %w", err)
	}
	copies, cctx := a.group(ctx)
	err = a.journals(cctx, inv, copies, report)
	for _, area := range catalog.Areas {
		if err == nil {
			err = a.area(cctx, inv, area, copies, report)
		}
	}
	if cerr := copies.Wait(); cerr != nil {
		err = cerr // what cancelled the rest
	}
	return report, errors.Join(err, report.Err())
}

func (a *Archive) requireEmpty(ctx context.Context) error {
	for _, b := range a.Store.Regions() {
		for _, area := range catalog.Areas {
			switch key, err := first(ctx, b, string(area)+"/"); {
			case err != nil:
				return err
			case key != "":
				return fmt.Errorf("%s has %s: %w", b.Region, key, ErrNotEmpty)
			}
		}
	}
	return nil
}

func first(ctx context.Context, b *objects.Bucket, prefix string) (string, error) {
	key := ""
	err := b.List(ctx, prefix, "", func(i objects.Info) bool { key = i.Key; return false })
	return key, err
}

// journals go everywhere; of purges only those the catalog has numbered.
func (a *Archive) journals(ctx context.Context, inv Inventory, copies *errgroup.Group, report *Report) error {
	purges, err := inv.Purges(ctx)
	if err != nil {
		return err
	}
	for _, journal := range objects.Journals() {
		err := a.list(ctx, journal, func(i objects.Info) {
			if n, ok := objects.JournalNumber(journal, i.Key); journal == objects.PurgesJournal && ok && n > purges {
				report.Later++
				return
			}
			copies.Go(func() error { return a.bring(ctx, i, catalog.Named{Size: -1}, a.Store.Regions(), report) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *Archive) list(ctx context.Context, prefix string, f func(objects.Info)) error {
	_, err := repair.Merge(ctx, []*objects.Bucket{a.Bucket}, 0, prefix, func(e repair.Entry) error {
		f(e.Info)
		return nil
	})
	return err
}

// area brings the objects of one area, asset after asset.
func (a *Archive) area(ctx context.Context, inv Inventory, area catalog.Area, copies *errgroup.Group, report *Report) error {
	all := int64(0)
	if err := a.list(ctx, string(area)+"/", func(objects.Info) { all++ }); err != nil {
		return err
	}
	seen := int64(0)
	for after := ""; ; {
		page, err := inv.Inventories(ctx, area, after, inventoryPage)
		if err != nil {
			return err
		}
		for _, i := range page {
			n, err := a.asset(ctx, i, area, copies, report)
			if err != nil {
				return err
			}
			seen += n
			after = i.Asset
		}
		if len(page) < inventoryPage {
			break
		}
	}
	report.Later += all - seen
	return nil
}

// asset brings one asset's objects and returns how many of the archive were its own.
func (a *Archive) asset(ctx context.Context, inv catalog.Inventory, area catalog.Area, copies *errgroup.Group, report *Report) (int64, error) {
	named := make(map[string]catalog.Named, len(inv.Named))
	for _, n := range inv.Named {
		named[n.Key] = n
	}
	var taken int64
	err := a.list(ctx, string(area)+"/"+inv.Asset+"/", func(i objects.Info) {
		n, ok := named[i.Key]
		if !ok && !unnamed(area, inv, i.Key) {
			return
		}
		if !ok {
			n = catalog.Named{Size: -1}
		}
		delete(named, i.Key)
		taken++
		copies.Go(func() error { return a.bring(ctx, i, n, a.regionsOf(inv, area, i.Key), report) })
	})
	if err != nil {
		return taken, err
	}
	for key := range named {
		report.failed(key, errors.New("the catalog names it, the archive doesn't have it"))
	}
	return taken, nil
}

// unnamed reports whether an object no row names is the catalog's all the same:
// the intermediate objects of a run under way, and extras.
func unnamed(area catalog.Area, inv catalog.Inventory, key string) bool {
	if area == catalog.AreaWork {
		return inv.Working && !inv.Gone
	}
	for _, p := range inv.Extras {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	return false
}

// regionsOf are the regions that are to have an object: repair would bring it there.
func (a *Archive) regionsOf(inv catalog.Inventory, area catalog.Area, key string) []*objects.Bucket {
	all := a.Store.Regions()
	if _, ok := objects.JournalNumber(objects.PlaybackJournal(inv.Asset), key); ok {
		return all
	}
	var out []*objects.Bucket
	for _, b := range all {
		if inv.Placement.Allows(b.Region) {
			out = append(out, b)
		}
	}
	if area != catalog.AreaStreams || inv.Placement.Mode == objects.PlaceTwo {
		out = out[:min(2, len(out))]
	}
	return out
}

// bring copies one object to its regions, over the archive's line once.
func (a *Archive) bring(ctx context.Context, i objects.Info, want catalog.Named, to []*objects.Bucket, report *Report) error {
	err := a.check(ctx, i, want)
	from := a.Bucket
	for _, b := range to {
		if err != nil {
			break
		}
		if err = transfer(ctx, b, from, i.Key, i.Size); err == nil {
			from = b
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		report.failed(i.Key, err)
	default:
		report.copied(i.Size)
	}
	return nil
}

// check compares an object of the archive with what the catalog says of it; its
// bytes are compared with its own hash when they are copied.
func (a *Archive) check(ctx context.Context, i objects.Info, want catalog.Named) error {
	if want.Size >= 0 && i.Size != want.Size {
		return fmt.Errorf("the archive has %d bytes, the catalog wants %d", i.Size, want.Size)
	}
	if want.SHA256 == "" {
		return nil
	}
	stored, err := a.Bucket.Stat(ctx, i.Key)
	if err == nil && stored.SHA256 != want.SHA256 {
		err = fmt.Errorf("the archive has sha256 %s, the catalog wants %s", stored.SHA256, want.SHA256)
	}
	return err
}
