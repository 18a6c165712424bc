package geodns

import (
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/geo"
)

const (
	// cellDegrees is the side of the cells that viewers are counted in: so coarse
	// that a count says nothing about anyone.
	cellDegrees        = 10
	cellRows, cellCols = 180 / cellDegrees, 360 / cellDegrees
	unknownCell        = cellRows * cellCols
	originSlot         = 30 * time.Second
	originSlots        = 10
	originWindow       = originSlots * originSlot
	// originPause is between two look-ups of one of the name server's workers.
	originPause = 50 * time.Millisecond
)

// origins counts where the viewers asked for lately came from, and where they
// were sent: by cells, for originWindow. No address is kept, not even for a moment.
type origins struct {
	regions map[string]int
	vias    map[string]int

	mu    sync.Mutex
	slots [originSlots]originCounts
}

type originCounts struct {
	slot  int64 // its number since the epoch; others' counts are stale
	cells []uint32
	vias  []uint32
}

// viaNames are the ways of asking.
var viaNames = [...]string{viaDNS, viaRedirect, viaSteer, viaPage}

func newOrigins(s *geo.Snapshot) *origins {
	o := &origins{regions: map[string]int{}, vias: map[string]int{}}
	for i := range s.Regions {
		o.regions[s.Regions[i].Name] = i
	}
	for i, v := range viaNames {
		o.vias[v] = i
	}
	for i := range o.slots {
		o.slots[i] = originCounts{cells: make([]uint32, (unknownCell+1)*len(o.regions)), vias: make([]uint32, len(viaNames))}
	}
	return o
}

// add counts n viewers from a place who were sent to a region.
func (o *origins) add(via, region string, l geo.Location, n uint32, now time.Time) {
	r, ok := o.regions[region]
	if !ok {
		return
	}
	cell, number := cellOf(l), now.UnixNano()/int64(originSlot)
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.slots[int(number%originSlots)]
	if s.slot != number {
		s.slot = number
		clear(s.cells)
		clear(s.vias)
	}
	s.cells[cell*len(o.regions)+r] += n
	s.vias[o.vias[via]] += n
}

func cellOf(l geo.Location) int {
	if !l.Known {
		return unknownCell
	}
	row := int(math.Floor((l.Point.Latitude + 90) / cellDegrees))
	col := int(math.Floor((l.Point.Longitude + 180) / cellDegrees))
	return min(max(row, 0), cellRows-1)*cellCols + min(max(col, 0), cellCols-1)
}

// origin is how many viewers of one cell were sent to one region.
type origin struct {
	At     geo.Point // the cell's centre
	Region int
	Count  uint64
}

// recent returns the counts of the window, those of unknown places by region, and
// those by way of asking.
func (o *origins) recent(now time.Time) (known []origin, unknown []uint64, byVia map[string]uint64) {
	newest := now.UnixNano() / int64(originSlot)
	sums := make([]uint64, (unknownCell+1)*len(o.regions))
	byVia = map[string]uint64{}
	o.mu.Lock()
	for i := range o.slots {
		s := &o.slots[i]
		if s.slot > newest || s.slot <= newest-originSlots {
			continue
		}
		for j, n := range s.cells {
			sums[j] += uint64(n)
		}
		for j, n := range s.vias {
			byVia[viaNames[j]] += uint64(n)
		}
	}
	o.mu.Unlock()
	for i, n := range sums[:unknownCell*len(o.regions)] {
		if n == 0 {
			continue
		}
		cell := i / len(o.regions)
		known = append(known, origin{At: geo.Point{Latitude: float64(cell/cellCols)*cellDegrees - 90 + cellDegrees/2,
			Longitude: float64(cell%cellCols)*cellDegrees - 180 + cellDegrees/2}, Region: i % len(o.regions), Count: n})
	}
	return known, sums[unknownCell*len(o.regions):], byVia
}

// sampleOrigin counts a query the name server has answered with a region. It
// spares it a look-up for each: what was answered since the last one is counted
// as if it came from where this one comes from, which is right on average.
func (w *worker) sampleOrigin(region string, who netip.Addr) {
	w.pending++
	if d := w.now.Sub(w.sampled); d >= 0 && d < originPause {
		return
	}
	var l geo.Location
	if s := w.zone.board.Load(); s.Geo != nil {
		l = s.Geo.Locate(who)
	}
	w.zone.origins.add(viaDNS, region, l, w.pending, w.now)
	w.pending, w.sampled = 0, w.now
}
