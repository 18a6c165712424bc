package httpcache

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/deliver"
)

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{p: p, w: w, r: r, started: time.Now(), uri: strings.ToLower(r.Host) + " " + r.URL.RequestURI(), rd: requestDirectives(r.Header), how: "error"}
	defer func() {
		if f := p.cfg.Answered; f != nil {
			f(x.how, x.sent.Status, x.sent.Bytes, time.Since(x.started))
		}
	}()
	if r.ContentLength != 0 {
		x.content = newContent(r.Body, http.NewResponseController(w), p.cfg.ContentTimeout)
		defer x.content.finish()
	}
	switch {
	case r.Method == http.MethodOptions && r.URL.Path == "*":
		x.options()
	case r.Method == http.MethodConnect || r.URL.Path == "*":
		x.fail(http.StatusNotImplemented, "method", nil)
	case p.loops(r.Header["Via"]):
		x.fail(http.StatusLoopDetected, "loop", nil)
	case x.lastHop():
	case r.Method == "PURGE":
		x.purge()
	case r.Method != http.MethodGet && r.Method != http.MethodHead || r.ContentLength != 0:
		x.forward("method", nil)
	default:
		x.get()
	}
}

// loops reports whether a request has been here before.
func (p *Proxy) loops(via []string) bool {
	for _, line := range via {
		for hop := range strings.SplitSeq(line, ",") {
			if f := strings.Fields(hop); len(f) > 1 && f[1] == p.cfg.Name {
				return true
			}
		}
	}
	return false
}

// lastHop obeys Max-Forwards of TRACE and OPTIONS (RFC 9110 section 7.6.2): it answers
// where the request is to go no further.
func (x *exchange) lastHop() bool {
	v := x.r.Header["Max-Forwards"]
	if len(v) != 1 || x.r.Method != http.MethodTrace && x.r.Method != http.MethodOptions {
		return false
	}
	switch n := deltaSeconds(v[0]); { // 1*DIGIT, too
	case n < 0:
		return false
	case n > 0:
		x.r.Header["Max-Forwards"] = []string{strconv.FormatInt(int64(n/time.Second)-1, 10)}
		return false
	}
	if x.r.Method == http.MethodTrace {
		x.w.Header()["Allow"] = allowed
		x.fail(http.StatusMethodNotAllowed, "max-forwards", nil)
		return true
	}
	x.options()
	return true
}

// allowed is shared between responses: never changed.
var allowed = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}

// options answers an OPTIONS that is about this server.
func (x *exchange) options() {
	x.how, x.sent.Status = "local", http.StatusNoContent
	x.w.Header()["Allow"] = allowed
	x.mark(x.w.Header(), "detail=local")
	x.w.WriteHeader(http.StatusNoContent)
}

// exchange is one request being answered.
type exchange struct {
	p       *Proxy
	w       http.ResponseWriter
	r       *http.Request
	started time.Time
	uri     string
	rd      directives
	how     string
	sent    deliver.Sent
	fwd     string      // why the origin was asked; empty while it wasn't
	own     http.Header // fields of the response that nobody else gets
	content *content    // of the request; nil without
}

// maxTurns bounds how often a request looks again because what it waited for
// turned out to be for others.
const maxTurns = 3

