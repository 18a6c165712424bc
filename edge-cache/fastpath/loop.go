package fastpath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/rawcall"
)

const (
	// events is how many connections are looked at between two waits.
	events = 128
	// linger is how long a loop waits in a system call of its own before it leaves
	// the waiting to Go's poller. A waiting thread costs Go's monitor something; the
	// poller, while there is work, wakes a second thread with every batch of it.
	linger = 2 * time.Millisecond
	// spin is how long a loop looks for events without waiting, where the last ones
	// came as soon: to wake it costs its clients about as much.
	spin = 20 * time.Microsecond
	// turnBytes and turnRequests are what a connection may have before others.
	turnBytes    = 1 << 20
	turnRequests = 32
)

// loop answers the connections it has in one goroutine, which waits for all of
// them at once.
type loop struct {
	l *Listener
	// set holds the connections' sockets and bell, each reported once per change.
	set int
	// bell is an eventfd that wakes the loop.
	bell int
	// poller is an epoll set that Go's poller waits for; it has set in it, armed
	// only while the loop waits there.
	poller *os.File
	events [events]unix.EpollEvent
	soon   bool // the last events came within spin

	// mu is held while there is work, never while the loop waits.
	mu      sync.Mutex
	conns   []*conn // by descriptor
	open    int
	stopped bool
	closed  bool // the files are
	// ready connections go on without being reported.
	ready, next          []*conn
	idle, heading, stuck list
	timer                *time.Timer
	armed                time.Time // when timer ends; zero when it rests

	in  [bufferSize]byte
	out [2 * bufferSize]byte
	req Request
	now writing // what is being written
	iov [2]unix.Iovec
}

func newLoop(l *Listener) (lo *loop, err error) {
	lo = &loop{l: l, set: -1, bell: -1, req: Request{Files: true}, idle: list{timeout: l.cfg.IdleTimeout}, heading: list{timeout: l.cfg.HeaderTimeout}, stuck: list{timeout: l.cfg.WriteTimeout}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("epoll: %w", err), lo.closeFiles())
		}
	}()
	if lo.set, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	outer, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// Only what doesn't block is waited for in Go's poller.
	err = unix.SetNonblock(outer, true)
	lo.poller = os.NewFile(uintptr(outer), "epoll")
	if err != nil {
		return nil, err
	}
	if lo.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(lo.set, unix.EPOLL_CTL_ADD, lo.bell, &unix.EpollEvent{Events: unix.EPOLLIN | edge, Fd: int32(lo.bell)}); err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(outer, unix.EPOLL_CTL_ADD, lo.set, &unix.EpollEvent{Events: unix.EPOLLONESHOT}); err != nil {
		return nil, err
	}
	lo.timer = time.AfterFunc(time.Hour, lo.expire)
	lo.timer.Stop()
	return lo, nil
}

const edge = unix.EPOLLET & 0xffffffff

func (lo *loop) closeFiles() error {
	var errs []error
	for _, fd := range []int{lo.set, lo.bell} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if lo.poller != nil {
		errs = append(errs, lo.poller.Close())
	}
	return errors.Join(errs...)
}

// run answers until the loop was stopped and its last connection has ended.
func (lo *loop) run() error {
	err := lo.work()
	lo.mu.Lock()
	defer lo.mu.Unlock()
	lo.stopped, lo.closed = true, true
	lo.endAll()
	lo.timer.Stop()
	return errors.Join(err, lo.closeFiles())
}

func (lo *loop) work() error {
	raw, err := lo.poller.SyscallConn()
	if err != nil {
		return err
	}
	arm := func(outer uintptr) {
		err = unix.EpollCtl(int(outer), unix.EPOLL_CTL_MOD, lo.set, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT})
	}
	park := func(outer uintptr) bool {
		n, werr := rawcall.EpollWait(int(outer), lo.events[:1])
		err = werr
		return n > 0 || werr != nil
	}
	for busy := false; ; {
		n, werr := lo.wait(busy)
		if werr != nil {
			return fmt.Errorf("epoll: %w", werr)
		}
		if n == 0 && !busy {
			cerr := raw.Control(arm)
			if cerr == nil && err == nil {
				cerr = raw.Read(park)
			}
			if cerr != nil || err != nil {
				return fmt.Errorf("epoll: %w", errors.Join(cerr, err))
			}
			continue
		}
		lo.mu.Lock()
		now := time.Now()
		for i := range lo.events[:n] {
			e := &lo.events[i]
			if int(e.Fd) == lo.bell {
				continue // an edge: it needn't be read
			}
			if c := lo.conns[e.Fd]; c != nil {
				lo.report(c, e.Events, now)
			}
		}
		lo.ready, lo.next = lo.next[:0], lo.ready
		for i, c := range lo.next {
			lo.next[i] = nil
			if c.ready {
				c.ready = false
				lo.serve(c, now)
			}
		}
		busy = len(lo.ready) > 0
		done := lo.stopped && lo.open == 0
		lo.mu.Unlock()
		if done {
			return nil
		}
	}
}

