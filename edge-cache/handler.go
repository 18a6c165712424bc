package edgecache

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/deliver"
	"github.com/meridian-video/meridian/edge-cache/load"
	"github.com/meridian-video/meridian/edge-cache/origin"
	"github.com/meridian-video/meridian/edge-cache/peer"
	"github.com/meridian-video/meridian/internal/geo/health"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/token"
)

const (
	yearLong = "max-age=31536000, immutable"
	// endedFor is how long an ended playlist may be kept by others: it never
	// changes, but whether it may be watched does.
	endedFor = "max-age=600"
)

// handler answers the playback URLs.
type handler struct {
	sites    sites
	origins  *origins
	limits   *limits
	peerKey  peer.Key
	cache    *cache.Cache
	composer *composer
	guard    guard
	session  *token.Signer
	ready    func(context.Context) error
	metrics  *metrics
	log      *slog.Logger
	sample   uint64
	answered atomic.Uint64
	meter    *load.Meter
	drain    *drainer
}

// answer is what is known of a request once it was answered, for log and metrics.
type answer struct {
	target target
	grant  grant
	sent   deliver.Sent
	cache  string // how the cache answered: "memory", "disk", "origin", "peer", "collapsed", "negative", "composed" or "none"
	err    error
	player told
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	h.metrics.open.Inc()
	a := answer{cache: "none"}
	defer func() {
		h.metrics.open.Dec()
		v := recover()
		if v != nil {
			h.metrics.aborted.Inc()
		}
		h.account(r, &a, time.Since(started), v != nil)
		if v != nil {
			panic(v)
		}
	}()
	head := w.Header()
	commonHeader(head)
	if err := h.answer(w, r, &a); err != nil {
		p := problemOf(err)
		a.err, a.sent.Status = err, p.Status
		if p == errContent {
			head.Set("Connection", "close") // what follows is not a request
			// net/http waits for it all the same, before it closes.
			if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(deliver.ContentGrace)); err != nil && !errors.Is(err, http.ErrNotSupported) {
				h.log.Debug("deadline of a request's content", "err", err)
			}
		}
		p.write(w, r.Method == http.MethodHead)
	}
}

// Shared between responses: never changed.
var (
	star    = []string{"*"}
	nosniff = []string{"nosniff"}
	exposed = []string{"Content-Range, Age, Cache-Status"}
)

// commonHeader sets what every response has.
func commonHeader(h http.Header) {
	h["Access-Control-Allow-Origin"] = star
	h["Timing-Allow-Origin"] = star
	h["Access-Control-Expose-Headers"] = exposed
	h["X-Content-Type-Options"] = nosniff
}

func (h *handler) answer(w http.ResponseWriter, r *http.Request, a *answer) error {
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return errContent
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		return preflight(w, a)
	default:
		return errMethod
	}
	path, rawQuery := requestTarget(r)
	if strings.HasPrefix(path, peer.Prefix) {
		return h.peer(w, r, a, path)
	}
	t, ok := parsePath(path)
	if !ok {
		return errPath
	}
	a.target = t
	if t.kind == kindHealth {
		return h.health(w, r, a)
	}
	h.drain.seen(time.Now())
	rest, player := cutReport(rawQuery)
	player.fields(r.Header)
	a.player = player
	q, err := parseQuery(rest)
	if err != nil {
		return err
	}
	// Masters begin sessions. What has begun goes on.
	if t.kind == kindMaster && h.meter.Refuse() {
		return errShed
	}
	if a.grant, err = h.admit(r, t); err != nil {
		return err
	}
	place := a.grant.record.Placement
	if !place.Allows(h.sites.here.Name) {
		return h.elsewhere(w, a, path, rawQuery, place)
	}
	switch t.kind {
	case kindMaster:
		return h.master(w, r, a, q)
	case kindMedia:
		return h.media(w, r, a, q)
	default:
		key := objects.SegmentKey(t.asset, t.run, t.rendition, t.object)
		mime, control := t.delivery()
		return h.object(w, r, a, key, place, mime, control)
	}
}

// admit is guard.check; looking for the record of an asset not known here asks
// every region, so a client may have only so many looked for at once.
func (h *handler) admit(r *http.Request, t target) (grant, error) {
	if _, known := h.guard.finder.Known(t.asset); !known {
		free, err := h.limits.look(clientOf(r.RemoteAddr), t.asset)
		if err != nil {
			return grant{}, err
		}
		defer free()
	}
	return h.guard.check(r, t)
}

// delivery is the content type and Cache-Control of a segment, init segment or extra.
func (t target) delivery() (mime, control string) {
	mime, control = "video/mp4", "public, "+yearLong
	if t.token != token.None {
		control = "private, " + yearLong
	}
	switch {
	case t.kind == kindExtra && t.object == extrasIndex:
		mime = "application/json"
	case t.kind == kindExtra && strings.Contains(t.object, ".vtt-"):
		mime = "text/vtt"
	case t.kind == kindExtra && strings.Contains(t.object, ".webp-"):
		mime = "image/webp"
	case t.kind == kindExtra:
		mime = "image/jpeg"
	case t.rendition[0] == 'a':
		mime = "audio/mp4"
	case t.rendition[0] == 't':
		mime = "text/vtt"
	}
	return mime, control
}

