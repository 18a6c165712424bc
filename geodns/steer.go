package geodns

import (
	"cmp"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/hls"
)

const (
	// returnOver is the time over which sessions go back to an edge that works
	// again: all at once they would find a cold cache together.
	returnOver = 60 * time.Second
	// maxSteerPathways bounds how many names of p are looked at.
	maxSteerPathways = 16
	maxSteerQuery    = 4096
	maxSessionID     = 128
	// slowBelow is the throughput, in bits per second, below which a pathway is
	// penalised for penaltyTime: another may be faster. Only one is at a time,
	// because to a viewer whose own line is slow all are.
	slowBelow   = 800_000
	penaltyTime = 2 * time.Minute
)

// steerQuery is a steering request.
type steerQuery struct {
	// asset and session are empty when they are not well formed.
	asset, session string
	// pathways are the names of p, unknown ones dropped.
	pathways []string
	// current is the pathway the player uses, empty when it didn't say.
	current string
	// throughput of the current pathway in bits per second, 0 when not said.
	throughput int64
	// penalised pathway, and until when, in Unix seconds; empty without one. The
	// reload URI carries it, so that no router keeps anything.
	penalised string
	until     int64
}

// parseSteer takes what it understands; a steering request is never refused,
// because players take errors as a reason not to ask again for minutes.
func parseSteer(raw string, known func(string) bool) steerQuery {
	var q steerQuery
	if len(raw) > maxSteerQuery {
		return q
	}
	v, _ := url.ParseQuery(raw) // the well-formed part of it
	if a := v.Get("a"); hls.ValidAssetID(a) {
		q.asset = a
	}
	if s := v.Get("s"); len(s) <= maxSessionID && !strings.ContainsFunc(s, func(r rune) bool { return !alnum(r) && r != '-' && r != '_' }) {
		q.session = s
	}
	names := strings.SplitN(v.Get("p"), ",", maxSteerPathways+1)
	for _, n := range names[:min(len(names), maxSteerPathways)] {
		if known(n) && !slices.Contains(q.pathways, n) {
			q.pathways = append(q.pathways, n)
		}
	}
	// RFC 8216bis 7.1 wants it quoted; not all players do.
	if c := strings.Trim(v.Get("_HLS_pathway"), `"`); slices.Contains(q.pathways, c) {
		q.current = c
	}
	if n, err := strconv.ParseInt(strings.Trim(v.Get("_HLS_throughput"), `"`), 10, 64); err == nil && n > 0 {
		q.throughput = n
	}
	name, until, _ := strings.Cut(v.Get("x"), ".")
	if n, err := strconv.ParseInt(until, 10, 64); err == nil && slices.Contains(q.pathways, name) {
		q.penalised, q.until = name, n
	}
	return q
}

// penalise forgets a penalty that is over, or too long to be ours, and gives one
// to a slow pathway.
func (q *steerQuery) penalise(now time.Time) {
	if q.until <= now.Unix() || q.until > now.Add(penaltyTime).Unix() {
		q.penalised, q.until = "", 0
	}
	if q.penalised == "" && q.current != "" && q.throughput > 0 && q.throughput < slowBelow {
		q.penalised, q.until = q.current, now.Add(penaltyTime).Unix()
	}
}

// steer answers with a steering manifest.
func (rt *router) steer(w http.ResponseWriter, r *http.Request) {
	s := rt.board.Settled(r.Context())
	q := parseSteer(r.URL.RawQuery, func(n string) bool { e, _ := s.Edge(n); return e != nil })
	var only []string
	if len(q.pathways) == 0 && q.asset != "" {
		// Placement holds for who has lost the list, too.
		if rec, _, refused := rt.record(r.Context(), q.asset); refused == nil {
			only = allowed(rec)
		}
	}
	m := rt.manifest(s, q, viewer(r, rt.proxies), only)
	b, err := m.Encode()
	if err != nil {
		problem(w, http.StatusInternalServerError, "no pathway is known")
		return
	}
	rt.metrics.steerTTL.Set(float64(m.TTL))
	h := w.Header()
	cors(h)
	h.Set("Content-Type", hls.SteeringContentType)
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(b) // the client has gone
}

