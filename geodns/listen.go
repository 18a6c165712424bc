package geodns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// A resolver may keep its connection for a while and send a few queries over it (RFC 7766).
	tcpIdle    = 10 * time.Second
	tcpRead    = 2 * time.Second
	tcpQueries = 128
	// udpBuffer absorbs bursts while all workers are busy, in bytes per socket.
	udpBuffer = 1 << 20
)

// nameListeners are the sockets of the name server.
type nameListeners struct {
	udp []*net.UDPConn
	tcp []net.Listener
}

// listenDNS opens every address for UDP, with one socket per processor sharing
// the port, and TCP. The TCP listener doesn't share, so that a second process on
// the same port is noticed.
func listenDNS(ctx context.Context, addrs []string, maxConnections int) (*nameListeners, error) {
	l := &nameListeners{}
	for _, a := range addrs {
		if err := l.open(ctx, a, maxConnections); err != nil {
			return nil, errors.Join(fmt.Errorf("--dns-listen: %w", err), l.close())
		}
	}
	return l, nil
}

func (l *nameListeners) open(ctx context.Context, addr string, maxConnections int) error {
	t, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	l.tcp = append(l.tcp, netutil.LimitListener(t, maxConnections))
	addr = t.Addr().String() // for port 0: UDP gets the port TCP got
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(cerr, err)
	}}
	for range runtime.GOMAXPROCS(0) {
		p, err := shared.ListenPacket(ctx, "udp", addr)
		if err != nil {
			return err
		}
		u := p.(*net.UDPConn)
		l.udp = append(l.udp, u)
		// Smaller than asked for is fine.
		_ = u.SetReadBuffer(udpBuffer)
		if wildcard(u) {
			// Answers must leave from the address the query came to.
			e4 := ipv4.NewPacketConn(u).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
			e6 := ipv6.NewPacketConn(u).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
			if e4 != nil && e6 != nil {
				return fmt.Errorf("%s: destination address of packets: %w", addr, e4)
			}
		}
	}
	return nil
}

func wildcard(u *net.UDPConn) bool {
	ap := u.LocalAddr().(*net.UDPAddr).AddrPort()
	return ap.Addr().IsUnspecified()
}

func (l *nameListeners) close() error {
	var errs []error
	for _, u := range l.udp {
		errs = append(errs, u.Close())
	}
	for _, t := range l.tcp {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

// serve answers queries until ctx ends.
func (l *nameListeners) serve(ctx context.Context, z *zone) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, u := range l.udp {
		g.Go(func() error { return serveUDP(ctx, u, z) })
		g.Go(func() error {
			<-ctx.Done()
			return u.Close()
		})
	}
	for _, t := range l.tcp {
		g.Go(func() error { return serveTCP(ctx, t, z) })
	}
	return g.Wait()
}

// serveUDP answers one socket's packets one after the other: an answer is some
// microseconds of work, and the bound on what is in flight is the socket's buffer.
func serveUDP(ctx context.Context, u *net.UDPConn, z *zone) error {
	b := make([]byte, maxQuery)
	any := wildcard(u)
	for {
		var err error
		if any {
			var n int
			var s *dns.SessionUDP
			if n, s, err = dns.ReadFromSessionUDP(u, b); err == nil {
				if out := z.packet(b[:n], s.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()); out != nil {
					_, _ = dns.WriteToSessionUDP(u, out, s) // the client asks again
				}
			}
		} else {
			var n int
			var from netip.AddrPort
			if n, from, err = u.ReadFromUDPAddrPort(b); err == nil {
				if out := z.packet(b[:n], from.Addr().Unmap()); out != nil {
					_, _ = u.WriteToUDPAddrPort(out, from) // the client asks again
				}
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("dns: %w", err)
		}
	}
}

func serveTCP(ctx context.Context, l net.Listener, z *zone) error {
	started := make(chan struct{})
	srv := &dns.Server{
		Listener: l, ReadTimeout: tcpRead, WriteTimeout: tcpRead, MaxTCPQueries: tcpQueries,
		IdleTimeout:       func() time.Duration { return tcpIdle },
		NotifyStartedFunc: func() { close(started) },
		Handler: dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
			var client netip.Addr
			if a, ok := w.RemoteAddr().(*net.TCPAddr); ok {
				client = a.AddrPort().Addr().Unmap()
			}
			resp := z.respond(req, client, true)
			z.metrics.dns.WithLabelValues("tcp", rcode(resp.Rcode)).Inc()
			_ = w.WriteMsg(resp) // the client has gone
		}),
	}
	done := make(chan error, 1)
	go func() { done <- srv.ActivateAndServe() }()
	select {
	case err := <-done:
		return fmt.Errorf("dns: %w", err)
	case <-started:
	}
	select {
	case err := <-done:
		return fmt.Errorf("dns: %w", err)
	case <-ctx.Done():
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	// Idle connections are closed at once; what doesn't end within a second is cut.
	err := srv.ShutdownContext(sctx)
	<-done
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
