package httpcache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

var (
	errClosed  = errors.New("the cache is shutting down")
	errTooMany = errors.New("too much is being fetched for this client")
)

// flight is one request to the origin that several may wait for.
type flight struct {
	// uri is what it asks for, key is that and the range it asks for.
	uri, key string
	known    chan struct{} // closed when what follows is set
	// stored is the response as it will be, or has been, stored; nil when it isn't
	// shared. body is set while its body arrives.
	stored    *response
	own       http.Header // fields that are for who asked first alone
	body      *arriving
	validated bool // stored is an old response the origin confirmed
	status    int  // of the origin
	err       error
	void      bool // invalidated while it flew; under Proxy.mu

	mu     sync.Mutex
	direct *http.Response // not shared: of who asked first
	left   bool
	cancel func() // ends it; called in any case
}

// take returns the response that isn't shared; nil when it was taken.
func (f *flight) take() *http.Response {
	f.mu.Lock()
	defer f.mu.Unlock()
	res := f.direct
	f.direct = nil
	return res
}

// leave is called by who asked first when it goes without having read the response.
func (f *flight) leave() {
	f.mu.Lock()
	f.left = true
	res, body := f.direct, f.body
	f.direct = nil
	f.mu.Unlock()
	if body != nil {
		_ = body.leave()
	}
	if res != nil {
		_ = res.Body.Close()
		f.cancel()
	}
}

func (f *flight) give(res *http.Response) {
	f.mu.Lock()
	left := f.left
	if !left {
		f.direct = res
	}
	f.mu.Unlock()
	if left {
		_ = res.Body.Close()
		f.cancel()
	}
}

// join returns the flight for uri, starting one that validates old (nil: there is
// nothing to validate) if none runs or the running one may not be shared.
// With rng it asks for that range. trace sees what comes before the response, if it is
// started.
func (p *Proxy) join(r *http.Request, uri, rng string, old *response, share bool, trace *httptrace.ClientTrace) (f *flight, started bool, err error) {
	key := uri
	if rng != "" {
		key += " " + rng
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, errClosed
	}
	if f := p.flights[key]; f != nil && share {
		return f, false, nil
	}
	leave, ok := p.cfg.Admit(r.RemoteAddr)
	if !ok {
		return nil, false, errTooMany
	}
	f = &flight{uri: uri, key: key, known: make(chan struct{})}
	if share {
		p.flights[key] = f
	}
	p.fetches.Add(1)
	out := p.outgoing(r, true)
	if rng != "" {
		out.Header["Range"] = []string{rng}
	}
	if old != nil {
		if old.etag != "" {
			out.Header["If-None-Match"] = []string{old.etag}
		}
		if lm := old.header.Get("Last-Modified"); lm != "" {
			out.Header["If-Modified-Since"] = []string{lm}
		}
	}
	// Who asks may go; the others wait on.
	ctx, cancel := context.WithCancel(p.ctx)
	f.cancel = sync.OnceFunc(func() { cancel(); leave() })
	go func() {
		defer p.fetches.Done()
		p.fetch(out.WithContext(httptrace.WithClientTrace(ctx, trace)), f, old)
		p.land(f)
	}()
	return f, true, nil
}

func (p *Proxy) land(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.landed(f)
}

// landed has nobody join the flight any more; p.mu is held.
func (p *Proxy) landed(f *flight) {
	if p.flights[f.key] == f {
		delete(p.flights, f.key)
	}
}

