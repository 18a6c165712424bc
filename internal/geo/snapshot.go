package geo

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/internal/region"
)

// Health is what is believed about one edge or router.
type Health struct {
	Down bool
	// Why in a few words: "refused", "timed out twice".
	Why string
	// Since is when it was last found to work again, or when this router started
	// to look.
	Since time.Time
}

// Edge is one edge cache of a region.
type Edge struct {
	Name      string
	URL       string
	Addresses []netip.Addr
	Health    Health
	// Load is the share of its capacity in use, as the edge says itself; 0 when it says nothing.
	Load float64
}

// Region is one region of a snapshot.
type Region struct {
	Name, Place string
	At          Point
	// RouterURL and RouterAddress are where its router answers; RouterAddress is
	// invalid when the table holds no literal address.
	RouterURL     string
	RouterAddress netip.Addr
	// NameServer is the address of its DNS server.
	NameServer netip.Addr
	// Further addresses of both.
	Further []netip.Addr
	Router  Health
	Edges   []Edge
	// Weight below 1 is the share of its own viewers the region takes; 0 takes it
	// out of rotation until nothing else is left. Between regions equally far away
	// the larger weight goes first. GrewSince is when it last became larger.
	Weight    float64
	GrewSince time.Time
	// Drained regions are offered after all others that work. DrainedSince is when
	// that last changed.
	Drained      bool
	DrainedSince time.Time
	// Shed is the share of viewers the region turns away by itself, 0 to 1, and
	// ShedWhy the reason in a few words.
	Shed    float64
	ShedWhy string
}

// Up reports whether any edge of the region works.
func (r *Region) Up() bool {
	for i := range r.Edges {
		if !r.Edges[i].Health.Down {
			return true
		}
	}
	return false
}

// States of a region.
const (
	StateUp       = "up"
	StateSheds    = "sheds"
	StateDrained  = "drained"
	StateNoWeight = "no_weight"
	StateDown     = "down"
)

// State says in one word whether the region takes viewers, and, when it doesn't
// take all of its own, why in a few words.
func (r *Region) State() (state, why string) {
	switch {
	case !r.Up():
		return StateDown, r.downWhy()
	case r.Weight <= 0:
		return StateNoWeight, "weight 0"
	case r.Drained:
		return StateDrained, "drained by the operator"
	case r.Takes() < 1:
		return StateSheds, r.shedWhy()
	}
	return StateUp, ""
}

// downWhy are the reasons its edges are down for.
func (r *Region) downWhy() string {
	var why []string
	for _, e := range r.Edges {
		if e.Health.Down && !slices.Contains(why, e.Health.Why) {
			why = append(why, e.Health.Why)
		}
	}
	return strings.Join(why, ", ")
}

// Takes is the share of its own viewers the region takes while it is in service.
func (r *Region) Takes() float64 { return min(1, max(0, r.Weight)) * (1 - min(1, max(0, r.Shed))) }

func (r *Region) shedWhy() string {
	if r.Shed > 0 {
		return r.ShedWhy
	}
	return fmt.Sprintf("weight %g", r.Weight)
}

// turnsAway reports whether the region leaves a viewer to others. As the share
// grows, those turned away stay so; regions differ in whom they turn away first.
func (r *Region) turnsAway(index int, spot Spot) bool {
	takes := r.Takes()
	return takes < 1 && float64((spot.Share+17*index)%ShareSpots) >= takes*ShareSpots
}

// Shares reports whether any region takes some of its viewers and not others.
func (s *Snapshot) Shares() bool {
	for i := range s.Regions {
		if t := s.Regions[i].Takes(); t > 0 && t < 1 {
			return true
		}
	}
	return false
}

// Snapshot is everything Decide depends on. It is never changed once published.
type Snapshot struct {
	// Regions in table order.
	Regions []Region
	// Geo is nil when there is no database.
	Geo Locator
	// Orders, if not nil, says for every address what Geo and the overrides lead to.
	Orders *Orders
	base   *Orders // without the overrides
	// OverflowKm is how far from a viewer a region may be for another to leave the
	// viewer to it; where the viewer's place is unknown, how far apart the two may be. 0
	// is any distance. Orders are computed with it.
	OverflowKm float64
	// Overrides of the operator, of networks and of autonomous systems; change them by
	// SetOverrides. A network's counts before a system's.
	Overrides       []Override
	SystemOverrides []SystemOverride
	// Systems knows the networks of autonomous systems; nil when there is no
	// database. Change it by SetSystems.
	Systems *ASNDatabase
	// Alone is set while no other region's router is heard although there are
	// some, so health is this router's own view.
	Alone bool
	// Generation is another whenever a decision may be: not after UpdateLoads.
	Generation uint64
	// Doubt is there while this router may be the one that is cut off: whoever asks
	// it waits for the end of that.
	Doubt *Doubt
}

// Doubt is a router's of its own line.
type Doubt struct {
	// Over is closed when the others answer again, or are found lost.
	Over <-chan struct{}
	// Wait is how long it takes at most to find them over a line that works.
	Wait time.Duration
}

// maxDoubt bounds how long a question waits.
const maxDoubt = 2 * time.Second

