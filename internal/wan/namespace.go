package wan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netlinkTimeout bounds every question to the kernel.
const netlinkTimeout = 5 * time.Second

// closeTimeout bounds how long Close waits for processes it killed.
const closeTimeout = 10 * time.Second

// Namespace is a network namespace that lives as long as it is open, or a
// process or socket of it exists. Its methods may be called concurrently.
type Namespace struct {
	ns      *os.File
	link    string // what /proc/PID/ns/net of an inhabitant reads
	netlink *netlink.Handle
	owned   bool

	calls chan func()
	stop  chan struct{}
	ended chan struct{}
	close func() error
}

// NewNamespace makes an empty network namespace with its loopback up.
func NewNamespace() (*Namespace, error) {
	n, err := enter(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	n.owned = true
	lo, err := n.netlink.LinkByName("lo")
	if err == nil {
		err = n.netlink.LinkSetUp(lo)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raise loopback in new network namespace: %w", explain(err)), n.Close())
	}
	return n, nil
}

// OpenNamespace opens an existing namespace by path: /proc/PID/ns/net, or a
// name under /run/netns.
func OpenNamespace(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	n, err := enter(func() error { return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET) })
	if err != nil {
		err = fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return n, errors.Join(err, f.Close())
}

// enter starts the thread that holds the namespace. Commands are its children,
// so that the kernel's parent-death signal, which follows the thread and not the
// process, comes when the namespace closes and not when the runtime retires
// whichever thread happened to start them.
func enter(join func() error) (*Namespace, error) {
	n := &Namespace{calls: make(chan func()), stop: make(chan struct{}), ended: make(chan struct{})}
	n.close = sync.OnceValue(n.doClose)
	ready := make(chan error, 1)
	onThread(func() {
		defer close(n.ended)
		err := n.open(join)
		ready <- err
		if err != nil {
			return
		}
		for {
			select {
			case call := <-n.calls:
				call()
			case <-n.stop:
				return
			}
		}
	})
	if err := <-ready; err != nil {
		<-n.ended
		return nil, err
	}
	return n, nil
}

func (n *Namespace) open(join func() error) error {
	if err := join(); err != nil {
		return explain(err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	n.link, err = os.Readlink("/proc/thread-self/ns/net")
	if err == nil {
		n.netlink, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	if err == nil {
		err = n.netlink.SetSocketTimeout(netlinkTimeout)
	}
	if err != nil {
		if n.netlink != nil {
			n.netlink.Close()
		}
		return errors.Join(err, f.Close())
	}
	n.ns = f
	return nil
}

// onThread runs fn on an operating system thread that ends with it, so that no
// other goroutine ever runs where fn has been.
func onThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		// The main thread can't end: the runtime would park it where fn left it,
		// and /proc/self would show it. Occupy it until fn has another.
		moved := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(moved)
			fn()
		}()
		<-moved
		runtime.UnlockOSThread()
	}()
}

// call runs fn on the thread that holds the namespace.
func (n *Namespace) call(fn func() error) error {
	done := make(chan error, 1)
	select {
	case n.calls <- func() { done <- fn() }:
		return <-done
	case <-n.stop:
		return fmt.Errorf("network namespace: %w", ErrClosed)
	}
}

// Path opens the namespace again, from any process of root's, while it is open.
func (n *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.ns.Fd())
}

// Do runs fn on a thread inside the namespace. What fn opens (sockets, devices)
// stays in the namespace; goroutines it starts do not run there. A socket that
// outlives Close keeps the namespace in the kernel.
func (n *Namespace) Do(fn func() error) error {
	done := make(chan error, 1)
	onThread(func() {
		select {
		case <-n.stop:
			done <- fmt.Errorf("network namespace: %w", ErrClosed)
			return
		default:
		}
		if err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", explain(err))
			return
		}
		done <- fn()
	})
	return <-done
}

// DialContext connects from inside the namespace. The address must be an IP and
// port: resolving would happen outside.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return n.DialFrom(netip.Addr{})(ctx, network, address)
}

// DialFrom is DialContext with a source address, one of the node's own.
func (n *Namespace) DialFrom(source netip.Addr) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return nil, fmt.Errorf("dial in network namespace: want IP:port: %w", err)
		}
		dialer := net.Dialer{}
		switch {
		case !source.IsValid():
		case network == "tcp" || network == "tcp4":
			dialer.LocalAddr = &net.TCPAddr{IP: source.AsSlice()}
		case network == "udp" || network == "udp4":
			dialer.LocalAddr = &net.UDPAddr{IP: source.AsSlice()}
		default:
			return nil, fmt.Errorf("dial in network namespace: no source address with network %q", network)
		}
		var conn net.Conn
		err := n.Do(func() (err error) {
			conn, err = dialer.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// Listen listens inside the namespace.
func (n *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a packet socket inside the namespace.
func (n *Namespace) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var c net.PacketConn
	err := n.Do(func() (err error) {
		c, err = new(net.ListenConfig).ListenPacket(ctx, network, address)
		return err
	})
	return c, err
}

// Close kills every process in a namespace NewNamespace made, and lets go of
// it. It may be called again.
func (n *Namespace) Close() error { return n.close() }

func (n *Namespace) doClose() error {
	var err error
	if n.owned {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		err = n.Kill(ctx)
	}
	close(n.stop)
	<-n.ended
	n.netlink.Close()
	return errors.Join(err, n.ns.Close())
}