// wait returns how many are reported; 0 after a while, or at once when busy.
func (lo *loop) wait(busy bool) (int, error) {
	if busy {
		return rawcall.EpollWait(lo.set, lo.events[:])
	}
	began := time.Now()
	if lo.soon {
		for now := began; now.Sub(began) < spin; now = time.Now() {
			if n, err := rawcall.EpollWait(lo.set, lo.events[:]); n != 0 || err != nil {
				return n, err
			}
		}
		began = time.Now()
	}
	n, err := unix.EpollWait(lo.set, lo.events[:], int(linger/time.Millisecond))
	lo.soon = n > 0 && lo.l.procs > 1 && time.Since(began) < spin
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return n, err
}

// ring wakes the loop. The caller holds mu.
func (lo *loop) ring() {
	if lo.closed {
		return
	}
	_, _ = unix.Write(lo.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // full means that it rings
}

// add gives the loop a connection, of which some bytes may have been read; false
// when it takes none any more.
func (lo *loop) add(c *conn, read *buffer) bool {
	lo.mu.Lock()
	defer lo.mu.Unlock()
	if lo.stopped {
		return false
	}
	if err := unix.EpollCtl(lo.set, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | edge, Fd: int32(c.fd)}); err != nil {
		return false
	}
	for len(lo.conns) <= c.fd {
		lo.conns = append(lo.conns, make([]*conn, c.fd+1-len(lo.conns))...)
	}
	lo.conns[c.fd] = c
	lo.open++
	lo.move(c, &lo.idle, time.Now())
	if read != nil {
		c.read = read
		lo.again(c)
		lo.ring()
	}
	return true
}

// again has the connection served though nothing is reported.
func (lo *loop) again(c *conn) {
	if !c.ready {
		c.ready = true
		lo.ready = append(lo.ready, c)
	}
}

// stop ends the connections that wait for a request, and the loop after the last
// one. drop ends all.
func (lo *loop) stop(drop bool) {
	lo.mu.Lock()
	defer lo.mu.Unlock()
	lo.stopped = true
	for _, c := range lo.conns {
		if c != nil && (drop || c.w == nil) {
			lo.end(c, os.ErrClosed)
		}
	}
	lo.ring()
}

func (lo *loop) endAll() {
	for _, c := range lo.conns {
		if c != nil {
			lo.end(c, os.ErrClosed)
		}
	}
}

// detach takes the connection from the loop, its socket stays open.
func (lo *loop) detach(c *conn) {
	lo.unlist(c)
	c.ready = false
	lo.conns[c.fd] = nil
	lo.open--
}

// end ends the connection, and what is being written with err.
func (lo *loop) end(c *conn, err error) {
	lo.detach(c)
	if c.read != nil {
		c.read.free()
		c.read = nil
	}
	if w := c.w; w != nil {
		c.w = nil
		lo.l.finish(w, err)
		w.free()
	}
	_ = unix.Close(c.fd)
	lo.l.forget(c.leave)
}

// report takes what the set says of a connection.
func (lo *loop) report(c *conn, what uint32, now time.Time) {
	if what&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.ending = true
	}
	if what&unix.EPOLLIN != 0 || c.ending {
		c.readable = true
	}
	if c.w != nil && what&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	lo.serve(c, now)
}

