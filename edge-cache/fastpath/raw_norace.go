//go:build !race

package fastpath

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/rawcall"
)

func rawRead(fd int, b []byte) (int, error) {
	return rawcall.Do(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
}

func rawWrite(fd int, b []byte) (int, error) {
	return rawcall.Do(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
}
