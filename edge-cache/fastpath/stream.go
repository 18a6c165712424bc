package fastpath

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// stream answers on an encrypted connection, in a goroutine of its own: what it
// does for an answer is mostly encryption, which goes to all processors so.
type stream struct {
	l    *Listener
	base *conn
	tls  *tls.Conn
	wire *wire
	// The deadlines in force, set again only now and then.
	readUntil, writeUntil time.Time
	// idle is since when the client has sent nothing; zero where it has.
	idle time.Time

	mu      sync.Mutex
	busy    bool // an answer is being written
	stopped bool
	session Session // of HTTP/2; nil without
}

// stream begins with an encrypted connection.
func (l *Listener) stream(c *conn) {
	s := &stream{l: l, base: c}
	f := os.NewFile(uintptr(c.fd), "connection")
	nc, err := net.FileConn(f)
	c.fd = -1
	tcp, ok := nc.(*net.TCPConn)
	if err = errors.Join(err, f.Close()); err != nil || !ok {
		if nc != nil {
			_ = nc.Close()
		}
		l.forget(c.leave)
		return
	}
	if s.wire, err = newWire(tcp, l, c); err != nil {
		_ = tcp.Close()
		l.forget(c.leave)
		return
	}
	s.tls = tls.Server(s.wire, l.cfg.TLS)
	s.start(func() { s.greet() })
}

// start runs f in the stream's goroutine, unless the listener is closed.
func (s *stream) start(f func()) {
	s.l.mu.Lock()
	stopped := s.l.stopped
	if !stopped {
		s.l.streams[s] = struct{}{}
		s.l.running.Go(f)
	}
	s.l.mu.Unlock()
	if stopped {
		_ = s.wire.Close()
	}
}

// leaves takes the stream out of those the listener stops.
func (s *stream) leaves() {
	s.l.mu.Lock()
	delete(s.l.streams, s)
	s.l.mu.Unlock()
}

