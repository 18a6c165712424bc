package fastpath

import (
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/rawcall"
)

const (
	// maxLoading bounds the goroutines that wait for the disk, and so their threads.
	maxLoading = 32
	// aheadSize is how much of a stored body is looked for in the kernel's memory at a
	// time. What is found may be let go of before it is sent to a slow client.
	aheadSize = 1 << 20
)

// loader has goroutines wait for the disk in place of the loops, which would wait in
// sendfile with all their connections.
type loader struct {
	mu      sync.Mutex
	queue   []*load // at most one of each connection
	running int
}

// load is a part of a stored body on its way to the kernel's memory. Its connection and
// what is being written belong to the loop.
type load struct {
	lo           *loop
	stored       Stored
	c            *conn // nil once the answer has ended without it
	w            *writing
	offset, upTo int64
}

// load begins with what is to be sent next.
func (d *loader) load(c *conn, w *writing) {
	_, at := w.answer.Stored.File()
	x := w.load
	x.c, x.w, x.offset = c, w, w.at-at
	x.upTo = x.offset + int64(min(w.left, aheadSize))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queue = append(d.queue, x)
	if d.running < maxLoading {
		d.running++
		x.lo.l.running.Go(d.run)
	}
}

// run loads until there is nothing to do.
func (d *loader) run() {
	for {
		d.mu.Lock()
		if len(d.queue) == 0 {
			d.queue = nil
			d.running--
			d.mu.Unlock()
			return
		}
		x := d.queue[0]
		d.queue[0] = nil
		d.queue = d.queue[1:]
		d.mu.Unlock()
		err := x.stored.Load(x.offset, x.upTo-x.offset)
		x.done(err)
	}
}

// done has the answer go on.
func (x *load) done(err error) {
	x.lo.mu.Lock()
	defer x.lo.mu.Unlock()
	if x.c == nil {
		x.stored.Release()
		return
	}
	x.w.load, x.w.failed = nil, err
	x.w.here = x.w.at + x.upTo - x.offset
	x.lo.again(x.c)
	x.lo.ring()
}

// away reports whether the kernel's memory may not have what is to be sent next of a
// stored body.
func (w *writing) away() bool {
	if w.answer.Stored == nil || w.at < w.here {
		return false
	}
	n := int64(min(w.left, aheadSize))
	if !resident(w.file, w.at, n) {
		return true
	}
	w.here = w.at + n
	return false
}

// resident reports whether the kernel's memory has a part of a file. Kernels before 6.5
// don't tell, and then everything is loaded before it is sent.
func resident(fd int, at, n int64) bool {
	part := unix.CachestatRange{Off: uint64(at), Len: uint64(n)}
	var found unix.Cachestat_t
	_, err := rawcall.Do(unix.SYS_CACHESTAT, uintptr(fd), uintptr(unsafe.Pointer(&part)), uintptr(unsafe.Pointer(&found)), 0)
	page := int64(unix.Getpagesize())
	return err == nil && int64(found.Cache) >= (at+n-1)/page-at/page+1
}

// blame tells a stored body of an error that isn't the client's.
func (w *writing) blame(err error) {
	if w.answer.Stored == nil || w.file < 0 {
		return
	}
	switch err {
	case syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, syscall.ENOTCONN, syscall.EHOSTUNREACH, syscall.ENETUNREACH:
	default:
		w.answer.Stored.Failed(err)
	}
}
