//go:build race

package fastpath

import "syscall"

// The race detector takes what goes through sockets for an order of events only
// where package syscall has read and written it.

func rawRead(fd int, b []byte) (int, error) {
	for {
		if n, err := syscall.Read(fd, b); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

func rawWrite(fd int, b []byte) (int, error) {
	for {
		if n, err := syscall.Write(fd, b); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
