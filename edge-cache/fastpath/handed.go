package fastpath

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

type mode int

const (
	// giving: the head goes to net/http.
	giving mode = iota
	// waiting: net/http has the head of a request without body, and no byte after it.
	waiting
	// boundary: it has answered; the next byte begins a request.
	boundary
	// passing: all further bytes are net/http's.
	passing
)

// A handed connection's states.
const (
	stateOpen int32 = iota
	// stateBack: net/http has been told that it ended, and is to close it.
	stateBack
	stateClosed
)

// handed is a connection at net/http, which calls Read and ConnState from one
// goroutine at a time; Close may come at any time.
type handed struct {
	net.Conn // nil before open
	l        *Listener
	base     *conn   // nil for a stream's
	stream   *stream // nil for a loop's
	state    atomic.Int32

	mode mode
	buf  *buffer // nil while it would be empty
	give int     // bytes of the head still to give
	last bool    // after it all bytes are net/http's
}

// open makes the net.Conn of a connection that comes from a loop.
func (h *handed) open() error {
	if h.base == nil {
		return nil
	}
	f := os.NewFile(uintptr(h.base.fd), "connection")
	c, err := net.FileConn(f)
	h.base.fd = -1
	if err = errors.Join(err, f.Close()); err != nil {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
		return err
	}
	h.l.mu.Lock()
	h.Conn = c
	h.l.mu.Unlock()
	return nil
}

// abort ends a connection that net/http didn't get.
func (h *handed) abort() {
	switch {
	case h.Conn != nil:
		_ = h.Conn.Close()
	case h.base.fd >= 0:
		_ = unix.Close(h.base.fd)
	}
	h.l.dropped(h)
}

// RemoteAddr implements net.Conn. The socket doesn't know once the client has gone.
func (h *handed) RemoteAddr() net.Addr {
	if h.stream != nil {
		return h.Conn.RemoteAddr()
	}
	return net.TCPAddrFromAddrPort(h.base.addr)
}

// Read implements net.Conn: net/http gets the head, later what follows it, and the
// end once it has answered.
func (h *handed) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	switch {
	case h.mode == boundary:
		if !h.state.CompareAndSwap(stateOpen, stateBack) {
			return 0, net.ErrClosed
		}
		return 0, io.EOF
	case h.mode == giving:
		n := copy(p, h.buf.b[h.buf.r:h.buf.r+h.give])
		h.buf.r += n
		if h.give -= n; h.give == 0 {
			h.mode = waiting
			if h.last {
				h.mode = passing
			}
			h.release()
		}
		return n, nil
	case h.buf != nil:
		n := copy(p, h.buf.b[h.buf.r:h.buf.w])
		h.buf.r += n
		h.mode = passing // bytes after the head went to net/http
		h.release()
		return n, nil
	}
	n, err := h.Conn.Read(p)
	if n > 0 {
		h.mode = passing
	}
	return n, err
}

// release gives the buffer back once it is empty.
func (h *handed) release() {
	if b := h.buf; b.r == b.w {
		h.buf = nil
		b.free()
	}
}

// Write implements net.Conn.
func (h *handed) Write(b []byte) (int, error) {
	n, err := h.Conn.Write(b)
	if h.base != nil { // a stream counts what it encrypted
		h.l.cfg.Traffic.Sent.Add(int64(n))
	}
	return n, err
}

// CloseWrite ends the server's side.
func (h *handed) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Close implements net.Conn. A connection whose request is answered goes back to
// where it came from.
func (h *handed) Close() error {
	switch h.state.Swap(stateClosed) {
	case stateClosed:
		return net.ErrClosed
	case stateBack:
		return h.back()
	}
	err := h.Conn.Close()
	h.l.dropped(h)
	return err
}

func (h *handed) back() error {
	if h.stream != nil {
		h.l.returned(h)
		return h.stream.resume(h.buf)
	}
	fd := -1
	raw, err := h.Conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		cerr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
		err = errors.Join(err, cerr)
	}
	err = errors.Join(err, h.Conn.Close())
	if err != nil && fd >= 0 {
		err = errors.Join(err, unix.Close(fd))
	}
	if err != nil {
		h.l.dropped(h)
		return err
	}
	h.base.fd = fd
	h.l.returned(h)
	if !h.base.loop.add(h.base, h.buf) {
		err = unix.Close(fd)
		h.l.forget(h.base.leave)
	}
	return err
}

// ConnState is the server's hook: a connection that net/http finds idle goes back.
func (l *Listener) ConnState(nc net.Conn, s http.ConnState) {
	if h, ok := nc.(*handed); ok && s == http.StateIdle && h.mode == waiting {
		h.mode = boundary
	}
}
