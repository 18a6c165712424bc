package fastpath

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// bufferSize bounds the heads the fast path reads, and the responses it writes
// from one buffer. Longer heads are net/http's, which has a limit of its own.
const bufferSize = 8 << 10

type buffer struct {
	b    [bufferSize]byte
	r, w int // b[r:w] isn't used yet
	req  Request
	out  [2 * bufferSize]byte
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

type mode int

const (
	// boundary: the next byte begins a request.
	boundary mode = iota
	// giving: a head goes to net/http.
	giving
	// handed: net/http has the head of a request without body, and no byte after it.
	handed
	// passing: all further bytes are net/http's.
	passing
)

const (
	stateBusy   = 1 // an answer is being written
	stateClosed = 2 // Close was called
	stateEnded  = 4 // the socket is closed
)

// conn is a connection with a fast path in Read. net/http calls Read and
// ConnState from one goroutine at a time; Close may come at any time.
type conn struct {
	*net.TCPConn
	l     *Listener
	raw   syscall.RawConn
	leave func()
	state atomic.Int32

	mode mode
	buf  *buffer // nil while it would be empty
	give int     // bytes of the head still to give
	last bool    // after it all bytes are net/http's
	// inHead: a head has begun and its deadline is set.
	inHead bool
	// idleUntil is the read deadline in force, zero when net/http may have set another.
	idleUntil time.Time

	readFunc, writeFunc func(uintptr) bool
	ioN                 int
	ioErr               error
	head, body          []byte // still to be written
	sent                int64  // bytes of both
	allowed             int64  // bytes of both up to which the write deadline is far enough
	limited             bool   // a write deadline is set
}

// Read implements net.Conn for net/http: it answers what the fast path can and
// returns the first bytes of what it can't.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.mode == boundary {
		if err := c.serve(); err != nil {
			c.release()
			return 0, err
		}
	}
	if c.mode == giving {
		b := c.buf
		n := copy(p, b.b[b.r:b.r+c.give])
		b.r += n
		if c.give -= n; c.give == 0 {
			c.mode = handed
			if c.last {
				c.mode = passing
			}
			c.release()
		}
		return n, nil
	}
	if c.buf != nil {
		n := copy(p, c.buf.b[c.buf.r:c.buf.w])
		c.buf.r += n
		c.mode = passing // bytes after the head went to net/http
		c.release()
		return n, nil
	}
	n, err := c.TCPConn.Read(p)
	if n > 0 {
		c.mode = passing
	}
	return n, err
}

// release gives the buffer back once it is empty.
func (c *conn) release() {
	if b := c.buf; b != nil && b.r == b.w {
		b.r, b.w = 0, 0
		c.buf = nil
		buffers.Put(b)
	}
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.idleUntil = time.Time{}
	return c.TCPConn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.idleUntil = time.Time{}
	return c.TCPConn.SetDeadline(t)
}

// serve answers requests until one is net/http's: then mode is giving.
func (c *conn) serve() error {
	for {
		now := time.Now()
		if b := c.buf; b != nil && b.w > b.r {
			n, v := parse(b.b[b.r:b.w], &b.req)
			if v == plain {
				done, err := c.answer(now)
				if err != nil {
					return err
				}
				if done {
					b.r += n
					c.inHead = false
					c.release()
					continue
				}
				v = bodiless
			}
			full := false
			if v == incomplete {
				if b.r > 0 {
					b.w, b.r = copy(b.b[:], b.b[b.r:b.w]), 0
				}
				full = b.w == len(b.b)
			}
			if v != incomplete || full {
				c.mode, c.give, c.last, c.inHead = giving, n, v != bodiless, false
				if c.last {
					c.give = b.w - b.r
				}
				return nil
			}
			if !c.inHead {
				c.inHead, c.idleUntil = true, time.Time{}
				if err := c.TCPConn.SetReadDeadline(now.Add(c.l.cfg.HeaderTimeout)); err != nil {
					return err
				}
			}
		} else if until := now.Add(c.l.cfg.IdleTimeout); until.Sub(c.idleUntil) > c.l.cfg.IdleTimeout/16 {
			// Set again only now and then: it costs more than reading.
			c.idleUntil = until
			if err := c.TCPConn.SetReadDeadline(until); err != nil {
				return err
			}
		}
		if err := c.raw.Read(c.readFunc); err != nil {
			return err
		}
		if c.ioErr != nil {
			return c.ioErr
		}
		if c.ioN == 0 {
			return io.EOF
		}
	}
}

// tryRead reads once without waiting; false when there is nothing.
func (c *conn) tryRead(fd uintptr) bool {
	if c.buf == nil {
		c.buf = buffers.Get().(*buffer)
	}
	b := c.buf
	for {
		n, err := syscall.Read(int(fd), b.b[b.w:])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			c.release()
			return false
		}
		c.ioN, c.ioErr = max(n, 0), err
		b.w += c.ioN
		return true
	}
}

// answer offers the request in the buffer to the responder and writes what it
// says; false when it is net/http's.
func (c *conn) answer(now time.Time) (bool, error) {
	b := c.buf
	a, ok := c.l.responder.Respond(&b.req, b.out[:0])
	if !ok {
		return false, nil
	}
	if !c.state.CompareAndSwap(0, stateBusy) {
		return false, net.ErrClosed
	}
	head := len(a.Head)
	err := c.write(&a, b.out[:])
	c.l.responder.Responded(&a, max(0, c.sent-int64(head)), time.Since(now), err)
	if !c.state.CompareAndSwap(stateBusy, 0) {
		return false, errors.Join(net.ErrClosed, c.end())
	}
	return true, err
}

// Close implements net.Conn. An answer that is being written is finished first.
func (c *conn) Close() error {
	for {
		s := c.state.Load()
		if s&stateClosed != 0 {
			return net.ErrClosed
		}
		if c.state.CompareAndSwap(s, s|stateClosed) {
			if s&stateBusy != 0 {
				return nil
			}
			return c.end()
		}
	}
}

// end closes the socket, once.
func (c *conn) end() error {
	for {
		s := c.state.Load()
		if s&stateEnded != 0 {
			return nil
		}
		if c.state.CompareAndSwap(s, s|stateEnded) {
			err := c.TCPConn.Close()
			c.l.forget(c)
			return err
		}
	}
}
