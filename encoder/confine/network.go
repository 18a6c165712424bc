package confine

import (
	"context"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

func listen(ctx context.Context) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
}

// listenAlone listens in a network namespace that has a loopback interface and nothing else.
// A socket stays in the namespace it was made in, whoever uses it.
func listenAlone(ctx context.Context) (l net.Listener, namespace *os.File, err error) {
	if err := lacking(unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN); err != nil {
		return nil, nil, err
	}
	<-onOwnThread(func() {
		if err = os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)); err != nil {
			return
		}
		if err = loopbackUp(); err != nil {
			return
		}
		if l, err = listen(ctx); err != nil {
			return
		}
		if namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			_ = l.Close()
		}
	})
	if err != nil {
		return nil, nil, err
	}
	return l, namespace, nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, lo); err != nil {
		return os.NewSyscallError("flags of lo", err)
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	return os.NewSyscallError("lo up", unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo))
}
