package catalog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// leaderFinder makes connections go to the leader first. Asked one after the other,
// a region that hangs or is silent costs each new connection a deadline, and
// connections to the leader behind it come too late for who wants them.
type leaderFinder struct {
	mu    sync.Mutex // held while it looks
	known *server
}

type server struct {
	host string
	port uint16
}

// forget has the next connection look for the leader anew.
func (f *leaderFinder) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = nil
}

// before is a pool's BeforeConnect: it puts the leader before all other servers.
func (f *leaderFinder) before(ctx context.Context, cfg *pgx.ConnConfig) error {
	servers, attempts := attemptsOf(&cfg.Config)
	if len(servers) < 2 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		found, err := race(ctx, &cfg.Config, servers, attempts)
		if err != nil {
			return err
		}
		f.known = &found
	}
	order := []server{*f.known}
	for _, s := range servers {
		if s != *f.known {
			order = append(order, s)
		}
	}
	arrange(&cfg.Config, order, attempts)
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

// race asks all servers at once and returns the first that takes writes.
func race(ctx context.Context, cfg *pgconn.Config, servers []server, attempts map[server][]*pgconn.FallbackConfig) (server, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
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
			// It validates that the server takes writes.
			conn, err := pgconn.ConnectConfig(ctx, one)
			answers <- answer{s, err}
			if err == nil {
				// Also when another was faster; the server notices one that breaks off.
				cctx, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer stop()
				_ = conn.Close(cctx)
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
