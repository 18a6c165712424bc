package region

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// MaxPathways bounds how many edges one playback session is offered
// (the best region's edge, its sibling, the best edge of other regions).
const MaxPathways = 5

// Table is the region table.
type Table struct {
	// Zone is the DNS zone the routers answer for, without a trailing dot.
	// Edges are {edge}.edge.{zone}, routers {region}.play.{zone}.
	Zone string `yaml:"zone"`
	// Records are further records of the zone in master file format (RFC 1035, 5),
	// names relative to the zone. The routers check and serve them.
	Records string `yaml:"records,omitempty"`
	// Regions in the operator's order of preference.
	Regions []Region `yaml:"regions"`
}

// Region is one place the platform runs in.
type Region struct {
	// Name is a DNS label: "eu".
	Name string `yaml:"name"`
	// Place is the name people know it by: "Frankfurt".
	Place string `yaml:"place"`
	// Latitude and Longitude in degrees, WGS 84.
	Latitude  float64 `yaml:"latitude"`
	Longitude float64 `yaml:"longitude"`
	// Control regions hold quorum for Postgres, etcd and JetStream; the others only serve.
	Control bool `yaml:"control"`
	// API is the base URL of the region's HTTP API.
	API string `yaml:"api"`
	// Router is the region's router.
	Router Router `yaml:"router"`
	// Edges are the region's edge caches.
	Edges []Edge `yaml:"edges"`
	// S3 is the base URL of the region's object store.
	S3 string `yaml:"s3"`
	// NATS is the client URL of the region's NATS server.
	NATS string `yaml:"nats"`
	// Postgres is the host:port of the region's Postgres member; empty in serving-only regions.
	Postgres string `yaml:"postgres"`
	// RTT is the expected round-trip time to every other region.
	RTT map[string]Duration `yaml:"rtt"`
}

// Router answers DNS, 302 and steering for a region.
type Router struct {
	// URL is the public base URL for playback and steering.
	URL string `yaml:"url"`
	// DNS is the host:port of the authoritative name server (UDP and TCP).
	DNS string `yaml:"dns"`
	// Addresses are further public ones at which both answer on the same ports, those
	// of the other family as a rule. The name server names them with the first.
	Addresses []netip.Addr `yaml:"addresses,omitempty"`
}

// Edge is one edge cache. A pathway is an edge, so Name is also a PATHWAY-ID.
type Edge struct {
	// Name is a DNS label, unique over all regions: "eu-1".
	Name string `yaml:"name"`
	// URL is the public base URL.
	URL string `yaml:"url"`
	// Addresses are the public addresses the name server answers with.
	Addresses []netip.Addr `yaml:"addresses"`
}

// Duration is a time.Duration written as "90ms" in YAML.
type Duration time.Duration

// UnmarshalText parses a Go duration string.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

// MarshalText renders d as a Go duration string.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Load reads and validates the table at path.
func Load(path string) (*Table, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("region table: %w", err)
	}
	t, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("region table %s: %w", path, err)
	}
	return t, nil
}

// Parse decodes a table strictly (unknown fields are errors) and validates it.
func Parse(b []byte) (*Table, error) {
	var t Table
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&t); err != nil {
		return nil, err
	}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	return &t, nil
}

// Marshal renders the table as YAML that Parse accepts.
func (t *Table) Marshal() ([]byte, error) { return yaml.Marshal(t) }

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// IsName reports whether a region may have the name.
func IsName(name string) bool { return label.MatchString(name) }

