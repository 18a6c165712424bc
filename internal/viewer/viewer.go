package viewer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/meridian-video/meridian/internal/resolver"
)

const (
	handshakeTimeout = 10 * time.Second
	// maxConnections bounds what a browser gone wild can open.
	maxConnections = 256
	// window is the receive buffer of connections when the line is slow: what
	// waits there has arrived for the sender, but not for the viewer.
	window = 32 << 10
	piece  = 8 << 10
)

// Config says where a viewer is.
type Config struct {
	// Dial connects from the viewer's address; names are not its business.
	Dial resolver.Dial
	// NameServers of the platform, host:port, in the order to ask them.
	NameServers []string
	// Rate of the line towards the viewer, bytes a second; 0 is unlimited.
	Rate int
}

// Viewer is a place to watch from. Its methods may be called concurrently.
type Viewer struct {
	cfg Config
	// connect also takes names, which the platform resolves.
	connect  resolver.Dial
	listener net.Listener
	line     *rate.Limiter

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{}

	mu       sync.Mutex
	conns    map[net.Conn]bool
	flows    map[*flow]bool
	received map[netip.Addr]int64
	cuts     int
}

// Open starts a viewer's proxy on a free loopback port.
func Open(cfg Config) (*Viewer, error) {
	if cfg.Dial == nil {
		return nil, errors.New("viewer: want a way to connect")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("viewer: %w", err)
	}
	v := &Viewer{cfg: cfg, listener: l, line: rate.NewLimiter(rate.Inf, 0), slots: make(chan struct{}, maxConnections),
		conns: map[net.Conn]bool{}, flows: map[*flow]bool{}, received: map[netip.Addr]int64{}}
	if cfg.Rate > 0 {
		// A tenth of a second of burst, so that a late wake-up costs no bytes.
		v.line = rate.NewLimiter(rate.Limit(cfg.Rate), max(piece, cfg.Rate/10))
	}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	v.connect = resolver.New(cfg.Dial, cfg.NameServers).Dialer(cfg.Dial)
	v.wg.Go(v.accept)
	return v, nil
}

// Pace changes how many bytes a second a limited line takes from now on.
func (v *Viewer) Pace(bytesPerSecond int) { v.line.SetLimit(rate.Limit(bytesPerSecond)) }

// Proxy is what a browser is given as its proxy.
func (v *Viewer) Proxy() string { return "socks5://" + v.listener.Addr().String() }

// Close ends the proxy and every connection through it.
func (v *Viewer) Close() error {
	err := v.listener.Close()
	v.cancel()
	v.mu.Lock()
	for c := range v.conns {
		c.Close()
	}
	v.mu.Unlock()
	v.wg.Wait()
	return err
}

// Received is how many bytes the viewer has been given by each address.
func (v *Viewer) Received() map[netip.Addr]int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make(map[netip.Addr]int64, len(v.received))
	for a, n := range v.received {
		out[a] = n
	}
	return out
}

// MidSegment reports whether a segment from one of the addresses is on its way
// and more than half of it still to come.
func (v *Viewer) MidSegment(from func(netip.Addr) bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for f := range v.flows {
		if from(f.to) && f.midSegment() {
			return true
		}
	}
	return false
}

// Cuts is how many connections have ended within a segment, whoever ended them.
func (v *Viewer) Cuts() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cuts
}

// Client is an HTTP client at the viewer's place. It follows no redirects.
func (v *Viewer) Client(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: v.connect, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute},
	}
}

// Dial connects from the viewer's address; names are resolved by the platform.
func (v *Viewer) Dial(ctx context.Context, network, hostport string) (net.Conn, error) {
	return v.connect(ctx, network, hostport)
}

func (v *Viewer) accept() {
	for {
		conn, err := v.listener.Accept()
		if err != nil {
			return // closed; nothing else ends a loopback listener
		}
		select {
		case v.slots <- struct{}{}:
		case <-v.ctx.Done():
			conn.Close()
			return
		}
		if !v.keep(conn) {
			return
		}
		v.wg.Go(func() {
			defer func() { <-v.slots }()
			defer v.drop(conn)
			v.serve(conn)
		})
	}
}

// keep remembers a connection for Close; false when it has come.
func (v *Viewer) keep(c net.Conn) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ctx.Err() != nil {
		c.Close()
		return false
	}
	v.conns[c] = true
	return true
}

func (v *Viewer) drop(c net.Conn) {
	c.Close()
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.conns, c)
}

// serve is one connection of the browser.
func (v *Viewer) serve(browser net.Conn) {
	if err := browser.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return
	}
	hostport, err := readRequest(browser)
	if err != nil {
		return
	}
	if err := browser.SetDeadline(time.Time{}); err != nil {
		return
	}
	ctx, cancel := context.WithCancel(v.ctx)
	defer cancel()
	remote, err := v.connect(ctx, "tcp", hostport)
	if err != nil {
		_ = writeReply(browser, replyFor(err)) // it may have gone
		return
	}
	if !v.keep(remote) {
		return
	}
	defer v.drop(remote)
	if err := writeReply(browser, socksGranted); err != nil {
		return
	}
	v.relay(browser, remote)
}

// relay passes bytes on both ways until either side ends; then both do.
func (v *Viewer) relay(browser, remote net.Conn) {
	to, err := netip.ParseAddrPort(remote.RemoteAddr().String())
	if err != nil {
		return
	}
	f := &flow{to: to.Addr().Unmap()}
	if tcp, ok := remote.(*net.TCPConn); ok && v.cfg.Rate > 0 {
		if err := tcp.SetReadBuffer(window); err != nil {
			return
		}
	}
	v.mu.Lock()
	v.flows[f] = true
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.flows, f)
		if f.cut() {
			v.cuts++
		}
	}()
	var up sync.WaitGroup
	up.Go(func() {
		// Its end, however it comes, ends the exchange.
		_, _ = io.Copy(remote, &reader{browser, f.sent})
		remote.Close()
		browser.Close()
	})
	buf := make([]byte, piece)
	for {
		n, err := remote.Read(buf)
		if n > 0 {
			if v.line.WaitN(v.ctx, n) != nil {
				break
			}
			f.received(buf[:n])
			v.mu.Lock()
			v.received[f.to] += int64(n)
			v.mu.Unlock()
			if _, err := browser.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			if tcp, ok := browser.(*net.TCPConn); ok && !errors.Is(err, io.EOF) {
				// A reset stays one.
				_ = tcp.SetLinger(0)
			}
			break
		}
	}
	remote.Close()
	browser.Close()
	up.Wait()
}

// reader calls read before it hands out bytes.
type reader struct {
	io.Reader
	read func()
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if n > 0 {
		r.read()
	}
	return n, err
}
