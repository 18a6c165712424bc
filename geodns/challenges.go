package geodns

import (
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/meridian-video/meridian/internal/certificate"
)

// setChallenges has the zone answer with the TXT records that a CA looks for
// (RFC 8555, 8.4), beside what the names have anyway, until the next call. Names
// outside the zone, which nobody here adds, are left out.
func (z *zone) setChallenges(cs []certificate.Challenge) {
	nodes := map[string]*node{}
	for _, c := range cs {
		name := dns.CanonicalName(c.Name)
		w, err := wireName(name)
		if err != nil || !below(w, z.wire) {
			continue
		}
		n, ok := nodes[string(w)]
		if !ok {
			n = &node{name: name, sets: map[uint16][]dns.RR{}}
			if fixed := z.nodes[string(w)]; fixed != nil {
				if fixed.chosen != nil {
					continue // a name of the region table's
				}
				for t, set := range fixed.sets {
					n.sets[t] = slices.Clone(set)
				}
			}
			nodes[string(w)] = n
		}
		n.put(&dns.TXT{Hdr: header(name, dns.TypeTXT, ttlChosen), Txt: []string{c.Value}})
		// A name above one that exists does too, without records (RFC 8020).
		for _, above, ok := strings.Cut(name, "."); ok && above != z.name; _, above, ok = strings.Cut(above, ".") {
			w, err := wireName(above)
			if err != nil {
				break
			}
			if z.nodes[string(w)] == nil && nodes[string(w)] == nil {
				nodes[string(w)] = &node{name: above, sets: map[uint16][]dns.RR{}}
			}
		}
	}
	for _, n := range nodes {
		n.prepare()
	}
	if len(nodes) == 0 {
		z.challenges.Store(nil)
		return
	}
	z.challenges.Store(&nodes)
}

// lookup returns the node of a name in wire form.
func (z *zone) lookup(name []byte) (*node, bool) {
	if cs := z.challenges.Load(); cs != nil {
		if n, ok := (*cs)[string(name)]; ok {
			return n, true
		}
	}
	n, ok := z.nodes[string(name)]
	return n, ok
}
