package pages

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MinSize is the size from which a body is sent faster from pages than by copying.
	MinSize = 64 << 10
	// maxCopies bounds the open files.
	maxCopies = 4096
	// waiting bounds the bodies that wait to be copied; more ask again.
	waiting = 16
	// looks is how many copies are considered for being dropped for another one.
	looks = 8
	// margin is how many times as often as a copy a body is asked for that takes its
	// place. Bodies that are asked for alike would only be copied in turn.
	margin = 2
	// epoch is after how many times that bodies are asked for, what was counted of each is
	// halved.
	epoch = maxCopies
	// rest is how long nothing is copied after a failure.
	rest = time.Minute
)

// Slot is a body's place for its copy, allocated apart from it: the copy may
// outlive the body. The zero value has none.
type Slot struct {
	copy atomic.Pointer[Copy]
	heat atomic.Uint64 // the epoch of the last time it was asked for, and 32 bits of how often
	// wanted: it waits to be copied.
	wanted atomic.Bool
}

// ask counts, and returns how often the body was asked for lately.
func (s *Slot) ask(now uint32) uint32 {
	old := s.heat.Load()
	n := cooled(old, now) + 1
	s.heat.CompareAndSwap(old, uint64(now)<<32|uint64(n))
	return n
}

func cooled(heat uint64, now uint32) uint32 { return uint32(heat) >> min(31, now-uint32(heat>>32)) }

// Copy is a body in a memory file.
type Copy struct {
	file *os.File
	fd   int
	size int64
	slot *Slot
	// refs counts the window and those who send.
	refs atomic.Int64
}

// FD is the file's descriptor, valid until Release.
func (c *Copy) FD() int { return c.fd }

// Release ends the use of a copy that Get returned.
func (c *Copy) Release() {
	if c.refs.Add(-1) == 0 {
		_ = c.file.Close() // a memory file has nothing to lose
	}
}

// hold takes a reference; false when the last one is gone.
func (c *Copy) hold() bool {
	for {
		n := c.refs.Load()
		if n == 0 {
			return false
		}
		if c.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

type want struct {
	slot *Slot
	body []byte
}

// Window is a bounded set of copies. Its methods may be called concurrently.
type Window struct {
	capacity int64
	wants    chan want
	stop     chan struct{}
	once     sync.Once // closes stop
	done     chan struct{}
	bytes    atomic.Int64
	asked    atomic.Uint64 // how often, all bodies
	failed   func(error)

	// run's own
	copies []*Copy
	hand   int
	rests  time.Time // no copies are made until then
}

// Open returns a window of at most capacity bytes. failed is told why a copy
// couldn't be made, at most once in a while.
func Open(capacity int64, failed func(error)) *Window {
	w := &Window{capacity: capacity, failed: failed, wants: make(chan want, waiting), stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// Close drops all copies. Those being sent last until they are released.
func (w *Window) Close() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}

// Bytes is how much the copies hold.
func (w *Window) Bytes() int64 { return w.bytes.Load() }

// Get returns the copy of body, whose slot s is, to be released; nil while there
// is none. body must not change. It doesn't wait.
func (w *Window) Get(s *Slot, body []byte) *Copy {
	heat := s.ask(uint32(w.asked.Add(1) / epoch))
	if c := s.copy.Load(); c != nil {
		if !c.hold() {
			return nil
		}
		return c
	}
	if heat < 2 || int64(len(body)) > w.capacity/4 || len(body) < MinSize || !s.wanted.CompareAndSwap(false, true) {
		return nil
	}
	select {
	case w.wants <- want{s, body}:
	default:
		s.wanted.Store(false)
	}
	return nil
}

func (w *Window) run() {
	defer close(w.done)
	for {
		select {
		case x := <-w.wants:
			if time.Now().After(w.rests) && w.room(x) {
				w.add(x)
			}
			x.slot.wanted.Store(false)
		case <-w.stop:
			for _, c := range w.copies {
				w.drop(c)
			}
			return
		}
	}
}

// room drops copies that are asked for much less than the body, until there is room;
// false when there are too few of them.
func (w *Window) room(x want) bool {
	size, now := int64(len(x.body)), uint32(w.asked.Load()/epoch)
	heat := cooled(x.slot.heat.Load(), now)
	for range looks {
		if w.bytes.Load()+size <= w.capacity && len(w.copies) < maxCopies {
			return true
		}
		w.hand %= len(w.copies)
		c := w.copies[w.hand]
		if margin*cooled(c.slot.heat.Load(), now) > heat {
			w.hand++
			continue
		}
		last := len(w.copies) - 1
		w.copies[w.hand] = w.copies[last]
		w.copies[last] = nil
		w.copies = w.copies[:last]
		w.drop(c)
	}
	return w.bytes.Load()+size <= w.capacity && len(w.copies) < maxCopies
}

func (w *Window) drop(c *Copy) {
	c.slot.copy.Store(nil)
	w.bytes.Add(-c.size)
	c.Release()
}

func (w *Window) add(x want) {
	f, err := newFile(x.body)
	if err != nil {
		w.rests = time.Now().Add(rest)
		w.failed(err)
		return
	}
	c := &Copy{file: f, fd: int(f.Fd()), size: int64(len(x.body)), slot: x.slot}
	c.refs.Store(1)
	w.copies = append(w.copies, c)
	w.bytes.Add(c.size)
	x.slot.copy.Store(c)
}

func newFile(body []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("meridian-body", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "meridian-body")
	_, err = f.Write(body)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("memory file: %w", err), f.Close())
	}
	return f, nil
}
