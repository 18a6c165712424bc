package geo

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/meridian-video/meridian/internal/region"
)

// tieKm is the distance within which two regions count as equally near: the
// databases are no more precise than that.
const tieKm = 50

// Query is what a decision is asked about.
type Query struct {
	// Addr is the viewer's address, or the network address of a client subnet.
	Addr netip.Addr
	// Key spreads content over the edges of a region: the asset. Without one the
	// viewers are spread, by network (Spot).
	Key string
	// Allowed names the regions the content may be served from; empty means all.
	Allowed []string
}

// Class is why a region stands where it does, for metrics and machines.
type Class string

// The classes, best first.
const (
	Nearest    Class = "nearest"
	Farther    Class = "farther"
	Overridden Class = "overridden"
	// Kept: it would shed, but no other region is near enough.
	Kept       Class = "kept"
	TableOrder Class = "table_order"
	Shed       Class = "shed"
	Drained    Class = "drained"
	NoWeight   Class = "no_weight"
	Down       Class = "down"
	NotAllowed Class = "not_allowed"
)

// Choice is one region of a decision.
type Choice struct {
	Region *Region
	// Edges of the region, the one to use first first: working ones in the order
	// of their hash with the query's key, then the others.
	Edges []*Edge
	Class Class
	// Kilometres from the viewer, NaN when the viewer's place is unknown.
	Kilometres float64

	run    int  // regions of one run are equally near
	beyond bool // farther from the viewer than overflow may lead
	as     AS   // that an Overridden one is for, 0 for a network
}

// Allowed reports whether the region may be offered.
func (c *Choice) Allowed() bool { return c.Class != NotAllowed }

// Up reports whether any edge of the region works.
func (c *Choice) Up() bool { return c.Region.Up() }

// Decision is the order of all regions for one viewer.
type Decision struct {
	Location Location
	// Network is the widest network around the viewer for which the order by
	// distance is the same.
	Network netip.Prefix
	// Choices holds every region of the snapshot once, best first.
	Choices []Choice
	// Alarm is set when no allowed region works.
	Alarm bool
	// Alone is set when health is this router's own view only.
	Alone bool
	// Doubt is set while this router may be the one that is cut off.
	Doubt bool
}

// Decide orders all regions of s for q. It reads nothing else and keeps nothing.
func Decide(s *Snapshot, q Query) Decision {
	var l Location
	switch {
	case s.Geo == nil:
		l.Why = WhyNoDatabase
	case !q.Addr.IsValid():
		l.Why = WhyNoAddress
	default:
		l = s.Geo.Locate(q.Addr)
	}
	var d Decision
	if s.Orders != nil {
		id, length := s.Orders.Lookup(q.Addr)
		o := s.Orders.Order(id)
		d = Arrange(s, o, SpotOf(q.Addr), q.Key, q.Allowed)
		if o.system {
			d.overriddenFor(s.Systems.System(q.Addr).Number)
		}
		if q.Addr.IsValid() {
			d.Network = netip.PrefixFrom(q.Addr.Unmap().WithZone(""), length).Masked()
		}
	} else {
		o := orderOf(l, s.places(), s.OverflowKm)
		d = Arrange(s, &o, SpotOf(q.Addr), q.Key, q.Allowed)
		d.Network = l.Network
	}
	d.Location = l
	for i := range d.Choices {
		if c := &d.Choices[i]; l.Known {
			c.Kilometres = l.Point.Kilometres(c.Region.At)
		}
	}
	return d
}

// overriddenFor notes which system's override it was.
func (d *Decision) overriddenFor(n AS) {
	for i := range d.Choices {
		if d.Choices[i].Class == Overridden {
			d.Choices[i].as = n
		}
	}
}

// Arrange is Decide for viewers whose order and spot are known already. The
// decision lacks location and distances.
func Arrange(s *Snapshot, o *Order, spot Spot, key string, only []string) Decision {
	d := Decision{Alone: s.Alone, Doubt: s.Doubt != nil, Alarm: true, Choices: make([]Choice, len(s.Regions))}
	if key == "" {
		key = strconv.Itoa(spot.Edge)
	}
	for i, rk := range o.ranks {
		r := &s.Regions[rk.region]
		c := &d.Choices[i]
		*c = Choice{Region: r, Kilometres: math.NaN(), Edges: rankEdges(r, key), run: rk.run, beyond: rk.beyond}
		up := r.Up()
		switch {
		case len(only) > 0 && !slices.Contains(only, r.Name):
			c.Class = NotAllowed
		case !up:
			c.Class = Down
		case r.Weight <= 0:
			c.Class = NoWeight
		case r.Drained:
			c.Class = Drained
		case r.turnsAway(rk.region, spot):
			c.Class = Shed
		case o.override && i == 0:
			c.Class = Overridden
		case o.known:
			c.Class = Farther
		default:
			c.Class = TableOrder
		}
		if c.Class != NotAllowed && up {
			d.Alarm = false
		}
	}
	keepWithoutOthers(s, o.known, d.Choices)
	slices.SortStableFunc(d.Choices, func(a, b Choice) int {
		byWeight := 0
		if a.run == b.run {
			byWeight = cmp.Compare(b.Region.Weight, a.Region.Weight)
		}
		return cmp.Or(cmp.Compare(tier(a.Class), tier(b.Class)), cmp.Compare(a.run, b.run), byWeight)
	})
	if len(d.Choices) > 0 && d.Choices[0].Class == Farther {
		d.Choices[0].Class = Nearest
	}
	return d
}

