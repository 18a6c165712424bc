package httpcache

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/edge-cache/deliver"
	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// Respond implements fastpath.Responder: it answers from fresh responses that are
// whole in memory and the only one of their URI, as ServeHTTP does.
func (p *Proxy) Respond(r *fastpath.Request, buf []byte) (fastpath.Answer, bool) {
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
	o := p.cfg.Cache.Hit(append(id, s.id...))
	if o == nil {
		return fastpath.Answer{}, false
	}
	head, ok := o.Memo(0).(*preparedHead)
	if !ok || head.of != s {
		head = p.prepare(s)
		o.SetMemo(0, head)
	}
	buf = append(buf, head.parts[0]...)
	buf = strconv.AppendInt(buf, int64(age/time.Second), 10)
	buf = append(buf, head.parts[1]...)
	buf = strconv.AppendInt(buf, int64((s.lifetime-age)/time.Second), 10)
	buf = append(buf, head.parts[2]...)
	return fastpath.Answer{Head: buf, Body: o.Whole(), Slot: o.Slot()}, true
}

// Responded implements fastpath.Responder.
func (p *Proxy) Responded(_ *fastpath.Answer, sent int64, took time.Duration, _ error) {
	if f := p.cfg.Answered; f != nil {
		f("hit", http.StatusOK, sent, took)
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

// preparedHead is a response head with room for Age, then the remaining lifetime.
type preparedHead struct {
	of    *response
	parts [3]string
}

const (
	ageMark = "{age}"
	ttlMark = "{ttl}"
)

// prepare takes the fields from what ServeHTTP answers a HEAD with and writes them
// as net/http does. Marks in the origin's own fields are no matter: Age and the
// last member of Cache-Status are the only places looked at.
func (p *Proxy) prepare(s *response) *preparedHead {
	w := &headWriter{header: http.Header{}}
	x := &exchange{p: p, w: w, r: &http.Request{Method: http.MethodHead, Header: http.Header{}}}
	x.head(s, "hit; ttl="+ttlMark)
	x.deliver(s, nil, s.size)
	w.header["Age"] = []string{ageMark}
	var b strings.Builder
	b.WriteString("HTTP/1.1 200 OK\r\n")
	_ = w.header.Write(&b)
	text := b.String() + "\r\n"
	age := strings.Index(text, "\r\nAge: "+ageMark+"\r\n") + len("\r\nAge: ")
	line := age + strings.Index(text[age:], "\r\nCache-Status: ") + 2
	end := line + strings.Index(text[line:], "\r\n")
	ttl := end - len(ttlMark)
	return &preparedHead{of: s, parts: [3]string{text[:age], text[age+len(ageMark) : ttl], text[end:]}}
}

// headWriter keeps a response's header.
type headWriter struct{ header http.Header }

func (w *headWriter) Header() http.Header         { return w.header }
func (w *headWriter) WriteHeader(int)             {}
func (w *headWriter) Write(b []byte) (int, error) { return len(b), nil }

var _ fastpath.Responder = (*Proxy)(nil)
var _ deliver.Body = (*arriving)(nil)