// serve goes on with the connection until it has to wait.
func (lo *loop) serve(c *conn, now time.Time) {
	budget := turnBytes
	if w := c.w; w != nil {
		if w.load != nil || !lo.proceed(c, w, &budget, now) {
			return
		}
	}
	r, w := 0, 0
	if b := c.read; b != nil {
		w = copy(lo.in[:], b.b[b.r:b.w])
		c.read = nil
		b.free()
	}
	for requests := 0; ; {
		if w > r {
			n, v := parse(lo.in[r:w], &lo.req)
			if v == plain && !lo.stopped {
				if requests == turnRequests || budget <= 0 {
					lo.keep(c, r, w)
					lo.move(c, &lo.idle, now)
					lo.again(c)
					return
				}
				a, ok := lo.l.respond(&lo.req)
				if ok {
					r += n
					requests++
					c.inHead = false
					lo.now.begin(&a, lo.out[:], lo.l.cfg.Window, now)
					done, err := lo.now.send(c.fd, lo, &budget)
					if !done && err == nil {
						lo.keep(c, r, w)
						lo.wedge(c, now)
						return
					}
					lo.l.finish(&lo.now, err)
					if err != nil {
						lo.end(c, err)
						return
					}
					continue
				}
				v = bodiless
			}
			full := false
			if v == incomplete {
				if r > 0 {
					w, r = copy(lo.in[:], lo.in[r:w]), 0
				}
				full = w == len(lo.in)
			}
			if v != incomplete || full {
				lo.hand(c, r, n, w, v == bodiless)
				return
			}
			if !c.inHead {
				c.inHead = true
				lo.move(c, &lo.heading, now)
			}
		} else {
			if lo.stopped {
				lo.end(c, os.ErrClosed)
				return
			}
			r, w = 0, 0
			c.inHead = false
			lo.move(c, &lo.idle, now)
		}
		if !c.readable {
			lo.keep(c, r, w)
			return
		}
		n, err := rawRead(c.fd, lo.in[w:])
		if err == syscall.EAGAIN {
			c.readable = false
			lo.keep(c, r, w)
			return
		}
		if err != nil || n == 0 {
			lo.end(c, io.EOF)
			return
		}
		if n < len(lo.in)-w && !c.ending {
			c.readable = false // what comes later is reported
		}
		w += n
	}
}

// keep stores the bytes read but not used.
func (lo *loop) keep(c *conn, r, w int) {
	if w > r {
		c.read = newBuffer(lo.in[r:w])
	}
}

// wedge puts what is being written aside until the socket takes more, or the disk has
// given it.
func (lo *loop) wedge(c *conn, now time.Time) {
	w := writings.Get().(*writing)
	*w = lo.now
	lo.now = writing{}
	w.head = append([]byte(nil), w.head...)
	c.w = w
	lo.await(c, w, now)
}

// await has a connection wait for its socket, or only for its turn.
func (lo *loop) await(c *conn, w *writing, now time.Time) {
	switch {
	case w.load != nil:
		lo.l.disk.load(c, w)
	case !w.full:
		lo.again(c)
	}
	// The time in force is for the bytes up to allowed.
	if w.sent >= w.allowed {
		w.allowed = w.sent + int64(lo.l.cfg.WriteSize)
		lo.move(c, &lo.stuck, now)
	}
}

// proceed writes on; true when that has ended and the connection hasn't.
func (lo *loop) proceed(c *conn, w *writing, budget *int, now time.Time) bool {
	done, err := w.send(c.fd, lo, budget)
	if !done && err == nil {
		lo.await(c, w, now)
		return false
	}
	if err != nil {
		lo.end(c, err)
		return false
	}
	c.w = nil
	lo.l.finish(w, nil)
	w.free()
	return true
}

// hand gives the connection to net/http: the head of n bytes at r of those read,
// and later what follows it.
func (lo *loop) hand(c *conn, r, n, w int, bodiless bool) {
	if lo.stopped {
		lo.end(c, os.ErrClosed)
		return
	}
	h := &handed{l: lo.l, base: c, buf: newBuffer(lo.in[r:w]), give: n, last: !bodiless}
	if h.last {
		h.give = w - r
	}
	if err := unix.EpollCtl(lo.set, unix.EPOLL_CTL_DEL, c.fd, nil); err != nil {
		h.buf.free()
		lo.end(c, err)
		return
	}
	lo.detach(c)
	c.inHead, c.readable, c.ending = false, false, false
	if !lo.l.pass(h) {
		h.abort()
	}
}