func (x *exchange) get() {
	p := x.p
	for turn := 0; ; turn++ {
		x.own = nil
		s, known := p.index.find(x.uri, x.r.Header)
		reason := "uri-miss"
		switch {
		case s != nil:
			switch age := s.age(p.now()); s.decide(x.rd, age) {
			case useFresh:
				if x.serveStored(s, "hit", "hit; ttl="+seconds(s.lifetime-age)) {
					return
				}
				s = nil // its body is gone
			case useStale:
				p.revalidate(x.r, x.uri, s)
				if x.serveStored(s, "stale", "hit; ttl="+seconds(s.lifetime-age)+"; detail=revalidating") {
					return
				}
				s = nil
			default:
				reason = "stale"
				if x.rd.noCache || s.lifetime > age {
					reason = "request"
				}
			}
		case known:
			reason = "vary-miss"
		}
		if s == nil && x.servePart() {
			return
		}
		if x.rd.onlyIfCached {
			x.fail(http.StatusGatewayTimeout, "only-if-cached", nil)
			return
		}
		if x.r.Method == http.MethodHead || s == nil && (x.rd.noStore || p.index.passing(x.uri, x.r.Header["Range"] != nil, p.now())) {
			x.forward(reason, s)
			return
		}
		if s == nil && x.r.Header["Range"] != nil && x.r.Header.Get("Range") != "bytes=0-" {
			if x.getRange(reason, turn) {
				return
			}
			continue
		}
		// A request that insists on the origin's answer doesn't take another's, nor does one
		// with credentials, and what each request has to be validated for isn't waited for.
		share := !x.rd.noCache && !x.rd.noStore && x.r.Header["Authorization"] == nil && turn < maxTurns && (s == nil || s.reusable())
		if x.join("", s, share, reason) {
			return
		}
	}
}

// join answers from the flight for the whole or, with rng, for that range; false: look again.
func (x *exchange) join(rng string, old *response, share bool, reason string) bool {
	trace, informed := x.informed()
	defer informed()
	f, started, err := x.p.join(x.r, x.uri, rng, old, share, trace)
	if err != nil {
		x.refused(err)
		return true
	}
	x.fwd = reason
	select {
	case <-f.known:
		informed()
		return x.land(f, started, old, reason)
	case <-x.r.Context().Done():
		if started {
			f.leave()
		}
		x.how = "gone"
		panic(http.ErrAbortHandler)
	}
}

// land answers from a flight of which it is known what comes.
func (x *exchange) land(f *flight, started bool, old *response, reason string) bool {
	if x.own = nil; started {
		x.own = f.own
	}
	failed := f.err != nil || f.stored == nil && isFailure(f.status)
	if failed && old != nil {
		age := old.age(x.p.now())
		if old.onError(x.rd, age, x.p.cfg.StaleFor, f.err == nil) {
			status := "hit; ttl=" + seconds(old.lifetime-age) + "; detail=origin-failed"
			if f.status != 0 {
				status = "fwd=stale; fwd-status=" + strconv.Itoa(f.status) + "; detail=stale-if-error"
			}
			if started {
				f.leave()
			}
			if x.serveStored(old, "stale", status) {
				return true
			}
		}
	}
	switch {
	case f.err != nil:
		x.unreachable(f.err, old)
		return true
	case f.stored == nil:
		if !started {
			return false // not for sharing: ask for oneself
		}
		res := f.take()
		if res == nil {
			x.fail(http.StatusBadGateway, "origin", errors.New("response was taken"))
			return true
		}
		defer f.cancel()
		x.relay(res, "miss", "fwd="+reason+"; fwd-status="+strconv.Itoa(res.StatusCode))
		return true
	case !started && (!f.stored.matches(x.r.Header) || f.stored.decide(x.rd, f.stored.age(x.p.now())) == useValidate):
		return false
	case f.validated:
		how, status := "validated", "fwd="+reason+"; fwd-status=304"
		if !started {
			how, status = "collapsed", status+"; collapsed"
		}
		return x.serveStored(f.stored, how, status)
	}
	status := "fwd=" + reason + "; fwd-status=" + strconv.Itoa(f.status) + "; stored"
	how := "miss"
	if !started {
		how, status = "collapsed", "fwd="+reason+"; fwd-status="+strconv.Itoa(f.status)+"; collapsed"
	}
	x.head(f.stored, status)
	var body deliver.Body = f.body
	if started {
		body = &first{arriving: f.body}
		defer func() {
			if err := f.body.leave(); err != nil {
				x.p.cfg.Log.Debug("closing an origin's body", "uri", x.uri, "err", err)
			}
			if errors.Is(f.body.failure(), errOverflow) {
				f.cancel()
			}
		}()
	}
	x.how = how
	x.deliver(f.stored, body, f.stored.size)
	return true
}

