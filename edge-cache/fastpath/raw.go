package fastpath

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/rawcall"
)

// rawSendMore writes b and lets it wait for what follows.
func rawSendMore(fd int, b []byte) (int, error) {
	return rawcall.Do(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_MORE|unix.MSG_NOSIGNAL)
}

// hasBytes reports whether a read would find something, the end included.
func hasBytes(fd uintptr) bool {
	var one [1]byte
	_, err := rawcall.Do(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&one[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err != unix.EAGAIN
}

func rawWritev(fd int, iov []unix.Iovec) (int, error) {
	return rawcall.Do(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), 0)
}

func rawSendfile(fd, file int, offset *int64, n int) (int, error) {
	return rawcall.Do(unix.SYS_SENDFILE, uintptr(fd), uintptr(file), uintptr(unsafe.Pointer(offset)), uintptr(n))
}