// requestTarget is the request's path and query as they came, undecoded.
func requestTarget(r *http.Request) (path, rawQuery string) {
	if strings.HasPrefix(r.RequestURI, "/") {
		path, rawQuery, _ = strings.Cut(r.RequestURI, "?")
		return path, rawQuery
	}
	return r.URL.EscapedPath(), r.URL.RawQuery
}

func preflight(w http.ResponseWriter, a *answer) error {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Range, If-Range, If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, Cache-Control, CMCD-Request, CMCD-Object, CMCD-Status, CMCD-Session")
	h.Set("Access-Control-Max-Age", "86400")
	h.Set("Allow", "GET, HEAD, OPTIONS")
	w.WriteHeader(http.StatusNoContent)
	a.sent.Status = http.StatusNoContent
	return nil
}

// elsewhere sends the viewer of an asset pinned to other regions there: its
// objects are neither read nor kept here.
func (h *handler) elsewhere(w http.ResponseWriter, a *answer, path, rawQuery string, p objects.Placement) error {
	edges := h.sites.pathways(nil, a.target.asset, p)
	if len(edges) == 0 {
		return errRule
	}
	to := edges[0].URL + path
	if rawQuery != "" {
		to += "?" + rawQuery
	}
	w.Header().Set("Location", to)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusFound)
	a.sent.Status = http.StatusFound
	return nil
}

// health answers the routers' probes with real bytes on the way segments take.
// Any region's health object will do: an edge whose own store is gone serves on.
func (h *handler) health(w http.ResponseWriter, r *http.Request, a *answer) error {
	if h.ready(r.Context()) != nil {
		return errStarting
	}
	if h.drain.ready() != nil {
		return errDraining
	}
	w.Header()[health.LoadHeader] = h.meter.Header()
	var errs []error
	for _, s := range h.origins.stores {
		err := h.object(w, r, a, objects.HealthKey(s.region), objects.Placement{}, "application/octet-stream", "no-store")
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		if r.Context().Err() != nil {
			break
		}
	}
	return errors.Join(append([]error{errDown}, errs...)...)
}

func (h *handler) object(w http.ResponseWriter, r *http.Request, a *answer, key string, p objects.Placement, mime, control string) error {
	src := h.origins.source(key, p)
	if a.target.immutable() {
		src = h.origins.shared(key, p)
	}
	if a.target.asset != "" {
		src = h.limits.bound(src, clientOf(r.RemoteAddr), a.target.asset)
	}
	o, out, err := h.cache.Get(r.Context(), key, src)
	a.cache = label(out)
	switch known := a.target.kind == kindSegment || a.target.kind == kindInit; {
	case known && errors.Is(err, cache.ErrNotFound) && errors.Is(err, origin.ErrUnavailable):
		// A playlist named it, and players don't ask again for what they are told is nowhere.
		return errDown
	case err != nil:
		return err
	}
	defer o.Release()
	if a.target.kind == kindSegment && (out.Tier != cache.Memory || out.Prefetched) {
		h.ahead(a.target, p)
	}
	c := objectContent(o, mime, control)
	if o.Direct() {
		a.cache = string(cache.Origin)
		s := &streamed{open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			body, _, err := src(ctx, offset)
			return body, err
		}}
		defer func() {
			if err := s.Close(); err != nil {
				h.log.Debug("closing an origin's body", "key", key, "err", err)
			}
		}()
		c.body, c.fetched = s, time.Time{}
		w.Header().Set("Cache-Status", h.cacheName()+"; fwd=bypass; detail=too-large")
	} else if fromPeer(o, out) {
		a.cache = peerLabel
		w.Header().Set("Cache-Status", h.cacheName()+"; fwd=uri-miss; stored; detail="+peerLabel)
	} else {
		w.Header().Set("Cache-Status", h.cacheStatus(out))
	}
	return serveContent(w, r, c, a)
}

// aheadBelow is the load above which the rest is for what is asked for.
const aheadBelow = 0.8

// ahead brings the next segment before it is asked for: of a viewer who was the
// first here, or had the one brought before, the next will be asked for in a
// segment's time. Only capacity that nobody asks for is taken for it. It doesn't wait,
// and keeps none of t's strings.
func (h *handler) ahead(t target, p objects.Placement) {
	if h.meter.Load() > aheadBelow {
		return
	}
	next, ok := h.composer.Next(t.asset, t.run, t.rendition, t.object)
	if !ok {
		return
	}
	key := objects.SegmentKey(t.asset, t.run, t.rendition, next)
	if h.cache.Prefetch(key, h.limits.bound(h.origins.shared(key, p), netip.Addr{}, strings.Clone(t.asset))) {
		h.metrics.ahead.Inc()
	}
}

func objectContent(o *cache.Object, mime, control string) *content {
	info := o.Info()
	return &content{body: o, size: info.Size, mime: mime, etag: info.ETag, modified: info.Modified, control: control, fetched: info.Fetched}
}

