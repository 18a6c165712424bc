package platform

import (
	"context"
	"errors"
	"fmt"
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
		if isLeader(try, r) {
			cancel()
			return "leads", nil
		}
		done := false
		done, err = p.caughtUp(try, r, &target)
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

func (p *plan) caughtUp(ctx context.Context, r region.Region, target *string) (bool, error) {
	conn, err := p.leader(ctx)
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
	conf, err := pgx.ParseConfig(fmt.Sprintf("postgres://%s:%s@%s/postgres?sslmode=disable&target_session_attrs=read-write&connect_timeout=2",
		superuser, p.secrets.superuser, p.table.PostgresDSNHosts(p.table.Regions[0].Name)))
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, conf)
}
