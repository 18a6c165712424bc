package edgecache

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

const (
	// h3Streams bounds the requests under way on a connection, as HTTP/2's.
	h3Streams = 100
	// h3UniStreams: control, encoder and decoder, and some that are to be ignored
	// (RFC 9114 section 6.2).
	h3UniStreams = 8
	// h3Window bounds what a stream, and h3ConnWindow what a connection may send
	// before it is read: requests have heads only.
	h3Window     = 64 << 10
	h3ConnWindow = 256 << 10
	// h3Silence is how long a connection may be without any packet.
	h3Silence = 30 * time.Second
	// h3Linger is how long after their last response clients may leave a stopping
	// edge by themselves. Closing at once would take from them what was lost on the
	// way and has to be sent again.
	h3Linger = 2 * time.Second
	// altSvcAge is how long clients may remember that there is HTTP/3, in seconds:
	// short, because where it is switched off they try it first that long.
	altSvcAge = 3600
)

// http3Listener answers HTTP/3 on a UDP socket, with handler and limits of the
// TLS listener.
type http3Listener struct {
	h    http.Handler
	gate *gate
	udp  *net.UDPConn
	tr   *quic.Transport
	ln   *quic.EarlyListener
	srv  *http3.Server
	// idle is how long a connection may ask for nothing.
	idle time.Duration
	// open connections of this listener, those in their handshake too.
	open atomic.Int64
	busy busyRequests
}

// listenHTTP3 opens the socket at the address of a TCP listener.
func listenHTTP3(ctx context.Context, at net.Addr, h http.Handler, cfg *tls.Config, g *gate) (*http3Listener, error) {
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return nil, err
	}
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s isn't of UDP", at), pc.Close())
	}
	l := &http3Listener{h: h, gate: g, udp: udp, idle: idleTimeout}
	l.tr = &quic.Transport{Conn: udp, ConnContext: l.admit, VerifySourceAddress: l.crowded}
	l.srv = &http3.Server{Handler: l, MaxHeaderBytes: 16 << 10, ConnContext: l.watch,
		Logger: slog.New(slog.DiscardHandler)} // it would tell what clients do wrong
	l.ln, err = l.tr.ListenEarly(http3.ConfigureTLSConfig(cfg), &quic.Config{
		HandshakeIdleTimeout: headerTimeout, MaxIdleTimeout: h3Silence, MaxIncomingStreams: h3Streams, MaxIncomingUniStreams: h3UniStreams,
		InitialStreamReceiveWindow: h3Window, MaxStreamReceiveWindow: h3Window, InitialConnectionReceiveWindow: h3ConnWindow, MaxConnectionReceiveWindow: h3ConnWindow})
	if err != nil {
		return nil, errors.Join(err, l.tr.Close(), udp.Close())
	}
	return l, nil
}

// advertise tells clients of h where HTTP/3 is (RFC 7838).
func (l *http3Listener) advertise(h http.Handler) http.Handler {
	var where []string
	if a, ok := l.udp.LocalAddr().(*net.UDPAddr); ok {
		where = []string{fmt.Sprintf(`h3=":%d"; ma=%d`, a.Port, altSvcAge)}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Alt-Svc"] = where
		h.ServeHTTP(w, r)
	})
}

// advertiseFast does so for a fast path's clients.
func (l *http3Listener) advertiseFast(r fastpath.Responder) fastpath.Responder {
	a, ok := l.udp.LocalAddr().(*net.UDPAddr)
	if !ok {
		return r
	}
	return &advertised{r, fastpath.NewHead(0, []fastpath.HeadField{{Name: "Alt-Svc", Value: fmt.Sprintf(`h3=":%d"; ma=%d`, a.Port, altSvcAge)}})}
}

type advertised struct {
	fastpath.Responder
	more *fastpath.Head
}

// Respond implements fastpath.Responder.
func (r *advertised) Respond(req *fastpath.Request) (fastpath.Answer, bool) {
	a, ok := r.Responder.Respond(req)
	a.More = r.more
	return a, ok
}

var errCrowded = errors.New("too many connections")

// admit lets a connection in, before its handshake. Where TCP's wait to be
// accepted there is nothing to wait in: further ones are refused.
func (l *http3Listener) admit(ctx context.Context, c *quic.ClientInfo) (context.Context, error) {
	leave, ok := l.gate.admit(addrPortOf(c.RemoteAddr))
	if !ok {
		return nil, errCrowded
	}
	if l.open.Add(1) > int64(l.gate.maxConnections) {
		l.open.Add(-1)
		leave()
		return nil, errCrowded
	}
	l.gate.traffic.Open.Add(1)
	// Ends with the connection, or with its failed handshake.
	context.AfterFunc(ctx, func() {
		l.open.Add(-1)
		l.gate.traffic.Open.Add(-1)
		leave()
	})
	return ctx, nil
}

