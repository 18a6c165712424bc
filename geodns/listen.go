package geodns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// udpBuffer absorbs bursts while all workers are busy, in bytes per socket.
const udpBuffer = 1 << 20

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
			if err := askDestination(u); err != nil {
				return fmt.Errorf("%s: destination address of packets: %w", addr, err)
			}
		}
	}
	return nil
}

func wildcard(u *net.UDPConn) bool {
	ap := u.LocalAddr().(*net.UDPAddr).AddrPort()
	return ap.Addr().IsUnspecified()
}

// askDestination has the kernel tell where packets were sent to.
func askDestination(u *net.UDPConn) error {
	rc, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		if u.LocalAddr().(*net.UDPAddr).IP.To4() != nil {
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	return errors.Join(err, serr)
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

// serve answers queries until ctx ends, and calls reached for every connection.
func (l *nameListeners) serve(ctx context.Context, z *zone, reached func()) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, u := range l.udp {
		// What waits is answered beside the rest, by a worker of its own.
		b, err := newBatch(u, z.newWorker("udp", len(l.udp)))
		waiting, lateErr := newBatch(u, z.newWorker("udp", len(l.udp)))
		if err := errors.Join(err, lateErr); err != nil {
			return errors.Join(fmt.Errorf("dns: %w", err), l.close())
		}
		b.late = newLate(waiting)
		g.Go(func() error {
			if err := b.late.serve(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("dns: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			if err := b.serve(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("dns: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return u.Close()
		})
	}
	for _, t := range l.tcp {
		s := &tcpServer{listener: t, zone: z, reached: reached, conns: map[net.Conn]struct{}{}}
		g.Go(func() error { return s.serve(ctx) })
	}
	return g.Wait()
}
