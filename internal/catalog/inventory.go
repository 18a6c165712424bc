package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// Area is a part of the object stores, with the objects of each asset below its id.
type Area string

// The areas.
const (
	AreaStreams Area = "streams"
	AreaSources Area = "sources"
	AreaWork    Area = "work"
)

// Areas in the order of their keys.
var Areas = []Area{AreaSources, AreaStreams, AreaWork}

// Named is an object the catalog says there is.
type Named struct {
	Key string
	// Size in bytes, -1 where the catalog doesn't keep it.
	Size int64
	// SHA256 in lower-case hex, empty where the catalog doesn't keep it.
	SHA256 string
}

// Inventory is what the catalog says an asset's objects in one area are.
type Inventory struct {
	Asset string
	Holding
	Named []Named
	// Pending are keys of objects that are being stored: there or not, both is right.
	Pending map[string]bool
	// Leaving are prefixes of what a clean-up is about to remove.
	Leaving []string
	// Working: the asset has a run under way, whose attempts may store what no
	// row names yet.
	Working bool
	// Extras are the prefixes of extras that are complete.
	Extras []string
}

// Inventories returns, from the leader, what the next limit assets after an id
// have in an area, in the order of their ids; fewer are the last.
func (c *Catalog) Inventories(ctx context.Context, area Area, after string, limit int) ([]Inventory, error) {
	var out []Inventory
	err := c.direct(ctx, "inventory", func(ctx context.Context, q *db.Queries) error {
		rows, err := q.InventoryAssets(ctx, after, int32(limit))
		if err != nil {
			return err
		}
		ids, at := make([]string, len(rows)), make(map[string]*Inventory, len(rows))
		out = make([]Inventory, len(rows))
		for i, r := range rows {
			out[i] = Inventory{Asset: r.ID, Holding: Holding{Placement: placementOf(r.Placement, r.Regions), Gone: r.Gone}, Pending: map[string]bool{}}
			ids[i], at[r.ID] = r.ID, &out[i]
		}
		if len(ids) == 0 {
			return nil
		}
		// Pending before what it becomes: an object is then named twice rather than not at all.
		for _, f := range []func(context.Context, *db.Queries, Area, []string, map[string]*Inventory) error{pendingOf, leavingOf, runsOf, partsNamed, chunksNamed, recordsNamed} {
			if err := f(ctx, q, area, ids, at); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// Purges returns how many purges the leader has numbered.
func (c *Catalog) Purges(ctx context.Context) (int64, error) {
	var n int64
	err := c.direct(ctx, "purges", func(ctx context.Context, q *db.Queries) error {
		var err error
		n, err = inSequence(ctx, q, purgesLane)
		return err
	})
	return n, err
}

func pendingOf(ctx context.Context, q *db.Queries, area Area, ids []string, at map[string]*Inventory) error {
	if area != AreaStreams {
		return nil
	}
	rows, err := q.InventoryPending(ctx, ids)
	for _, r := range rows {
		var objs []Object
		if err := json.Unmarshal(r.Objects, &objs); err != nil {
			return fmt.Errorf("outbox objects of %s: %w", *r.Asset, err)
		}
		for _, o := range objs {
			at[*r.Asset].Pending[o.Key] = true
		}
	}
	return err
}

func leavingOf(ctx context.Context, q *db.Queries, area Area, ids []string, at map[string]*Inventory) error {
	rows, err := q.InventoryCleanups(ctx, ids)
	for _, r := range rows {
		var spec cleanupSpec
		if err := json.Unmarshal(r.Spec, &spec); err != nil {
			return fmt.Errorf("clean-up of %s: %w", r.Asset, err)
		}
		for _, p := range spec.Prefixes {
			if strings.HasPrefix(p, string(area)+"/") {
				at[r.Asset].Leaving = append(at[r.Asset].Leaving, p)
			}
		}
	}
	return err
}

// runsOf names the masters, and tells whether work is under way.
func runsOf(ctx context.Context, q *db.Queries, area Area, ids []string, at map[string]*Inventory) error {
	rows, err := q.InventoryRuns(ctx, ids)
	if err != nil {
		return err
	}
	undone, err := q.InventoryUnfinished(ctx, ids)
	for _, r := range rows {
		inv := at[r.Asset]
		switch RunState(r.State) {
		case RunFailed, RunCancelled, RunReplaced:
			continue
		case RunComplete:
		default:
			inv.Working = true
		}
		if area != AreaStreams {
			continue
		}
		if !inv.Gone && !slices.Contains(undone, db.InventoryUnfinishedRow{Asset: r.Asset, Run: r.N}) {
			inv.Extras = append(inv.Extras, objects.RunPrefix(r.Asset, runOf(r.N))+"extra/")
		}
		for n := int64(1); n <= int64(r.Master); n++ {
			inv.name(Named{Key: objects.MasterKey(r.Asset, runOf(r.N), n), Size: -1})
		}
	}
	return err
}

func partsNamed(ctx context.Context, q *db.Queries, area Area, ids []string, at map[string]*Inventory) error {
	if area != AreaSources {
		return nil
	}
	rows, err := q.InventoryParts(ctx, ids)
	for _, r := range rows {
		at[r.Asset].name(Named{Key: objects.PartKey(r.Asset, int(r.N), r.ID), Size: r.Size, SHA256: hex.EncodeToString(r.Sha256)})
	}
	return err
}

// chunksNamed names the records of chunks, and what they lead to.
func chunksNamed(ctx context.Context, q *db.Queries, area Area, ids []string, at map[string]*Inventory) error {
	if area != AreaStreams {
		return nil
	}
	rows, err := q.InventoryChunks(ctx, ids)
	if err != nil {
		return err
	}
	inits := map[string]bool{}
	for _, r := range rows {
		inv := at[r.Asset]
		sum := sha256.Sum256(r.Record)
		inv.name(Named{Key: objects.RecordKey(r.Asset, runOf(r.Run), r.Track, int(r.Chunk)), Size: int64(len(r.Record)), SHA256: hex.EncodeToString(sum[:])})
		rec, err := hls.DecodeRecord(r.Record)
		if err != nil {
			return err
		}
		for id, rs := range rec.Renditions {
			if key := objects.InitKey(r.Asset, rec.Run, id, rs.Init); rs.Init != "" && !inits[key] {
				inits[key] = true
				inv.name(Named{Key: key, Size: -1})
			}
			for i, s := range rs.Segments {
				inv.name(Named{Key: objects.SegmentKey(r.Asset, rec.Run, id, rec.SegmentPath(id, i)), Size: s.Bytes, SHA256: s.SHA256})
			}
		}
	}
	return nil
}

// recordsNamed names the playback records, which stay when their asset goes.
func recordsNamed(ctx context.Context, q *db.Queries, area Area, ids []string, at map[string]*Inventory) error {
	if area != AreaStreams {
		return nil
	}
	scopes := make([]string, len(ids))
	for i, id := range ids {
		scopes[i] = playbackScope + id
	}
	rows, err := q.InventoryRecords(ctx, scopes)
	for _, r := range rows {
		asset := strings.TrimPrefix(r.Scope, playbackScope)
		inv := at[asset]
		for n := int64(1); n <= r.N; n++ {
			key := objects.JournalKey(objects.PlaybackJournal(asset), n)
			if !inv.Pending[key] {
				inv.Named = append(inv.Named, Named{Key: key, Size: -1})
			}
		}
	}
	return err
}

// playbackScope begins the sequences that number playback records.
const playbackScope = "playback/"

// name adds an object, unless the asset's content is gone or the object is only being stored.
func (i *Inventory) name(n Named) {
	if !i.Gone && !i.Pending[n.Key] {
		i.Named = append(i.Named, n)
	}
}
