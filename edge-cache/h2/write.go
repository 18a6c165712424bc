package h2

import (
	"encoding/binary"
	"time"

	"golang.org/x/net/http2"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// frameHead is the length of a frame's header (RFC 9113 section 4.1).
const frameHead = 9

func appendFrame(b []byte, n int, t http2.FrameType, flags http2.Flags, stream uint32) []byte {
	b = append(b, byte(n>>16), byte(n>>8), byte(n), byte(t), byte(flags))
	return binary.BigEndian.AppendUint32(b, stream)
}

func appendSettings(b []byte, settings []http2.Setting) []byte {
	b = appendFrame(b, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	return b
}

func appendWindowUpdate(b []byte, stream uint32, n int64) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, http2.FrameWindowUpdate, 0, stream), uint32(n))
}

func appendReset(b []byte, stream uint32, code http2.ErrCode) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, http2.FrameRSTStream, 0, stream), uint32(code))
}

func appendGoAway(b []byte, last uint32, code http2.ErrCode) []byte {
	b = appendFrame(b, 8, http2.FrameGoAway, 0, 0)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, last), uint32(code))
}

func appendPing(b []byte, ack bool, data [8]byte) []byte {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	return append(appendFrame(b, len(data), http2.FramePing, flags, 0), data[:]...)
}

// beginHead makes room for a HEADERS frame's header in out.
func (c *conn) beginHead() (start int) {
	start = len(c.out)
	c.out = append(c.out, make([]byte, frameHead)...)
	return start
}

// endHead completes the HEADERS frame begun at start, and splits a block that is
// too long for one (RFC 9113 section 6.10).
func (c *conn) endHead(start int, id uint32, end bool) {
	block := c.out[start+frameHead:]
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	if len(block) <= maxFrame {
		appendFrame(c.out[:start], len(block), http2.FrameHeaders, flags, id)
		return
	}
	block = append([]byte(nil), block...)
	t := http2.FrameHeaders
	flags &^= http2.FlagHeadersEndHeaders
	c.out = c.out[:start]
	for len(block) > 0 {
		part := block[:min(len(block), maxFrame)]
		if block = block[len(part):]; len(block) == 0 {
			flags |= http2.FlagHeadersEndHeaders
		}
		c.out = append(appendFrame(c.out, len(part), t, flags, id), part...)
		t, flags = http2.FrameContinuation, 0
	}
}

// enqueue has a stream's body sent in its turn.
func (c *conn) enqueue(s *stream) {
	if !s.queued && !s.gone {
		s.queued = true
		c.ready[s.urgency].push(s)
	}
}

// next is the stream whose turn it is; nil when none can go on.
func (c *conn) next() *stream {
	for u := range c.ready {
		for {
			s := c.ready[u].pop()
			if s == nil {
				break
			}
			s.queued = false
			if !s.gone {
				return s
			}
			s.free()
		}
	}
	return nil
}

// work reports whether there is something to send.
func (c *conn) work() bool {
	if len(c.out) > 0 {
		return true
	}
	for u := range c.ready {
		if c.ready[u].first != nil {
			return true
		}
	}
	return false
}

// least is the least part of a body put at the end of a record; one that is longer
// waits for the next.
const least = 1 << 10

// gather fills p, which has room for a record, with frames.
func (c *conn) gather(p []byte) []byte {
	if len(c.out) > 0 {
		n := copy(p[:cap(p)], c.out)
		p = p[:n]
		c.out = c.out[:copy(c.out, c.out[n:])]
		if len(c.out) > 0 {
			return p
		}
		if cap(c.out) > maxOut/4 {
			c.out = nil
		}
		c.drained.Broadcast()
	}
	for {
		room := cap(p) - len(p) - frameHead
		if room <= 0 {
			return p
		}
		s := c.next()
		if s == nil {
			return p
		}
		n := len(s.body)
		if n > 0 {
			switch {
			case s.window <= 0: // WINDOW_UPDATE brings it back
				c.watch()
				continue
			case c.window <= 0:
				s.queued = true
				c.waiting.push(s)
				c.watch()
				continue
			}
			n = min(n, maxFrame, int(min(s.window, c.window)))
			if n > room {
				if room < least {
					s.queued = true
					c.ready[s.urgency].back(s)
					return p
				}
				n = room
			}
		} else if !s.end {
			continue // its handler has given up
		}
		var flags http2.Flags
		if s.end && n == len(s.body) {
			flags = http2.FlagDataEndStream
		}
		p = append(appendFrame(p, n, http2.FrameData, flags, s.id), s.body[:n]...)
		s.body = s.body[n:]
		s.window -= int64(n)
		c.window -= int64(n)
		s.sent += int64(n)
		c.total += int64(n)
		c.earned.Add(int64(n))
		switch {
		case flags != 0:
			c.answered(s)
		case len(s.body) > 0:
			c.enqueue(s)
		default:
			s.x.cond.Broadcast()
		}
	}
}