// keepWithoutOthers lets regions take all their viewers when no region without
// cause to turn any away lies within the distance cap: of the viewer, or, where
// nobody knows the viewer's place, of the region itself.
func keepWithoutOthers(s *Snapshot, known bool, cs []Choice) {
	if s.OverflowKm <= 0 {
		return
	}
	for i := range cs {
		if cs[i].Class != Shed {
			continue
		}
		others := slices.ContainsFunc(cs, func(o Choice) bool {
			if tier(o.Class) != 0 {
				return false
			}
			if known {
				return !o.beyond
			}
			return o.Region.At.Kilometres(cs[i].Region.At) <= s.OverflowKm
		})
		if !others {
			cs[i].Class = Kept
		}
	}
}

// Viewers are spread over a region's edges by coarse networks, so that answers
// hold for much of the address space; over regions that turn a share of their
// viewers away by fine ones, so that shares are even.
const (
	EdgeSpots  = 16
	ShareSpots = 64

	edgeNet4, edgeNet6   = 16, 32
	shareNet4, shareNet6 = 24, 48
)

// Spot is where an address lies in the spread of viewers.
type Spot struct {
	// Edge is below EdgeSpots, Share below ShareSpots.
	Edge, Share int
}

// SpotOf returns an address's spot; the zero spot without one. It allocates nothing.
func SpotOf(a netip.Addr) Spot {
	if !a.IsValid() {
		return Spot{}
	}
	a = a.Unmap()
	x := numberOf(a)
	if a.Is4() {
		return Spot{int(mix(x.lo>>(32-edgeNet4)) % EdgeSpots), int(mix(x.lo>>(32-shareNet4)) % ShareSpots)}
	}
	return Spot{int(mix(x.hi>>(64-edgeNet6)) % EdgeSpots), int(mix(x.hi>>(64-shareNet6)) % ShareSpots)}
}

// EdgeBits is how many bits of an address its edge spot depends on.
func EdgeBits(a netip.Addr) int {
	if a.Unmap().Is4() {
		return edgeNet4
	}
	return edgeNet6
}

// ShareBits is how many bits of an address its share spot depends on.
func ShareBits(a netip.Addr) int {
	if a.Unmap().Is4() {
		return shareNet4
	}
	return shareNet6
}

// mix is the finalizer of splitmix64 (Steele, Lea, Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// tier orders the classes; distance (or table order) orders within one.
func tier(c Class) int {
	switch c {
	case Shed:
		return 1
	case Drained:
		return 2
	case NoWeight:
		return 3
	case Down:
		return 4
	case NotAllowed:
		return 5
	default:
		return 0
	}
}

// Reason says in a few words, for people, why the region stands where it does:
// "nearest 410 km". It is put together when asked for, not for every answer.
func (c *Choice) Reason() string {
	switch c.Class {
	case Nearest:
		return fmt.Sprintf("nearest %.0f km", c.Kilometres)
	case Farther:
		return fmt.Sprintf("farther %.0f km", c.Kilometres)
	case Kept:
		return "would turn viewers away (" + c.Region.shedWhy() + "), but no other region is near enough"
	case Overridden:
		if c.as != 0 {
			return "the operator's override for " + c.as.String()
		}
		return "the operator's override for this network"
	case TableOrder:
		return "unknown location: table order"
	case Shed:
		return fmt.Sprintf("takes %.0f %% of its viewers, not this one: %s", 100*c.Region.Takes(), c.Region.shedWhy())
	case Drained:
		return "drained by the operator"
	case NoWeight:
		return "weight 0"
	case NotAllowed:
		return "not allowed: the asset is pinned to other regions"
	}
	return "down: " + c.Region.downWhy()
}

// rankEdges orders a region's edges by rendezvous hashing: a key keeps its edge
// when others come and go, and the keys of a lost edge spread over the rest.
func rankEdges(r *Region, key string) []*Edge {
	type ranked struct {
		e *Edge
		h uint64
	}
	var few [8]ranked // no allocation for regions of ordinary size
	rs := few[:0]
	for i := range r.Edges {
		rs = append(rs, ranked{&r.Edges[i], Hash(key, r.Edges[i].Name)})
	}
	slices.SortFunc(rs, func(a, b ranked) int {
		if a.e.Health.Down != b.e.Health.Down {
			if a.e.Health.Down {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.h, a.h), cmp.Compare(a.e.Name, b.e.Name))
	})
	out := make([]*Edge, len(rs))
	for i := range rs {
		out[i] = rs[i].e
	}
	return out
}

// Hash is the rendezvous hash of a key and a node. It is part of the contract
// between routers: all must send a key to the same edge.
func Hash(key, node string) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(key)
	_, _ = d.Write([]byte{0})
	_, _ = d.WriteString(node)
	return d.Sum64()
}

// maxOtherRegions is how many regions besides the best a session is offered.
const maxOtherRegions = 3

// Pathways returns the edges offered to one playback session, in order: the
// best region's edge for the decision's key, its sibling, then the best edge of
// every other allowed region, at most three. Edges that are down come last but
// stay in the list: a list of one disables the player's own fail-over.
func Pathways(d Decision) []*Edge {
	var up, down []*Edge
	add := func(e *Edge) {
		if len(up)+len(down) >= region.MaxPathways {
			return
		}
		if e.Health.Down {
			down = append(down, e)
		} else {
			up = append(up, e)
		}
	}
	n := 0
	for i := range d.Choices {
		c := &d.Choices[i]
		if !c.Allowed() || len(c.Edges) == 0 || n > maxOtherRegions {
			continue
		}
		add(c.Edges[0])
		if n == 0 && len(c.Edges) > 1 {
			add(c.Edges[1])
		}
		n++
	}
	return append(up, down...)
}
