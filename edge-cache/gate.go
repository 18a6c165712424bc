package edgecache

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/net/netutil"

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

// admit reports whether a connection's client may have it; leave is called when
// it has ended.
func (g *gate) admit(c net.Conn) (leave func(), ok bool) { return g.enter(c.RemoteAddr()) }

func (g *gate) enter(a net.Addr) (leave func(), ok bool) {
	who := clientOf(a.String())
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

// limit bounds and counts the connections of a listener without a fast path.
func (g *gate) limit(l net.Listener) net.Listener {
	return &countingListener{netutil.LimitListener(l, g.maxConnections), g}
}

type countingListener struct {
	net.Listener
	g *gate
}

func (l *countingListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, ok := l.g.admit(c)
		if !ok {
			_ = c.Close()
			continue
		}
		l.g.traffic.Open.Add(1)
		return &countedConn{Conn: c, g: l.g, leave: leave}, nil
	}
}

type countedConn struct {
	net.Conn
	g     *gate
	leave func()
	once  sync.Once
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.g.traffic.Sent.Add(int64(n))
	return n, err
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.g.traffic.Open.Add(-1); c.leave() })
	return c.Conn.Close()
}
