package fastpath

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Responder answers plain GET requests. Its methods are called concurrently and
// must not block.
type Responder interface {
	// Respond returns the answer to r, or false to leave it to net/http. It
	// appends the head to buf. It must give what net/http's handler would.
	Respond(r *Request, buf []byte) (Answer, bool)
	// Responded is told how writing an answer went: body bytes sent, time since
	// the request was read, and why it ended early.
	Responded(a *Answer, sent int64, took time.Duration, err error)
}

// Answer is a whole response.
type Answer struct {
	// Head is status line and fields, with the empty line after them.
	Head []byte
	Body []byte
	// Kind is the responder's own.
	Kind int
}

// Config of a Listener. All fields but Admit and Traffic are required.
type Config struct {
	// HeaderTimeout bounds the time from a head's first byte to its last.
	HeaderTimeout time.Duration
	// IdleTimeout bounds the time between an answer and the next request.
	IdleTimeout time.Duration
	// WriteTimeout is the time in which WriteSize bytes of a body must move.
	WriteTimeout time.Duration
	WriteSize    int
	// MaxConnections open at once; further ones wait to be accepted.
	MaxConnections int
	// Admit may refuse a connection, which is then closed; leave is called when one
	// that it let in has ended. Optional.
	Admit func(net.Conn) (leave func(), ok bool)
	// Traffic is told of connections and bytes; optional.
	Traffic *Traffic
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
	near = 2 * time.Millisecond
)

// Listener makes connections with a fast path. Set its ConnState on the server.
type Listener struct {
	net.Listener
	cfg       Config
	responder Responder
	slots     chan struct{}
	stop      chan struct{}
	stopOnce  sync.Once

	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed chan struct{} // capacity 1: a connection ended
}

// New returns a listener over l, which must be of TCP.
func New(l net.Listener, cfg Config, r Responder) *Listener {
	if cfg.Traffic == nil {
		cfg.Traffic = new(Traffic)
	}
	return &Listener{Listener: l, cfg: cfg, responder: r, slots: make(chan struct{}, cfg.MaxConnections), stop: make(chan struct{}),
		conns: map[*conn]struct{}{}, closed: make(chan struct{}, 1)}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.stop:
		return nil, net.ErrClosed
	}
	tcp, leave, err := l.accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		<-l.slots
		leave()
		return nil, errors.Join(err, tcp.Close())
	}
	c := &conn{TCPConn: tcp, l: l, raw: raw, leave: leave}
	c.readFunc, c.writeFunc = c.tryRead, c.tryWrite
	c.tune()
	l.mu.Lock()
	l.conns[c] = struct{}{}
	l.mu.Unlock()
	l.cfg.Traffic.Open.Add(1)
	return c, nil
}

// accept returns the next connection that is let in.
func (l *Listener) accept() (*net.TCPConn, func(), error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, nil, err
		}
		tcp, ok := nc.(*net.TCPConn)
		if !ok {
			return nil, nil, errors.Join(errors.New("fastpath: the listener isn't of TCP"), nc.Close())
		}
		if l.cfg.Admit == nil {
			return tcp, func() {}, nil
		}
		if leave, ok := l.cfg.Admit(tcp); ok {
			return tcp, leave, nil
		}
		_ = tcp.Close()
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.stopOnce.Do(func() { close(l.stop) })
	return l.Listener.Close()
}

// tune sets the send buffer of near clients. Sockets without it work too.
func (c *conn) tune() {
	_ = c.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && time.Duration(info.Rtt)*time.Microsecond <= near {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, nearBuffer)
		}
	})
}

func (l *Listener) forget(c *conn) {
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
	l.cfg.Traffic.Open.Add(-1)
	c.leave()
	<-l.slots
	select {
	case l.closed <- struct{}{}:
	default:
	}
}

// ConnState is the server's hook: a connection that net/http finds idle looks at
// its requests itself again.
func (l *Listener) ConnState(nc net.Conn, s http.ConnState) {
	if c, ok := nc.(*conn); ok && s == http.StateIdle && c.mode == handed {
		c.mode = boundary
	}
}

// Drain waits until every connection has ended, which those that are being
// answered do after http.Server's Shutdown or Close; when ctx ends it ends them.
func (l *Listener) Drain(ctx context.Context) {
	for done := ctx.Done(); ; {
		l.mu.Lock()
		left := len(l.conns)
		l.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-l.closed:
		case <-done:
			done = nil
			l.mu.Lock()
			for c := range l.conns {
				_ = c.TCPConn.Close() // its owner gets an error and forgets it
			}
			l.mu.Unlock()
		}
	}
}