// crowded makes clients prove their address (RFC 9000 section 8.1.2), which costs
// a round trip, before invented ones can use up what a client, or all, may have.
func (l *http3Listener) crowded(a net.Addr) bool {
	return l.open.Load() > int64(l.gate.maxConnections/2) || l.gate.crowded(a)
}

// serve answers until ctx ends, and then finishes what it has begun to.
func (l *http3Listener) serve(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- l.srv.ServeListener(l.ln) }()
	var err error
	select {
	case err = <-done:
		err = errors.Join(err, l.srv.Close())
	case <-ctx.Done():
		err = l.drain(context.WithoutCancel(ctx))
		<-done
	}
	return errors.Join(err, l.tr.Close(), l.udp.Close())
}

// drain refuses new connections and requests. It lasts until clients have closed
// theirs, which they are told to (GOAWAY), or have had h3Linger for it after the
// last response.
func (l *http3Listener) drain(ctx context.Context) error {
	err := l.ln.Close()
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	shut := make(chan error, 1)
	go func() { shut <- l.srv.Shutdown(ctx) }()
	idle := l.busy.idle()
	linger := time.NewTimer(drainTime)
	defer linger.Stop()
	for {
		select {
		case <-idle:
			idle = nil
			linger.Reset(h3Linger)
		case <-linger.C:
			// A request may have been on its way in.
			if idle = l.busy.idle(); l.busy.count() == 0 {
				cancel()
			}
		case serr := <-shut:
			if errors.Is(serr, context.Canceled) || errors.Is(serr, context.DeadlineExceeded) {
				serr = nil
			}
			return errors.Join(err, serr)
		}
	}
}

// ServeHTTP implements http.Handler.
func (l *http3Listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(h3ConnKey{}).(*h3Conn)
	if !ok || !c.enter() {
		panic(http.ErrAbortHandler)
	}
	defer c.leave()
	l.busy.enter()
	defer l.busy.leave()
	if err := findEnd(w, r); err != nil {
		panic(http.ErrAbortHandler)
	}
	l.h.ServeHTTP(&h3Writer{ResponseWriter: w, gate: l.gate}, r)
}

// findEnd finds whether a request ends with its head, which without
// Content-Length only the stream's end tells (RFC 9114 section 4.1).
func findEnd(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength >= 0 {
		return nil
	}
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodConnect:
		return nil // their content is read as it comes
	}
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return err
	}
	first := make([]byte, 1)
	switch _, err := io.ReadFull(r.Body, first); {
	case errors.Is(err, io.EOF):
		r.ContentLength, r.Body = 0, http.NoBody
	case err != nil:
		return err
	default:
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(first), r.Body), r.Body}
	}
	return rc.SetReadDeadline(time.Time{})
}

// h3Writer counts what is sent, and leaves out what is about connections of
// HTTP/1.1 (RFC 9114 section 4.2).
type h3Writer struct {
	http.ResponseWriter
	gate *gate
	head bool // was written
}

func (w *h3Writer) WriteHeader(status int) {
	w.head = w.head || status >= http.StatusOK
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"} {
		delete(w.Header(), name)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *h3Writer) Write(b []byte) (int, error) {
	if !w.head {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(b)
	w.gate.traffic.Sent.Add(int64(n))
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *h3Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type h3ConnKey struct{}

// h3Conn closes a connection that asks for nothing, or never finishes asking: the
// idle timeout of http3 stops for a stream whose head never ends.
type h3Conn struct {
	idle time.Duration

	mu     sync.Mutex
	active int
	closed bool
	timer  *time.Timer
}

// watch implements http3.Server.ConnContext.
func (l *http3Listener) watch(ctx context.Context, qc *quic.Conn) context.Context {
	c := &h3Conn{idle: l.idle}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(l.idle, func() {
		c.mu.Lock()
		idle := c.active == 0
		c.mu.Unlock()
		if idle {
			_ = qc.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "idle")
		}
	})
	context.AfterFunc(qc.Context(), c.close)
	return context.WithValue(ctx, h3ConnKey{}, c)
}

// enter reports whether the connection may have another request answered. A
// stream makes room for the next when the client is done with it, which is before
// its handler is.
func (c *h3Conn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active >= 2*h3Streams {
		return false
	}
	c.active++
	c.timer.Stop()
	return true
}

func (c *h3Conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active--; c.active == 0 && !c.closed {
		c.timer.Reset(c.idle)
	}
}

func (c *h3Conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.timer.Stop()
}

// busyRequests counts what is being answered.
type busyRequests struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n falls to 0, for one who waits
}

// idle returns a channel that is closed when nothing is being answered.
func (b *busyRequests) idle() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	none := make(chan struct{})
	if b.n == 0 {
		close(none)
	} else {
		b.none = none
	}
	return none
}

func (b *busyRequests) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func (b *busyRequests) enter() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
}

func (b *busyRequests) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n--; b.n == 0 && b.none != nil {
		close(b.none)
		b.none = nil
	}
}