// greet answers the handshake, and then requests.
func (s *stream) greet() {
	ctx, cancel := context.WithTimeout(context.Background(), s.l.cfg.HeaderTimeout)
	err := s.tls.HandshakeContext(ctx)
	cancel()
	if err != nil {
		var re tls.RecordHeaderError
		if errors.As(err, &re) && re.Conn != nil && plainHTTP(re.RecordHeader) {
			_, _ = io.WriteString(re.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		}
		s.leaves()
		_ = s.wire.Close()
		return
	}
	// In a goroutine of its own: a handshake's stack is larger than what waits.
	if s.tls.ConnectionState().NegotiatedProtocol == "h2" && s.l.cfg.HTTP2 != nil {
		s.l.running.Go(s.multiplex)
		return
	}
	s.l.running.Go(func() { s.serve(nil) })
}

// multiplex answers over HTTP/2.
func (s *stream) multiplex() {
	m := s.l.cfg.HTTP2(&Conn{s})
	s.mu.Lock()
	s.session = m
	stopped := s.stopped
	s.mu.Unlock()
	if stopped {
		m.Stop()
	}
	s.converse(m)
}

// converse answers over HTTP/2 until the client rests or the connection is to end.
func (s *stream) converse(m Session) {
	if m.Serve() {
		s.l.running.Go(func() { s.rest(func() { s.converse(m) }) })
		return
	}
	s.leaves()
	_ = s.wire.Close()
}

// plainHTTP reports whether a record's header looks like a request.
func plainHTTP(h [5]byte) bool {
	switch string(h[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// resume goes on after net/http has answered.
func (s *stream) resume(read *buffer) error {
	s.readUntil, s.writeUntil = time.Time{}, time.Time{}
	s.start(func() { s.serve(read) })
	return nil
}

// stop ends the connection, after the answer that is being written unless drop.
func (s *stream) stop(drop bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	switch {
	case drop || !s.busy && s.session == nil:
		_ = s.wire.TCPConn.Close() // who reads gets an error
	case s.session != nil:
		s.session.Stop()
	}
}

// enter reports whether an answer may begin.
func (s *stream) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = !s.stopped
	return s.busy
}

// leave reports whether another may follow.
func (s *stream) leave() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	return !s.stopped
}

// work is what a stream needs while it has a request.
type work struct {
	req Request
	out [RecordSize]byte
}

var works = sync.Pool{New: func() any { return new(work) }}

// RestShare is the part of the idle time after which a connection rests: it doesn't
// wait any more in the goroutine that answered.
const RestShare = 32

// errRests says that the client has asked for nothing for a while.
var errRests = errors.New("the client rests")

// serve answers requests until one is net/http's, or the connection rests or ends.
func (s *stream) serve(b *buffer) {
	h, err := s.answerAll(b)
	switch {
	case errors.Is(err, errRests):
		s.readUntil = time.Time{}
		if err := s.wire.SetReadDeadline(s.idle.Add(s.l.cfg.IdleTimeout)); err != nil {
			s.end()
			return
		}
		s.l.running.Go(func() { s.rest(s.wake) })
		return
	case err != nil:
		s.end()
		return
	}
	s.leaves()
	if !s.l.pass(h) {
		_ = s.wire.Close()
	}
}

func (s *stream) end() {
	s.leaves()
	_ = s.tls.Close()
	_ = s.wire.Close()
}

// rest waits until there is something to read, or the time for it is over, and goes on
// with then. It has a goroutine of its own, and isn't below TLS: a stack that has
// answered is large, and one that only waits as small as they begin.
func (s *stream) rest(then func()) {
	_ = s.wire.raw.Read(hasBytes) // who reads next finds the error, too
	then()
}

// wake goes on with a client that has rested.
func (s *stream) wake() {
	if !s.idle.Add(s.l.cfg.IdleTimeout).After(time.Now()) {
		s.end()
		return
	}
	s.serve(nil)
}

func (s *stream) answerAll(b *buffer) (*handed, error) {
	inHead := false
	for {
		now := time.Now()
		if b != nil && b.w > b.r {
			wk := works.Get().(*work)
			n, v := parse(b.b[b.r:b.w], &wk.req)
			if v == plain {
				done, err := s.answer(wk, now)
				if err != nil {
					return nil, err
				}
				if done {
					works.Put(wk)
					inHead = false
					if b.r += n; b.r == b.w {
						b.free()
						b = nil
					}
					continue
				}
				v = bodiless
			}
			works.Put(wk)
			full := false
			if v == incomplete {
				if b.r > 0 {
					b.w, b.r = copy(b.b[:], b.b[b.r:b.w]), 0
				}
				full = b.w == len(b.b)
			}
			if v != incomplete || full {
				h := &handed{Conn: s.tls, l: s.l, stream: s, buf: b, give: n, last: v != bodiless}
				if h.last {
					h.give = b.w - b.r
				}
				return h, s.tls.SetDeadline(time.Time{})
			}
			if !inHead {
				inHead, s.readUntil = true, time.Time{}
				if err := s.wire.SetReadDeadline(now.Add(s.l.cfg.HeaderTimeout)); err != nil {
					return nil, err
				}
			}
		} else {
			if s.idle.IsZero() {
				s.idle = now
			}
			wait := s.l.cfg.IdleTimeout / RestShare
			if until := now.Add(wait); until.Sub(s.readUntil) > wait/4 {
				// Set again only now and then: it costs more than reading.
				s.readUntil = until
				if err := s.wire.SetReadDeadline(until); err != nil {
					return nil, err
				}
			}
		}
		var err error
		if b, err = s.read(b); err != nil {
			return nil, err
		}
	}
}

// read adds to what was read; a connection that waits holds no buffer.
func (s *stream) read(b *buffer) (*buffer, error) {
	fresh := b == nil
	if fresh {
		var one [1]byte
		n, err := s.tls.Read(one[:])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errRests
		case n == 0 || err != nil:
			return nil, errors.Join(err, io.EOF)
		}
		b, s.idle = newBuffer(one[:]), time.Time{}
	}
	n, err := s.tls.Read(b.b[b.w:])
	switch {
	case n == 0 && err == nil:
		err = io.ErrNoProgress
	case fresh && errors.Is(err, os.ErrDeadlineExceeded):
		err = nil // the time was for a head to begin
	}
	b.w += n
	if n > 0 {
		err = nil // it comes again
	}
	return b, err
}

// answer offers the request to the responder and writes what it says; false when
// it is net/http's.
func (s *stream) answer(wk *work, now time.Time) (bool, error) {
	a, ok := s.l.respond(&wk.req)
	if !ok {
		return false, nil
	}
	if !s.enter() {
		return false, net.ErrClosed
	}
	head := a.appendHead(wk.out[:0])
	sent, err := s.write(head, wk.out[:], a.Body, now)
	s.l.responder.Responded(&a, max(0, sent-int64(len(head))), time.Since(now), err)
	if !s.leave() && err == nil {
		err = net.ErrClosed
	}
	return true, err
}

// write sends head and body; head lies in room, where there is enough.
func (s *stream) write(head, room, body []byte, now time.Time) (sent int64, err error) {
	n := len(head)
	if n > len(room) {
		room = head
	}
	k := copy(room[n:], body)
	first, body := room[:n+k], body[k:]
	if len(body) == 0 {
		return s.send(first, now)
	}
	for len(first) > 0 || len(body) > 0 {
		part := body[:min(len(body), s.l.cfg.WriteSize)]
		var some int64
		err := s.wire.together(func() error {
			var err error
			if some, err = s.send(first, now); err != nil {
				return err
			}
			n, err := s.tls.Write(part)
			some += int64(n)
			return err
		})
		sent += some
		if err != nil {
			return sent, err
		}
		first, body, now = nil, body[len(part):], time.Now()
	}
	return sent, nil
}

// send writes b with time for as much as WriteSize.
func (s *stream) send(b []byte, now time.Time) (int64, error) {
	if until := now.Add(s.l.cfg.WriteTimeout); until.Sub(s.writeUntil) > s.l.cfg.WriteTimeout/16 {
		s.writeUntil = until
		if err := s.wire.SetWriteDeadline(until); err != nil {
			return 0, err
		}
	}
	if len(b) == 0 {
		return 0, nil
	}
	n, err := s.tls.Write(b)
	return int64(n), err
}