// isFailure reports whether an origin's answer is an error of RFC 5861 section 4.
func isFailure(status int) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// serveStored answers from a stored response; false: its body is gone.
func (x *exchange) serveStored(s *response, how, status string) bool {
	o, _, err := x.p.stored(x.r.Context(), x.r, s)
	if err == nil {
		defer o.Release()
	}
	if err == nil && s.size > 0 {
		_, err = o.Bytes(x.r.Context(), 0) // its beginning may be damaged on disk
	}
	switch {
	case err == nil:
	case x.r.Context().Err() != nil:
		x.how = "gone"
		panic(http.ErrAbortHandler)
	case errors.Is(err, cache.ErrBusy), errors.Is(err, cache.ErrClosed):
		return false
	default:
		x.p.index.remove(x.uri, s)
		return false
	}
	x.head(s, status)
	x.how = how
	x.deliver(s, o, s.size)
	return true
}

// head writes a stored response's fields, with Age and Cache-Status.
func (x *exchange) head(s *response, status string) {
	h := x.w.Header()
	for name, v := range s.header {
		h[name] = v
	}
	for name, v := range x.own {
		h[name] = v
	}
	h["Age"] = []string{seconds(max(0, s.age(x.p.now())))}
	delete(h, "Content-Length")
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // net/http would guess one
	}
	if s.part != nil || s.status == http.StatusOK && s.size >= 0 {
		h["Accept-Ranges"] = []string{"bytes"}
	}
	x.mark(h, status)
}

// mark adds Cache-Status (RFC 9211) and Via.
func (x *exchange) mark(h http.Header, status string) {
	h["Cache-Status"] = []string{strings.Join(append(slices.Clone(h["Cache-Status"]), x.p.cfg.Name+"; "+status), ", ")}
	h["Via"] = []string{strings.Join(append(slices.Clone(h["Via"]), x.p.via(1, 1)), ", ")}
}

func (x *exchange) deliver(s *response, b deliver.Body, size int64) {
	if s.part != nil {
		x.deliverPart(s, b)
		return
	}
	c := deliver.Content{Body: b, Size: size, ETag: s.etag, Modified: s.modified, Date: s.date(), Status: s.status}
	switch err := c.Serve(x.w, x.r, &x.sent); {
	case errors.Is(err, deliver.ErrCondition):
		x.refuse(http.StatusPreconditionFailed)
	case errors.Is(err, deliver.ErrRange):
		x.refuse(http.StatusRequestedRangeNotSatisfiable)
	case err != nil:
		x.p.cfg.Log.Debug("body can't be had", "uri", x.uri, "err", err)
		panic(http.ErrAbortHandler)
	}
}

// refuse answers without the representation's fields.
func (x *exchange) refuse(status int) {
	h := x.w.Header()
	for name := range h {
		switch name {
		case "Date", "Etag", "Last-Modified", "Content-Range", "Cache-Status", "Via":
		default:
			delete(h, name)
		}
	}
	h["Content-Length"] = []string{"0"}
	x.sent.Status = status
	x.w.WriteHeader(status)
}

// refused answers a request for which the origin isn't asked.
func (x *exchange) refused(err error) {
	if errors.Is(err, errTooMany) {
		x.fail(http.StatusTooManyRequests, "too-many", nil)
		return
	}
	x.fail(http.StatusServiceUnavailable, "closing", err)
}

// fail answers for an origin that can't.
func (x *exchange) fail(status int, detail string, err error) {
	if err != nil {
		x.p.cfg.Log.Warn("no answer from the origin", "uri", x.uri, "detail", detail, "err", err)
	}
	h := x.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	came := "detail=" + detail
	if x.fwd != "" {
		came = "fwd=" + x.fwd + "; " + came
	}
	x.mark(h, came)
	switch status {
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusTooManyRequests:
		h.Set("Retry-After", "1")
	}
	body := http.StatusText(status) + "\n"
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.sent.Status = status
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		deliver.Write(x.w, []byte(body), &x.sent)
	}
}

