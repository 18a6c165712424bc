package geodns

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/geo"
)

const (
	// batchSize is how many packets one system call may move.
	batchSize = 32
	// controlLen holds one packet-info message of either family.
	controlLen = 64
)

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// batch answers one UDP socket's packets, as many as have come in with one
// system call each way. The runtime's own reads and writes move one packet a
// call and make an address for each; here a packet's sender goes back to the
// kernel as it came.
type batch struct {
	raw    syscall.RawConn
	worker *worker
	late   *late // nil: nothing waits

	in, out         [batchSize]mmsghdr
	inVec, outVec   [batchSize]unix.Iovec
	names           [batchSize]unix.RawSockaddrInet6 // room for either family
	control         [batchSize][controlLen]byte
	queries         [batchSize][maxQuery]byte
	answers         [batchSize][maxUDP]byte
	destination     bool
	received, ready int
	err             error
}

func newBatch(u *net.UDPConn, w *worker) (*batch, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &batch{raw: raw, worker: w, destination: wildcard(u)}
	for i := range b.in {
		b.inVec[i].Base = &b.queries[i][0]
		b.inVec[i].SetLen(maxQuery)
		b.in[i].hdr.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		b.in[i].hdr.Iov = &b.inVec[i]
		b.in[i].hdr.SetIovlen(1)
		b.outVec[i].Base = &b.answers[i][0]
		b.out[i].hdr.Iov = &b.outVec[i]
		b.out[i].hdr.SetIovlen(1)
	}
	return b, nil
}

// serve answers until the socket is closed.
func (b *batch) serve() error {
	read, write := b.read, b.write // once: a method value allocates
	for {
		if err := b.raw.Read(read); err != nil {
			return err
		}
		if b.err != nil {
			// Errors of earlier answers (a client's port is closed) come in here too.
			if errors.Is(b.err, unix.EBADF) {
				return b.err
			}
			continue
		}
		b.answer()
		if b.ready > 0 {
			if err := b.raw.Write(write); err != nil {
				return err
			}
		}
	}
}

// read receives what is there; false waits for more. Waiting costs system calls
// and wake-ups that answer nobody, so it first lets others run who may be about to
// send.
func (b *batch) read(fd uintptr) bool {
	for i := range b.in {
		b.in[i].hdr.Namelen = unix.SizeofSockaddrInet6
		if b.destination {
			b.in[i].hdr.Control = &b.control[i][0]
			b.in[i].hdr.SetControllen(controlLen)
		}
	}
	n, errno := b.receive(fd)
	if errno == unix.EAGAIN {
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		n, errno = b.receive(fd)
	}
	if errno == unix.EAGAIN || errno == unix.EINTR {
		return false
	}
	b.received, b.err = n, nil
	if errno != 0 {
		b.received, b.err = 0, errno
	}
	return true
}

// receive makes a raw system call, as write does: neither waits for anything, and
// the runtime, told of a call, would hand this thread's processor on in the middle
// of a long batch.
func (b *batch) receive(fd uintptr) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in)), batchSize, unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// answer prepares the answers to what was received.
func (b *batch) answer() {
	b.ready = 0
	b.worker.now = b.worker.zone.now()
	var doubt *geo.Doubt
	if b.late != nil {
		doubt = b.worker.zone.board.Load().Doubt
	}
	for i := range b.received {
		in := &b.in[i]
		client := sender(&b.names[i])
		if !client.IsValid() || in.hdr.Flags&unix.MSG_TRUNC != 0 {
			continue
		}
		if doubt != nil && b.late.hold(b, i, doubt) {
			continue
		}
		a := b.worker.answer(b.queries[i][:in.len], client)
		if a == nil {
			continue
		}
		out := &b.out[b.ready]
		b.outVec[b.ready].SetLen(copy(b.answers[b.ready][:], a))
		out.hdr.Name, out.hdr.Namelen = in.hdr.Name, in.hdr.Namelen
		out.hdr.Control = nil
		out.hdr.SetControllen(0)
		if b.destination && in.hdr.Controllen > 0 {
			fromDestination(b.control[i][:in.hdr.Controllen])
			out.hdr.Control = in.hdr.Control
			out.hdr.SetControllen(int(in.hdr.Controllen))
		}
		b.ready++
	}
}

// write sends the answers. What can't be sent now is dropped: the client asks
// again, and meanwhile others' queries wait.
func (b *batch) write(fd uintptr) bool {
	for sent := 0; sent < b.ready; {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[sent])), uintptr(b.ready-sent), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			n = 1 // one client's address is at fault, or the socket's buffer is full
		}
		sent += int(n)
	}
	runtime.KeepAlive(b)
	return true
}

// sender returns a packet's source address.
func sender(sa *unix.RawSockaddrInet6) netip.Addr {
	switch sa.Family {
	case unix.AF_INET:
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr)
	case unix.AF_INET6:
		return netip.AddrFrom16(sa.Addr).Unmap()
	}
	return netip.Addr{}
}

// fromDestination turns a received packet-info message into one that sends from
// the address the packet came to, by whatever interface leads to the client.
func fromDestination(control []byte) {
	if len(control) < unix.SizeofCmsghdr {
		return
	}
	data := control[unix.SizeofCmsghdr:]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		binary.NativeEndian.PutUint32(data, 0) // the interface
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		a := netip.AddrFrom16([16]byte(data[:16]))
		if !a.IsLinkLocalUnicast() {
			binary.NativeEndian.PutUint32(data[16:], 0)
		}
	}
}
