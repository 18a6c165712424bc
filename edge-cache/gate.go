package edgecache

import (
	"net"
	"sync"

	"golang.org/x/net/netutil"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
)

// gate is what all listeners of a process let in.
type gate struct {
	// maxConnections open at once at each listener; further ones wait to be accepted.
	maxConnections int
	traffic        fastpath.Traffic
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
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.g.traffic.Open.Add(1)
	return &countedConn{Conn: c, g: l.g}, nil
}

type countedConn struct {
	net.Conn
	g    *gate
	once sync.Once
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.g.traffic.Sent.Add(int64(n))
	return n, err
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.g.traffic.Open.Add(-1) })
	return c.Conn.Close()
}
