package h2

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// begin gives a request to the handler. The caller holds mu.
func (c *conn) begin(h *head, now time.Time) {
	s := c.open(h.id, h.urgency, now)
	ctx, cancel := context.WithCancel(c.ctx)
	x := &exchange{cancel: cancel, declared: h.length, room: streamWindow}
	x.cond.L = &c.mu
	s.heard, s.x = h.end, x
	r, err := c.request(h)
	w := &response{c: c, s: s, header: http.Header{}, declared: -1, head: h.method == http.MethodHead}
	if !h.end {
		b := &content{c: c, s: s, w: w}
		if strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
			r.Header.Del("Expect")
			b.expected = true
		}
		r.Body = b
	}
	r = r.WithContext(ctx)
	handler := c.srv.cfg.Handler
	switch {
	case err != nil:
		handler = badRequest
	case h.path == "*":
		handler = nothing // OPTIONS of the server, as net/http answers it
	}
	c.handlers++
	go c.run(handler, w, r)
}

var (
	badRequest http.HandlerFunc = func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, http.StatusText(http.StatusBadRequest), http.StatusBadRequest)
	}
	nothing http.HandlerFunc = func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "0") }
)

// request is what the handler gets. An error means that its URL can't be read.
func (c *conn) request(h *head) (*http.Request, error) {
	header := make(http.Header, len(h.fields))
	for _, f := range h.fields {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		if name == "Cookie" && len(header[name]) > 0 { // RFC 9113 section 8.2.3
			header[name][0] += "; " + f.Value
			continue
		}
		header[name] = append(header[name], f.Value)
	}
	if h.length >= 0 {
		header["Content-Length"] = []string{strconv.FormatInt(h.length, 10)}
	}
	length := h.length
	if h.end {
		length = 0
	}
	r := &http.Request{Method: h.method, Proto: "HTTP/2.0", ProtoMajor: 2, Header: header, Host: h.authority, RequestURI: h.path,
		RemoteAddr: c.remote, ContentLength: length, Body: http.NoBody, URL: &url.URL{Host: h.authority}}
	state := c.nc.State()
	r.TLS = &state
	if h.method == http.MethodConnect {
		r.RequestURI = h.authority
		return r, nil
	}
	u, err := url.ParseRequestURI(h.path)
	if err == nil {
		r.URL = u
	}
	return r, err
}

// run has the handler answer a request.
func (c *conn) run(h http.Handler, w *response, r *http.Request) {
	x := w.s.x
	whole := c.call(h, w, r)
	if whole {
		whole = w.finish() == nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !whole {
		c.reset(w.s, http2.ErrCodeInternal, http.ErrAbortHandler)
	}
	c.dropContent(w.s)
	x.reading.stop()
	x.writing.stop()
	x.cancel()
	c.handlers--
	c.settle()
}

// call reports whether the handler has returned as it should.
func (c *conn) call(h http.Handler, w *response, r *http.Request) (whole bool) {
	defer func() {
		if whole {
			return
		}
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
			if c.srv.cfg.Panicked == nil {
				panic(p)
			}
			c.srv.cfg.Panicked(p)
		}
	}()
	h.ServeHTTP(w, r)
	return true
}

// dropContent has nobody read a request's content any more.
func (c *conn) dropContent(s *stream) {
	x := s.x
	n := int64(len(x.content))
	x.closed, x.content = true, nil
	x.cond.Broadcast()
	c.giveBack(n)
	c.giveBackTo(s, n)
	if c.work() {
		c.kick()
	}
}

// content is a request's body as the handler reads it.
type content struct {
	c        *conn
	s        *stream
	w        *response
	expected bool // the client waits for a 100 before it sends
}

// Read implements io.Reader.
func (b *content) Read(p []byte) (int, error) {
	c, x := b.c, b.s.x
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.expected && len(x.content) == 0 && !b.w.sentHead {
		b.expected = false
		b.w.inform(http.StatusContinue, nil)
	}
	for len(x.content) == 0 {
		switch {
		case x.closed:
			return 0, http.ErrBodyReadAfterClose
		case b.s.heard && x.err == nil:
			return 0, io.EOF
		case x.err != nil:
			return 0, x.err
		case x.reading.over:
			return 0, x.reading.err()
		}
		x.cond.Wait()
	}
	n := copy(p, x.content)
	if x.content = x.content[n:]; len(x.content) == 0 {
		x.content = nil
	}
	c.giveBack(int64(n))
	c.giveBackTo(b.s, int64(n))
	if c.work() {
		c.kick()
	}
	return n, nil
}

// Close implements io.Closer.
func (b *content) Close() error {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.c.dropContent(b.s)
	return nil
}

// bufferSize is how much of a response is held back to find its length, and small
// writes put together.
const bufferSize = 4 << 10

// response is the http.ResponseWriter. It belongs to the handler's goroutine.
type response struct {
	c      *conn
	s      *stream
	header http.Header
	head   bool // the request's method is HEAD

	status   int
	fields   http.Header // as they were when the status was set
	sentHead bool
	declared int64 // Content-Length; -1: none
	written  int64
	buf      []byte
}

