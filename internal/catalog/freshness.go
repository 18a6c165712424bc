package catalog

import (
	"context"
	"sync"
	"time"
)

const (
	// staleMost is how old what a read shows may be, while the leader can be asked.
	staleMost = 5 * time.Second
	// askFresh is the least time between two questions to the leader how far it is.
	askFresh = time.Second
	// position is the end of the leader's write-ahead log.
	position = "SELECT pg_current_wal_lsn()::text"
)

// horizon is how far a server must have come to answer reads, whoever asks. A session
// knows what it wrote itself; that an API key was revoked elsewhere a server that was
// cut off from the leader would never tell. Those who read ask the leader, one for
// all, how far it is. While it doesn't answer, what it said before counts: then the
// nearest server's word is the best there is.
type horizon struct {
	most          time.Duration // staleMost but in tests
	mu            sync.Mutex
	newest, older known
	tried         time.Time     // the last question, answered or not
	asking        chan struct{} // closed at its end; nil while nobody asks
	closed        bool
	asks          sync.WaitGroup
}

// known is a position of the leader's log, and when it was asked for: what was
// committed before lies before it.
type known struct {
	lsn string
	at  time.Time
}

// mustHaveReplayed returns the position a server must have replayed to answer a read,
// empty if none is known. It waits for the leader only when nobody has asked it lately.
func (c *Catalog) mustHaveReplayed(ctx context.Context) string {
	h := &c.horizon
	now := time.Now()
	h.mu.Lock()
	if h.asking == nil && !h.closed && now.Sub(h.tried) >= askFresh {
		h.asking, h.tried = make(chan struct{}), now
		h.asks.Go(c.askLeader)
	}
	answered := h.asking
	lsn, fresh := h.need(now)
	patience := c.patience - now.Sub(h.tried)
	h.mu.Unlock()
	if fresh || answered == nil || patience <= 0 {
		return lsn
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	lsn, _ = h.need(now)
	return lsn
}

// need returns the position to ask for at a time and whether it is recent enough: the
// older one if that is, for a follower may lag a little. It is too if none is: a leader
// that was lost may have sent the last of its log to nobody. The caller holds mu.
func (h *horizon) need(now time.Time) (lsn string, fresh bool) {
	if now.Sub(h.older.at) >= h.most && now.Sub(h.newest.at) < h.most {
		return h.newest.lsn, true
	}
	return h.older.lsn, now.Sub(h.older.at) < h.most
}

// askLeader asks the leader how far it is.
func (c *Catalog) askLeader() {
	now := known{at: time.Now()}
	err := c.onLeader(c.finder.ctx, func(ctx context.Context) error {
		return c.leader.pool().QueryRow(ctx, position).Scan(&now.lsn)
	})
	h := &c.horizon
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.newest, h.older = now, h.newest
	}
	close(h.asking)
	h.asking = nil
}

// close waits for a question under way. The caller has ended its context.
func (h *horizon) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.asks.Wait()
}
