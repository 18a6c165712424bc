package httpcache

import (
	"net/http"
	"strings"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/deliver"
	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// Respond implements fastpath.Responder: it answers from fresh responses that are
// whole, in memory or on disk, and the only one of their URI, as ServeHTTP does.
func (p *Proxy) Respond(r *fastpath.Request) (fastpath.Answer, bool) {
	for _, f := range r.Fields {
		if f.Is("cache-control") || f.Is("pragma") || f.Is("via") {
			return fastpath.Answer{}, false
		}
	}
	var scratch [512]byte
	key := scratch[:0]
	for _, c := range r.Host {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		key = append(key, c)
	}
	key = append(append(key, ' '), r.Target...)
	s := p.index.only(key)
	if s == nil || s.noCache || s.status != http.StatusOK || s.size <= 0 {
		return fastpath.Answer{}, false
	}
	age := s.age(p.now())
	if age >= s.lifetime {
		return fastpath.Answer{}, false
	}
	id := scratch[len(key):len(key)]
	o := p.cfg.Cache.Hit(append(id, s.id...), r.Files)
	if o == nil {
		return fastpath.Answer{}, false
	}
	a, ok := p.answer(r, s, o, age)
	if !ok {
		o.Release()
	}
	return a, ok
}

// answer answers with a response's body, or a part of it.
func (p *Proxy) answer(r *fastpath.Request, s *response, o *cache.Object, age time.Duration) (fastpath.Answer, bool) {
	head, ok := o.Memo(0).(*preparedHead)
	if !ok || head.of != s {
		head = p.prepare(fastpath.PrepareHead, s)
		o.SetMemo(0, head)
	}
	passed, left := fastpath.Value{Number: int64(age / time.Second)}, fastpath.Value{Number: int64((s.lifetime - age) / time.Second)}
	if part, named, ok := r.Part(s.size); ok {
		of := head.Part.Load()
		if of == nil {
			of = p.prepare(fastpath.PreparePart, s).Head
			head.Part.Store(of)
		}
		a := fastpath.Answer{Head: of, Values: fastpath.Values{passed, left, {Number: part.Length}, {Text: named}}}
		a.Take(o, part)
		return a, true
	}
	if r.Selects() {
		w, req := r.NewSelection()
		x := &exchange{p: p, w: w, r: req}
		x.head(s, "hit; ttl="+seconds(s.lifetime-age))
		x.deliver(s, fastpath.Unseen{}, s.size)
		a, part, ok := w.Answer("") // it has the Date it came with
		if ok {
			a.Take(o, part)
		}
		return a, ok
	}
	a := fastpath.Answer{Head: head.Head, Values: fastpath.Values{passed, left}}
	a.Take(o, deliver.Span{Length: s.size})
	return a, true
}

// Responded implements fastpath.Responder.
func (p *Proxy) Responded(a *fastpath.Answer, sent int64, took time.Duration, _ error) {
	if f := p.cfg.Answered; f != nil {
		f("hit", a.Head.Status, sent, took)
	}
}

// only returns the URI's response where it has one that answers all requests.
func (x *index) only(uri []byte) *response {
	x.mu.Lock()
	defer x.mu.Unlock()
	el, ok := x.byURI[string(uri)]
	if !ok {
		return nil
	}
	e := el.Value.(*entry)
	if len(e.responses) != 1 || len(e.responses[0].vary) > 0 {
		return nil
	}
	x.recent.MoveToFront(el)
	return e.responses[0]
}

// preparedHead is a response's head with Age and then the remaining lifetime open.
type preparedHead struct {
	*fastpath.Head
	of *response
}

const ttlMark = "{ttl}"

// prepare takes the fields from what ServeHTTP answers, without looking at bytes. Age
// and the end of Cache-Status are the cache's own, whatever the origin's fields say.
func (p *Proxy) prepare(prepare fastpath.Preparer, s *response) *preparedHead {
	handler := func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{p: p, w: w, r: r}
		x.head(s, "hit; ttl="+ttlMark)
		x.deliver(s, fastpath.Unseen{}, s.size)
	}
	return &preparedHead{prepare(handler, func(f *fastpath.HeadField) {
		switch f.Name {
		case "Age":
			f.Value, f.Open = "", true
		case "Cache-Status":
			f.Value, f.Open = strings.TrimSuffix(f.Value, ttlMark), true
		}
	}), s}
}

var _ fastpath.Responder = (*Proxy)(nil)
var _ deliver.Body = (*arriving)(nil)