var errLength = errors.New("the handler wrote less than it had declared")

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	if status < 200 {
		if status >= 100 && status != http.StatusSwitchingProtocols {
			w.c.mu.Lock()
			defer w.c.mu.Unlock()
			w.inform(status, w.header)
		}
		return
	}
	w.status, w.fields = status, w.header.Clone()
	if v := w.fields["Content-Length"]; len(v) > 0 {
		if n, err := strconv.ParseInt(v[0], 10, 64); err == nil && n >= 0 {
			w.declared = n
		} else {
			w.fields.Del("Content-Length")
		}
	}
}

// bodied reports whether the response may have a body.
func (w *response) bodied() bool {
	return w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.bodied() {
		return 0, http.ErrBodyNotAllowed
	}
	if w.declared >= 0 && w.written+int64(len(p)) > w.declared {
		return 0, http.ErrContentLength
	}
	w.written += int64(len(p))
	if len(w.buf)+len(p) <= bufferSize {
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	if err := w.flush(false); err != nil {
		return 0, err
	}
	if len(p) < bufferSize {
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	return w.send(p, false)
}

// WriteString implements io.StringWriter.
func (w *response) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// Flush implements http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is for http.ResponseController.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.flush(false)
}

// SetReadDeadline is for http.ResponseController.
func (w *response) SetReadDeadline(t time.Time) error {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.s.x.reading.set(w.s.x, t)
	return nil
}

// SetWriteDeadline is for http.ResponseController.
func (w *response) SetWriteDeadline(t time.Time) error {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.s.x.writing.set(w.s.x, t)
	return nil
}

// EnableFullDuplex is for http.ResponseController: requests are read while they are answered anyway.
func (w *response) EnableFullDuplex() error { return nil }

// flush sends what is held back.
func (w *response) flush(end bool) error {
	b := w.buf
	if _, err := w.send(b, end); err != nil {
		return err
	}
	w.buf = b[:0]
	return nil
}

// finish ends the response once the handler has returned.
func (w *response) finish() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.sentHead && w.bodied() && w.declared < 0 && (!w.head || len(w.buf) > 0) {
		w.fields.Set("Content-Length", strconv.Itoa(len(w.buf)))
	}
	if !w.head && w.bodied() && w.declared >= 0 && w.written < w.declared {
		return errLength
	}
	return w.flush(true)
}

// send has p sent, with the head before it where that hasn't been, and waits until
// it was taken.
func (w *response) send(p []byte, end bool) (int, error) {
	c, s, x := w.c, w.s, w.s.x
	c.mu.Lock()
	defer c.mu.Unlock()
	empty := w.head || !w.bodied()
	last := end && (empty || len(p) == 0)
	if !w.sentHead {
		for len(c.out) > maxOut && x.err == nil {
			c.kick()
			c.drained.Wait()
		}
		if x.err != nil {
			return 0, x.err
		}
		w.sentHead = true
		w.sendHead(p, last)
		if last {
			c.answered(s)
		}
		c.kick()
		if last {
			return len(p), nil
		}
	}
	if x.err != nil {
		return 0, x.err
	}
	if empty && !end {
		return len(p), nil
	}
	if empty {
		p = nil
	}
	if len(p) == 0 && !end {
		return 0, nil
	}
	s.body, s.end = p, end
	c.enqueue(s)
	c.kick()
	for len(s.body) > 0 && x.err == nil && !x.writing.over {
		x.cond.Wait()
	}
	n := len(p) - len(s.body)
	switch {
	case x.err != nil:
		return 0, x.err
	case n < len(p):
		s.body, s.end = nil, false
		return n, x.writing.err()
	}
	return n, nil
}

// sendHead writes the head; p is the first of the body. The caller holds mu.
func (w *response) sendHead(p []byte, end bool) {
	c, h := w.c, w.fields
	if _, ok := h["Date"]; !ok {
		h["Date"] = []string{time.Now().UTC().Format(http.TimeFormat)}
	}
	if _, typed := h["Content-Type"]; !typed && len(p) > 0 && h.Get("Content-Encoding") == "" {
		h["Content-Type"] = []string{http.DetectContentType(p)}
	}
	start := c.beginHead()
	c.out = c.enc.begin(c.out, w.status)
	w.encode(h)
	c.endHead(start, w.s.id, end)
}

// inform sends an interim response. The caller holds mu.
func (w *response) inform(status int, h http.Header) {
	c := w.c
	if w.s.gone {
		return
	}
	start := c.beginHead()
	c.out = c.enc.begin(c.out, status)
	w.encode(h)
	c.endHead(start, w.s.id, false)
	c.kick()
}

// encode writes header fields as net/http does over HTTP/2.
func (w *response) encode(h http.Header) {
	c := w.c
	for _, f := range fastpath.SortedFields(h) {
		if name := strings.ToLower(f.Name); !aboutConnection(name) {
			c.out = c.enc.field(c.out, &c.srv.common, name, f.Value)
		}
	}
}
