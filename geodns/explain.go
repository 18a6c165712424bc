package geodns

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/hls"
)

// explanation is a decision for people and machines.
type explanation struct {
	Address  string `json:"address"`
	Location struct {
		Known     bool    `json:"known"`
		Why       string  `json:"why,omitempty"`
		City      string  `json:"city,omitempty"`
		Country   string  `json:"country,omitempty"`
		Network   string  `json:"network,omitempty"`
		Latitude  float64 `json:"latitude,omitempty"`
		Longitude float64 `json:"longitude,omitempty"`
	} `json:"location"`
	// AS is the autonomous system the address belongs to, as far as known.
	AS    *explainedSystem `json:"as,omitempty"`
	Asset string           `json:"asset,omitempty"`
	// Name asked about, and the records DNS answers for it, in master file format.
	Name     string            `json:"name,omitempty"`
	Answer   []string          `json:"answer,omitempty"`
	Regions  []explainedRegion `json:"regions"`
	Pathways []string          `json:"pathways"`
	// Alarm: no allowed region works. Alone: no other router is heard.
	Alarm bool `json:"alarm"`
	Alone bool `json:"alone"`
	// Doubt: all others fell silent at once, perhaps it is this router that is cut off.
	Doubt  bool   `json:"doubt"`
	Router string `json:"router"`
}

type explainedSystem struct {
	Number       uint32 `json:"number"`
	Organization string `json:"organization,omitempty"`
}

type explainedRegion struct {
	Name       string          `json:"name"`
	Place      string          `json:"place"`
	Class      geo.Class       `json:"class"`
	Reason     string          `json:"reason"`
	Kilometres *float64        `json:"kilometres,omitempty"`
	Edges      []explainedEdge `json:"edges"`
}

type explainedEdge struct {
	Name string  `json:"name"`
	Up   bool    `json:"up"`
	Why  string  `json:"why,omitempty"`
	Load float64 `json:"load,omitempty"`
}

// explain answers what would be decided for ?ip= (the asker's own address
// without it), with ?asset= for one asset, and with ?name= what DNS answers.
func (rt *router) explain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	addr := viewer(r, rt.proxies)
	if ip := q.Get("ip"); ip != "" {
		a, err := netip.ParseAddr(ip)
		if err != nil || a.Zone() != "" {
			problem(w, http.StatusBadRequest, "ip: want an IPv4 or IPv6 address")
			return
		}
		addr = a.Unmap()
	}
	asset := q.Get("asset")
	query := geo.Query{Addr: addr, Key: asset}
	if asset != "" {
		if !hls.ValidAssetID(asset) {
			problem(w, http.StatusBadRequest, "asset: want an asset id, 26 characters of a-z and 2-7")
			return
		}
		rec, _, refused := rt.record(r.Context(), asset)
		if refused != nil {
			problem(w, refused.status, refused.detail)
			return
		}
		query.Allowed = allowed(rec)
	}
	s := rt.board.Load()
	e := explainDecision(geo.Decide(s, query))
	e.Address, e.Asset, e.Router = addr.String(), asset, rt.self
	if as := s.Systems.System(addr); as.Number != 0 {
		e.AS = &explainedSystem{uint32(as.Number), as.Organization}
	}
	if name := q.Get("name"); name != "" {
		var err error
		if e.Name, e.Answer, err = rt.zone.explain(name, addr); err != nil {
			problem(w, http.StatusBadRequest, "name: "+err.Error())
			return
		}
	}
	h := w.Header()
	cors(h)
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	if wantsJSON(r) {
		h.Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(e) // the client has gone
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	text := e.text
	if q.Get("format") == "line" {
		text = e.line
	}
	_, _ = w.Write([]byte(text())) // the client has gone
}

