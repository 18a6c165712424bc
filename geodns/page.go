package geodns

import (
	"net/http"
	"strings"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/token"
	"github.com/meridian-video/meridian/web"
)

// page serves /watch/{asset} and /embed/{asset}. A token for private videos
// comes as ?t=; the page passes it on in the master playlist's path. With
// ?steering=0 it plays the plain form, every request redirected by a router.
func (rt *router) page(w http.ResponseWriter, r *http.Request) {
	kind, asset, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	if !hls.ValidAssetID(asset) {
		rt.wrote(web.Problem(w, http.StatusNotFound, "No such video", "The address is not complete, or has something in it that doesn’t belong there."))
		return
	}
	tok := token.None
	if t := r.URL.Query().Get("t"); t != "" {
		if !validToken(t) {
			rt.wrote(web.Problem(w, http.StatusForbidden, "This link is not valid", "Its access token is damaged. Ask for a new link."))
			return
		}
		tok = t
	}
	rec, known, refused := rt.record(r.Context(), asset)
	if refused != nil {
		rt.wrote(web.Problem(w, refused.status, refused.title, refused.detail))
		return
	}
	s := rt.board.Load()
	d := geo.Decide(s, geo.Query{Addr: viewer(r, rt.proxies), Key: asset, Allowed: allowed(rec)})
	rt.decided(viaPage, &d)
	p := web.Page{Asset: asset, Title: rec.Title, State: rec.State, Duration: rec.Duration,
		Embed: kind == "embed", Master: "/v/" + tok + "/" + asset + "/master.m3u8"}
	if r.URL.Query().Get("steering") == "0" {
		p.Master += "?steering=0"
	}
	if !known {
		p.State = web.StatePlayable // no store answers here; the edge may know more
	}
	if own := s.Region(rt.self); own != nil {
		p.Routers = append(p.Routers, own.RouterURL)
	}
	for i := range d.Choices {
		c := &d.Choices[i]
		if c.Region.Name != rt.self {
			p.Routers = append(p.Routers, c.Region.RouterURL)
		}
		if !c.Allowed() {
			continue
		}
		for _, e := range c.Edges {
			p.Edges = append(p.Edges, web.Edge{Name: e.Name, Region: c.Region.Name, Place: c.Region.Place, URL: e.URL})
		}
	}
	if rec.Poster != "" && len(p.Edges) > 0 {
		p.Poster = p.Edges[0].URL + "/v/" + tok + "/" + asset + "/" + rec.Poster
	}
	rt.wrote(web.Player(w, http.StatusOK, p))
}

// wrote logs a page that could not be rendered or sent.
func (rt *router) wrote(err error) {
	if err != nil {
		rt.log.Debug("page not sent", "err", err)
	}
}
