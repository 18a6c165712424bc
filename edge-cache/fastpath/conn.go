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
	body    []byte      // where it isn't in a file
	left    int         // bytes of the body
	copy    *pages.Copy // nil without
	file    int         // that has the body, of copy or answer.Stored; -1 without
	at      int64       // in file
	here    int64       // up to which it was found in the kernel's memory
	load    *load       // nil unless it waits for the disk
	failed  error       // what the disk said
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
	*w = writing{answer: *a, size: len(head), began: now, head: head, body: a.Body, left: len(a.Body), file: -1}
	switch n := len(head); {
	case a.Stored != nil:
		w.left = int(a.Part.Length)
		w.file, w.at = a.Stored.File()
		w.at += a.Part.Start
	case len(a.Body) == 0:
	case n+len(a.Body) <= len(room):
		// A copy costs less than a second vector.
		n += copy(room[n:], a.Body)
		w.head, w.body, w.left = room[:n], nil, 0
	default:
		if w.copy, w.at = a.copied(window); w.copy != nil {
			w.file = w.copy.FD()
		}
	}
}

// sendSize bounds the bytes of a system call: Go's collector waits for it.
const sendSize = 512 << 10

// send writes until all is written, the socket is full, the budget used up or the disk
// to be waited for.
func (w *writing) send(fd int, lo *loop, budget *int) (done bool, err error) {
	if w.full = false; w.failed != nil {
		return false, w.failed
	}
	for *budget > 0 {
		if w.away() {
			w.load = &load{lo: lo, stored: w.answer.Stored}
			return false, nil
		}
		n, err := w.sendOnce(fd, lo)
		if n > 0 {
			*budget -= n
			w.sent += int64(n)
			lo.l.cfg.Traffic.Sent.Add(int64(n))
			k := min(n, len(w.head))
			w.head, w.left = w.head[k:], w.left-(n-k)
			if w.file < 0 {
				w.body = w.body[n-k:]
			}
		}
		switch {
		case err == syscall.EAGAIN:
			w.full = true
			return false, nil
		case err != nil:
			w.blame(err)
			return false, err
		case len(w.head)+w.left == 0:
			return true, nil
		case n == 0:
			w.blame(io.ErrUnexpectedEOF)
			return false, io.ErrUnexpectedEOF
		}
	}
	return false, nil
}

func (w *writing) sendOnce(fd int, lo *loop) (int, error) {
	switch {
	case w.left == 0:
		return rawWrite(fd, w.head)
	case w.file >= 0 && len(w.head) > 0:
		return rawSendMore(fd, w.head)
	case w.file >= 0:
		n := min(w.left, sendSize)
		if w.answer.Stored != nil {
			n = min(n, int(w.here-w.at))
		}
		return rawSendfile(fd, w.file, &w.at, n)
	}
	body := w.body[:min(len(w.body), sendSize)]
	if len(w.head) == 0 {
		return rawWrite(fd, body)
	}
	lo.iov[0].Base, lo.iov[1].Base = &w.head[0], &body[0]
	lo.iov[0].SetLen(len(w.head))
	lo.iov[1].SetLen(len(body))
	n, err := rawWritev(fd, lo.iov[:])
	lo.iov = [2]unix.Iovec{}
	return n, err
}
