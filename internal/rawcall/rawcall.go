// Package rawcall makes system calls that Go's scheduler doesn't learn of: it would
// look around for other work after each. They are for descriptors that don't block.
package rawcall

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// EpollWait returns the events there are and doesn't wait. There must be room for one.
func EpollWait(set int, events []unix.EpollEvent) (int, error) {
	return Do(unix.SYS_EPOLL_PWAIT, uintptr(set), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0)
}

// Do makes a call, again when it was interrupted. It keeps what its arguments point
// to where it is. The error is a unix.Errno.
//
//go:uintptrescapes
func Do(call, a, b, c, d uintptr) (int, error) {
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
