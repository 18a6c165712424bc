package fastpath

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/edge-cache/pages"
)

// Responder answers plain requests. Its methods are called concurrently and
// must not block.
type Responder interface {
	// Respond returns the answer to r, or false to leave it to the handler, of whose
	// answers it must be one. The answer to a HEAD has no Body.
	Respond(r *Request) (Answer, bool)
	// Responded is told how writing an answer went: body bytes sent, time since
	// the request was read, and why it ended early.
	Responded(a *Answer, sent int64, took time.Duration, err error)
}

// Config of a Listener. Window, Admit, Traffic, Panicked, TLS and HTTP2 are optional.
type Config struct {
	// HeaderTimeout bounds the time from a head's first byte to its last, and that
	// of a handshake.
	HeaderTimeout time.Duration
	// IdleTimeout bounds the time between an answer and the next request.
	IdleTimeout time.Duration
	// WriteTimeout is the time in which WriteSize bytes of a body must move.
	WriteTimeout time.Duration
	WriteSize    int
	// MaxConnections open at once; further ones wait to be accepted.
	MaxConnections int
	// Window has copies of the bodies asked for most.
	Window *pages.Window
	// Admit may refuse a connection, which is then closed; leave is called when one
	// that it let in has ended.
	Admit func(client netip.AddrPort) (leave func(), ok bool)
	// Traffic is told of connections and bytes.
	Traffic *Traffic
	// Panicked is told of a panic of the responder, with the stack in place; the
	// request is then net/http's. Without it the panic ends the process.
	Panicked func(any)
	// TLS encrypts the connections.
	TLS *tls.Config
	// HTTP2 answers on encrypted connections that agreed on it; nil: TLS must not
	// offer it.
	HTTP2 func(*Conn) Session
}

// Traffic counts what goes through listeners.
type Traffic struct {
	// Open connections.
	Open atomic.Int64
	// Sent bytes of responses, heads included.
	Sent atomic.Int64
}

const (
	// nearBuffer is the send buffer of connections to near clients, in bytes. A
	// body then goes out in steps the processor's caches hold, about twice as
	// fast as with a buffer the kernel grows; far ones need the growing.
	nearBuffer = 200 << 10
	// near is the round-trip time up to which nearBuffer doesn't limit the rate.
	near             = 2 * time.Millisecond
	keepAliveSeconds = 30
)

// Listener has connections with a fast path; net/http accepts from it those that
// ask for anything else. Set its ConnState on the server.
type Listener struct {
	cfg       Config
	addr      net.Addr
	socket    *os.File // that listens
	responder Responder
	slots     chan struct{}
	stop      chan struct{}
	procs     int // there are as many processors
	loops     []*loop
	disk      loader
	running   sync.WaitGroup
	// queue holds what net/http hasn't accepted yet. There is room for all connections.
	queue chan *handed

	mu      sync.Mutex
	stopped bool
	open    int
	handed  map[*handed]struct{}
	streams map[*stream]struct{}
	err     error
	failed  chan struct{} // closed with err

	closed chan struct{} // capacity 1: a connection ended
}

// New returns a listener in place of nl, which must be of TCP. It answers from now on.
func New(nl net.Listener, cfg Config, r Responder) (*Listener, error) {
	tcp, ok := nl.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("fast path: a listener of %T: want one of TCP", nl)
	}
	if cfg.Traffic == nil {
		cfg.Traffic = new(Traffic)
	}
	socket, err := tcp.File() // another descriptor of it
	if err != nil {
		return nil, err
	}
	l := &Listener{cfg: cfg, addr: nl.Addr(), socket: socket, procs: runtime.GOMAXPROCS(0), responder: r, slots: make(chan struct{}, cfg.MaxConnections), stop: make(chan struct{}),
		queue: make(chan *handed, cfg.MaxConnections), handed: map[*handed]struct{}{}, streams: map[*stream]struct{}{},
		failed: make(chan struct{}), closed: make(chan struct{}, 1)}
	raw, err := socket.SyscallConn()
	if err == nil {
		err = keepAlive(raw)
	}
	if err == nil {
		err = l.openLoops()
	}
	if err == nil {
		err = tcp.Close()
	}
	if err != nil {
		for _, lo := range l.loops {
			err = errors.Join(err, lo.closeFiles())
		}
		return nil, errors.Join(err, socket.Close())
	}
	for _, lo := range l.loops {
		l.running.Go(func() {
			if err := lo.run(); err != nil {
				l.fail(err)
			}
		})
	}
	l.running.Go(func() {
		if err := l.accept(raw); err != nil && !errors.Is(err, os.ErrClosed) {
			l.fail(err)
		}
	})
	return l, nil
}

