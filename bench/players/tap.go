package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/wan"
)

// aSegment is the least that counts as media: playlists are smaller.
const aSegment = 16 << 10

// tap sees which region's edges send how much to whom among the viewers.
type tap struct {
	fd      int
	regions map[netip.Addr]string // by an edge's address
	done    chan struct{}
	err     error

	mu      sync.Mutex
	stopped bool
	// By viewer and region, since the last mark.
	seen map[netip.Addr]map[string]*arrival
	// serving is the region that last sent media.
	serving map[netip.Addr]string
}

type arrival struct {
	bytes int
	// at is when a segment's worth had come.
	at time.Time
}

// listen opens a tap in the viewers' namespace.
func listen(ns *wan.Namespace, table *region.Table) (*tap, error) {
	t := &tap{regions: map[netip.Addr]string{}, done: make(chan struct{}),
		seen: map[netip.Addr]map[string]*arrival{}, serving: map[netip.Addr]string{}}
	for _, r := range table.Regions {
		for _, e := range r.Edges {
			for _, a := range e.Addresses {
				t.regions[a] = r.Name
			}
		}
	}
	err := ns.Do(func() (err error) {
		proto := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_IP))
		if t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			return err
		}
		// It must look up to see that it was stopped.
		return errors.Join(unix.SetsockoptTimeval(t.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}),
			unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
	})
	if err != nil {
		return nil, fmt.Errorf("listen to packets: %w", err)
	}
	go t.run()
	return t, nil
}

func (t *tap) run() {
	defer close(t.done)
	head := make([]byte, 120)
	for {
		n, from, err := unix.Recvfrom(t.fd, head, 0)
		t.mu.Lock()
		stopped := t.stopped
		t.mu.Unlock()
		if stopped {
			return
		}
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.err = err
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if p, ok := parse(head[:n]); ok && p.port == region.PortEdge && p.bytes > 0 {
			t.note(p, time.Now())
		}
	}
}

// packet is a TCP packet's way and how much it carries.
type packet struct {
	from, to netip.Addr
	port     int // it came from
	bytes    int
}

// parse reads the head of an IPv4 packet.
func parse(b []byte) (packet, bool) {
	if len(b) < 20 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_TCP {
		return packet{}, false
	}
	ip := int(b[0]&15) * 4
	if ip < 20 || len(b) < ip+20 {
		return packet{}, false
	}
	p := packet{from: netip.AddrFrom4([4]byte(b[12:16])), to: netip.AddrFrom4([4]byte(b[16:20])), port: int(binary.BigEndian.Uint16(b[ip:]))}
	p.bytes = int(binary.BigEndian.Uint16(b[2:])) - ip - int(b[ip+12]>>4)*4
	return p, true
}

func (t *tap) note(p packet, at time.Time) {
	r, ok := t.regions[p.from]
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	by := t.seen[p.to]
	if by == nil {
		by = map[string]*arrival{}
		t.seen[p.to] = by
	}
	a := by[r]
	if a == nil {
		a = &arrival{}
		by[r] = a
	}
	a.bytes += p.bytes
	if a.bytes >= aSegment {
		if a.at.IsZero() {
			a.at = at
		}
		t.serving[p.to] = r
	}
}

// mark forgets what has come so far.
func (t *tap) mark() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.seen)
}

// from is the region that serves a viewer, or empty.
func (t *tap) from(viewer netip.Addr) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.serving[viewer]
}

// elsewhere is when a viewer first got media from a region that wasn't lost,
// since the last mark, and which.
func (t *tap) elsewhere(viewer netip.Addr, lost map[string]bool) (time.Time, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var at time.Time
	name := ""
	for r, a := range t.seen[viewer] {
		if !lost[r] && !a.at.IsZero() && (at.IsZero() || a.at.Before(at)) {
			at, name = a.at, r
		}
	}
	return at, name
}

// Close ends the tap; it tells when it couldn't see everything.
func (t *tap) Close() error {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	<-t.done
	return errors.Join(t.err, unix.Close(t.fd))
}
