package edgecache

import (
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// gate is what all listeners of a process let in.
type gate struct {
	// maxConnections open at once at each listener; further ones wait to be accepted.
	maxConnections int
	traffic        fastpath.Traffic
	clients        *inflight[netip.Addr]
	// refused counts connections closed because their client has too many.
	refused atomic.Int64
}

// newGate returns a gate; perClient bounds the connections of one client, 0 doesn't.
func newGate(maxConnections, perClient int) *gate {
	return &gate{maxConnections: maxConnections, clients: newInflight[netip.Addr](perClient)}
}

// admit reports whether a client may have one more connection; leave is called when
// it has ended.
func (g *gate) admit(from netip.AddrPort) (leave func(), ok bool) {
	who := clientAt(from)
	if !g.clients.enter(who) {
		g.refused.Add(1)
		return nil, false
	}
	return func() { g.clients.leave(who) }, true
}

// crowded reports whether a client has more than a quarter of the connections it
// may have.
func (g *gate) crowded(a net.Addr) bool {
	return g.clients.most > 0 && g.clients.count(clientOf(a.String())) > g.clients.most/4
}
