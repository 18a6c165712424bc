package geo

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oschwald/geoip2-golang/v2"
	"github.com/oschwald/maxminddb-golang/v2"
)

// AS is the number of an autonomous system: the networks that one operator routes. 0
// is none (RFC 7607).
type AS uint32

// String is as people write it: AS64500.
func (n AS) String() string { return "AS" + strconv.FormatUint(uint64(n), 10) }

// ParseAS reads what String writes, in either case.
func ParseAS(s string) (AS, error) {
	if len(s) > 2 && strings.EqualFold(s[:2], "AS") {
		if n, err := strconv.ParseUint(s[2:], 10, 32); err == nil && n > 0 {
			return AS(n), nil
		}
	}
	return 0, fmt.Errorf("%q: want an autonomous system: AS64500", s)
}

// System is the autonomous system an address belongs to; the zero value is unknown.
type System struct {
	Number       AS
	Organization string
}

// SystemOverride sends an autonomous system's viewers to a region, as an operator
// wants it.
type SystemOverride struct {
	AS     AS
	Region string
}

// ASNDatabase is one immutable database of autonomous systems, held in memory.
type ASNDatabase struct {
	reader *maxminddb.Reader
	// Built is when the database was made.
	Built time.Time
	// Type is the database's own name for its kind: "GeoLite2-ASN".
	Type string
	// networks of each system, so that overrides are laid without reading it all again.
	networks map[AS]*systemNetworks
	file
}

// systemNetworks are disjoint, in ascending order.
type systemNetworks struct{ v4, v6 []block }

// block is a run of addresses, both ends included.
type block struct{ first, last uint128 }

// OpenASNDatabase reads the ASN database at path, all of it.
func OpenASNDatabase(path string) (*ASNDatabase, error) {
	return openFile("ASN database", path, ParseASNDatabase)
}

// ParseASNDatabase opens an ASN database, and refuses one of which any record is
// damaged. It keeps b.
func ParseASNDatabase(b []byte) (*ASNDatabase, error) {
	r, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, err
	}
	db := &ASNDatabase{reader: r, Built: r.Metadata.BuildTime().UTC(), Type: r.Metadata.DatabaseType,
		networks: map[AS]*systemNetworks{}, file: fileOf(b)}
	seen := map[uintptr]AS{} // many networks share a record
	for found := range r.Networks() {
		if err := found.Err(); err != nil {
			return nil, err
		}
		n, ok := seen[found.Offset()]
		if !ok {
			s, err := systemOf(found)
			if err != nil {
				return nil, fmt.Errorf("the record of %v: %w", found.Prefix(), err)
			}
			n = s.Number
			seen[found.Offset()] = n
		}
		if n != 0 {
			db.add(n, found.Prefix())
		}
	}
	if len(db.networks) == 0 {
		return nil, errors.New("no record names an autonomous system")
	}
	return db, nil
}

// systemOf says what a record knows.
func systemOf(found maxminddb.Result) (System, error) {
	var a geoip2.ASN
	if err := found.Decode(&a); err != nil {
		return System{}, err
	}
	if uint64(a.AutonomousSystemNumber) > math.MaxUint32 {
		return System{}, fmt.Errorf("AS number %d: larger than 32 bits", a.AutonomousSystemNumber)
	}
	return System{AS(a.AutonomousSystemNumber), a.AutonomousSystemOrganization}, nil
}

// add notes a network of a system; they come in ascending order.
func (d *ASNDatabase) add(n AS, p netip.Prefix) {
	of := d.networks[n]
	if of == nil {
		of = &systemNetworks{}
		d.networks[n] = of
	}
	to := &of.v4
	if !p.Addr().Is4() {
		if transitional(p.Addr()) {
			return
		}
		to = &of.v6
	}
	first, last := span(p)
	if i := len(*to) - 1; i >= 0 && (*to)[i].last.next() == first {
		(*to)[i].last = last
		return
	}
	*to = append(*to, block{first, last})
}

// Has reports whether the database knows networks of a system.
func (d *ASNDatabase) Has(n AS) bool { return d != nil && d.networks[n] != nil }

// System returns what is known about an address's system.
func (d *ASNDatabase) System(addr netip.Addr) System {
	addr = addr.Unmap().WithZone("")
	if d == nil || !addr.IsValid() || transitional(addr) {
		return System{}
	}
	s, err := systemOf(d.reader.Lookup(addr))
	if err != nil { // an IPv6 address, and the database knows IPv4 alone: all records were read
		return System{}
	}
	return s
}

func (d *ASNDatabase) read() *file {
	if d == nil {
		return nil
	}
	return &d.file
}

// WatchASNDatabase is WatchDatabase for an ASN database.
func WatchASNDatabase(ctx context.Context, path string, every time.Duration, current *ASNDatabase,
	changed func(*ASNDatabase), failed func(error)) {
	watch(ctx, path, every, current, OpenASNDatabase, changed, failed)
}

// moves are the networks of the systems that overrides name, in ascending order;
// regions are named by index. Without a database there are none.
func (d *ASNDatabase) moves(overrides []SystemOverride, index func(region string) int) (v4, v6 []move, err error) {
	to := map[AS]int{} // of two overrides of a system the later counts
	for _, o := range overrides {
		region := index(o.Region)
		if region < 0 {
			return nil, nil, fmt.Errorf("override %s: no region %q in the region table", o.AS, o.Region)
		}
		to[o.AS] = region
	}
	if d == nil {
		return nil, nil, nil
	}
	for n, region := range to {
		of := d.networks[n]
		if of == nil {
			continue
		}
		for _, b := range of.v4 {
			v4 = append(v4, move{b, region})
		}
		for _, b := range of.v6 {
			v6 = append(v6, move{b, region})
		}
	}
	ascending := func(a, b move) int { return a.first.cmp(b.first) }
	slices.SortFunc(v4, ascending)
	slices.SortFunc(v6, ascending)
	return v4, v6, nil
}
