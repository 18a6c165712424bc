package geodns

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/geodns/worldmap"
	"github.com/meridian-video/meridian/internal/geo"
)

var (
	//go:embed mapview/page.html
	mapTemplate string
	//go:embed mapview/map.css
	mapStyle string
	//go:embed mapview/map.js
	mapScript string
)

// mapDocument is the page and its content security policy: it asks nobody but
// this router for anything, and runs the one script it came with.
var mapDocument = sync.OnceValues(func() (page, policy string) {
	var b strings.Builder
	err := template.Must(template.New("map").Parse(mapTemplate)).Execute(&b, struct {
		Style         template.CSS
		Script        template.JS
		Land          string
		Width, Height int
	}{template.CSS(mapStyle), template.JS(mapScript), worldmap.Land(), worldmap.Width, worldmap.Height})
	if err != nil {
		panic(err) // the template is part of the program
	}
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return b.String(), "default-src 'none'; script-src " + hash(mapScript) + "; style-src " + hash(mapStyle) +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
})

// mapPage serves the map of regions and viewers.
func (rt *router) mapPage(w http.ResponseWriter, _ *http.Request) {
	page, policy := mapDocument()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write([]byte(page)) // the client has gone
}

// mapped is what the map shows.
type mapped struct {
	Router string `json:"router"`
	// Seconds the counts of viewers are of.
	Seconds int            `json:"seconds"`
	Alone   bool           `json:"alone"`
	Regions []mappedRegion `json:"regions"`
	Origins []mappedOrigin `json:"origins"`
	// Unknown counts viewers whose place isn't known.
	Unknown uint64            `json:"unknown"`
	Asked   map[string]uint64 `json:"asked"`
}

type mappedRegion struct {
	Name  string     `json:"name"`
	Place string     `json:"place"`
	At    [2]float64 `json:"at"` // on the map
	// State is up, sheds, drained, no_weight or down.
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
	// Takes is the share of its own viewers the region takes.
	Takes float64 `json:"takes"`
	// Load is the mean of its working edges', 0 when they say nothing.
	Load   float64        `json:"load"`
	Sent   uint64         `json:"sent"` // viewers
	Router mappedTarget   `json:"router"`
	Edges  []mappedTarget `json:"edges"`
}

type mappedTarget struct {
	Name string  `json:"name"`
	Up   bool    `json:"up"`
	Why  string  `json:"why,omitempty"`
	Load float64 `json:"load,omitempty"`
}

type mappedOrigin struct {
	At     [2]float64 `json:"at"`
	Region string     `json:"region"`
	Count  uint64     `json:"count"`
}

// mapState answers what the map shows now.
func (rt *router) mapState(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	cors(h)
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(mapOf(rt.board.Load(), rt.zone.origins, rt.self, rt.now())) // the client has gone
}

func mapOf(s *geo.Snapshot, o *origins, self string, now time.Time) mapped {
	known, unknown, asked := o.recent(now)
	m := mapped{Router: self, Seconds: int(originWindow / time.Second), Alone: s.Alone, Asked: asked, Regions: []mappedRegion{}, Origins: []mappedOrigin{}}
	for i := range s.Regions {
		r := &s.Regions[i]
		state, why := r.State()
		g := mappedRegion{Name: r.Name, Place: r.Place, At: onMap(r.At), State: state, Why: why, Takes: r.Takes(),
			Router: mappedTarget{Name: "router", Up: !r.Router.Down, Why: r.Router.Why}}
		up := 0.0
		for j := range r.Edges {
			e := &r.Edges[j]
			g.Edges = append(g.Edges, mappedTarget{Name: e.Name, Up: !e.Health.Down, Why: e.Health.Why, Load: e.Load})
			if !e.Health.Down {
				up++
				g.Load += e.Load
			}
		}
		g.Load /= max(1, up)
		m.Regions = append(m.Regions, g)
	}
	for i, n := range unknown {
		m.Unknown += n
		m.Regions[i].Sent += n
	}
	for _, k := range known {
		m.Regions[k.Region].Sent += k.Count
		m.Origins = append(m.Origins, mappedOrigin{At: onMap(k.At), Region: m.Regions[k.Region].Name, Count: k.Count})
	}
	return m
}

func onMap(p geo.Point) [2]float64 {
	x, y := worldmap.Project(p)
	return [2]float64{math.Round(x), math.Round(y)}
}