// manifest is the answer to a steering request; only names the regions the asset is
// pinned to, for a player that doesn't say its pathways.
func (rt *router) manifest(s *geo.Snapshot, q steerQuery, addr netip.Addr, only []string) hls.Steering {
	d := geo.Decide(s, geo.Query{Addr: addr, Key: q.asset, Allowed: only})
	rt.decided(viaSteer, &d)
	if len(q.pathways) == 0 {
		// A player that lost its list: the one a new session would get.
		for _, e := range geo.Pathways(d) {
			q.pathways = append(q.pathways, e.Name)
		}
	}
	q.penalise(rt.now())
	priority := prioritise(d, q, rt.now())
	v := url.Values{}
	if q.asset != "" {
		v.Set("a", q.asset)
	}
	if q.session != "" {
		v.Set("s", q.session)
	}
	if q.penalised != "" {
		v.Set("x", q.penalised+"."+strconv.FormatInt(q.until, 10))
	}
	// p is the list in the order given, so that the URL stays the same for a session.
	var target *geo.Region
	if len(priority) > 0 {
		_, target = s.Edge(priority[0])
	}
	reload := rt.routerFor(d, target, nil).RouterURL + "/steer?"
	if e := v.Encode(); e != "" {
		reload += e + "&"
	}
	return hls.Steering{TTL: rt.rate.ttl(), ReloadURI: reload + "p=" + strings.Join(q.pathways, ","), Priority: priority}
}

// prioritise orders a session's pathways: those that work first, near ones
// first. A session stays at its edge while that is in the best region, and goes
// back to an edge that has recovered, or whose region takes more again, when its turn
// has come. A region that turns
// new viewers away keeps those it has; one that was drained loses them over a minute.
func prioritise(d geo.Decision, q steerQuery, now time.Time) []string {
	type way struct {
		edge         *geo.Edge
		of           *geo.Choice
		region, rank int
		slow, waits  bool
	}
	var ways []way
	for i := range d.Choices {
		for j, e := range d.Choices[i].Edges {
			if slices.Contains(q.pathways, e.Name) {
				ways = append(ways, way{edge: e, of: &d.Choices[i], region: i, rank: j, slow: e.Name == q.penalised})
			}
		}
	}
	current := slices.IndexFunc(ways, func(w way) bool { return w.edge.Name == q.current })
	if current >= 0 && !ways[current].edge.Health.Down {
		at := &ways[current]
		at.rank = -1 // siblings are equals: no reason to move between them
		if at.of.Class == geo.Shed || at.of.Region.Drained && !turn(q.session, at.of.Region.DrainedSince, now) {
			at.region = -1
		}
		for i := range ways {
			since := ways[i].edge.Health.Since
			r := ways[i].of.Region
			if !r.Drained && r.DrainedSince.After(since) {
				since = r.DrainedSince
			}
			if r.GrewSince.After(since) {
				since = r.GrewSince
			}
			ways[i].waits = i != current && !turn(q.session, since, now)
		}
	}
	slices.SortStableFunc(ways, func(a, b way) int {
		return cmp.Or(
			compareBool(a.edge.Health.Down, b.edge.Health.Down),
			compareBool(a.slow, b.slow),
			compareBool(a.waits, b.waits),
			cmp.Compare(a.region, b.region),
			cmp.Compare(a.rank, b.rank),
		)
	})
	out := make([]string, len(ways))
	for i, w := range ways {
		out[i] = w.edge.Name
	}
	return out
}

// turn reports whether a session may follow a change: its turn lies within a
// minute of it, where its id's hash puts it.
func turn(session string, changed, now time.Time) bool {
	since := now.Sub(changed)
	if since >= returnOver {
		return true
	}
	share := float64(geo.Hash(session, "return")>>11) / (1 << 53)
	return since >= time.Duration(share*float64(returnOver))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// routerFor is the region whose router a session that plays from target asks
// again: outside target, because what dies with the edge can't say so, and, if it
// can be, outside next. The own one when it is outside, else the nearest that answers.
func (rt *router) routerFor(d geo.Decision, target, next *geo.Region) *geo.Region {
	var best *geo.Region
	bestScore := -1
	for i := range d.Choices {
		r := d.Choices[i].Region
		score := 0
		if !r.Router.Down && (d.Choices[i].Up() || r.Name == rt.self) {
			score += 8
		}
		if target == nil || r.Name != target.Name {
			score += 4
		}
		if next != nil && r.Name != next.Name {
			score += 2
		}
		if r.Name == rt.self {
			score++
		}
		if score > bestScore {
			best, bestScore = r, score
		}
	}
	return best
}
