package geo

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

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
	// viewers are spread, by the network that shares their location.
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
	TableOrder Class = "table_order"
	Full       Class = "full"
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
}

// Allowed reports whether the region may be offered.
func (c *Choice) Allowed() bool { return c.Class != NotAllowed }

// Up reports whether any edge of the region works.
func (c *Choice) Up() bool { return c.Region.Up() }

// Decision is the order of all regions for one viewer.
type Decision struct {
	Location Location
	// Choices holds every region of the snapshot once, best first.
	Choices []Choice
	// Alarm is set when no allowed region works.
	Alarm bool
	// Alone is set when health is this router's own view only.
	Alone bool
}

// Decide orders all regions of s for q. It reads nothing else and keeps nothing.
func Decide(s *Snapshot, q Query) Decision {
	d := Decision{Alone: s.Alone, Alarm: true, Choices: make([]Choice, len(s.Regions))}
	switch {
	case s.Geo == nil:
		d.Location.Why = WhyNoDatabase
	case !q.Addr.IsValid():
		d.Location.Why = WhyNoAddress
	default:
		d.Location = s.Geo.Locate(q.Addr)
	}
	key := q.Key
	if key == "" && d.Location.Network.IsValid() {
		key = d.Location.Network.String()
	}
	for i := range s.Regions {
		r := &s.Regions[i]
		c := &d.Choices[i]
		*c = Choice{Region: r, Kilometres: math.NaN(), Edges: rankEdges(r, key)}
		if d.Location.Known {
			c.Kilometres = d.Location.Point.Kilometres(r.At)
		}
		up := r.Up()
		switch {
		case len(q.Allowed) > 0 && !slices.Contains(q.Allowed, r.Name):
			c.Class = NotAllowed
		case !up:
			c.Class = Down
		case r.Weight <= 0:
			c.Class = NoWeight
		case r.Drained:
			c.Class = Drained
		case r.Full:
			c.Class = Full
		case d.Location.Known:
			c.Class = Farther
		default:
			c.Class = TableOrder
		}
		if c.Class != NotAllowed && up {
			d.Alarm = false
		}
	}
	if d.Location.Known {
		slices.SortStableFunc(d.Choices, func(a, b Choice) int { return cmp.Compare(a.Kilometres, b.Kilometres) })
		breakTies(d.Choices)
	}
	slices.SortStableFunc(d.Choices, func(a, b Choice) int { return cmp.Compare(tier(a.Class), tier(b.Class)) })
	if len(d.Choices) > 0 && d.Choices[0].Class == Farther {
		d.Choices[0].Class = Nearest
	}
	return d
}

// tier orders the classes; distance (or table order) orders within one.
func tier(c Class) int {
	switch c {
	case Full:
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

// breakTies reorders, by weight, runs of choices that lie within tieKm of the
// run's first. The choices come sorted by distance, equal ones in table order.
func breakTies(cs []Choice) {
	for start := 0; start < len(cs); {
		end := start + 1
		for end < len(cs) && cs[end].Kilometres-cs[start].Kilometres <= tieKm {
			end++
		}
		slices.SortStableFunc(cs[start:end], func(a, b Choice) int { return cmp.Compare(b.Region.Weight, a.Region.Weight) })
		start = end
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
	case TableOrder:
		return "unknown location: table order"
	case Full:
		return "full: load above its capacity"
	case Drained:
		return "drained by the operator"
	case NoWeight:
		return "weight 0"
	case NotAllowed:
		return "not allowed: the asset is pinned to other regions"
	}
	var why []string
	for _, e := range c.Region.Edges {
		if !slices.Contains(why, e.Health.Why) {
			why = append(why, e.Health.Why)
		}
	}
	return "down: " + strings.Join(why, ", ")
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