// unreachable answers for an origin that didn't: s is what is stored, nil without.
func (x *exchange) unreachable(err error, s *response) {
	switch {
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		x.fail(http.StatusGatewayTimeout, "origin-timeout", err)
	case s != nil && s.strict(): // which must not be used (section 5.2.2.2)
		x.fail(http.StatusGatewayTimeout, "origin", err)
	default:
		x.fail(http.StatusBadGateway, "origin", err)
	}
}

// forward passes a request on without storing, and obeys what its answer means
// for what is stored: s is the response a HEAD speaks about.
func (x *exchange) forward(reason string, s *response) {
	leave, ok := x.p.cfg.Admit(x.r.RemoteAddr)
	if !ok {
		x.refused(errTooMany)
		return
	}
	defer leave()
	out := x.p.outgoing(x.r, false)
	if x.content != nil {
		out.Body, out.ContentLength = x.content, x.r.ContentLength
	}
	x.fwd = reason
	asked := x.p.now()
	trace, informed := x.informed()
	res, err := x.p.transport.RoundTrip(out.WithContext(httptrace.WithClientTrace(out.Context(), trace)))
	informed()
	if err != nil {
		if x.content != nil && x.content.tooLate() {
			x.w.Header().Set("Connection", "close")
			x.fail(http.StatusRequestTimeout, "content", err)
			return
		}
		if x.r.Context().Err() != nil {
			x.how = "gone"
			panic(http.ErrAbortHandler)
		}
		if s != nil && s.onError(x.rd, s.age(x.p.now()), x.p.cfg.StaleFor, false) && x.serveStored(s, "stale", "hit; detail=origin-failed") {
			return
		}
		x.unreachable(err, s)
		return
	}
	switch {
	case !safe(x.r.Method) && res.StatusCode >= 200 && res.StatusCode < 400:
		x.invalidate(res.Header)
		if err := x.synced(time.Second); err != nil {
			x.p.cfg.Log.Debug("invalidation isn't on disk", "uri", x.uri, "err", err)
		}
	case x.r.Method == http.MethodHead && res.StatusCode == http.StatusOK && s != nil:
		x.freshen(s, res, asked)
	}
	x.relay(res, "pass", "fwd="+reason+"; fwd-status="+strconv.Itoa(res.StatusCode))
}

// informed has a round trip's interim responses passed on (RFC 9110 section 15.2), but
// for 100, which is ours to send, and 101. Call done when it is over: the transport may
// still read what its caller doesn't wait for any more.
func (x *exchange) informed() (trace *httptrace.ClientTrace, done func()) {
	var mu sync.Mutex
	over := !x.r.ProtoAtLeast(1, 1)
	return &httptrace.ClientTrace{Got1xxResponse: func(status int, fields textproto.MIMEHeader) error {
			mu.Lock()
			defer mu.Unlock()
			if over || status <= http.StatusSwitchingProtocols {
				return nil
			}
			h := x.w.Header()
			own := h.Clone()
			maps.Copy(h, endToEnd(http.Header(fields)))
			x.w.WriteHeader(status)
			clear(h) // net/http keeps them for the last response
			maps.Copy(h, own)
			return nil
		}}, func() {
			mu.Lock()
			defer mu.Unlock()
			over = true
		}
}

func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions || method == http.MethodTrace
}

