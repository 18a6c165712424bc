package edgecache

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/token"
)

const (
	// steeringTTL is the first manifest's, in seconds: as short as the routers' own.
	steeringTTL = 2
	// sessionGrace is how long a session may last beyond the video's duration.
	sessionGrace = 6 * time.Hour
	// maxMaster bounds a stored master playlist.
	maxMaster = 1 << 20
	// maxQuery bounds a request's query.
	maxQuery = 2048
)

// sites knows the region table from the view of one edge.
type sites struct {
	table *region.Table
	self  region.Edge
	here  region.Region
}

// query is what a playback request may ask for beside its path.
type query struct {
	plain    bool
	pathways []string
	// router names the region whose router the session is to ask again.
	router string
}

// parseQuery reads ?steering=0, ?p= and ?r=; other parameters are ignored,
// because pages and players add their own.
func parseQuery(raw string) (query, error) {
	var q query
	if raw == "" {
		return q, nil
	}
	if len(raw) > maxQuery {
		return q, errQuery
	}
	v, err := url.ParseQuery(raw)
	if err != nil {
		return q, errQuery
	}
	q.plain = v.Get("steering") == "0"
	if p := v.Get("p"); p != "" {
		q.pathways = strings.Split(p, ",")
	}
	q.router = v.Get("r")
	return q, nil
}

// pathways returns the edges a session is offered: those the router named, as
// far as the table has them and the placement allows them, or, named none,
// this edge, its sibling, then one edge of every other region, nearest first.
// These also complete a list of one, which would disable the player's fail-over.
func (s *sites) pathways(named []string, asset string, p objects.Placement) []region.Edge {
	var out []region.Edge
	add := func(e region.Edge, r region.Region) {
		have := slices.ContainsFunc(out, func(o region.Edge) bool { return o.Name == e.Name })
		if len(out) < region.MaxPathways && !have && p.Allows(r.Name) {
			out = append(out, e)
		}
	}
	for _, name := range named {
		if e, r, ok := s.table.Edge(name); ok {
			add(e, r)
		}
	}
	if len(out) > 1 {
		return out
	}
	add(s.self, s.here)
	for _, r := range s.table.Nearest(s.here.Name) {
		best := slices.MaxFunc(r.Edges, func(a, b region.Edge) int {
			if geo.Hash(asset, a.Name) < geo.Hash(asset, b.Name) {
				return -1
			}
			return 1
		})
		if r.Name == s.here.Name {
			for _, e := range r.Edges {
				if e.Name != s.self.Name {
					add(e, r)
					break
				}
			}
			continue
		}
		add(best, r)
	}
	return out
}

// router is the one a session that plays from first asks again: the named one,
// which the router that redirected knows to be alive, else the nearest outside
// first's region, because that region's own dies with it.
func (s *sites) router(named string, first region.Edge) string {
	if r, ok := s.table.Get(named); ok {
		return r.Router.URL
	}
	_, r, ok := s.table.Edge(first.Name)
	if !ok {
		r = s.here
	}
	for _, other := range s.table.Nearest(r.Name) {
		if other.Name != r.Name {
			return other.Router.URL
		}
	}
	return r.Router.URL
}

// session names the playback session that a master starts.
type session struct {
	token string // in the URLs: "-" or a session token
	id    string
}

// startSession turns what the viewer came with into what the session goes on with.
func startSession(t target, g grant, key *token.Signer, now time.Time) (session, error) {
	switch {
	case t.token == token.None:
		return session{token.None, token.NewID()}, nil
	case g.claims.IsSession():
		return session{t.token, g.claims.ID}, nil
	}
	until := now.Add(time.Duration(g.record.Duration*float64(time.Second)) + sessionGrace)
	tok, claims, err := token.MintSession(g.claims, g.kid, until, key)
	return session{tok, claims.ID}, err
}

// master makes the master playlist of one session from the stored one.
func (s *sites) master(stored []byte, asset, run string, ses session, q query, p objects.Placement) ([]byte, error) {
	at := "/v/" + ses.token + "/" + asset + "/" + run + "/"
	if q.plain {
		return hls.Plain(stored, s.router(q.router, s.self)+at, "?steering=0"), nil
	}
	edges := s.pathways(q.pathways, asset, p)
	ways, names := make([]hls.Pathway, len(edges)), make([]string, len(edges))
	for i, e := range edges {
		ways[i], names[i] = hls.Pathway{ID: e.Name, Base: e.URL + at}, e.Name
	}
	if len(edges) == 0 {
		return nil, errRule
	}
	// Commas and the ids' characters need no escape in a query.
	reload := s.router(q.router, edges[0]) + "/steer?a=" + asset + "&s=" + ses.id + "&p=" + strings.Join(names, ",")
	return hls.Expand(stored, ways, hls.Steering{TTL: steeringTTL, ReloadURI: reload, Priority: names})
}
