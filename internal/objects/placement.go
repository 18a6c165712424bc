package objects

import (
	"fmt"
	"slices"

	"github.com/meridian-video/meridian/internal/region"
)

// Mode says where an asset's objects live.
type Mode string

// The placement modes.
const (
	// PlaceAll keeps a copy in every region; the default.
	PlaceAll Mode = "all"
	// PlaceTwo keeps two copies.
	PlaceTwo Mode = "two"
	// PlacePinned keeps objects within the named regions, never outside.
	PlacePinned Mode = "pinned"
)

// Placement of an asset's objects. The zero value means PlaceAll.
type Placement struct {
	Mode Mode `json:"mode,omitempty"`
	// Regions for PlacePinned; empty otherwise.
	Regions []string `json:"regions,omitempty"`
}

// Validate checks p against the region table.
func (p Placement) Validate(t *region.Table) error {
	switch p.Mode {
	case "", PlaceAll, PlaceTwo:
		if len(p.Regions) > 0 {
			return fmt.Errorf("placement %q takes no regions; use \"pinned\"", p.Mode)
		}
	case PlacePinned:
		if len(p.Regions) == 0 {
			return fmt.Errorf("placement \"pinned\" needs at least one region of %v", t.Names())
		}
		for _, name := range p.Regions {
			if _, ok := t.Get(name); !ok {
				return fmt.Errorf("placement: no region %q: want one of %v", name, t.Names())
			}
		}
	default:
		return fmt.Errorf("placement %q: want \"all\", \"two\" or \"pinned\"", p.Mode)
	}
	return nil
}

// Allows reports whether objects may live in the named region.
func (p Placement) Allows(name string) bool {
	return p.Mode != PlacePinned || slices.Contains(p.Regions, name)
}

// Pinned reports whether objects must stay within named regions.
func (p Placement) Pinned() bool { return p.Mode == PlacePinned }
