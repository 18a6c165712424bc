package h2

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// Why streams end early.
var (
	errReset = errors.New("the client has withdrawn the request")
	errSlow  = errors.New("the client takes nothing of the response")
	errRules = errors.New("the request breaks the rules of HTTP/2")
)

// stream is a request being answered.
type stream struct {
	id      uint32
	urgency uint8
	queued  bool // in a queue
	gone    bool // it has ended; who finds it in a queue drops it
	heard   bool // all of the request
	end     bool // body is the last
	next    *stream
	window  int64  // what the client takes of its body
	body    []byte // what is to be sent now
	sent    int64
	// The stall of a reader began at mark, when so much was sent.
	mark       time.Time
	markedSent int64

	began  time.Time
	answer fastpath.Answer
	x      *exchange // with the handler; nil for the responder's answers
}

var streams = sync.Pool{New: func() any { return new(stream) }}

// finished is an answer of the responder's that has ended.
type finished struct {
	answer fastpath.Answer
	sent   int64
	began  time.Time
	err    error
}

// exchange is what a stream's handler and the connection share, under its mu.
type exchange struct {
	cancel context.CancelFunc
	// cond is told of everything below, and of a body that was taken.
	cond sync.Cond
	err  error // the stream has ended; nil while it goes on and after its last byte
	// The request's content.
	content  []byte // not read yet
	declared int64  // -1: not
	received int64
	room     int64 // what the client may still send
	owed     int64 // what it isn't told of yet
	closed   bool  // nobody reads any more
	reading  deadline
	writing  deadline
}

// deadline is one of a handler's.
type deadline struct {
	timer *time.Timer
	at    time.Time // zero: none
	over  bool
}

// set changes the deadline. The caller holds x.cond.L.
func (d *deadline) set(x *exchange, at time.Time) {
	d.at, d.over = at, false
	switch left := time.Until(at); {
	case at.IsZero():
		d.stop()
	case left <= 0:
		d.stop()
		d.over = true
		x.cond.Broadcast()
	case d.timer != nil:
		d.timer.Reset(left)
	default:
		d.timer = time.AfterFunc(left, func() {
			x.cond.L.Lock()
			defer x.cond.L.Unlock()
			// It may have been moved meanwhile.
			if !d.at.IsZero() && !d.at.After(time.Now()) {
				d.over = true
				x.cond.Broadcast()
			}
		})
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *deadline) err() error {
	if d.over {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// open begins a stream the client has asked for.
func (c *conn) open(id uint32, urgency uint8, now time.Time) *stream {
	s := streams.Get().(*stream)
	s.id, s.urgency, s.window, s.began = id, urgency, c.initial, now
	c.streams[id] = s
	return s
}

// close ends a stream: cause is why, nil when both sides are done. reset says that
// frames of the client's may still come for it.
func (c *conn) close(s *stream, cause error, reset bool) {
	delete(c.streams, s.id)
	c.recent.add(s.id, reset)
	s.gone = true
	if x := s.x; x == nil {
		c.done = append(c.done, finished{s.answer, s.sent, s.began, cause})
	} else {
		x.err = cause
		if cause != nil {
			x.cancel()
			s.body = nil
		}
		x.cond.Broadcast()
	}
	if !s.queued {
		s.free()
	}
	c.settle()
}

// free gives back what is the responder's; a handler may still have its own.
func (s *stream) free() {
	if s.x == nil {
		*s = stream{}
		streams.Put(s)
	}
}

// reset ends a stream with RST_STREAM.
func (c *conn) reset(s *stream, code http2.ErrCode, cause error) {
	if s.gone {
		return
	}
	c.out = appendReset(c.out, s.id, code)
	c.close(s, cause, true)
	c.kick()
}

// drop ends a stream of a connection that ends.
func (c *conn) drop(s *stream, cause error) { c.close(s, cause, true) }

// recent remembers how the last streams ended: ids, shifted to the left, with bit 0
// set where frames may still come.
type recent struct {
	ids  [64]uint32
	next uint8
}

func (r *recent) add(id uint32, reset bool) {
	id <<= 1
	if reset {
		id++
	}
	r.ids[int(r.next)%len(r.ids)] = id
	r.next++
}

// find reports whether the stream is known to have ended, and whether frames may
// still come for it.
func (r *recent) find(id uint32) (known, reset bool) {
	for _, x := range r.ids {
		if x>>1 == id {
			return true, x&1 == 1
		}
	}
	return false, false
}

// urgencies are those of RFC 9218, most urgent first.
const (
	urgencies      = 8
	defaultUrgency = 3
)

// queue is a row of streams.
type queue struct{ first, last *stream }

func (q *queue) push(s *stream) {
	s.next = nil
	if q.last == nil {
		q.first = s
	} else {
		q.last.next = s
	}
	q.last = s
}

func (q *queue) pop() *stream {
	s := q.first
	if s != nil {
		if q.first = s.next; q.first == nil {
			q.last = nil
		}
		s.next = nil
	}
	return s
}

// back puts a stream before all others.
func (q *queue) back(s *stream) {
	s.next = q.first
	if q.first = s; q.last == nil {
		q.last = s
	}
}

// stall looks at the readers that let responses wait, while there are any.
type stall struct {
	timer      *time.Timer
	armed      bool
	total      int64 // bytes of bodies sent
	mark       time.Time
	markedSent int64
}

func (t *stall) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

// watch begins to look.
func (c *conn) watch() {
	if c.armed || c.err != nil {
		return
	}
	c.armed = true
	every := c.srv.cfg.WriteTimeout / 8
	if c.timer == nil {
		c.timer = time.AfterFunc(every, c.look)
	} else {
		c.timer.Reset(every)
	}
}

// look ends the responses, or the connection, of which too little has moved for the
// time that the client had them wait.
func (c *conn) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	if c.err != nil || c.closing {
		return
	}
	now, again := time.Now(), false
	if c.waiting.first == nil {
		c.mark = time.Time{}
	} else {
		again = true
		if c.late(&c.mark, &c.markedSent, c.total, now) {
			c.fail(errSlow)
			return
		}
	}
	for _, s := range c.streams {
		if len(s.body) == 0 || s.queued {
			s.mark = time.Time{} // it waits for others
			continue
		}
		again = true
		if c.late(&s.mark, &s.markedSent, s.sent, now) {
			c.reset(s, http2.ErrCodeCancel, errSlow)
		}
	}
	if again {
		c.watch()
	}
}

// late reports whether WriteTimeout has passed without WriteSize.
func (c *conn) late(mark *time.Time, marked *int64, sent int64, now time.Time) bool {
	if mark.IsZero() || sent-*marked >= int64(c.srv.cfg.WriteSize) {
		*mark, *marked = now, sent
	}
	return now.Sub(*mark) >= c.srv.cfg.WriteTimeout
}
