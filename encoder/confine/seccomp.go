package confine

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data; of an argument its lower half, which is all that the
// kernel looks at in those compared here.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// refused are calls no decoder makes: ways to other processes, namespaces and parts of
// the kernel where much has been found wrong. io_uring would make calls past this filter,
// and what listens is reached from elsewhere.
var refused = []uint32{unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_IO_URING_SETUP, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_KEYCTL, unix.SYS_ADD_KEY,
	unix.SYS_REQUEST_KEY, unix.SYS_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_LISTEN}

// namespaces are clone's flags that make them.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

const (
	allow  = unix.SECCOMP_RET_ALLOW
	refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	// unknown makes the C library use clone, whose flags can be seen here.
	unknown = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// filter is the program that judges every call of a child.
func filter(arch string) ([]unix.SockFilter, error) {
	var audit uint32
	switch arch {
	case "amd64":
		audit = unix.AUDIT_ARCH_X86_64
	case "arm64":
		audit = unix.AUDIT_ARCH_AARCH64
	default:
		return nil, fmt.Errorf("no seccomp filter for %s", arch)
	}
	arg := func(i uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: dataArgs + 8*i, Size: 4} }
	ret := func(v uint32) bpf.Instruction { return bpf.RetConstant{Val: v} }
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: dataArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: audit, SkipTrue: 1},
		ret(refuse),
		bpf.LoadAbsolute{Off: dataNumber, Size: 4},
		// The calls of x32 have this bit.
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 1 << 30, SkipTrue: 1},
		ret(refuse),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE3, SkipTrue: 1},
		ret(unknown),
	}
	for _, call := range refused {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: 1}, ret(refuse))
	}
	// on judges a call by what of its arguments decides; each test leaves on by refuse or
	// goes on, and what passes all is allowed.
	on := func(call uint32, tests ...bpf.Instruction) {
		tests = append(tests, ret(allow))
		p = append(append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: uint8(len(tests))}), tests...)
	}
	without := func(i, flags uint32) []bpf.Instruction {
		return []bpf.Instruction{arg(i), bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: flags, SkipTrue: 1}, ret(refuse)}
	}
	on(unix.SYS_CLONE, without(0, namespaces)...)
	// A connection can be made by sending, which Landlock doesn't look at.
	on(unix.SYS_SENDTO, without(3, unix.MSG_FASTOPEN)...)
	on(unix.SYS_SENDMSG, without(2, unix.MSG_FASTOPEN)...)
	on(unix.SYS_SENDMMSG, without(3, unix.MSG_FASTOPEN)...)
	// TCP over IPv4, and not as MPTCP: that is all Landlock knows ports of.
	const typeMask = 0xf
	on(unix.SYS_SOCKET,
		arg(0), bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET, SkipTrue: 1}, ret(refuse),
		arg(1), bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: typeMask}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SOCK_STREAM, SkipTrue: 1}, ret(refuse),
		arg(2), bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 2}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1}, ret(refuse))
	p = append(p, ret(allow))
	raw, err := bpf.Assemble(p)
	if err != nil {
		return nil, fmt.Errorf("seccomp filter: %w", err)
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}

// install holds the calling thread, and all it starts, to the filter.
func install(f []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}
