package platform

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/meridian-video/meridian/internal/region"
)

// awaitRejoined waits until a region's PostgreSQL follows the leader and has what
// the leader had when asked first, or leads itself; how says which.
func (p *plan) awaitRejoined(ctx context.Context, r region.Region) (how string, err error) {
	target := ""
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		var leader region.Region
		done := false
		if leader, err = p.oneLeader(try); err == nil {
			if leader.Name == r.Name {
				cancel()
				return "leads", nil
			}
			done, err = p.caughtUp(try, leader, r, &target)
		}
		cancel()
		if done {
			return "follows", nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s: PostgreSQL doesn't follow its leader: %w", r.Name, errors.Join(err, ctx.Err()))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// oneLeader returns the region of PostgreSQL's leader. A member that was hung or
// silent while another was elected takes itself for one too, until it has heard of
// that: then there is none.
func (p *plan) oneLeader(ctx context.Context) (region.Region, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	sites := control(p.table)
	claims := make([]bool, len(sites))
	var wg sync.WaitGroup
	for i, s := range sites {
		wg.Go(func() { claims[i] = isLeader(ctx, s) })
	}
	wg.Wait()
	var leaders []region.Region
	for i, s := range sites {
		if claims[i] {
			leaders = append(leaders, s)
		}
	}
	switch len(leaders) {
	case 0:
		return region.Region{}, errors.New("PostgreSQL has no leader")
	case 1:
		return leaders[0], nil
	}
	return region.Region{}, fmt.Errorf("PostgreSQL's members in %s and %s both say they lead", leaders[0].Name, leaders[1].Name)
}

func (p *plan) caughtUp(ctx context.Context, leader, r region.Region, target *string) (bool, error) {
	// One that was wound back streams before it is consistent: it can't lead yet.
	if err := httpReady("http://"+at(r, portPatroni)+"/health", http.StatusOK, "")(ctx); err != nil {
		return false, err
	}
	conn, err := p.connect(ctx, leader.Postgres)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if *target == "" {
		if err := conn.QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(target); err != nil {
			return false, err
		}
	}
	var done bool
	// Patroni names each connection after its member.
	err = conn.QueryRow(ctx, `SELECT state = 'streaming' AND replay_lsn >= $2::pg_lsn FROM pg_stat_replication WHERE application_name = $1`,
		r.Name, *target).Scan(&done)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errors.New("it isn't connected to the leader")
	}
	return done, err
}

// leader connects to the member that takes writes, as superuser.
func (p *plan) leader(ctx context.Context) (*pgx.Conn, error) {
	return p.connect(ctx, p.table.PostgresDSNHosts(p.table.Regions[0].Name))
}

func (p *plan) connect(ctx context.Context, hosts string) (*pgx.Conn, error) {
	conf, err := pgx.ParseConfig(fmt.Sprintf("postgres://%s:%s@%s/postgres?sslmode=disable&target_session_attrs=read-write&connect_timeout=2",
		superuser, p.secrets.superuser, hosts))
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, conf)
}