// respond asks the responder. One request that it can't bear costs nobody else
// their connection.
func (l *Listener) respond(r *Request) (a Answer, ok bool) {
	if l.cfg.Panicked != nil {
		defer func() {
			if p := recover(); p != nil {
				l.cfg.Panicked(p)
				a, ok = Answer{}, false
			}
		}()
	}
	return l.responder.Respond(r)
}

func (l *Listener) openLoops() error {
	if l.cfg.TLS != nil {
		return nil
	}
	// Half of the processors: the rest is the kernel's, who sends, and net/http's.
	for range max(1, l.procs/2) {
		lo, err := newLoop(l)
		if err != nil {
			return err
		}
		l.loops = append(l.loops, lo)
	}
	return nil
}

// keepAlive finds clients that have gone without a word, and lets what is written
// go out at once. Connections have it from their listener.
func keepAlive(raw syscall.RawConn) (err error) {
	cerr := raw.Control(func(fd uintptr) {
		for _, o := range []struct{ level, name, value int }{{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveSeconds},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveSeconds}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}} {
			if err == nil {
				err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), o.level, o.name, o.value))
			}
		}
	})
	return errors.Join(err, cerr)
}

// fail makes Accept return err.
func (l *Listener) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.failed)
	}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }

// Accept implements net.Listener: it returns connections that ask for what the
// fast path doesn't answer.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		select {
		case h := <-l.queue:
			if err := h.open(); err != nil {
				h.abort()
				continue
			}
			return h, nil
		case <-l.stop:
			return nil, net.ErrClosed
		case <-l.failed:
			return nil, l.err
		}
	}
}

// Close implements net.Listener. It ends the connections that wait for a request;
// those being answered end after that.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.stopped {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.stopped = true
	close(l.stop)
	streams := l.allStreams()
	l.mu.Unlock()
	err := l.socket.Close()
	for _, lo := range l.loops {
		lo.stop(false)
	}
	for _, s := range streams {
		s.stop(false)
	}
	for {
		select {
		case h := <-l.queue:
			h.abort()
		default:
			return err
		}
	}
}

func (l *Listener) allStreams() []*stream {
	all := make([]*stream, 0, len(l.streams))
	for s := range l.streams {
		all = append(all, s)
	}
	return all
}

// Drain waits until every connection has ended, which those that are being
// answered do after http.Server's Shutdown or Close; when ctx ends it ends them.
// The listener must have been closed.
func (l *Listener) Drain(ctx context.Context) {
	defer l.running.Wait()
	for done := ctx.Done(); ; {
		l.mu.Lock()
		open := l.open
		l.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-l.closed:
		case <-done:
			done = nil
			l.drop()
		}
	}
}

// drop ends all connections.
func (l *Listener) drop() {
	for _, lo := range l.loops {
		lo.stop(true)
	}
	l.mu.Lock()
	streams := l.allStreams()
	var conns []net.Conn // their owners get an error and close them
	for h := range l.handed {
		switch {
		case h.stream != nil:
			conns = append(conns, h.stream.wire.TCPConn)
		case h.Conn != nil:
			conns = append(conns, h.Conn)
		}
	}
	l.mu.Unlock()
	for _, s := range streams {
		s.stop(true)
	}
	for _, c := range conns {
		_ = c.Close()
	}
}