// answered ends a stream whose response is complete.
func (c *conn) answered(s *stream) {
	if !s.heard {
		// What is left of the request isn't needed (RFC 9113 section 8.1).
		c.out = appendReset(c.out, s.id, http2.ErrCodeNo)
	}
	c.close(s, nil, !s.heard)
}

// kick has somebody write, if nobody does.
func (c *conn) kick() {
	if !c.writing && c.err == nil && !c.closing {
		c.writing = true
		go c.writeOn()
	}
}

// turn writes what there is, in the reading goroutine, as far as the socket takes it
// at once. It takes mu itself.
func (c *conn) turn() {
	c.mu.Lock()
	if c.writing || c.err != nil || !c.work() && len(c.done) == 0 {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	w := c.srv.works.Get().(*work)
	defer c.srv.works.Put(w)
	for range inlineTurns {
		if !c.encrypt(w) {
			return
		}
		all, err := c.nc.TryFlush()
		if err == nil && !all {
			break
		}
		if c.flushed(err) {
			return
		}
	}
	go c.writeOn()
}

// inlineTurns is how often the reading goroutine writes before it leaves that to
// another and looks for what has come in.
const inlineTurns = 4

// batch is how many records are gathered before they are sent.
const batch = 8

// encrypt gathers and encrypts frames; false when the connection has failed.
func (c *conn) encrypt(w *work) bool {
	for range batch {
		c.mu.Lock()
		p := c.gather(w.plain[:0])
		c.mu.Unlock()
		if len(p) == 0 {
			break
		}
		if _, err := c.nc.Write(p); err != nil {
			c.flushed(err)
			return false
		}
	}
	return true
}

// flushed notes how sending went, and gives up the role of the writer when nothing
// is left to send, which it reports.
func (c *conn) flushed(err error) bool {
	c.mu.Lock()
	if err != nil {
		c.fail(err)
	}
	done := c.done
	c.done = nil
	leave := c.err != nil || !c.work()
	if leave && len(done) == 0 {
		c.leave()
	}
	c.mu.Unlock()
	if len(done) == 0 {
		return leave
	}
	c.report(done, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		clear(done)
		c.done = done[:0]
	}
	if leave = c.err != nil || !c.work() && len(c.done) == 0; leave {
		c.leave()
	}
	return leave
}

// leave gives up the role of the writer.
func (c *conn) leave() {
	c.writing = false
	c.unwrite.Broadcast()
}

// report tells the responder of answers that have ended; err is why those that
// were sent didn't arrive. It doesn't need mu.
func (c *conn) report(done []finished, err error) {
	for i := range done {
		f := &done[i]
		if f.err == nil {
			f.err = err
		}
		c.srv.cfg.Responder.Responded(&f.answer, f.sent, time.Since(f.began), f.err)
	}
}

// writeOn writes until there is nothing left. It has the role of the writer.
func (c *conn) writeOn() {
	w := c.srv.works.Get().(*work)
	defer c.srv.works.Put(w)
	// There may be something left in the connection.
	moved := c.srv.cfg.WriteSize
	for {
		if moved >= c.srv.cfg.WriteSize {
			moved = 0
			if err := c.patience(); err != nil {
				c.flushed(err)
				return
			}
		}
		if c.flushed(c.nc.Flush()) {
			return
		}
		moved += batch * fastpath.RecordSize
		if !c.encrypt(w) {
			return
		}
	}
}

// patience sets how long the client may take for as much as WriteSize.
func (c *conn) patience() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	return c.nc.SetWriteDeadline(time.Now().Add(c.srv.cfg.WriteTimeout))
}
