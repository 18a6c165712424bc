package geodns

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/token"
)

// redirect sends a playback path to the viewer's edge: 302, because the next
// answer may differ. The master playlist's path is how sessions start; in the
// plain form every playlist and segment comes this way.
func (rt *router) redirect(w http.ResponseWriter, r *http.Request) {
	p, err := parsePlaybackPath(r.URL.EscapedPath())
	if err != nil {
		problem(w, http.StatusBadRequest, "want /v/{token}/{asset}/…, the token \"-\" for public videos, without escapes")
		return
	}
	query, ok := redirectQuery(r.URL.RawQuery)
	if !ok {
		problem(w, http.StatusBadRequest, "the query is malformed or too long")
		return
	}
	rec, _, refused := rt.record(r.Context(), p.Asset)
	if refused != nil {
		problem(w, refused.status, refused.detail)
		return
	}
	for _, rules := range []token.Rules{rec.Rules, claimedRules(p.Token)} {
		// Here and not at the edge alone: after a redirect browsers send "Origin: null".
		if !rules.AllowsOrigin(r.Header.Get("Origin"), r.Referer()) {
			problem(w, http.StatusForbidden, "this video may not be played from this site")
			return
		}
	}
	s := rt.board.Settled(r.Context())
	d := geo.Decide(s, geo.Query{Addr: viewer(r, rt.proxies), Key: p.Asset, Allowed: allowed(rec)})
	rt.decided(viaRedirect, &d)
	edges := geo.Pathways(d)
	if len(edges) == 0 {
		problem(w, http.StatusServiceUnavailable, "no region may serve this video: it is pinned to regions that are not in the region table")
		return
	}
	var next *geo.Region
	if plain(p, query) {
		rt.feel(edges)
		// Its segments are asked for at one router, which should also outlive the
		// region that comes after the first.
		next = after(s, edges)
	}
	_, target := s.Edge(edges[0].Name)
	h := w.Header()
	cors(h)
	h.Set("Cache-Control", "no-store")
	h.Set("Location", edges[0].URL+r.URL.EscapedPath()+"?"+query+"p="+pathwayNames(edges)+"&r="+rt.routerFor(d, target, next).Name)
	w.WriteHeader(http.StatusFound)
}

// plain reports whether a request with redirectQuery's query is of the form of
// players that know no steering. It is what playlists are asked for with; no other
// form's players ask a router for what playlists name.
func plain(p playbackPath, query string) bool {
	return !strings.HasSuffix(p.Rest, ".m3u8") || strings.HasPrefix(query, "steering=0&") || strings.Contains(query, "&steering=0&")
}

// after is the next region in a list of edges, nil when there is but one.
func after(s *geo.Snapshot, edges []*geo.Edge) *geo.Region {
	_, first := s.Edge(edges[0].Name)
	for _, e := range edges[1:] {
		if _, r := s.Edge(e.Name); r != first {
			return r
		}
	}
	return nil
}

// feel puts the first edge that answers right now in front. A player that knows
// no steering leaves out a segment it is refused, or waits for ever where nobody
// answers, so it can't be sent to an edge until health has made sure.
func (rt *router) feel(edges []*geo.Edge) {
	best := -1
	for i, e := range edges {
		// All are asked about, so that all are known when it matters.
		if beats := rt.pulse.Beats(e.Name); beats && best < 0 && !e.Health.Down {
			best = i
		}
	}
	if best <= 0 {
		return
	}
	rt.metrics.felt.Inc()
	e := edges[best]
	copy(edges[1:best+1], edges[:best])
	edges[0] = e
}

func pathwayNames(edges []*geo.Edge) string {
	names := make([]string, len(edges))
	for i, e := range edges {
		names[i] = e.Name
	}
	return strings.Join(names, ",")
}

// maxQueryLen bounds the query of a playback path, with what a player says of
// itself (CMCD), for which edges allow 2 KiB before it is escaped.
const maxQueryLen = 4096

// redirectQuery keeps a query's parameters but p and r, which are ours to
// choose, ready to be followed by them. CMCD that can't be decoded is left out:
// whatever it says, the request is a good one.
func redirectQuery(raw string) (string, bool) {
	if len(raw) > maxQueryLen {
		return "", false
	}
	var b strings.Builder
	for part := range strings.SplitSeq(raw, "&") {
		name, value, hasValue := strings.Cut(part, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return "", false
		}
		value, err = url.QueryUnescape(value)
		if err != nil && name == "CMCD" {
			continue
		}
		if err != nil {
			return "", false
		}
		if name == "" || name == "p" || name == "r" {
			continue
		}
		b.WriteString(url.QueryEscape(name))
		if hasValue {
			b.WriteByte('=')
			b.WriteString(url.QueryEscape(value))
		}
		b.WriteByte('&')
	}
	return b.String(), true
}

// claimedRules reads the rules a token claims, without verifying it: they can
// only narrow what is allowed, and a token someone has edited is refused by the
// edge. Text that isn't a token claims nothing.
func claimedRules(tok string) token.Rules {
	var c struct {
		token.Rules
	}
	_, rest, ok := strings.Cut(tok, ".")
	if !ok {
		return token.Rules{}
	}
	payload, _, _ := strings.Cut(rest, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return token.Rules{}
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return token.Rules{}
	}
	return c.Rules
}
