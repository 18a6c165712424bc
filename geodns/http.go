package geodns

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/web"
)

// recordTimeout bounds how long a viewer waits for the playback record before
// the redirect goes out without it.
const recordTimeout = 1500 * time.Millisecond

// Records finds the newest playback record of an asset; playback.Finder does.
type Records interface {
	// Newest returns playback.ErrNotFound when no region has a record.
	Newest(ctx context.Context, asset string) (playback.Record, error)
}

// router answers HTTP.
// Pulse says whether an edge answers at this moment, without waiting.
type Pulse interface {
	Beats(edge string) bool
}

type router struct {
	board   *geo.Board
	zone    *zone
	self    string
	records Records
	table   *region.Table
	// routes is what operators have told the routers.
	routes  Routes
	proxies []netip.Prefix
	pulse   Pulse
	rate    *rate
	now     func() time.Time
	log     *slog.Logger
	metrics *metrics
}

// handler dispatches by the escaped path, not by http.ServeMux: a mux answers
// "//" and "/../" with redirects of its own, and decodes before it matches.
func (rt *router) handler() http.Handler {
	assets := web.Assets()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, h := rt.route(r.URL.EscapedPath(), assets)
		rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		defer func() { rt.metrics.http.WithLabelValues(route, strconv.Itoa(rec.status)).Inc() }()
		switch {
		case h == nil:
			problem(rec, http.StatusNotFound, "no such page")
		case r.Method == http.MethodOptions:
			cors(rec.Header())
			rec.Header().Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
			rec.Header().Set("Access-Control-Allow-Headers", "*")
			rec.Header().Set("Access-Control-Max-Age", "86400")
			rec.WriteHeader(http.StatusNoContent)
		case r.Method == http.MethodPut && route == "routing":
			h.ServeHTTP(rec, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			rec.Header().Set("Allow", "GET, HEAD, OPTIONS")
			problem(rec, http.StatusMethodNotAllowed, "use GET or HEAD")
		default:
			h.ServeHTTP(rec, r)
		}
	})
}

// route names the handler of a path; nil when there is none.
func (rt *router) route(path string, assets http.Handler) (string, http.Handler) {
	switch {
	case hasPrefix(path, "/v/"):
		return "redirect", http.HandlerFunc(rt.redirect)
	case path == "/steer":
		return "steer", http.HandlerFunc(rt.steer)
	case path == "/explain":
		return "explain", http.HandlerFunc(rt.explain)
	case path == "/routing":
		return "routing", http.HandlerFunc(rt.routing)
	case path == "/map":
		return "map", http.HandlerFunc(rt.mapPage)
	case path == "/map/state":
		return "map", http.HandlerFunc(rt.mapState)
	case hasPrefix(path, "/watch/"), hasPrefix(path, "/embed/"):
		return "page", http.HandlerFunc(rt.page)
	case hasPrefix(path, "/assets/"):
		return "assets", assets
	case path == "/health/router":
		return "health", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusNoContent)
		})
	}
	return "none", nil
}

// wantsJSON reports whether a request asks for JSON rather than text.
func wantsJSON(r *http.Request) bool {
	return r.URL.Query().Get("format") == "json" || strings.Contains(r.Header.Get("Accept"), "application/json")
}

func hasPrefix(s, p string) bool { return len(s) > len(p) && s[:len(p)] == p }

// cors lets players on any site read answers, redirects and errors included.
func cors(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Timing-Allow-Origin", "*")
}

// problem answers with an RFC 9457 problem.
func problem(w http.ResponseWriter, status int, detail string) {
	h := w.Header()
	cors(h)
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	b, err := json.Marshal(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
	if err == nil {
		_, _ = w.Write(append(b, '\n')) // the client has gone
	}
}

// record returns the asset's playback record. known is false when no store
// could be asked in time, which must not keep anyone from watching; gone assets
// and unknown ones are errors with a status.
func (rt *router) record(ctx context.Context, asset string) (r playback.Record, known bool, err *refusal) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	rec, ferr := rt.records.Newest(ctx, asset)
	switch {
	case errors.Is(ferr, playback.ErrNotFound):
		return rec, false, &refusal{http.StatusNotFound, "Nothing to watch here yet",
			"No video with this address is playable: the address is wrong, or its first seconds are still being prepared."}
	case ferr != nil:
		rt.metrics.unread.Inc()
		rt.log.Debug("playback record not found in time, redirecting without it", "asset", asset, "err", ferr)
		return rec, false, nil
	case rec.TakenDown:
		return rec, true, &refusal{http.StatusUnavailableForLegalReasons, "This video was taken down", "It is no longer available."}
	case rec.Deleted:
		return rec, true, &refusal{http.StatusGone, "This video was deleted", "It is no longer available."}
	}
	return rec, true, nil
}

// decided counts a decision, by its reason and by where the viewer is.
func (rt *router) decided(via string, d *geo.Decision) {
	decided, alarm := rt.metrics.decision(via, d)
	if decided != nil {
		decided.Inc()
		rt.zone.origins.add(via, d.Choices[0].Region.Name, d.Location, 1, rt.now())
	}
	if alarm != nil {
		alarm.Inc()
	}
}

// refusal is an answer that ends a request.
type refusal struct {
	status        int
	title, detail string
}

// allowed returns the regions a record lets be offered; nil means all.
func allowed(r playback.Record) []string {
	if r.Placement.Pinned() {
		return r.Placement.Regions
	}
	return nil
}

type statusRecorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (s *statusRecorder) WriteHeader(code int) {
	if !s.wrote {
		s.status, s.wrote = code, true
	}
	s.ResponseWriter.WriteHeader(code)
}

func (s *statusRecorder) Write(b []byte) (int, error) {
	s.wrote = true
	return s.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (s *statusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }
