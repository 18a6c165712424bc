package h2

import (
	"net/http"
	"time"
	"unsafe"

	"golang.org/x/net/http2"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// handle obeys a frame. It runs in the reading goroutine, as all of this file does,
// and takes mu itself.
func (c *conn) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.HeadersFrame:
		return c.onHeaders(f)
	case *http2.ContinuationFrame:
		return c.onBlock(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.DataFrame:
		return c.onData(f)
	case *http2.WindowUpdateFrame:
		return c.onWindowUpdate(f)
	case *http2.SettingsFrame:
		return c.onSettings(f)
	case *http2.PingFrame:
		return c.onPing(f)
	case *http2.RSTStreamFrame:
		return c.onReset(f)
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return c.refuse(f.StreamID, http2.ErrCodeProtocol) // RFC 7540 section 5.3.1
		}
		return c.cost(1)
	case *http2.PriorityUpdateFrame:
		return c.onPriority(f)
	case *http2.PushPromiseFrame:
		return fault{http2.ErrCodeProtocol, "PUSH_PROMISE"}
	default: // GOAWAY: it begins no streams, and we none anyway; unknown types
		return c.cost(1)
	}
}

func (c *conn) cost(n int64) error { return c.spend(n, time.Now().UnixMilli()) }

func (c *conn) onHeaders(f *http2.HeadersFrame) error {
	c.head.begin(f.StreamID, f.StreamEnded(), c.srv.cfg.MaxHeaderBytes)
	if f.HasPriority() && f.Priority.StreamDep == f.StreamID {
		c.head.bad("priority")
	}
	return c.onBlock(f.HeaderBlockFragment(), f.HeadersEnded())
}

// maxContinuations bounds the frames of a header block.
const maxContinuations = 16

func (c *conn) onBlock(p []byte, ended bool) error {
	h := &c.head
	h.bytes += len(p)
	h.frames++
	if h.bytes > 2*h.most || h.frames > maxContinuations {
		return fault{http2.ErrCodeEnhanceYourCalm, "a header block without end"}
	}
	if _, err := c.decoder.Write(p); err != nil {
		return fault{http2.ErrCodeCompression, err.Error()}
	}
	if !ended {
		return nil
	}
	h.open = false
	if err := c.decoder.Close(); err != nil {
		return fault{http2.ErrCodeCompression, err.Error()}
	}
	return c.onHead(h)
}

// onHead takes a whole header block.
func (c *conn) onHead(h *head) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[h.id]; s != nil {
		return c.onTrailers(s, h)
	}
	if h.id%2 == 0 {
		return fault{http2.ErrCodeProtocol, "a stream of the server's"}
	}
	if h.id <= c.lastID {
		switch known, reset := c.recent.find(h.id); {
		case reset:
			return nil
		case known:
			return fault{http2.ErrCodeStreamClosed, "HEADERS of a stream that has ended"}
		}
		return fault{http2.ErrCodeProtocol, "a stream id that was left out"}
	}
	c.lastID = h.id
	if c.last {
		c.recent.add(h.id, true)
		return nil // it was told
	}
	h.check()
	switch {
	case h.large():
		return c.tooLarge(h)
	case h.wrong != "":
		return c.refuseNewStream(h.id, http2.ErrCodeProtocol)
	case len(c.streams) >= maxStreams:
		return c.refuseNewStream(h.id, http2.ErrCodeRefusedStream)
	}
	now := time.Now()
	if c.respond(h, now) {
		return nil
	}
	// Handlers of withdrawn requests count too.
	if c.handlers >= maxStreams {
		return c.refuseNewStream(h.id, http2.ErrCodeRefusedStream)
	}
	c.begin(h, now)
	return nil
}

// refuse ends a stream that broke the rules.
func (c *conn) refuse(id uint32, code http2.ErrCode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		c.reset(s, code, errRules)
		return c.cost(fussReset)
	}
	if id > c.lastID && id%2 == 1 {
		c.lastID = id
	}
	return c.refuseNewStream(id, code)
}

// refuseNewStream ends a stream that never was.
func (c *conn) refuseNewStream(id uint32, code http2.ErrCode) error {
	c.out = appendReset(c.out, id, code)
	c.recent.add(id, true)
	return c.cost(fussReset)
}

// tooLarge answers a request whose head is too large with 431 (RFC 6585 section 5).
func (c *conn) tooLarge(h *head) error {
	start := c.beginHead()
	c.out = c.enc.begin(c.out, 431)
	c.out = c.enc.field(c.out, &c.srv.common, "content-length", "0")
	c.endHead(start, h.id, true)
	if !h.end {
		c.out = appendReset(c.out, h.id, http2.ErrCodeNo)
	}
	c.recent.add(h.id, !h.end)
	return c.cost(fussReset)
}

// bytesOf are a string's bytes, not to be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// respond has the responder answer a plain request.
func (c *conn) respond(h *head, now time.Time) bool {
	head := h.method == http.MethodHead
	if !h.end || h.method != http.MethodGet && !head || h.scheme != "https" {
		return false
	}
	r := c.srv.requests.Get().(*fastpath.Request)
	defer c.srv.requests.Put(r)
	if !r.Begin(bytesOf(h.path), bytesOf(h.authority), head) {
		return false
	}
	for i := range h.fields {
		if f := &h.fields[i]; !r.Add(bytesOf(f.Name), bytesOf(f.Value)) {
			return false
		}
	}
	a, ok := c.ask(r)
	if !ok {
		return false
	}
	start := c.beginHead()
	c.out = c.enc.begin(c.out, a.Head.Status)
	c.out = c.enc.prepared(c.out, c.srv.block(a.Head), &a.Values)
	if a.More != nil {
		c.out = c.enc.prepared(c.out, c.srv.block(a.More), nil)
	}
	c.endHead(start, h.id, len(a.Body) == 0)
	s := c.open(h.id, h.urgency, now)
	s.heard, s.end, s.body, s.answer = true, true, a.Body, a
	if len(a.Body) == 0 {
		c.close(s, nil, false)
	} else {
		c.enqueue(s)
	}
	return true
}

// ask asks the responder. One request that it can't bear is the handler's.
func (c *conn) ask(r *fastpath.Request) (a fastpath.Answer, ok bool) {
	if c.srv.cfg.Panicked != nil {
		defer func() {
			if p := recover(); p != nil {
				c.srv.cfg.Panicked(p)
				a, ok = fastpath.Answer{}, false
			}
		}()
	}
	return c.srv.cfg.Responder.Respond(r)
}

// onTrailers ends a request's content; what the trailers say is of no use here.
func (c *conn) onTrailers(s *stream, h *head) error {
	switch {
	case s.heard:
		return fault{http2.ErrCodeStreamClosed, "HEADERS after the request's end"}
	case !h.end || h.pseudo > 0 || h.wrong != "":
		c.reset(s, http2.ErrCodeProtocol, errRules)
		return c.cost(fussReset)
	}
	return c.requestEnded(s)
}

// requestEnded notes that all of a request has come.
func (c *conn) requestEnded(s *stream) error {
	s.heard = true
	if x := s.x; x.declared >= 0 && x.received != x.declared {
		c.reset(s, http2.ErrCodeProtocol, errRules)
		return c.cost(fussReset)
	}
	s.x.cond.Broadcast()
	return nil
}

func (c *conn) onData(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, data := int64(f.Length), f.Data()
	if n > c.room {
		return fault{http2.ErrCodeFlowControl, "content beyond the connection's window"}
	}
	c.room -= n
	s := c.streams[f.StreamID]
	if s == nil || s.heard {
		c.giveBack(n)
		if s == nil && f.StreamID > c.lastID {
			return fault{http2.ErrCodeProtocol, "DATA of a stream that wasn't begun"}
		}
		if _, reset := c.recent.find(f.StreamID); s == nil && reset {
			return c.cost(1)
		}
		return fault{http2.ErrCodeStreamClosed, "DATA after the request's end"}
	}
	x := s.x
	x.received += int64(len(data))
	switch {
	case n > x.room:
		c.giveBack(n)
		c.reset(s, http2.ErrCodeFlowControl, errRules)
		return c.cost(fussReset)
	case x.declared >= 0 && x.received > x.declared:
		c.giveBack(n)
		c.reset(s, http2.ErrCodeProtocol, errRules)
		return c.cost(fussReset)
	}
	x.room -= n
	// Padding is never read.
	spare := n - int64(len(data))
	if x.closed {
		spare = n
	} else if len(data) > 0 {
		x.content = append(x.content, data...)
		x.cond.Broadcast()
	}
	c.giveBack(spare)
	if !f.StreamEnded() {
		c.giveBackTo(s, spare)
		if len(data) == 0 {
			return c.cost(1)
		}
		return nil
	}
	return c.requestEnded(s)
}

