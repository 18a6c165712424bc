package fastpath

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// Session answers on a connection of HTTP/2.
type Session interface {
	// Serve returns when the connection is to be closed, with nothing of it running. It
	// may return before that, at rest: it goes on when it is called again, which is to
	// be once something can be read or the deadline of reading has passed.
	Serve() (rests bool)
	// Stop makes Serve return once what is being answered has been. It doesn't wait.
	Stop()
}

// Conn is an encrypted connection as its Session has it. One goroutine at a time
// may read, and one may write.
type Conn struct{ s *stream }

// Gather has all that is written wait until it is flushed, from now on.
func (c *Conn) Gather() { c.s.wire.collect(true) }

// Read implements io.Reader. It can be called again after a timeout.
func (c *Conn) Read(p []byte) (int, error) { return c.s.tls.Read(p) }

// ReadHere reads what has come in already; 0 when there is nothing.
func (c *Conn) ReadHere(p []byte) (int, error) {
	c.s.wire.dry = true
	n, err := c.s.tls.Read(p)
	c.s.wire.dry = false
	if errors.Is(err, errDry{}) {
		err = nil
	}
	return n, err
}

// Write encrypts b: as records, each of RecordSize bytes of it but the last. Between
// two calls of Flush there is room for eight.
func (c *Conn) Write(b []byte) (int, error) { return c.s.tls.Write(b) }

// Flush sends what was written.
func (c *Conn) Flush() error {
	w := c.s.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.flush(true)
	return err
}

// TryFlush sends as much of it as the socket takes, and reports whether that is all.
func (c *Conn) TryFlush() (bool, error) {
	w := c.s.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flush(false)
}

// SetReadDeadline bounds Read.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.s.wire.TCPConn.SetReadDeadline(t) }

// SetWriteDeadline bounds Flush.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.s.wire.TCPConn.SetWriteDeadline(t) }

// RemoteAddr is the client's.
func (c *Conn) RemoteAddr() net.Addr { return c.s.wire.RemoteAddr() }

// State tells what was agreed on.
func (c *Conn) State() tls.ConnectionState { return c.s.tls.ConnectionState() }

// CloseWrite says that nothing more comes, and gives the client time to have all
// that was sent and to close: closing first would take it back where something of
// the client's is still on its way here.
func (c *Conn) CloseWrite(linger time.Duration) {
	until := time.Now().Add(linger)
	err := c.s.tls.CloseWrite()
	_ = c.SetReadDeadline(until)
	_ = c.SetWriteDeadline(until) // which CloseWrite has set to now
	if err == nil && c.Flush() == nil && c.s.wire.TCPConn.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c.s.wire.TCPConn, lingerBytes))
	}
}

// lingerBytes is how much is read from a client that was told to close.
const lingerBytes = 1 << 20

// Abort ends the connection: all calls return with an error.
func (c *Conn) Abort() { _ = c.s.wire.TCPConn.Close() }
