package catalog

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
)

// leavable is a pool of connections whose server can be left. pgx keeps the place of
// a connection that was given up until the server has answered its goodbye, for up to
// fifteen seconds: as many calls to a server that hangs as the pool has places would
// keep everyone from the next server for that long. So one that is left takes its
// places with it. Who was about to take one of them gets puddle.ErrClosedPool.
type leavable struct {
	cfg *pgxpool.Config

	mu      sync.Mutex
	current *pgxpool.Pool
	closed  bool
}

func newLeavable(cfg *pgxpool.Config) (*leavable, error) {
	p, err := pgxpool.NewWithConfig(context.Background(), cfg.Copy())
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL pool: %w", err)
	}
	return &leavable{cfg: cfg, current: p}, nil
}

// pool is the pool to use for one call.
func (l *leavable) pool() *pgxpool.Pool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// leave has the calls from now on make new connections. Those that are used end with
// the calls under way, which have deadlines.
func (l *leavable) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	next, err := pgxpool.NewWithConfig(context.Background(), l.cfg.Copy())
	if err != nil { // though the configuration was good for the first
		l.current.Reset()
		return
	}
	go l.current.Close()
	l.current = next
}

// close ends the connections, after the calls under way. Servers that were left may
// be told some seconds later.
func (l *leavable) close() {
	l.mu.Lock()
	l.closed = true
	last := l.current
	l.mu.Unlock()
	last.Close()
}
