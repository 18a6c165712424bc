package creators

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
)

// standbys are the synchronous one of PostgreSQL and the other.
type standbys struct{ sync, other string }

func (s *threeRegions) standbys(t *testing.T, leader string) (found standbys) {
	t.Helper()
	eventually(t, 30*time.Second, func(ctx context.Context) (err error) {
		found, err = s.standbysNow(ctx, leader)
		if err == nil && found.other == "" {
			err = errors.New("no standby but the synchronous one")
		}
		return err
	})
	return found
}

// standbysNow asks a region's Patroni. That there is no synchronous one is an error.
func (s *threeRegions) standbysNow(ctx context.Context, name string) (found standbys, err error) {
	b, err := request(ctx, http.MethodGet, s.patroni(name)+"/cluster", nil)
	if err != nil {
		return found, err
	}
	var cluster struct {
		Members []struct{ Name, Role string }
	}
	if err := json.Unmarshal(b, &cluster); err != nil {
		return found, err
	}
	for _, m := range cluster.Members {
		switch m.Role {
		case "sync_standby":
			found.sync = m.Name
		case "replica":
			found.other = m.Name
		}
	}
	if found.sync == "" {
		return found, fmt.Errorf("no synchronous standby: %+v", cluster.Members)
	}
	return found, nil
}

// sql connects to a region's PostgreSQL for the test; commits there don't wait for
// another's.
func (s *threeRegions) sql(t *testing.T, name string) *pgx.Conn {
	t.Helper()
	conn, err := s.connect(t.Context(), name, "meridian", "postgres.secret")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) }) // its server may be gone
	_, err = conn.Exec(t.Context(), "SET synchronous_commit = local")
	require.NoError(t, err)
	return conn
}

func (s *threeRegions) connect(ctx context.Context, name, user, secret string) (*pgx.Conn, error) {
	password, err := s.Secret(secret)
	if err != nil {
		return nil, err
	}
	cfg := catalog.Config{User: user, Password: service.Secret(password), Database: "meridian"}
	return pgx.Connect(ctx, cfg.DSN(s.Region(name).Postgres))
}

// leaveBehind lets the other standby have more of the leader's log than the
// synchronous one, which is the next leader. The leader must be lost within a second
// or two, and gone be called then.
func (s *threeRegions) leaveBehind(t *testing.T, leader string, who standbys) (gone func()) {
	t.Helper()
	from, behind, ahead := s.sql(t, leader), s.sql(t, who.sync), s.sql(t, who.other)
	var pid int
	require.NoError(t, behind.QueryRow(t.Context(), "SELECT pid FROM pg_stat_wal_receiver").Scan(&pid))
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	gone = func() {
		// It ends, rather than read what has arrived.
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGCONT} {
			require.NoError(t, syscall.Kill(pid, signal))
		}
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // most likely it is gone
	var written string
	require.NoError(t, from.QueryRow(t.Context(), "SELECT pg_logical_emit_message(true, 'ahead', repeat('x', 100000))::text").Scan(&written))
	eventually(t, time.Second, func(ctx context.Context) error {
		var has bool
		err := ahead.QueryRow(ctx, "SELECT pg_last_wal_receive_lsn() >= $1::pg_lsn", written).Scan(&has)
		if err == nil && !has {
			err = fmt.Errorf("%s hasn't received %s", who.other, written)
		}
		return err
	})
	return gone
}

// TestAwayForTooLong: a member that missed more of the log than its leader keeps.
func TestAwayForTooLong(t *testing.T) {
	testenv.Long(t)
	s := platform
	leader := s.leader(t)
	away := s.standbys(t, leader).other
	asset := s.waiting(t)
	s.Regions(t, "stop", away)
	conn := s.sql(t, leader)
	for range 50 { // segments beyond wal_keep_size are removed by a checkpoint
		_, err := conn.Exec(t.Context(), "SELECT pg_logical_emit_message(true, 'more', repeat('x', 4000000))")
		require.NoError(t, err)
	}
	admin, err := s.connect(t.Context(), leader, "postgres", "postgres-superuser.secret")
	require.NoError(t, err)
	_, err = admin.Exec(t.Context(), "CHECKPOINT")
	require.NoError(t, errors.Join(err, admin.Close(t.Context())))
	began := time.Now()
	s.Regions(t, "start", away)
	eventually(t, 3*time.Minute, func(ctx context.Context) error {
		conn, err := s.connect(ctx, away, "meridian", "postgres.secret")
		if err != nil {
			return err
		}
		var follows bool
		err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver) AND EXISTS (SELECT FROM assets WHERE id = $1)", asset).Scan(&follows)
		if err == nil && !follows {
			err = errors.New("it doesn't follow")
		}
		return errors.Join(err, conn.Close(ctx))
	})
	testenv.Figure(t, "PostgreSQL away for too long: follows again after", "%.1f s", time.Since(began).Seconds())
	require.True(t, strings.Contains(s.postgresLog(t, away), "this member is copied anew"))
}

// postgresLog is what Patroni and PostgreSQL of a region have said.
func (s *threeRegions) postgresLog(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.State(), "logs", name+"-postgres.log"))
	require.NoError(t, err)
	return string(b)
}
