package confine

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// systemPaths are what programs need of a system: themselves, their libraries, and what
// these look at as they begin. Those that aren't there are left out.
var systemPaths = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store",
	"/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/dev/urandom", "/dev/zero",
	"/sys/devices/system/cpu", "/sys/devices/system/node", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat"}

// Rights, by the object they are for (landlock(7)).
const (
	readFile  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	readDir   = readFile | unix.LANDLOCK_ACCESS_FS_READ_DIR
	writeFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	writeDir  = writeFile | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
)

// ruleset is what Landlock allows; all else that this kernel knows to refuse is refused.
type ruleset struct {
	f       *os.File
	version int
	read    []string
	port    uint16
}

// newRuleset allows reading and executing what is under the paths, and connections to a port.
func newRuleset(read []string, port uint16) (*ruleset, error) {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return nil, fmt.Errorf("no Landlock: %w", errno)
	}
	r := &ruleset{version: int(version), read: read, port: port}
	handled := r.handled()
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&handled)), unsafe.Sizeof(handled), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("landlock_create_ruleset", errno)
	}
	r.f = os.NewFile(fd, "ruleset")
	if err := r.fill(); err != nil {
		return nil, errors.Join(err, r.f.Close())
	}
	return r, nil
}

// handled is all that this kernel's version can refuse.
func (r *ruleset) handled() unix.LandlockRulesetAttr {
	a := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_REFER - 1}
	if r.version >= 2 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if r.version >= 3 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if r.ports() {
		a.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if r.version >= 5 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	// Before version 7 the scope of signals took a thread for a process (its erratum 2),
	// which the runtime, that wakes its threads by signals, doesn't endure.
	if r.version >= 7 {
		a.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return a
}

// ports says whether this kernel can refuse connections.
func (r *ruleset) ports() bool { return r.version >= 4 }

func (r *ruleset) fill() error {
	for _, path := range r.read {
		if err := r.allow(path, readDir, readFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := r.allow(os.DevNull, writeFile, writeFile); err != nil {
		return err
	}
	if !r.ports() {
		return nil
	}
	// struct landlock_net_port_attr
	connect := struct{ access, port uint64 }{unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, uint64(r.port)}
	const ruleNetPort = 2
	return r.add(ruleNetPort, unsafe.Pointer(&connect))
}

// allow allows what is under a directory, or a file.
func (r *ruleset) allow(path string, dir, file uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	access := file
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		access = dir
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access & r.handled().Handled_access_fs, Parent_fd: int32(fd)}
	if err := r.add(unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&rule)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (r *ruleset) add(kind uintptr, rule unsafe.Pointer) error {
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, r.f.Fd(), kind, uintptr(rule), 0, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_add_rule", errno)
	}
	return nil
}

// writing is the same ruleset with a directory that may be written into.
func (r *ruleset) writing(dir string) (*ruleset, error) {
	w, err := newRuleset(r.read, r.port)
	if err != nil {
		return nil, err
	}
	if err := w.allow(dir, writeDir, writeFile); err != nil {
		return nil, errors.Join(err, w.f.Close())
	}
	return w, nil
}

// restrict holds the calling thread, and all it starts, to the ruleset.
func (r *ruleset) restrict() error {
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, r.f.Fd(), 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return nil
}
