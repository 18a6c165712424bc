package geo

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/oschwald/geoip2-golang/v2"
	"github.com/oschwald/maxminddb-golang/v2"
)

// maxAccuracyKm is the accuracy radius above which a location says too little
// to choose a region by.
const maxAccuracyKm = 1000

// Why a location is unknown.
const (
	WhyNoDatabase  = "no geo database"
	WhyNotFound    = "not in the geo database"
	WhyCountryOnly = "only the country is known"
	WhyAnonymous   = "anonymous or satellite network"
	WhyAnycast     = "anycast network"
	WhyImprecise   = "accuracy radius too large"
	WhyNoAddress   = "no viewer address"
	WhyTransition  = "6to4, Teredo or IPv4-compatible address"
)

// Point is a place on Earth in degrees, WGS 84.
type Point struct{ Latitude, Longitude float64 }

// earthRadiusKm is the mean radius.
const earthRadiusKm = 6371.0

// Kilometres is the great-circle distance to q.
func (p Point) Kilometres(q Point) float64 {
	const rad = math.Pi / 180
	la, lb := p.Latitude*rad, q.Latitude*rad
	sla, slo := math.Sin((lb-la)/2), math.Sin((q.Longitude-p.Longitude)*rad/2)
	h := sla*sla + math.Cos(la)*math.Cos(lb)*slo*slo
	return 2 * earthRadiusKm * math.Asin(math.Sqrt(min(1, h)))
}

// Location is what is known about an address.
type Location struct {
	// Known tells whether Point may be used; Why says why not.
	Known bool
	Why   string
	Point Point
	// Network is the largest network that shares this location, so an answer
	// for the address holds for all of it.
	Network netip.Prefix
	// Continent and Country codes and the city's English name, as far as known.
	Continent, Country, City string
}

// Locator finds the location of an address. It must be safe for concurrent use.
type Locator interface {
	Locate(addr netip.Addr) Location
}

// Database is one immutable geo database, held in memory so that replacing the
// file never pulls mapped pages from under a lookup.
type Database struct {
	// The reader beneath geoip2's own, which opens only a list of database types:
	// here any database whose records hold "location" will do.
	reader *maxminddb.Reader
	// Built is when the database was made.
	Built time.Time
	// Type is the database's own name for its kind: "GeoLite2-City".
	Type string
	file
}

// OpenDatabase reads the city database at path and checks that it can answer.
func OpenDatabase(path string) (*Database, error) {
	return openFile("geo database", path, ParseDatabase)
}

// probeAddresses are looked up before a database is accepted: a truncated data
// section parses, and fails only when it is read.
var probeAddresses = []netip.Addr{
	netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("81.2.69.142"), netip.MustParseAddr("127.11.0.1"),
	netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:218::1"), netip.MustParseAddr("2a02::1"),
}

// ParseDatabase checks and opens a city database. It keeps b.
func ParseDatabase(b []byte) (*Database, error) {
	r, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, err
	}
	db := &Database{reader: r, Built: r.Metadata.BuildTime().UTC(), Type: r.Metadata.DatabaseType, file: fileOf(b)}
	for _, a := range probeAddresses {
		if a.Is6() && r.Metadata.IPVersion == 4 {
			continue
		}
		if err := r.Lookup(a).Decode(new(geoip2.City)); err != nil {
			return nil, fmt.Errorf("look up %v: %w", a, err)
		}
	}
	return db, nil
}

// Locate implements Locator. A record that cannot be decoded is an unknown location.
func (d *Database) Locate(addr netip.Addr) Location {
	if d == nil {
		return Location{Why: WhyNoDatabase}
	}
	if !addr.IsValid() {
		return Location{Why: WhyNoAddress}
	}
	addr = addr.Unmap().WithZone("")
	if transitional(addr) {
		return Location{Why: WhyTransition, Network: netip.PrefixFrom(addr, addr.BitLen())}
	}
	found := d.reader.Lookup(addr)
	l, err := locationOf(found)
	if err != nil {
		return Location{Why: WhyNotFound, Network: netip.PrefixFrom(addr, addr.BitLen())}
	}
	l.Network = found.Prefix()
	return l
}

// hidden are traits of networks whose users are elsewhere than the network. City
// databases have had them for as long as there were any, enterprise ones the first
// still; the reader's own type of a city record leaves them out.
type hidden struct {
	Traits struct {
		Anonymous bool `maxminddb:"is_anonymous"`
		Proxy     bool `maxminddb:"is_anonymous_proxy"`
		Satellite bool `maxminddb:"is_satellite_provider"`
	} `maxminddb:"traits"`
}

// locationOf says what a record knows.
func locationOf(found maxminddb.Result) (Location, error) {
	var c geoip2.City
	var h hidden
	if err := errors.Join(found.Decode(&c), found.Decode(&h)); err != nil {
		return Location{}, err
	}
	l := Location{Continent: c.Continent.Code, Country: c.Country.ISOCode, City: c.City.Names.English}
	switch {
	case !c.HasData():
		l.Why = WhyNotFound
	case c.Country.ISOCode == "A1" || c.Country.ISOCode == "A2", h.Traits.Anonymous, h.Traits.Proxy, h.Traits.Satellite:
		l.Why = WhyAnonymous
	case c.Traits.IsAnycast:
		l.Why = WhyAnycast
	case !c.Location.HasCoordinates() || !c.City.HasData() && len(c.Subdivisions) == 0:
		// A record without city or subdivision lies at the middle of
		// its country, which may be nearest to a region none of its people are near.
		l.Why = WhyCountryOnly
	case c.Location.AccuracyRadius > maxAccuracyKm:
		l.Why = WhyImprecise
	default:
		l.Known, l.Point = true, Point{*c.Location.Latitude, *c.Location.Longitude}
	}
	return l, nil
}

func (d *Database) read() *file {
	if d == nil {
		return nil
	}
	return &d.file
}

// WatchDatabase looks at the file at path every interval until ctx ends and
// calls changed with each new good database, or failed with the reason a new
// file was refused, once per version of the file.
func WatchDatabase(ctx context.Context, path string, every time.Duration, current *Database,
	changed func(*Database), failed func(error)) {
	watch(ctx, path, every, current, OpenDatabase, changed, failed)
}
