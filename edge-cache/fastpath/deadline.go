package fastpath

import (
	"os"
	"time"
)

// list is a row of connections, those first whose time ends first.
type list struct {
	timeout     time.Duration
	first, last *conn
}

func (lo *loop) unlist(c *conn) {
	l := c.list
	if l == nil {
		return
	}
	if c.before != nil {
		c.before.after = c.after
	} else {
		l.first = c.after
	}
	if c.after != nil {
		c.after.before = c.before
	} else {
		l.last = c.before
	}
	c.list, c.before, c.after = nil, nil, nil
}

// move puts the connection behind all others of a list and gives it the list's time.
func (lo *loop) move(c *conn, l *list, now time.Time) {
	c.until = now.Add(l.timeout)
	if l.last != c {
		lo.unlist(c)
		c.list, c.before = l, l.last
		if l.last != nil {
			l.last.after = c
		} else {
			l.first = c
		}
		l.last = c
	}
	if lo.armed.IsZero() || c.until.Before(lo.armed) {
		lo.arm(c.until, now)
	}
}

func (lo *loop) arm(t, now time.Time) {
	lo.armed = t
	// Some may end a little later, together.
	lo.timer.Reset(t.Sub(now) + min(lo.idle.timeout, lo.heading.timeout, lo.stuck.timeout)/16)
}

// expire ends the connections whose time is over.
func (lo *loop) expire() {
	lo.mu.Lock()
	defer lo.mu.Unlock()
	now := time.Now()
	lo.armed = time.Time{}
	for _, l := range []*list{&lo.idle, &lo.heading, &lo.stuck} {
		for l.first != nil && !l.first.until.After(now) {
			lo.end(l.first, os.ErrDeadlineExceeded)
		}
		if c := l.first; c != nil && (lo.armed.IsZero() || c.until.Before(lo.armed)) {
			lo.arm(c.until, now)
		}
	}
	if lo.stopped && lo.open == 0 {
		lo.ring()
	}
}
