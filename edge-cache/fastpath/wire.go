package fastpath

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
)

// wire is the connection below TLS: it counts, and gathers what belongs together.
type wire struct {
	*net.TCPConn
	raw  syscall.RawConn
	l    *Listener
	base *conn
	once sync.Once
	// dry: Read finds nothing. It is the reader's.
	dry bool

	// mu is for what is gathered: TLS may write while it reads.
	mu     sync.Mutex
	gather bool
	held   *[]byte // nil when it would be empty
	off    int     // of held is written
	err    error   // of the last call
	// The calls of flush; made once, they cost nothing.
	some func(fd uintptr)
	all  func(fd uintptr) bool
}

// RecordSize is what a record of TLS holds at most.
const RecordSize = 16 << 10

const (
	// gatherRecords are written at once.
	gatherRecords = 8
	// gatherSize has room for them: TLS 1.3 adds 22 bytes to each (RFC 8446
	// section 5.2).
	gatherSize = gatherRecords * (RecordSize + 22)
)

var gathered = sync.Pool{New: func() any { b := make([]byte, 0, gatherSize); return &b }}

func newWire(c *net.TCPConn, l *Listener, base *conn) (*wire, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{TCPConn: c, raw: raw, l: l, base: base}
	w.some = func(fd uintptr) { w.put(int(fd)) }
	w.all = func(fd uintptr) bool { return w.put(int(fd)) }
	return w, nil
}

// errDry says that nothing has come in yet. To TLS it is a timeout, after which
// it can be asked again.
type errDry struct{}

func (errDry) Error() string   { return "nothing is here" }
func (errDry) Timeout() bool   { return true }
func (errDry) Temporary() bool { return true }

func (w *wire) Read(b []byte) (int, error) {
	if w.dry {
		return 0, errDry{}
	}
	return w.TCPConn.Read(b)
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.gather {
		n, err := w.TCPConn.Write(b)
		w.l.cfg.Traffic.Sent.Add(int64(n))
		return n, err
	}
	if w.held != nil && len(*w.held)+len(b) > gatherSize {
		if _, err := w.flush(true); err != nil {
			return 0, err
		}
	}
	if w.held == nil {
		w.held = gathered.Get().(*[]byte)
	}
	*w.held = append(*w.held, b...)
	return len(b), nil
}

// put writes what is held until the socket is full, which it reports as false.
func (w *wire) put(fd int) bool {
	for w.off < len(*w.held) {
		n, err := rawWrite(fd, (*w.held)[w.off:])
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			w.err = os.NewSyscallError("write", err)
			return true
		}
		w.off += n
		w.l.cfg.Traffic.Sent.Add(int64(n))
	}
	return true
}

// flush writes what is held: all of it, within the deadline, or as much as the
// socket takes. It reports whether nothing is left. The caller holds mu.
func (w *wire) flush(all bool) (bool, error) {
	if w.held == nil {
		return true, nil
	}
	var err error
	if all {
		err = w.raw.Write(w.all)
	} else {
		err = w.raw.Control(w.some)
	}
	err = errors.Join(err, w.err)
	if err == nil && w.off < len(*w.held) {
		return false, nil
	}
	w.release()
	return true, err
}

func (w *wire) release() {
	w.off, w.err = 0, nil
	*w.held = (*w.held)[:0]
	gathered.Put(w.held)
	w.held = nil
}

// together writes what write writes in few pieces.
func (w *wire) together(write func() error) error {
	w.collect(true)
	err := write()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gather = false
	if err != nil && w.held != nil {
		w.release()
		return err
	}
	_, ferr := w.flush(true)
	return errors.Join(err, ferr)
}

func (w *wire) collect(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gather = on
}

// RemoteAddr implements net.Conn. The socket doesn't know once the client has gone.
func (w *wire) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(w.base.addr) }

// Close implements net.Conn.
func (w *wire) Close() error {
	err := w.TCPConn.Close()
	w.once.Do(func() { w.l.forget(w.base.leave) })
	return err
}
