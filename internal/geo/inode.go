package geo

import (
	"os"
	"syscall"
)

// inode tells a replaced file from an untouched one of the same size and time.
func inode(fi os.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