// line is the whole decision in one line.
func (e explanation) line() string {
	var b strings.Builder
	b.WriteString(e.Address + " " + e.where())
	if e.AS != nil {
		fmt.Fprintf(&b, " (%s)", e.AS)
	}
	b.WriteString(" → ")
	for i, r := range e.Regions {
		if i > 0 {
			b.WriteString(", then ")
		}
		fmt.Fprintf(&b, "%s (%s)", r.Name, r.Reason)
	}
	if e.Name != "" {
		b.WriteString("; DNS: " + strings.Join(brief(e.Answer), ", "))
	}
	if e.Alone {
		b.WriteString("; no other router is heard")
	}
	if e.Doubt {
		b.WriteString("; perhaps its own line is cut")
	}
	if e.Alarm {
		b.WriteString("; ALARM: nothing works")
	}
	return b.String() + "\n"
}

func (s *explainedSystem) String() string {
	return strings.TrimRight(geo.AS(s.Number).String()+" "+s.Organization, " ")
}

func (e explanation) where() string {
	if e.Location.Known {
		return strings.TrimPrefix(e.Location.City+", "+e.Location.Country, ", ")
	}
	return "unknown location: " + e.Location.Why
}

func explainDecision(d geo.Decision) explanation {
	e := explanation{Alarm: d.Alarm, Alone: d.Alone, Doubt: d.Doubt, Pathways: []string{}}
	l := d.Location
	e.Location.Known, e.Location.Why, e.Location.City, e.Location.Country = l.Known, l.Why, l.City, l.Country
	if l.Network.IsValid() {
		e.Location.Network = l.Network.String()
	}
	if l.Known {
		e.Location.Latitude, e.Location.Longitude = l.Point.Latitude, l.Point.Longitude
	}
	for i := range d.Choices {
		c := &d.Choices[i]
		r := explainedRegion{Name: c.Region.Name, Place: c.Region.Place, Class: c.Class, Reason: c.Reason()}
		if !math.IsNaN(c.Kilometres) {
			km := math.Round(c.Kilometres)
			r.Kilometres = &km
		}
		for _, x := range c.Edges {
			r.Edges = append(r.Edges, explainedEdge{Name: x.Name, Up: !x.Health.Down, Why: x.Health.Why, Load: x.Load})
		}
		e.Regions = append(e.Regions, r)
	}
	for _, x := range geo.Pathways(d) {
		e.Pathways = append(e.Pathways, x.Name)
	}
	return e
}

// brief leaves out of records what they all share: name, TTL and class.
func brief(records []string) []string {
	out := make([]string, len(records))
	for i, rr := range records {
		fields := strings.SplitN(rr, "\t", 4)
		out[i] = strings.ReplaceAll(fields[len(fields)-1], "\t", " ")
	}
	return out
}

// text is one line for the viewer and one for each region.
func (e explanation) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s", e.Address, e.where())
	if e.Location.Network != "" {
		fmt.Fprintf(&b, "  (network %s)", e.Location.Network)
	}
	if e.AS != nil {
		fmt.Fprintf(&b, "  (%s)", e.AS)
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i, r := range e.Regions {
		var edges []string
		for _, x := range r.Edges {
			s := x.Name + " up"
			if !x.Up {
				s = x.Name + " down"
			}
			if x.Why != "" {
				s += " (" + x.Why + ")"
			}
			edges = append(edges, s)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", i+1, r.Name, r.Place, r.Reason, strings.Join(edges, ", "))
	}
	_ = t.Flush() // a strings.Builder never fails
	fmt.Fprintf(&b, "pathways: %s\n", strings.Join(e.Pathways, ","))
	for _, rr := range e.Answer {
		fmt.Fprintf(&b, "dns: %s\n", rr)
	}
	if e.Alone {
		fmt.Fprintf(&b, "health: the view of the router in %s alone, no other router is heard\n", e.Router)
	}
	if e.Doubt {
		b.WriteString("health: all others fell silent at once, perhaps this router's line is cut; answers wait a moment for it to show\n")
	}
	if e.Alarm {
		b.WriteString("ALARM: no region that may serve this works\n")
	}
	return b.String()
}
