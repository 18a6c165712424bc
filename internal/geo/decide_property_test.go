package geo

import (
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/meridian-video/meridian/internal/region"
)

// fixed is a Locator that always gives the same answer.
type fixed Location

func (f fixed) Locate(netip.Addr) Location { return Location(f) }

func genSnapshot(t *rapid.T) *Snapshot {
	s := &Snapshot{Alone: rapid.Bool().Draw(t, "alone")}
	for i := range rapid.IntRange(1, 8).Draw(t, "regions") {
		r := Region{
			Name:    fmt.Sprintf("r%d", i),
			At:      Point{rapid.Float64Range(-90, 90).Draw(t, "lat"), rapid.Float64Range(-180, 180).Draw(t, "lon")},
			Weight:  rapid.SampledFrom([]float64{0, 0.5, 1, 1, 2}).Draw(t, "weight"),
			Drained: rapid.Bool().Draw(t, "drained"), Shed: rapid.SampledFrom([]float64{0, 0, 0.3, 1}).Draw(t, "shed"), ShedWhy: "load",
		}
		for j := range rapid.IntRange(1, 4).Draw(t, "edges") {
			r.Edges = append(r.Edges, Edge{Name: fmt.Sprintf("r%d-%d", i, j),
				Health: Health{Down: rapid.Bool().Draw(t, "down"), Why: "refused"}})
		}
		s.Regions = append(s.Regions, r)
	}
	switch rapid.IntRange(0, 2).Draw(t, "geo") {
	case 1:
		s.Geo = fixed{Why: WhyCountryOnly}
	case 2:
		s.Geo = fixed{Known: true, Point: Point{rapid.Float64Range(-90, 90).Draw(t, "vlat"), rapid.Float64Range(-180, 180).Draw(t, "vlon")}}
	}
	return s
}

func genQuery(t *rapid.T, s *Snapshot) Query {
	q := Query{Addr: netip.MustParseAddr("192.0.2.1"), Key: rapid.StringN(0, 8, 32).Draw(t, "key")}
	for _, r := range s.Regions {
		if rapid.IntRange(0, 3).Draw(t, "pin") == 0 {
			q.Allowed = append(q.Allowed, r.Name)
		}
	}
	return q
}

func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		q := genQuery(t, s)
		d := Decide(s, q)

		if len(d.Choices) != len(s.Regions) {
			t.Fatalf("%d choices of %d regions", len(d.Choices), len(s.Regions))
		}
		seen := map[string]bool{}
		anyUp, lastTier, settled := false, 0, 0.0
		for _, c := range d.Choices {
			if seen[c.Region.Name] || c.Reason() == "" || len(c.Edges) != len(c.Region.Edges) {
				t.Fatalf("choice %+v: repeated, without reason or incomplete", c)
			}
			seen[c.Region.Name] = true
			if n := tier(c.Class); n < lastTier {
				t.Fatalf("%s (%s) stands behind a worse region", c.Region.Name, c.Class)
			} else {
				lastTier = n
			}
			if c.Allowed() != (len(q.Allowed) == 0 || slices.Contains(q.Allowed, c.Region.Name)) {
				t.Fatalf("%s: allowed is wrong", c.Region.Name)
			}
			if c.Allowed() && c.Up() {
				anyUp = true
			}
			if c.Class == Nearest || c.Class == Farther {
				if c.Kilometres < settled-tieKm {
					t.Fatalf("%s at %.0f km stands behind %.0f km", c.Region.Name, c.Kilometres, settled)
				}
				settled = math.Max(settled, c.Kilometres)
			}
			for i := 1; i < len(c.Edges); i++ {
				if c.Edges[i-1].Health.Down && !c.Edges[i].Health.Down {
					t.Fatalf("%s: an edge that works stands behind one that is down", c.Region.Name)
				}
			}
		}
		if d.Alarm == anyUp {
			t.Fatalf("alarm %v with anyUp %v", d.Alarm, anyUp)
		}
		if again := Decide(s, q); !reflect.DeepEqual(order(d), order(again)) {
			t.Fatal("not deterministic")
		}
	})
}