// backOff is how long nothing is accepted when there are no descriptors or memory.
const backOff = 50 * time.Millisecond

// accept takes connections until the listener is closed.
func (l *Listener) accept(raw syscall.RawConn) error {
	for i := 0; ; i++ {
		select {
		case l.slots <- struct{}{}:
		case <-l.stop:
			return nil
		}
		fd, from, err := acceptOne(raw)
		if err == nil {
			l.admit(fd, from, i)
			continue
		}
		<-l.slots
		if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOMEM) {
			return err
		}
		t := time.NewTimer(backOff)
		select {
		case <-t.C:
		case <-l.stop:
			t.Stop()
			return nil
		}
	}
}

// acceptOne waits for a connection; one that has failed before is none.
func acceptOne(raw syscall.RawConn) (fd int, from unix.Sockaddr, err error) {
	for {
		rerr := raw.Read(func(l uintptr) bool {
			fd, from, err = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return err != unix.EAGAIN
		})
		if rerr != nil {
			return -1, nil, rerr
		}
		if err != unix.EINTR && err != unix.ECONNABORTED && err != unix.ECONNRESET {
			return fd, from, err
		}
	}
}

// admit begins with a connection, the i-th, which has a slot.
func (l *Listener) admit(fd int, from unix.Sockaddr, i int) {
	c := &conn{fd: fd, addr: addrOf(from), leave: func() {}}
	if l.cfg.Admit != nil {
		leave, ok := l.cfg.Admit(c.addr)
		if !ok {
			_ = unix.Close(fd)
			<-l.slots
			return
		}
		c.leave = leave
	}
	tune(fd)
	l.mu.Lock()
	l.open++
	l.mu.Unlock()
	l.cfg.Traffic.Open.Add(1)
	if l.cfg.TLS != nil {
		l.stream(c)
		return
	}
	c.loop = l.loops[i%len(l.loops)]
	if !c.loop.add(c, nil) {
		_ = unix.Close(fd)
		l.forget(c.leave)
	}
}

func addrOf(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(a.Addr).Unmap()
		if a.ZoneId != 0 {
			addr = addr.WithZone(strconv.Itoa(int(a.ZoneId)))
		}
		return netip.AddrPortFrom(addr, uint16(a.Port))
	}
	return netip.AddrPort{}
}

// tune sets the send buffer of near clients. Sockets without it work too.
func tune(fd int) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err == nil && time.Duration(info.Rtt)*time.Microsecond <= near {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, nearBuffer)
	}
}

// pass gives net/http a connection; false when it takes none any more.
func (l *Listener) pass(h *handed) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.handed[h] = struct{}{}
	l.queue <- h // there is room
	return true
}

// returned takes back a connection net/http had.
func (l *Listener) returned(h *handed) {
	l.mu.Lock()
	delete(l.handed, h)
	l.mu.Unlock()
}

// dropped is returned for a connection that has ended.
func (l *Listener) dropped(h *handed) {
	l.returned(h)
	if h.stream == nil {
		l.forget(h.base.leave)
	}
}

// forget counts a connection that has ended.
func (l *Listener) forget(leave func()) {
	l.cfg.Traffic.Open.Add(-1)
	leave()
	<-l.slots
	l.mu.Lock()
	l.open--
	l.mu.Unlock()
	select {
	case l.closed <- struct{}{}:
	default:
	}
}

// finish tells how an answer went.
func (l *Listener) finish(w *writing, err error) {
	if w.copy != nil {
		w.copy.Release()
		w.copy = nil
	}
	l.responder.Responded(&w.answer, max(0, w.sent-int64(w.size)), time.Since(w.began), err)
	switch s := w.answer.Stored; {
	case w.load != nil:
		w.load.c = nil // who reads the disk releases it
	case s != nil:
		s.Release()
	}
	w.answer, w.body = Answer{}, nil // a loop keeps no body
}
