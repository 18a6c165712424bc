package fastpath

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// write sends the answer. A deadline is set only once the socket is full, so
// that small answers cost one system call.
func (c *conn) write(a *Answer, room []byte) error {
	c.head, c.body, c.sent, c.allowed = a.Head, a.Body, 0, 0
	if len(a.Head)+len(a.Body) <= len(room) && len(a.Body) > 0 {
		// The head lies in room; a copy costs less than a second vector.
		n := copy(room, a.Head)
		n += copy(room[n:], a.Body)
		c.head, c.body = room[:n], nil
	}
	err := c.raw.Write(c.writeFunc)
	if err == nil {
		err = c.ioErr
	}
	c.head, c.body = nil, nil
	if c.limited {
		c.limited = false
		if derr := c.TCPConn.SetWriteDeadline(time.Time{}); err == nil {
			err = derr
		}
	}
	return err
}

// Write implements net.Conn for net/http.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	c.l.cfg.Traffic.Sent.Add(int64(n))
	return n, err
}

// tryWrite writes all the socket takes; false when it is full.
func (c *conn) tryWrite(fd uintptr) bool {
	for {
		n, err := writeOnce(int(fd), c.head, c.body)
		if n > 0 {
			c.sent += int64(n)
			c.l.cfg.Traffic.Sent.Add(int64(n))
			k := min(n, len(c.head))
			c.head, c.body = c.head[k:], c.body[n-k:]
		}
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			if c.sent >= c.allowed {
				c.allowed, c.limited = c.sent+int64(c.l.cfg.WriteSize), true
				if c.ioErr = c.TCPConn.SetWriteDeadline(time.Now().Add(c.l.cfg.WriteTimeout)); c.ioErr != nil {
					return true
				}
			}
			return false
		case err != nil:
			c.ioErr = err
			return true
		}
		if len(c.head)+len(c.body) == 0 {
			c.ioErr = nil
			return true
		}
	}
}

func writeOnce(fd int, head, body []byte) (int, error) {
	switch {
	case len(body) == 0:
		return syscall.Write(fd, head)
	case len(head) == 0:
		return syscall.Write(fd, body)
	default:
		return unix.Writev(fd, [][]byte{head, body})
	}
}