// invalidate forgets what an unsafe method may have changed (section 4.4): its
// target, and Location and Content-Location where they are of the same origin.
func (x *exchange) invalidate(h http.Header) {
	x.p.invalidate(x.uri)
	base := &url.URL{Scheme: "http", Host: x.r.Host, Path: x.r.URL.Path, RawPath: x.r.URL.RawPath}
	for _, name := range []string{"Location", "Content-Location"} {
		v := h.Get(name)
		if v == "" {
			continue
		}
		u, err := base.Parse(v)
		if err != nil || !strings.EqualFold(u.Host, x.r.Host) {
			continue
		}
		u.Fragment = ""
		x.p.invalidate(strings.ToLower(x.r.Host) + " " + u.RequestURI())
	}
}

// freshen obeys the answer to a HEAD (section 4.3.5): it updates the stored GET
// when it speaks of the same representation and else makes an end of it.
func (x *exchange) freshen(s *response, res *http.Response, asked time.Time) {
	h := res.Header
	same := s.status == http.StatusOK && (h.Get("Content-Length") == "" || h.Get("Content-Length") == strconv.FormatInt(s.size, 10))
	if same {
		if n := s.updated(x.r, h, asked, x.p.now(), x.p.cfg.Heuristics); n != nil {
			x.p.renew(x.r, x.uri, n, s)
			return
		}
	}
	x.p.index.remove(x.uri, s)
}

// relay passes the origin's response on.
func (x *exchange) relay(res *http.Response, how, status string) {
	x.how = how
	defer func() { _ = res.Body.Close() }()
	h := x.w.Header()
	for name, v := range endToEnd(res.Header) {
		h[name] = v
	}
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil
	}
	x.mark(h, status)
	x.sent.Status = res.StatusCode
	x.w.WriteHeader(res.StatusCode)
	if x.r.Method == http.MethodHead || res.StatusCode == http.StatusNotModified || res.StatusCode == http.StatusNoContent {
		return
	}
	deliver.Copy(x.w, x.r, &relayed{r: res.Body, buf: make([]byte, 64<<10)}, res.ContentLength, &x.sent)
}

// relayed is a body that passes through.
type relayed struct {
	r   io.Reader
	buf []byte
}

func (b *relayed) Complete() bool { return false }

func (b *relayed) Bytes(context.Context, int64) ([]byte, error) {
	for {
		n, err := b.r.Read(b.buf)
		if n > 0 {
			return b.buf[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// revalidate asks the origin about a stale response that is being used (RFC 5861
// section 3), once however many use it.
func (p *Proxy) revalidate(r *http.Request, uri string, s *response) {
	f, started, err := p.join(r, uri, "", s, true, &httptrace.ClientTrace{})
	if err == nil && started {
		f.leave()
	}
}

// synced waits until what is gone would be after a restart too, for so long.
func (x *exchange) synced(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(x.r.Context(), limit)
	defer cancel()
	return x.p.index.journal.sync(ctx)
}

// purge obeys a PURGE: of the URI, or of all with a key of Surrogate-Key.
func (x *exchange) purge() {
	host, _, err := net.SplitHostPort(x.r.RemoteAddr)
	addr, perr := netip.ParseAddr(host)
	if err != nil || perr != nil || !slices.ContainsFunc(x.p.cfg.PurgeFrom, func(n netip.Prefix) bool { return n.Contains(addr.Unmap()) }) {
		x.fail(http.StatusForbidden, "purge-refused", nil)
		return
	}
	n := 0
	if keys := strings.Fields(strings.Join(x.r.Header["Surrogate-Key"], " ")); len(keys) > 0 {
		for _, k := range keys {
			n += x.p.purge(k)
		}
	} else {
		n = x.p.invalidate(x.uri)
	}
	if err := x.synced(5 * time.Second); err != nil {
		// Nobody gets it from this process any more.
		x.fail(http.StatusServiceUnavailable, "purge-not-on-disk", err)
		return
	}
	x.how = "purge"
	x.sent.Status = http.StatusOK
	x.w.Header().Set("Cache-Control", "no-store")
	x.w.WriteHeader(http.StatusOK)
	deliver.Write(x.w, []byte(`{"purged":`+strconv.Itoa(n)+"}\n"), &x.sent)
}
