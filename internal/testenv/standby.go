package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/meridian-video/meridian/tools"
)

// Standby starts a server that follows s. From then on s tells of a commit only once
// its standby has it, on connections that begin after this. An asynchronous standby
// would lose what a test was told of.
func (s *PostgresServer) Standby(ctx context.Context) (*PostgresServer, error) {
	bin, _, err := tools.PostgresBin()
	if err != nil {
		return nil, err
	}
	cred, err := tools.PostgresCredential()
	if err != nil {
		return nil, err
	}
	standby, err := startRetrying(func(port int) (*PostgresServer, error) {
		dir, err := postgresDir(cred)
		if err != nil {
			return nil, err
		}
		copyCtx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		backup := exec.CommandContext(copyCtx, filepath.Join(bin, "pg_basebackup"), "-D", filepath.Join(dir, "data"), "-d", s.DSN, "-R", "-X", "stream", "-c", "fast", "--no-sync")
		backup.Dir = dir
		backup.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
		if out, err := backup.CombinedOutput(); err != nil {
			os.RemoveAll(dir)
			return nil, fmt.Errorf("pg_basebackup: %w\n%s", err, out)
		}
		return runPostgres(ctx, bin, cred, dir, port, func(ctx context.Context, c *pgx.Conn) error {
			var follows bool
			err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')").Scan(&follows)
			if err == nil && !follows {
				err = errors.New("it doesn't follow its leader yet")
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	if err := s.Durable(); err != nil {
		standby.Stop()
		return nil, err
	}
	for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
		if err := adminExec(s.DSN, sql); err != nil {
			standby.Stop()
			return nil, err
		}
	}
	err = standby.await(ctx, func(ctx context.Context) error {
		return s.ask(ctx, func(ctx context.Context, c *pgx.Conn) error {
			var sync bool
			err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')").Scan(&sync)
			if err == nil && !sync {
				err = errors.New("it isn't waited for yet")
			}
			return err
		})
	})
	if err != nil {
		standby.Stop()
		return nil, err
	}
	return standby, nil
}

// Promote makes a standby a leader and returns when it takes writes.
func (s *PostgresServer) Promote(ctx context.Context) error {
	return s.ask(ctx, func(ctx context.Context, c *pgx.Conn) error {
		var led bool
		if err := c.QueryRow(ctx, "SELECT pg_promote(true, 60)").Scan(&led); err != nil || !led {
			return errors.Join(err, fmt.Errorf("promoted: %t", led))
		}
		return nil
	})
}
