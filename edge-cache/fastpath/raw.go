package fastpath

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The raw calls are for descriptors that don't block: Go's scheduler doesn't know
// of them, and looks around for other work after all others.

// rawSendMore writes b and lets it wait for what follows.
func rawSendMore(fd int, b []byte) (int, error) {
	return raw(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_MORE|unix.MSG_NOSIGNAL)
}

func rawWritev(fd int, iov []unix.Iovec) (int, error) {
	return raw(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), 0)
}

func rawSendfile(fd, file int, offset *int64, n int) (int, error) {
	return raw(unix.SYS_SENDFILE, uintptr(fd), uintptr(file), uintptr(unsafe.Pointer(offset)), uintptr(n))
}

// rawEpollWait doesn't wait.
func rawEpollWait(set int, events []unix.EpollEvent) (int, error) {
	return raw(unix.SYS_EPOLL_PWAIT, uintptr(set), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0)
}

// raw keeps what its arguments point to where it is.
//
//go:uintptrescapes
func raw(call, a, b, c, d uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(call, a, b, c, d, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