// giveBack lets the client send n more bytes of content on the connection. It is
// told of many at once.
func (c *conn) giveBack(n int64) {
	if c.owed += n; c.owed >= connWindow/4 {
		c.out = appendWindowUpdate(c.out, 0, c.owed)
		c.room += c.owed
		c.owed = 0
	}
}

// giveBackTo does so on a stream.
func (c *conn) giveBackTo(s *stream, n int64) {
	x := s.x
	if x.owed += n; x.owed >= streamWindow/4 && !s.gone && !s.heard {
		c.out = appendWindowUpdate(c.out, s.id, x.owed)
		x.room += x.owed
		x.owed = 0
	}
}

// maxWindow is the most a window can be (RFC 9113 section 6.9.1).
const maxWindow = 1<<31 - 1

func (c *conn) onWindowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		if c.window += int64(f.Increment); c.window > maxWindow {
			return fault{http2.ErrCodeFlowControl, "window of the connection"}
		}
		if c.window > 0 {
			for s := c.waiting.pop(); s != nil; s = c.waiting.pop() {
				s.queued = false
				if s.gone {
					s.free()
				} else {
					c.enqueue(s)
				}
			}
		}
		return c.cost(1)
	}
	s := c.streams[f.StreamID]
	switch {
	case s == nil && f.StreamID > c.lastID:
		return fault{http2.ErrCodeProtocol, "WINDOW_UPDATE of a stream that wasn't begun"}
	case s == nil:
		return c.cost(1)
	}
	if s.window += int64(f.Increment); s.window > maxWindow {
		c.reset(s, http2.ErrCodeFlowControl, errRules)
		return c.cost(fussReset)
	}
	if len(s.body) > 0 && s.window > 0 {
		c.enqueue(s)
	}
	return c.cost(1)
}

func (c *conn) onSettings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		return c.cost(1)
	}
	for i := range f.NumSettings() {
		set := f.Setting(i)
		if err := set.Valid(); err != nil {
			if set.ID == http2.SettingInitialWindowSize {
				return fault{http2.ErrCodeFlowControl, "initial window"}
			}
			return fault{http2.ErrCodeProtocol, set.String()}
		}
		switch set.ID {
		case http2.SettingHeaderTableSize:
			c.enc.resize(set.Val)
		case http2.SettingInitialWindowSize:
			more := int64(set.Val) - c.initial
			c.initial = int64(set.Val)
			for _, s := range c.streams {
				if s.window += more; s.window > maxWindow {
					return fault{http2.ErrCodeFlowControl, "initial window"}
				}
				if len(s.body) > 0 && s.window > 0 {
					c.enqueue(s)
				}
			}
		}
	}
	c.out = appendFrame(c.out, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
	return c.cost(1 + int64(f.NumSettings()))
}

func (c *conn) onPing(f *http2.PingFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !f.IsAck():
		c.out = appendPing(c.out, true, f.Data)
	case f.Data == lastCallPing && c.stopping:
		c.refuseNew()
	}
	return c.cost(1)
}

func (c *conn) onReset(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[f.StreamID]
	switch {
	case s != nil:
		c.close(s, errReset, false)
		return c.cost(fussReset)
	case f.StreamID > c.lastID:
		return fault{http2.ErrCodeProtocol, "RST_STREAM of a stream that wasn't begun"}
	}
	return c.cost(1)
}

// onPriority: RFC 9218 section 7.1. Of streams not begun yet it is left alone.
func (c *conn) onPriority(f *http2.PriorityUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[f.PrioritizedStreamID]; s != nil {
		s.urgency = urgencyOf(f.Priority) // from its next frame on
	}
	return c.cost(1)
}
