package geodns

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/meridian-video/meridian/internal/region"
)

// recordTypes may be added to the zone. Not among them: what the router makes
// itself (SOA, NS, signatures), aliases, delegations and wildcards, none of which
// the platform's own zone needs.
var recordTypes = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeCAA, dns.TypeMX, dns.TypeSRV,
	dns.TypeHTTPS, dns.TypeSVCB, dns.TypeTLSA, dns.TypePTR, dns.TypeSSHFP, dns.TypeNAPTR}

// maxRecords bounds the records of a zone.
const maxRecords = 10000

// parseRecords reads further records of a zone in master file format (RFC 1035,
// 5), names relative to the zone, without $INCLUDE. It returns every problem.
func parseRecords(zone, text string) ([]dns.RR, error) {
	zone = dns.CanonicalName(zone)
	p := dns.NewZoneParser(strings.NewReader(text), zone, "records")
	p.SetDefaultTTL(ttlFixed)
	var out []dns.RR
	var errs []error
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		h := rr.Header()
		h.Name = dns.CanonicalName(h.Name)
		at := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("records: %s %s: "+format, append([]any{h.Name, dns.TypeToString[h.Rrtype]}, a...)...))
		}
		switch {
		case !dns.IsSubDomain(zone, h.Name):
			at("not in the zone %s", zone)
		case h.Class != dns.ClassINET:
			at("want class IN")
		case !slices.Contains(recordTypes, h.Rrtype):
			at("a record of this type can't be added")
		case strings.HasPrefix(h.Name, "*."):
			at("wildcards can't be added")
		case h.Ttl > 7*24*3600:
			at("TTL %d: want at most a week", h.Ttl)
		}
		if out = append(out, rr); len(out) > maxRecords {
			return nil, fmt.Errorf("records: more than %d", maxRecords)
		}
	}
	if err := p.Err(); err != nil {
		errs = append(errs, fmt.Errorf("records: %w", err))
	}
	return out, errors.Join(errs...)
}

// withoutAddress returns the hosts of the region table's URLs that lie in the zone
// and have no address there. Those of routers and edges come from the table if they
// are named as they should be; those of APIs are the operator's to add.
func (z *zone) withoutAddress(t *region.Table) []string {
	var out []string
	look := func(raw string) {
		u, err := url.Parse(raw)
		if err != nil || !dns.IsSubDomain(z.name, dns.CanonicalName(u.Hostname())) {
			return
		}
		w, err := wireName(u.Hostname())
		if err != nil {
			return
		}
		n := z.nodes[string(w)]
		if n == nil || n.chosen == nil && len(n.sets[dns.TypeA])+len(n.sets[dns.TypeAAAA]) == 0 {
			out = append(out, u.Hostname())
		}
	}
	for _, r := range t.Regions {
		look(r.API)
		look(r.Router.URL)
		for _, e := range r.Edges {
			look(e.URL)
		}
	}
	return out
}