// Validate returns every problem of the table, joined.
func (t *Table) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if t.Zone == "" || strings.HasSuffix(t.Zone, ".") {
		bad("zone %q: want a domain without trailing dot", t.Zone)
	}
	if len(t.Regions) == 0 {
		bad("regions: want at least one")
	}
	names, edges, control := map[string]bool{}, map[string]bool{}, 0
	for _, r := range t.Regions {
		names[r.Name] = true
	}
	seen := map[string]bool{}
	for i, r := range t.Regions {
		at := fmt.Sprintf("regions[%d] (%s)", i, r.Name)
		if !label.MatchString(r.Name) {
			bad("%s: name must be a DNS label", at)
		}
		if seen[r.Name] {
			bad("%s: name used twice", at)
		}
		seen[r.Name] = true
		if r.Latitude < -90 || r.Latitude > 90 || r.Longitude < -180 || r.Longitude > 180 {
			bad("%s: latitude %v, longitude %v out of range", at, r.Latitude, r.Longitude)
		}
		for _, u := range []struct{ field, v, scheme string }{
			{"api", r.API, "http"}, {"router.url", r.Router.URL, "http"}, {"s3", r.S3, "http"}, {"nats", r.NATS, "nats"},
		} {
			if err := checkURL(u.v, u.scheme); err != nil {
				bad("%s: %s: %w", at, u.field, err)
			}
		}
		if r.Router.DNS == "" {
			bad("%s: router.dns: want host:port", at)
		}
		for _, a := range r.Router.Addresses {
			if !a.IsValid() || a.IsUnspecified() || a.Zone() != "" {
				bad("%s: router.addresses: %v: want an address others can reach", at, a)
			}
		}
		if r.Control {
			control++
			if r.Postgres == "" {
				bad("%s: postgres: want host:port in a control region", at)
			}
		}
		if len(r.Edges) == 0 {
			bad("%s: edges: want at least one", at)
		}
		for _, e := range r.Edges {
			if !label.MatchString(e.Name) {
				bad("%s: edge %q: name must be a DNS label", at, e.Name)
			}
			if edges[e.Name] {
				bad("%s: edge %q: name used twice", at, e.Name)
			}
			edges[e.Name] = true
			if err := checkURL(e.URL, "http"); err != nil {
				bad("%s: edge %q: url: %w", at, e.Name, err)
			}
			if len(e.Addresses) == 0 {
				bad("%s: edge %q: addresses: want at least one", at, e.Name)
			}
		}
		for other, d := range r.RTT {
			if !names[other] || other == r.Name {
				bad("%s: rtt: no other region %q", at, other)
			}
			if d <= 0 {
				bad("%s: rtt to %s: want a positive duration", at, other)
			}
		}
		for other := range names {
			if _, ok := r.RTT[other]; !ok && other != r.Name {
				bad("%s: rtt: missing %q", at, other)
			}
		}
	}
	if len(t.Regions) > 0 && control == 0 {
		bad("regions: want at least one with control: true")
	}
	return errors.Join(errs...)
}

func checkURL(s, scheme string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	ok := u.Scheme == scheme || (scheme == "http" && u.Scheme == "https") || (scheme == "nats" && u.Scheme == "tls")
	if !ok || u.Host == "" || strings.HasSuffix(u.Path, "/") {
		return fmt.Errorf("%q: want a %s URL without trailing slash", s, scheme)
	}
	return nil
}

// Get returns the named region.
func (t *Table) Get(name string) (Region, bool) {
	i := slices.IndexFunc(t.Regions, func(r Region) bool { return r.Name == name })
	if i < 0 {
		return Region{}, false
	}
	return t.Regions[i], true
}

// Names returns the region names in table order.
func (t *Table) Names() []string {
	out := make([]string, len(t.Regions))
	for i, r := range t.Regions {
		out[i] = r.Name
	}
	return out
}

// Nearest returns all regions in order of round-trip time from the named one,
// itself first; ties keep table order. An unknown name gives table order.
func (t *Table) Nearest(from string) []Region {
	out := slices.Clone(t.Regions)
	self, ok := t.Get(from)
	if !ok {
		return out
	}
	slices.SortStableFunc(out, func(a, b Region) int {
		return int(self.rtt(a.Name) - self.rtt(b.Name))
	})
	return out
}

// NameServers returns host:port of all regions' name servers, in the order of Nearest.
func (t *Table) NameServers(from string) []string {
	var out []string
	for _, r := range t.Nearest(from) {
		out = append(out, r.Router.DNS)
	}
	return out
}

func (r Region) rtt(to string) time.Duration {
	if to == r.Name {
		return -1
	}
	return time.Duration(r.RTT[to])
}

// Farthest is the round-trip time from the named region to the one farthest from it,
// 0 if it is alone or unknown.
func (t *Table) Farthest(from string) time.Duration {
	var farthest time.Duration
	if self, ok := t.Get(from); ok {
		for _, d := range self.RTT {
			farthest = max(farthest, time.Duration(d))
		}
	}
	return farthest
}

// Edge returns the named edge and its region.
func (t *Table) Edge(name string) (Edge, Region, bool) {
	for _, r := range t.Regions {
		for _, e := range r.Edges {
			if e.Name == name {
				return e, r, true
			}
		}
	}
	return Edge{}, Region{}, false
}

// Copies is how many regions must have acknowledged an object before it counts.
func (t *Table) Copies() int { return min(2, len(t.Regions)) }

// PostgresDSNHosts returns the comma-separated host:port list of all Postgres
// members, the named region's first, for a multi-host connection string.
func (t *Table) PostgresDSNHosts(from string) string {
	var hosts []string
	for _, r := range t.Nearest(from) {
		if r.Postgres != "" {
			hosts = append(hosts, r.Postgres)
		}
	}
	return strings.Join(hosts, ",")
}

// NATSURLs returns the client URLs of all NATS servers, the named region's first.
func (t *Table) NATSURLs(from string) []string {
	var out []string
	for _, r := range t.Nearest(from) {
		out = append(out, r.NATS)
	}
	return out
}
