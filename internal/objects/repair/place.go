package repair

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// reach says how widely an object is to be held.
type reach int

const (
	// everywhere: journals and playback records, whatever the placement.
	everywhere reach = iota + 1
	// placed: as the asset's placement says.
	placed
	// twice: in two regions, within the placement.
	twice
)

// Urgency orders copies.
const (
	urgent  = iota // what edges need to decide
	soonish        // what players need to start, and what has one copy only
	bulk
)

// object is something the own store lacks.
type object struct {
	objects.Info
	asset   string
	reach   reach
	urgency int
	// holders are the regions that list it, as bits by their place in Repair.regions.
	holders uint64
	// record is the asset's newest playback record listed so far, 0 for none.
	record int64
}

// isYoung: its writer may still be on the way here.
func (o object) isYoung() bool {
	age := time.Since(o.Modified)
	return age >= 0 && age < young
}

// prefix of the asset's objects of the same kind.
func (o object) prefix() string {
	area, _, _ := strings.Cut(o.Key, "/")
	return area + "/" + o.asset + "/"
}

// classify tells what a key is; ok is false for keys that are nobody's to copy.
func classify(key string) (o object, ok bool) {
	o.Key = key
	area, rest, _ := strings.Cut(key, "/")
	if slices.Contains(objects.Journals(), area+"/") {
		o.reach = everywhere
		return o, true
	}
	if o.asset, rest, ok = strings.Cut(rest, "/"); !ok || !hls.ValidAssetID(o.asset) {
		return object{}, false
	}
	switch area {
	case "streams":
		o.reach, o.urgency = placed, bulk
		if strings.HasPrefix(rest, "playback/") {
			o.reach, o.urgency = everywhere, urgent
		} else if strings.Contains(rest, "/records/") || strings.Contains(rest, "/master/") || strings.Contains(rest, "/init-") {
			o.urgency = soonish
		}
	case "sources", "work":
		o.reach, o.urgency = twice, soonish
	default:
		return object{}, false
	}
	return o, true
}

// due reports whether the region (bit 0) is to get a copy of an object it lacks.
// names are all regions', away those that could not be listed.
func due(o object, p objects.Placement, names []string, away uint64, copies int) bool {
	if o.reach == everywhere {
		return true
	}
	if !p.Allows(names[0]) {
		return false
	}
	if o.reach == placed && p.Mode != objects.PlaceTwo {
		return true
	}
	// Two copies: who makes the missing ones follows from the asset alone.
	var lacking []int
	have := 0
	for i, name := range names {
		bit := uint64(1) << i
		switch {
		case !p.Allows(name) || away&bit != 0:
		case o.holders&bit != 0:
			have++
		default:
			lacking = append(lacking, i)
		}
	}
	missing := copies - have
	if missing <= 0 {
		return false
	}
	slices.SortFunc(lacking, func(a, b int) int {
		return cmp.Or(cmp.Compare(weight(o.asset, names[b]), weight(o.asset, names[a])), cmp.Compare(names[a], names[b]))
	})
	return slices.Contains(lacking[:min(missing, len(lacking))], 0)
}

// weight is the rendezvous hash of an asset and a region.
func weight(asset, region string) uint64 { return xxhash.Sum64String(asset + "/" + region) }

// before orders pending copies: the urgent first, of those the newest.
func before(a, b object) int {
	return cmp.Or(cmp.Compare(a.urgency, b.urgency), b.Modified.Compare(a.Modified), cmp.Compare(a.Key, b.Key))
}
