package wan

import (
	"encoding/binary"
	"net/netip"
	"sync"
)

// MTU of every device: large, so that few packets carry much.
const MTU = 65000

const (
	smallBuffer = 2 << 10
	largeBuffer = 64 << 10
	minHeader   = 20
)

// addresses returns the source and destination of an IPv4 packet.
func addresses(b []byte) (source, destination netip.Addr, ok bool) {
	if len(b) < minHeader || b[0]>>4 != 4 || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return netip.Addr{}, netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), true
}

// buffer has the capacity smallBuffer or largeBuffer.
type buffer struct{ bytes []byte }

// buffers recycles packet buffers of two sizes: most packets are
// acknowledgements, most bytes are in packets of nearly the MTU. What is in use
// is bounded by the queues, what is idle by the garbage collector.
type buffers struct{ small, large sync.Pool }

func newBuffers() *buffers {
	return &buffers{
		small: sync.Pool{New: func() any { return &buffer{make([]byte, smallBuffer)} }},
		large: sync.Pool{New: func() any { return &buffer{make([]byte, largeBuffer)} }},
	}
}

func (p *buffers) get(size int) *buffer {
	if size <= smallBuffer {
		return p.small.Get().(*buffer)
	}
	return p.large.Get().(*buffer)
}

func (p *buffers) put(b *buffer) {
	if len(b.bytes) == smallBuffer {
		p.small.Put(b)
		return
	}
	p.large.Put(b)
}