// fetch asks the origin and, when the answer may be stored, reads all of it.
func (p *Proxy) fetch(r *http.Request, f *flight, old *response) {
	uri := f.uri
	timer := time.AfterFunc(p.cfg.HeaderTimeout, f.cancel)
	asked := p.now()
	res, err := p.transport.RoundTrip(r)
	answered := p.now()
	if !timer.Stop() {
		if err == nil {
			_ = res.Body.Close()
		}
		err = errors.Join(context.DeadlineExceeded, err)
	}
	if err != nil {
		f.err = fmt.Errorf("origin: %w", err)
		f.cancel()
		close(f.known)
		return
	}
	f.status = res.StatusCode
	if old != nil && res.StatusCode == http.StatusNotModified {
		if s := old.updated(r, res.Header, asked, answered, p.cfg.Heuristics); s != nil {
			_ = res.Body.Close()
			f.cancel()
			f.stored, f.own, f.validated = s, s.withheld(res.Header), true
			p.renew(r, uri, s, old)
			close(f.known)
			return
		}
		// It confirms something else. Ask again, for the whole.
		_ = res.Body.Close()
		r.Header.Del("If-None-Match")
		r.Header.Del("If-Modified-Since")
		p.fetch(r, f, nil)
		return
	}
	terms := assess(res.StatusCode, res.Header, asked, answered, p.cfg.Heuristics)
	size := res.ContentLength
	reserve := p.cfg.MaxObject
	if size >= 0 {
		reserve = size
	}
	// An error is no reason to forget what there is: it is stored only where the
	// origin says for how long.
	fits := size <= p.cfg.MaxObject && (res.StatusCode < 500 || terms.explicit)
	status := res.StatusCode
	piece := partOf(res)
	if piece != nil && r.Header["Range"] != nil {
		status = http.StatusOK // what holds for the whole holds for the part
	}
	may := storable(r, requestDirectives(r.Header), status, res.Header, terms)
	if !may || !fits || !p.reserve(reserve) {
		p.land(f)
		// That there is no room now says nothing about the next time.
		if (!may || !fits) && res.StatusCode < 500 && f.key == f.uri {
			p.index.pass(uri, may && size > p.cfg.MaxObject, answered)
		}
		f.give(res)
		close(f.known)
		return
	}
	defer p.release(reserve)
	s := newResponse(r, res.StatusCode, res.Header, terms, answered)
	s.id, s.size, s.part = "http/"+rand.Text(), size, piece
	s.header.Del("Content-Range")
	body := newArriving(size)
	f.mu.Lock()
	f.stored, f.own, f.body = s, s.withheld(res.Header), body
	body.left = f.left
	f.mu.Unlock()
	close(f.known)
	late := time.AfterFunc(p.cfg.BodyTimeout, f.cancel)
	silent := time.AfterFunc(p.cfg.SilenceTimeout, f.cancel)
	defer silent.Stop()
	err = body.fill(&watched{res.Body, silent, p.cfg.SilenceTimeout}, size, p.cfg.MaxObject, func(b []byte) {
		p.keep(f, s, b)
		f.cancel() // it counts for its client no more when that has the last byte
	})
	late.Stop()
	switch {
	case errors.Is(err, errOverflow):
		p.index.pass(uri, true, p.now())
		if body.abandoned() {
			f.cancel()
		}
		return // the context lives on with who asked first
	case err != nil:
		p.cfg.Log.Debug("origin's body broke off", "uri", uri, "err", err)
	}
	f.cancel()
}

// renew puts an updated response in the place of old, unless its new terms forbid that.
// The answer to a request that may not be stored changes nothing for others.
func (p *Proxy) renew(r *http.Request, uri string, s, old *response) {
	storable := func(h http.Header, rd directives) bool {
		return storable(&http.Request{Method: http.MethodGet, Header: h}, rd, s.status, s.header, s.freshness) && !slices.Contains(s.vary, "*")
	}
	switch {
	case !storable(nil, noDirectives()):
		p.index.remove(uri, old)
	case storable(r.Header, requestDirectives(r.Header)):
		p.index.put(uri, s, old) // does nothing where old was invalidated
	}
}

// watched is a body that sets a timer anew before it waits.
type watched struct {
	io.ReadCloser
	timer *time.Timer
	after time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.after)
	return w.ReadCloser.Read(p)
}

// Close stops the timer: who reads on takes the body as slowly as it likes.
func (w *watched) Close() error {
	w.timer.Stop()
	return w.ReadCloser.Close()
}