// NewSnapshot returns the snapshot of a table before anything is known about
// health: everything counts as up.
func NewSnapshot(t *region.Table) *Snapshot {
	s := &Snapshot{Regions: make([]Region, 0, len(t.Regions))}
	for _, r := range t.Regions {
		g := Region{Name: r.Name, Place: r.Place, At: Point{r.Latitude, r.Longitude}, RouterURL: r.Router.URL, Weight: 1}
		if ap, err := netip.ParseAddrPort(r.Router.DNS); err == nil {
			g.NameServer = ap.Addr().Unmap()
		}
		for _, a := range r.Router.Addresses {
			g.Further = append(g.Further, a.Unmap())
		}
		g.RouterAddress = g.NameServer
		if u, err := url.Parse(r.Router.URL); err == nil {
			if a, err := netip.ParseAddr(u.Hostname()); err == nil {
				g.RouterAddress = a.Unmap()
			}
		}
		for _, e := range r.Edges {
			g.Edges = append(g.Edges, Edge{Name: e.Name, URL: e.URL, Addresses: e.Addresses})
		}
		s.Regions = append(s.Regions, g)
	}
	return s
}

func (s *Snapshot) places() []Point {
	out := make([]Point, len(s.Regions))
	for i := range s.Regions {
		out[i] = s.Regions[i].At
	}
	return out
}

// Orders computes the orders of a database, or of none, for the board's
// regions. It takes seconds for a large database; nothing waits meanwhile.
func (b *Board) Orders(db *Database) (*Orders, error) {
	s := b.Load()
	return NewOrders(db, s.places(), s.OverflowKm)
}

// SetGeo replaces the database, which may be nil, by one whose orders are o.
func (s *Snapshot) SetGeo(db *Database, o *Orders) error {
	with, err := o.With(s.SystemOverrides, s.Systems, s.Overrides, s.index)
	if err != nil {
		return err
	}
	s.Geo = nil
	if db != nil {
		s.Geo = db
	}
	s.base, s.Orders = o, with
	return nil
}

// SetOverrides replaces the overrides. Orders must be there.
func (s *Snapshot) SetOverrides(o []Override, systems ...SystemOverride) error {
	with, err := s.base.With(systems, s.Systems, o, s.index)
	if err != nil {
		return err
	}
	s.Overrides, s.SystemOverrides, s.Orders = o, systems, with
	return nil
}

// SetSystems replaces the database of autonomous systems, which may be nil. Orders
// must be there.
func (s *Snapshot) SetSystems(db *ASNDatabase) error {
	with, err := s.base.With(s.SystemOverrides, db, s.Overrides, s.index)
	if err != nil {
		return err
	}
	s.Systems, s.Orders = db, with
	return nil
}

func (s *Snapshot) index(region string) int {
	return slices.IndexFunc(s.Regions, func(r Region) bool { return r.Name == region })
}

// Region returns the named region, nil when there is none.
func (s *Snapshot) Region(name string) *Region {
	for i := range s.Regions {
		if s.Regions[i].Name == name {
			return &s.Regions[i]
		}
	}
	return nil
}

// Edge returns the named edge and its region, nil when there is none.
func (s *Snapshot) Edge(name string) (*Edge, *Region) {
	for i := range s.Regions {
		for j := range s.Regions[i].Edges {
			if s.Regions[i].Edges[j].Name == name {
				return &s.Regions[i].Edges[j], &s.Regions[i]
			}
		}
	}
	return nil, nil
}

// clone copies what an update may change.
func (s *Snapshot) clone() *Snapshot {
	c := *s
	c.Regions = append([]Region(nil), s.Regions...)
	for i := range c.Regions {
		c.Regions[i].Edges = append([]Edge(nil), c.Regions[i].Edges...)
	}
	return &c
}

// Board publishes the current snapshot. Readers never wait.
type Board struct {
	current atomic.Pointer[Snapshot]
	mu      sync.Mutex // one writer at a time
}

// NewBoard returns a board that shows s.
func NewBoard(s *Snapshot) *Board {
	b := &Board{}
	b.current.Store(s)
	return b
}

// Load returns the current snapshot; it must not be changed.
func (b *Board) Load() *Snapshot { return b.current.Load() }

// Settled returns the snapshot to answer by: the current one, or, when it is in
// doubt, that after the doubt, if it doesn't last long and ctx doesn't end.
func (b *Board) Settled(ctx context.Context) *Snapshot {
	s := b.Load()
	if s.Doubt == nil {
		return s
	}
	wait := time.NewTimer(maxDoubt)
	defer wait.Stop()
	select {
	case <-s.Doubt.Over:
	case <-wait.C:
	case <-ctx.Done():
	}
	return b.Load()
}

// Update publishes a copy of the current snapshot that change has edited.
// Slices inside edges (addresses) are shared and must be replaced, not edited.
func (b *Board) Update(change func(*Snapshot)) {
	b.UpdateLoads(func(s *Snapshot) {
		s.Generation++
		change(s)
	})
}

// UpdateLoads is Update for a change of nothing but edges' loads, which are there to
// be seen: what regions turn viewers away for them is another change.
func (b *Board) UpdateLoads(change func(*Snapshot)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.current.Load().clone()
	change(next)
	b.current.Store(next)
}
