package catalog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/singleflight"

	"github.com/meridian-video/meridian/internal/sleep"
)

// leaderFinder makes connections go to the leader first. Asked one after the other,
// a region that hangs or is silent costs each new connection a deadline, and
// connections to the leader behind it come too late for who wants them.
type leaderFinder struct {
	timeout time.Duration // of one look
	heard   *hearing
	ctx     context.Context
	stop    context.CancelFunc
	looking singleflight.Group
	mu      sync.Mutex
	known   *server
	// forgotten counts the leaders that were left.
	forgotten int
}

type server struct {
	host string
	port uint16
}

func newLeaderFinder(timeout time.Duration, heard *hearing) *leaderFinder {
	f := &leaderFinder{timeout: timeout, heard: heard}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// left is how many leaders were left.
func (f *leaderFinder) left() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.forgotten
}

// forget has the next connection look for the leader anew. It does nothing, and returns
// false, when one was left since the caller counted left.
func (f *leaderFinder) forget(left int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.forgotten != left {
		return false
	}
	f.known = nil
	f.forgotten++
	return true
}

// found reports whether the leader is known.
func (f *leaderFinder) found() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known != nil
}

// before is a pool's BeforeConnect: it puts the leader before all other servers.
func (f *leaderFinder) before(ctx context.Context, cfg *pgx.ConnConfig) error {
	servers, attempts := attemptsOf(&cfg.Config)
	if len(servers) == 1 {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.known = &servers[0]
		return nil
	}
	leader, err := f.find(ctx, &cfg.Config, servers, attempts)
	if err != nil {
		return err
	}
	order := []server{leader}
	for _, s := range servers {
		if s != leader {
			order = append(order, s)
		}
	}
	arrange(&cfg.Config, order, attempts)
	return nil
}

// find returns the known leader or looks for it, once for all who ask meanwhile.
func (f *leaderFinder) find(ctx context.Context, cfg *pgconn.Config, servers []server, attempts map[server][]*pgconn.FallbackConfig) (server, error) {
	f.mu.Lock()
	known, since := f.known, f.forgotten
	f.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	own := cfg.Copy() // a caller that leaves may change its own
	looked := f.looking.DoChan(strconv.Itoa(since), func() (any, error) {
		found, err := f.race(own, servers, attempts)
		f.mu.Lock()
		defer f.mu.Unlock()
		if err == nil && f.forgotten == since {
			f.heard.note(nil)
			f.known = &found
		}
		return found, err
	})
	select {
	case <-ctx.Done():
		return server{}, ctx.Err()
	case r := <-looked:
		return r.Val.(server), r.Err
	}
}

// takesWrites is a ValidateConnect that asks nothing: what it needs to know comes
// with the answer to the start-up message, from PostgreSQL 14 on.
func takesWrites(ctx context.Context, conn *pgconn.PgConn) error {
	standby, readOnly := conn.ParameterStatus("in_hot_standby"), conn.ParameterStatus("default_transaction_read_only")
	switch {
	case standby == "" || readOnly == "":
		return pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
	case standby == "on" || readOnly == "on":
		return errors.New("takes no writes")
	}
	return nil
}

// attemptsOf groups what a configuration tries by server: one of them may be tried
// with TLS and without.
func attemptsOf(cfg *pgconn.Config) ([]server, map[server][]*pgconn.FallbackConfig) {
	all := append([]*pgconn.FallbackConfig{{Host: cfg.Host, Port: cfg.Port, TLSConfig: cfg.TLSConfig}}, cfg.Fallbacks...)
	var servers []server
	out := map[server][]*pgconn.FallbackConfig{}
	for _, a := range all {
		s := server{a.Host, a.Port}
		if out[s] == nil {
			servers = append(servers, s)
		}
		out[s] = append(out[s], a)
	}
	return servers, out
}

// arrange makes a configuration try the servers in order.
func arrange(cfg *pgconn.Config, order []server, attempts map[server][]*pgconn.FallbackConfig) {
	var all []*pgconn.FallbackConfig
	for _, s := range order {
		all = append(all, attempts[s]...)
	}
	cfg.Host, cfg.Port, cfg.TLSConfig = all[0].Host, all[0].Port, all[0].TLSConfig
	cfg.Fallbacks = all[1:]
}

// race asks all servers at once and returns the first that takes writes. It asks
// again who doesn't, until its time is up: one of them is about to.
func (f *leaderFinder) race(cfg *pgconn.Config, servers []server, attempts map[server][]*pgconn.FallbackConfig) (server, error) {
	ctx, cancel := context.WithTimeout(f.ctx, f.timeout)
	defer cancel()
	type answer struct {
		server server
		err    error
	}
	answers := make(chan answer, len(servers))
	for _, s := range servers {
		one := cfg.Copy()
		arrange(one, []server{s}, attempts)
		go func() {
			for {
				// It validates that the server takes writes.
				conn, err := pgconn.ConnectConfig(ctx, one)
				if err == nil {
					answers <- answer{s, nil}
					// Also when another was faster; the server notices one that breaks off.
					cctx, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
					defer stop()
					_ = conn.Close(cctx)
					return
				}
				if sleep.For(ctx, askAgain) != nil {
					answers <- answer{s, err}
					return
				}
			}
		}()
	}
	var errs []error
	for range servers {
		a := <-answers
		if a.err == nil {
			return a.server, nil
		}
		errs = append(errs, a.err)
	}
	return server{}, fmt.Errorf("no leader: %w", errors.Join(errs...))
}

// askAgain is how long a server that takes no writes is left alone.
const askAgain = 400 * time.Millisecond

// hearing notes when a server answered last, with a refusal too. It traces a pool's
// connections.
type hearing struct{ last atomic.Int64 }

// at is when the server answered last.
func (h *hearing) at() time.Time { return time.Unix(0, h.last.Load()) }

func (h *hearing) note(err error) {
	if err == nil || sqlState(err) != "" {
		h.last.Store(time.Now().UnixNano())
	}
}

func (h *hearing) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (h *hearing) TraceQueryEnd(_ context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	h.note(d.Err)
}

func (h *hearing) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (h *hearing) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	h.note(d.Err)
}

func (h *hearing) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (h *hearing) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

func (h *hearing) TraceConnectEnd(_ context.Context, d pgx.TraceConnectEndData) {
	h.note(d.Err)
}
