package wan

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/rawcall"
)

const (
	// tick is what times of delivery are rounded up to, so that packets of several
	// links share a wake-up: wake-ups are most of what a quiet network costs.
	tick = time.Millisecond
	// maxRead is how many packets are read from a device before others are looked at.
	maxRead = 64
)

// forwarder reads all devices and delivers all links' packets in one goroutine.
//
// It waits in Go's poller for an epoll set of its own that holds the devices and
// a timer. All its other system calls return at once and are made raw: Go's
// monitor thread wakes for ordinary ones after a pause and looks around for a
// while, at many times the cost of a packet.
type forwarder struct {
	began time.Time
	fail  func(error)
	set   *os.File // epoll
	timer int      // timerfd in the set
	done  chan struct{}

	// mu is held while packets are read and written, never while it waits.
	mu    sync.Mutex
	nodes map[int32]*node // by their devices' descriptors
	links []*link
	armed time.Duration // when the timer ends; 0 when it rests

	buffers *buffers
	buf     *buffer
	events  [16]unix.EpollEvent
	expiry  unix.ItimerSpec
}

func newForwarder(pool *buffers, fail func(error)) (f *forwarder, err error) {
	f = &forwarder{began: time.Now(), fail: fail, timer: -1, done: make(chan struct{}), nodes: map[int32]*node{},
		buffers: pool, buf: pool.get(largeBuffer)}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	// Only what doesn't block is waited for in Go's poller.
	err = unix.SetNonblock(fd, true)
	if err == nil {
		f.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	}
	if err == nil {
		// Edges: an expiry needn't be read, the next setting begins anew.
		err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, f.timer, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(f.timer)})
	}
	f.set = os.NewFile(uintptr(fd), "epoll")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), f.closeFiles())
	}
	go f.run()
	return f, nil
}

func (f *forwarder) closeFiles() error {
	err := f.set.Close()
	if f.timer >= 0 {
		err = errors.Join(err, unix.Close(f.timer))
	}
	return err
}

// close ends run.
func (f *forwarder) close() error {
	err := f.closeFiles()
	<-f.done
	return err
}

// add begins to read a node's device.
func (f *forwarder) add(nd *node) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[int32(nd.device.fd)] = nd
	return f.control(unix.EPOLL_CTL_ADD, nd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(nd.device.fd)})
}

// change sets the condition of a link, by which packets may be due earlier than the
// timer knows.
func (f *forwarder) change(l *link, to Link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l.change(to, time.Since(f.began))
	if err := f.deliver(); err != nil {
		f.fail(fmt.Errorf("wide-area network: timer: %w", err))
	}
}

// remove ends reading it; when it returns, the device may be closed.
func (f *forwarder) remove(nd *node) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.forget(nd)
}

func (f *forwarder) forget(nd *node) error {
	fd := int32(nd.device.fd)
	if f.nodes[fd] != nd {
		return nil // its device has failed
	}
	delete(f.nodes, fd)
	return f.control(unix.EPOLL_CTL_DEL, nd, nil)
}

func (f *forwarder) control(op int, nd *node, e *unix.EpollEvent) error {
	c, err := f.set.SyscallConn()
	if err == nil {
		err = errors.Join(c.Control(func(set uintptr) {
			err = unix.EpollCtl(int(set), op, nd.device.fd, e)
		}), err)
	}
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// run forwards until the set is closed.
func (f *forwarder) run() {
	defer close(f.done)
	c, err := f.set.SyscallConn()
	if err == nil {
		// Work that returns false is called again when something is ready.
		err = c.Read(func(set uintptr) bool { return f.work(int(set)) })
	}
	if err != nil && !errors.Is(err, os.ErrClosed) {
		f.fail(fmt.Errorf("wide-area network: epoll: %w", err))
	}
}

// work reads what has come and writes what is due until neither is left. It
// returns true after a failure.
func (f *forwarder) work(set int) (failed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		ready, err := rawcall.EpollWait(set, f.events[:])
		if err != nil {
			f.fail(fmt.Errorf("wide-area network: epoll: %w", err))
			return true
		}
		for _, e := range f.events[:ready] {
			if nd, ok := f.nodes[e.Fd]; ok {
				f.read(nd)
			}
		}
		if err := f.deliver(); err != nil {
			f.fail(fmt.Errorf("wide-area network: timer: %w", err))
			return true
		}
		if ready == 0 {
			return false
		}
	}
}

// deliver writes what is due on all links, and sets the timer for what isn't.
func (f *forwarder) deliver() error {
	now := time.Since(f.began)
	if f.armed <= now {
		f.armed = 0
	}
	first := time.Duration(0)
	for _, l := range f.links {
		if next, ok := l.deliver(now); ok && (first == 0 || next < first) {
			first = next
		}
	}
	due := (first + tick - 1) / tick * tick
	if first == 0 || f.armed != 0 && f.armed <= due {
		return nil
	}
	f.armed = due
	// Not 0, which would stop it.
	f.expiry.Value = unix.NsecToTimespec(max(1, int64(due-now)))
	return rawSetTimer(f.timer, &f.expiry)
}

// read takes packets from a node's device and puts each on its link.
func (f *forwarder) read(nd *node) {
	now := time.Since(f.began)
	for range maxRead {
		size, err := rawRead(nd.device.fd, f.buf.bytes)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			f.fail(fmt.Errorf("wide-area network: device of node %q: %w", nd.Name, err))
			if err := f.forget(nd); err != nil {
				f.fail(fmt.Errorf("wide-area network: device of node %q: %w", nd.Name, err))
			}
			return
		}
		if l := nd.link(f.buf.bytes[:size]); l != nil && l.send(now, f.buf, size) {
			f.buf = f.buffers.get(largeBuffer)
		}
	}
}

func rawRead(fd int, b []byte) (int, error) {
	return rawcall.Do(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
}

func rawWrite(fd int, b []byte) error {
	_, err := rawcall.Do(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
	return err
}

func rawSetTimer(fd int, expiry *unix.ItimerSpec) error {
	_, err := rawcall.Do(unix.SYS_TIMERFD_SETTIME, uintptr(fd), 0, uintptr(unsafe.Pointer(expiry)), 0)
	return err
}