func label(o cache.Outcome) string {
	switch {
	case o.Negative:
		return "negative"
	case o.Collapsed:
		return "collapsed"
	default:
		return string(o.Tier)
	}
}

// cacheName names this cache in Cache-Status (RFC 9211): a string, since edge
// names may start with a digit.
func (h *handler) cacheName() string { return `"` + h.sites.self.Name + `"` }

func (h *handler) cacheStatus(o cache.Outcome) string {
	switch {
	case o.Tier != cache.Origin:
		return h.cacheName() + "; hit; detail=" + string(o.Tier)
	case o.Collapsed:
		return h.cacheName() + "; fwd=uri-miss; collapsed"
	default:
		return h.cacheName() + "; fwd=uri-miss; stored"
	}
}

func (h *handler) master(w http.ResponseWriter, r *http.Request, a *answer, q query) error {
	rec := a.grant.record
	key := objects.MasterKey(rec.Asset, rec.Run, rec.Master)
	o, out, err := h.cache.Get(r.Context(), key, h.origins.source(key, rec.Placement))
	a.cache = label(out)
	if err != nil {
		return err
	}
	defer o.Release()
	if o.Direct() || o.Info().Size > maxMaster {
		return cache.ErrCorrupt
	}
	stored, err := o.All(r.Context())
	if err != nil {
		return err
	}
	ses, err := startSession(a.target, a.grant, h.session, h.guard.now())
	if err != nil {
		return err
	}
	b, err := h.sites.master(stored, rec.Asset, rec.Run, ses, q, rec.Placement)
	if err != nil {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", hls.ContentType)
	head.Set("Cache-Control", "no-store")
	head.Set("Content-Length", strconv.Itoa(len(b)))
	head.Set("Cache-Status", h.cacheStatus(out))
	w.WriteHeader(http.StatusOK)
	a.sent.Status = http.StatusOK
	if r.Method == http.MethodHead {
		return nil
	}
	deliver.Write(w, b, &a.sent)
	return nil
}

func (h *handler) media(w http.ResponseWriter, r *http.Request, a *answer, q query) error {
	t := a.target
	a.cache = composedLabel
	prefix := ""
	if q.plain {
		prefix = h.sites.router(q.router, h.sites.self) + "/v/" + t.token + "/" + t.asset + "/" + t.run + "/" + t.rendition + "/"
	}
	p, err := h.composer.Playlist(r.Context(), t, prefix, a.grant.record.Placement)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Status", h.composedStatus())
	return serveContent(w, r, h.composedContent(p), a)
}

// composedLabel is how metrics and logs name what the edge made itself.
const composedLabel = "composed"

func (h *handler) composedStatus() string { return h.cacheName() + "; hit; detail=composed" }

func (h *handler) composedContent(p *playlist) *content {
	control := "max-age=1"
	if p.ended {
		control = endedFor
	}
	return &content{body: whole(p.body), size: int64(len(p.body)), mime: hls.ContentType, etag: p.etag, control: control}
}

// account writes metrics and, at debug level, the access log. Tokens never
// appear in either: kid and jti stand for them.
func (h *handler) account(r *http.Request, a *answer, took time.Duration, aborted bool) {
	h.metrics.requests.WithLabelValues(a.target.kind.String(), strconv.Itoa(a.sent.Status), a.cache).Inc()
	h.metrics.bytes.WithLabelValues(a.cache).Add(float64(a.sent.Bytes))
	h.metrics.seconds.WithLabelValues(a.cache).Observe(took.Seconds())
	switch a.sent.Status {
	case http.StatusOK, http.StatusPartialContent, http.StatusNotModified:
		h.metrics.players.observe(&a.player)
	}
	level := slog.LevelDebug
	if a.err != nil {
		p := problemOf(a.err)
		h.metrics.refused.WithLabelValues(p.Code).Inc()
		if p.Status >= 500 && r.Context().Err() == nil {
			level = slog.LevelWarn
		}
	}
	if !h.log.Enabled(r.Context(), level) || level == slog.LevelDebug && a.err == nil && h.answered.Add(1)%h.sample != 0 {
		return
	}
	attrs := []slog.Attr{
		slog.String("kind", a.target.kind.String()), slog.String("method", r.Method), slog.String("asset", a.target.asset),
		slog.String("run", a.target.run), slog.String("rendition", a.target.rendition), slog.String("object", a.target.object),
		slog.Int("status", a.sent.Status), slog.Int64("bytes", a.sent.Bytes), slog.String("cache", a.cache), slog.Duration("took", took),
		slog.String("peer", r.RemoteAddr),
	}
	if a.grant.kid != "" {
		attrs = append(attrs, slog.String("kid", a.grant.kid), slog.String("jti", a.grant.claims.ID))
	}
	if aborted {
		attrs = append(attrs, slog.Bool("aborted", true))
	}
	if a.err != nil {
		attrs = append(attrs, slog.Any("err", a.err))
	}
	h.log.LogAttrs(r.Context(), level, "request", attrs...)
}
