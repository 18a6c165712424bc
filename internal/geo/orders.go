package geo

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
)

// Order is how regions stand by distance alone, before health, load and the
// operator have their say. Few orders exist, however many networks do.
type Order struct {
	// ID numbers the orders of one table from 0.
	ID int
	// ranks, the nearest first.
	ranks []rank
	// known is whether the order is by distance; else it is the table's.
	known bool
	// override is set when the operator put the first region there; natural is
	// then the number of the order without it.
	override bool
	natural  int
	// system is set when that was for an autonomous system, not for a network.
	system bool
}

// rank is one region's place in an order. Regions of one run are equally near.
type rank struct {
	region, run int
	// beyond is set when the region is farther from the viewer than overflow may lead.
	beyond bool
}

// Override sends a network to a region, as an operator wants it.
type Override struct {
	Network netip.Prefix
	Region  string
}

// orderOf ranks regions for a location; overflow may lead as far as overflowKm, and
// anywhere with 0.
func orderOf(l Location, places []Point, overflowKm float64) Order {
	o := Order{known: l.Known, ranks: make([]rank, len(places))}
	for i := range places {
		o.ranks[i] = rank{region: i, run: i}
	}
	if !l.Known {
		return o
	}
	km := make([]float64, len(places))
	for i, p := range places {
		km[i] = l.Point.Kilometres(p)
	}
	slices.SortStableFunc(o.ranks, func(a, b rank) int { return cmp.Compare(km[a.region], km[b.region]) })
	for i := range o.ranks {
		r := &o.ranks[i]
		r.beyond = overflowKm > 0 && km[r.region] > overflowKm
	}
	for start := 0; start < len(o.ranks); {
		end := start
		// One beyond the cap is never as near as one within it, whatever their weights:
		// so those that overflow may lead to stand first.
		for end < len(o.ranks) && km[o.ranks[end].region]-km[o.ranks[start].region] <= tieKm && o.ranks[end].beyond == o.ranks[start].beyond {
			o.ranks[end].run = start
			end++
		}
		// Ties go by table order until weights say otherwise, so that distances
		// that differ by less than is known about them make one order.
		slices.SortStableFunc(o.ranks[start:end], func(a, b rank) int { return cmp.Compare(a.region, b.region) })
		start = end
	}
	return o
}

// first returns o with region moved to the front.
func (o Order) first(region int) Order {
	n := Order{known: o.known, override: true, natural: o.ID, ranks: make([]rank, 0, len(o.ranks))}
	n.ranks = append(n.ranks, rank{region: region, run: -1})
	for _, r := range o.ranks {
		if r.region == region {
			n.ranks[0].beyond = r.beyond
		} else {
			n.ranks = append(n.ranks, r)
		}
	}
	return n
}

func (o Order) key() string {
	b := fmt.Appendf(nil, "%t %t %t %d", o.known, o.override, o.system, o.natural)
	for _, r := range o.ranks {
		b = binary.AppendVarint(binary.AppendVarint(b, int64(r.region)), int64(r.run))
		b = strconv.AppendBool(b, r.beyond)
	}
	return string(b)
}

// Orders maps every address to its order. Neighbouring networks with one order
// are merged, so that an answer holds for as much of the address space as it
// can. Immutable and safe for concurrent use.
type Orders struct {
	list   []Order
	ids    map[string]uint16
	v4, v6 ranges
}

// ranges cut a family's address space: range i goes from start[i] to the next start.
type ranges struct {
	start []uint128
	id    []uint16
}

type uint128 struct{ hi, lo uint64 }

func (a uint128) cmp(b uint128) int {
	return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo))
}

func (a uint128) next() uint128 {
	lo, carry := bits.Add64(a.lo, 1, 0)
	return uint128{a.hi + carry, lo}
}

func (a uint128) prev() uint128 {
	lo, borrow := bits.Sub64(a.lo, 1, 0)
	return uint128{a.hi - borrow, lo}
}

// common is how many leading bits a and b share.
func (a uint128) common(b uint128) int {
	if x := a.hi ^ b.hi; x != 0 {
		return bits.LeadingZeros64(x)
	}
	return 64 + bits.LeadingZeros64(a.lo^b.lo)
}

func numberOf(a netip.Addr) uint128 {
	if a.Is4() {
		b := a.As4()
		return uint128{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return uint128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// span returns the first and last address of a network.
func span(p netip.Prefix) (first, last uint128) {
	first = numberOf(p.Masked().Addr())
	host := p.Addr().BitLen() - p.Bits()
	last = first
	if host > 64 {
		last.hi |= 1<<(host-64) - 1
		last.lo = ^uint64(0)
	} else if host == 64 {
		last.lo = ^uint64(0)
	} else {
		last.lo |= 1<<host - 1
	}
	return first, last
}

// NewOrders computes the orders of every network in db, which may be nil. It reads
// all of it, and refuses one of which any record is damaged. overflowKm is how far
// from a viewer overflow may lead, 0 any distance.
func NewOrders(db *Database, places []Point, overflowKm float64) (*Orders, error) {
	o := &Orders{ids: map[string]uint16{}}
	unknown, err := o.intern(orderOf(Location{}, places, overflowKm))
	if err != nil {
		return nil, err
	}
	b4, b6 := builder{rest: unknown}, builder{rest: unknown}
	if db != nil {
		seen := map[uintptr]uint16{} // many networks share a record
		for found := range db.reader.Networks() {
			if err := found.Err(); err != nil {
				return nil, fmt.Errorf("geo database: %w", err)
			}
			id, ok := seen[found.Offset()]
			if !ok {
				l, err := locationOf(found)
				if err != nil {
					return nil, fmt.Errorf("geo database: the record of %v: %w", found.Prefix(), err)
				}
				if id, err = o.intern(orderOf(l, places, overflowKm)); err != nil {
					return nil, err
				}
				seen[found.Offset()] = id
			}
			p := found.Prefix()
			switch {
			case p.Addr().Is4():
				b4.add(p, id)
			case !transitional(p.Addr()):
				b6.add(p, id)
			}
		}
	}
	o.v4, o.v6 = b4.done(), b6.done()
	return o, nil
}

// intern returns the number of an order. A table of very many regions could have
// more orders than there are numbers.
func (o *Orders) intern(n Order) (uint16, error) {
	k := n.key()
	if id, ok := o.ids[k]; ok {
		return id, nil
	}
	if len(o.list) > 1<<16-1 {
		return 0, fmt.Errorf("geo: more than %d orders of regions", len(o.list))
	}
	n.ID = len(o.list)
	o.list = append(o.list, n)
	o.ids[k] = uint16(n.ID)
	return uint16(n.ID), nil
}

// builder makes ranges from networks in ascending order; rest is the order of
// the addresses between them.
type builder struct {
	r    ranges
	rest uint16
	next uint128
	full bool // the space has been covered to its end
}

func (b *builder) add(p netip.Prefix, id uint16) {
	first, last := span(p)
	if b.next.cmp(first) < 0 {
		b.put(b.next, b.rest)
	}
	b.put(first, id)
	b.next = last.next()
	b.full = b.next == uint128{}
}

func (b *builder) put(start uint128, id uint16) {
	if n := len(b.r.id); n > 0 && b.r.id[n-1] == id {
		return
	}
	b.r.start, b.r.id = append(b.r.start, start), append(b.r.id, id)
}

func (b *builder) done() ranges {
	if !b.full {
		b.put(b.next, b.rest)
	}
	b.r.start, b.r.id = slices.Clip(b.r.start), slices.Clip(b.r.id)
	return b.r
}

// With returns the orders with an operator's overrides laid over them: those of
// autonomous systems, whose networks db knows, and over these those of networks, of
// which the longest that holds an address counts. Regions are named by index.
func (o *Orders) With(systems []SystemOverride, db *ASNDatabase, networks []Override, index func(region string) int) (*Orders, error) {
	if len(systems) == 0 && len(networks) == 0 {
		return o, nil
	}
	n := &Orders{list: slices.Clone(o.list), ids: maps.Clone(o.ids), v4: o.v4, v6: o.v6}
	v4, v6, err := db.moves(systems, index)
	if err != nil {
		return nil, err
	}
	if err := n.lay(v4, v6, true); err != nil {
		return nil, err
	}
	sorted := slices.Clone(networks)
	slices.SortStableFunc(sorted, func(a, b Override) int { return cmp.Compare(a.Network.Bits(), b.Network.Bits()) })
	for _, v := range sorted {
		region := index(v.Region)
		if region < 0 {
			return nil, fmt.Errorf("override %s: no region %q in the region table", v.Network, v.Region)
		}
		first, last := span(v.Network)
		v4, v6 = []move{{block{first, last}, region}}, nil
		if !v.Network.Addr().Is4() {
			v4, v6 = nil, v4
		}
		if err := n.lay(v4, v6, false); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// move sends a block of addresses to a region.
type move struct {
	block
	region int
}

// lay changes the orders of blocks in ascending order; system is whether they are
// those of autonomous systems.
func (o *Orders) lay(v4, v6 []move, system bool) error {
	type pair struct {
		id     uint16
		region int
	}
	done := map[pair]uint16{}
	change := func(id uint16, region int) (uint16, error) {
		if to, ok := done[pair{id, region}]; ok {
			return to, nil
		}
		was := o.list[id]
		if was.override { // a longer network inside a shorter one, or in a system
			was = o.list[was.natural]
		}
		now := was.first(region)
		now.system = system
		to, err := o.intern(now)
		done[pair{id, region}] = to
		return to, err
	}
	var err4, err6 error
	o.v4, err4 = o.v4.over(v4, change)
	o.v6, err6 = o.v6.over(v6, change)
	return errors.Join(err4, err6)
}

// over returns the ranges with those of disjoint blocks in ascending order changed,
// in one pass: a system may have thousands.
func (r ranges) over(moves []move, change func(id uint16, region int) (uint16, error)) (ranges, error) {
	if len(moves) == 0 {
		return r, nil
	}
	var b builder
	for i := range r.start {
		from, whole := r.start[i], false
		to := uint128{^uint64(0), ^uint64(0)} // inclusive
		if i+1 < len(r.start) {
			to = r.start[i+1].prev()
		}
		for !whole && len(moves) > 0 && moves[0].first.cmp(to) <= 0 {
			m := moves[0]
			if from.cmp(m.first) < 0 {
				b.put(from, r.id[i])
				from = m.first
			}
			id, err := change(r.id[i], m.region)
			if err != nil {
				return ranges{}, err
			}
			b.put(from, id)
			whole = m.last.cmp(to) >= 0
			if m.last.cmp(to) <= 0 {
				moves = moves[1:]
			}
			from = m.last.next()
		}
		if !whole {
			b.put(from, r.id[i])
		}
	}
	b.full = true
	return b.done(), nil
}

// Len is how many orders there are.
func (o *Orders) Len() int { return len(o.list) }

// Order returns the order numbered id.
func (o *Orders) Order(id int) *Order { return &o.list[id] }

// Lookup returns the number of an address's order and the length of the widest
// network around the address that shares it. It allocates nothing.
func (o *Orders) Lookup(addr netip.Addr) (id, length int) {
	r, family := &o.v6, 128
	if addr = addr.Unmap(); addr.Is4() {
		r, family = &o.v4, 32
	}
	if !addr.IsValid() {
		return int(r.id[0]), 0
	}
	x := numberOf(addr)
	// The last range that starts at or before x; the first starts at 0.
	lo, hi := 0, len(r.start)
	for hi-lo > 1 {
		m := int(uint(lo+hi) >> 1)
		if r.start[m].cmp(x) <= 0 {
			lo = m
		} else {
			hi = m
		}
	}
	// A network holds x and neither neighbour of the range exactly when it is
	// longer than what x shares with them.
	if lo > 0 {
		length = x.common(r.start[lo].prev()) + 1 - (128 - family)
	}
	if lo+1 < len(r.start) {
		length = max(length, x.common(r.start[lo+1])+1-(128-family))
	}
	return int(r.id[lo]), length
}

var (
	compatible = netip.MustParsePrefix("::/96")
	teredo     = netip.MustParsePrefix("2001::/32")
	sixToFour  = netip.MustParsePrefix("2002::/16")
)

// transitional tells IPv6 addresses that only wrap an IPv4 address: databases
// alias them to it, but where the tunnel's user is, nobody knows (RFC 7526
// retired 6to4).
func transitional(a netip.Addr) bool {
	return a.Is6() && (compatible.Contains(a) || teredo.Contains(a) || sixToFour.Contains(a))
}