func TestDecideIgnoresThirdRegions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		q := genQuery(t, s)
		before := Decide(s, q)
		i := rapid.IntRange(0, len(s.Regions)-1).Draw(t, "victim")
		c := s.clone()
		for j := range c.Regions[i].Edges {
			c.Regions[i].Edges[j].Health = Health{Down: true, Why: "refused"}
		}
		without := func(d Decision) []string {
			return slices.DeleteFunc(order(d), func(n string) bool { return n == s.Regions[i].Name })
		}
		if a, b := without(before), without(Decide(c, q)); !slices.Equal(a, b) {
			t.Fatalf("losing %s reordered the others: %v, then %v", s.Regions[i].Name, a, b)
		}
	})
}

// TestOverflowStaysNearViewers: load and weights lead no viewer farther than the cap,
// and a region keeps its viewers only when there is no other within it.
func TestOverflowStaysNearViewers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		s.OverflowKm = rapid.Float64Range(1, 12000).Draw(t, "cap")
		s.Geo = fixed{Known: true, Point: Point{rapid.Float64Range(-90, 90).Draw(t, "vlat"), rapid.Float64Range(-180, 180).Draw(t, "vlon")}}
		for i := range s.Regions {
			r := &s.Regions[i]
			r.Shed = rapid.SampledFrom([]float64{0, 1}).Draw(t, "sheds")
			if i < 4 { // enough that work
				r.Drained, r.Edges[0].Health.Down = false, false
			}
		}
		calm := s.clone()
		for i := range calm.Regions {
			r := &calm.Regions[i]
			r.Shed = 0
			if r.Weight > 0 && r.Weight < 1 {
				r.Weight = 0.999 // leaves none of 64 spots to others, and still goes behind 1
			}
		}
		q := Query{Addr: netip.MustParseAddr("192.0.2.1")}
		home, d := Decide(calm, q).Choices[0], Decide(s, q)
		first := d.Choices[0]
		if tier(home.Class) != 0 {
			return
		}
		if first.Region.Name != home.Region.Name && first.Kilometres > s.OverflowKm {
			t.Fatalf("from %s to %s, %.0f km away, with a cap of %.0f km", home.Region.Name, first.Region.Name, first.Kilometres, s.OverflowKm)
		}
		for _, c := range d.Choices {
			if first.Class == Kept && tier(c.Class) == 0 && c.Class != Kept && c.Kilometres <= s.OverflowKm {
				t.Fatalf("stays at %s, and %s is %.0f km away with a cap of %.0f km", first.Region.Name, c.Region.Name, c.Kilometres, s.OverflowKm)
			}
		}
	})
}

func TestPathwaysProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		q := genQuery(t, s)
		d := Decide(s, q)
		p := Pathways(d)
		allowed := 0
		for _, c := range d.Choices {
			if c.Allowed() {
				allowed++
			}
		}
		if len(p) == 0 || len(p) > region.MaxPathways {
			t.Fatalf("%d pathways", len(p))
		}
		regions, seen := map[string]int{}, map[string]bool{}
		for i, e := range p {
			_, r := s.Edge(e.Name)
			if seen[e.Name] || len(q.Allowed) > 0 && !slices.Contains(q.Allowed, r.Name) {
				t.Fatalf("%s: repeated or not allowed", e.Name)
			}
			seen[e.Name] = true
			regions[r.Name]++
			if i > 0 && p[i-1].Health.Down && !e.Health.Down {
				t.Fatalf("%s works and stands behind one that is down", e.Name)
			}
		}
		if want := min(allowed, maxOtherRegions+1); len(regions) != want {
			t.Fatalf("%d regions offered, want %d", len(regions), want)
		}
		if !d.Alarm && p[0].Name != d.Choices[0].Edges[0].Name {
			t.Fatalf("first pathway %s is not the decision's", p[0].Name)
		}
	})
}