// keep stores a response whose body is whole, unless it was invalidated meanwhile.
func (p *Proxy) keep(f *flight, s *response, body []byte) {
	c := *s
	stored := &c
	stored.size = int64(len(body))
	if stored.part != nil {
		stored, body = p.combine(f.uri, stored, body)
	}
	again := p.index.has(f.uri) // it is here a second time, under another id
	if !p.cfg.Cache.Put(stored.id, cache.Info{Size: stored.size, ETag: s.etag, Modified: s.modified, Fetched: s.answered}, body, again) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !f.void {
		p.index.put(f.uri, stored, nil)
		p.landed(f)
	}
}

// invalidate forgets what is stored for the URI, and has what is on its way not
// be stored.
func (p *Proxy) invalidate(uri string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.flights {
		if f.uri == uri {
			f.void = true
			p.landed(f)
		}
	}
	return p.index.invalidate(uri)
}

// purge forgets every response with the key. What is on its way might have it:
// it isn't stored.
func (p *Proxy) purge(key string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.flights {
		f.void = true
		p.landed(f)
	}
	return p.index.purge(key)
}

func (p *Proxy) reserve(n int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.room < n {
		return false
	}
	p.room -= n
	return true
}

func (p *Proxy) release(n int64) {
	p.mu.Lock()
	p.room += n
	p.mu.Unlock()
}

// conditions are the fields that ask for less than the whole.
var conditions = []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range"}

// outgoing makes the origin's request of a client's; whole leaves out what asks
// for less than the whole representation.
func (p *Proxy) outgoing(r *http.Request, whole bool) *http.Request {
	u := &url.URL{Scheme: p.cfg.Origin.Scheme, Host: p.cfg.Origin.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
	out := &http.Request{Method: r.Method, URL: u, Host: r.Host, Header: endToEnd(r.Header), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if whole {
		for _, name := range conditions {
			delete(out.Header, name)
		}
		delete(out.Header, "Expect") // it has no content
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // not net/http's own
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		out.Header["X-Forwarded-For"] = []string{strings.Join(append(out.Header["X-Forwarded-For"], host), ", ")}
	}
	out.Header["Via"] = []string{strings.Join(append(out.Header["Via"], p.via(r.ProtoMajor, r.ProtoMinor)), ", ")}
	return out.WithContext(r.Context())
}

func (p *Proxy) via(major, minor int) string {
	if major >= 2 {
		return fmt.Sprintf("%d %s", major, p.cfg.Name)
	}
	return fmt.Sprintf("%d.%d %s", major, minor, p.cfg.Name)
}

// errEvicted: the body isn't in the cache any more.
var errEvicted = errors.New("body was evicted")

// stored returns the body of a stored response. The rest of one whose bytes on disk
// are damaged is asked of the origin, by a request with the fields of r.
func (p *Proxy) stored(ctx context.Context, r *http.Request, s *response) (*cache.Object, cache.Outcome, error) {
	var rest *http.Request
	if r != nil && s.part == nil && s.status == http.StatusOK && strings.HasPrefix(s.etag, `"`) {
		rest = p.outgoing(r, true)
		rest.Method = http.MethodGet
	}
	return p.cfg.Cache.Get(ctx, s.id, func(ctx context.Context, offset int64) (io.ReadCloser, cache.Info, error) {
		if rest == nil || offset == 0 {
			return nil, cache.Info{}, errEvicted
		}
		return p.rest(rest.WithContext(ctx), s, offset)
	})
}

// rest reads a stored representation from offset on from the origin.
func (p *Proxy) rest(r *http.Request, s *response, offset int64) (io.ReadCloser, cache.Info, error) {
	r.Header["Range"] = []string{"bytes=" + strconv.FormatInt(offset, 10) + "-"}
	r.Header["If-Range"] = []string{s.etag}
	res, err := p.transport.RoundTrip(r)
	if err != nil {
		return nil, cache.Info{}, err
	}
	piece := partOf(res)
	if piece == nil || piece.span.Start != offset || piece.end() != s.size || piece.total != s.size || res.Header.Get("Etag") != s.etag {
		return nil, cache.Info{}, errors.Join(errEvicted, res.Body.Close())
	}
	return res.Body, cache.Info{Size: s.size, ETag: s.etag, Modified: s.modified}, nil
}
