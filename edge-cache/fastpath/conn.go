package fastpath

import (
	"io"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/edge-cache/pages"
)

// bufferSize bounds the heads the fast path reads, and the responses it writes
// from one buffer. Longer heads are net/http's, which has a limit of its own.
const bufferSize = 8 << 10

// buffer holds bytes read but not used yet: b[r:w].
type buffer struct {
	b    [bufferSize]byte
	r, w int
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func newBuffer(p []byte) *buffer {
	b := buffers.Get().(*buffer)
	b.r, b.w = 0, copy(b.b[:], p)
	return b
}

func (b *buffer) free() { buffers.Put(b) }

// conn is a connection as its loop knows it.
type conn struct {
	fd    int
	addr  netip.AddrPort // of the client
	leave func()
	loop  *loop

	// until is when the connection ends unless it leaves the list before.
	list          *list
	before, after *conn
	until         time.Time

	read *buffer  // bytes not used yet; nil without
	w    *writing // nil unless an answer waits to go on
	// readable: there may be something to read.
	readable bool
	// ending: the client has closed its side, or the connection has failed; both are
	// found by reading, and not reported again.
	ending bool
	inHead bool // a head has begun
	ready  bool // it is to be served without being reported
}

// writing is an answer on its way.
type writing struct {
	answer  Answer
	size    int // of the head
	began   time.Time
	head    []byte
	body    []byte      // what is left of it, in copy too
	copy    *pages.Copy // nil without
	at      int64       // in copy
	sent    int64       // bytes of both
	allowed int64       // bytes of both for which there is time
	full    bool        // the socket took less than there was
}

var writings = sync.Pool{New: func() any { return new(writing) }}

func (w *writing) free() {
	*w = writing{}
	writings.Put(w)
}

// begin prepares the answer; its head goes into room.
func (w *writing) begin(a *Answer, room []byte, window *pages.Window, now time.Time) {
	head := a.appendHead(room[:0])
	*w = writing{answer: *a, size: len(head), began: now, head: head, body: a.Body}
	switch n := len(head); {
	case len(a.Body) == 0:
	case n+len(a.Body) <= len(room):
		// A copy costs less than a second vector.
		n += copy(room[n:], a.Body)
		w.head, w.body = room[:n], nil
	default:
		w.copy, w.at = a.copied(window)
	}
}

// sendSize bounds the bytes of a system call: Go's collector waits for it.
const sendSize = 512 << 10

// send writes until all is written, the socket is full or the budget used up.
func (w *writing) send(fd int, lo *loop, budget *int) (done bool, err error) {
	w.full = false
	for *budget > 0 {
		n, err := w.sendOnce(fd, lo)
		if n > 0 {
			*budget -= n
			w.sent += int64(n)
			lo.l.cfg.Traffic.Sent.Add(int64(n))
			k := min(n, len(w.head))
			w.head, w.body = w.head[k:], w.body[n-k:]
		}
		switch {
		case err == syscall.EAGAIN:
			w.full = true
			return false, nil
		case err != nil:
			return false, err
		case len(w.head)+len(w.body) == 0:
			return true, nil
		case n == 0:
			return false, io.ErrUnexpectedEOF
		}
	}
	return false, nil
}

func (w *writing) sendOnce(fd int, lo *loop) (int, error) {
	body := w.body[:min(len(w.body), sendSize)]
	switch {
	case len(body) == 0:
		return rawWrite(fd, w.head)
	case w.copy != nil && len(w.head) > 0:
		return rawSendMore(fd, w.head)
	case w.copy != nil:
		return rawSendfile(fd, w.copy.FD(), &w.at, len(body))
	case len(w.head) == 0:
		return rawWrite(fd, body)
	}
	lo.iov[0].Base, lo.iov[1].Base = &w.head[0], &body[0]
	lo.iov[0].SetLen(len(w.head))
	lo.iov[1].SetLen(len(body))
	n, err := rawWritev(fd, lo.iov[:])
	lo.iov = [2]unix.Iovec{}
	return n, err
}
