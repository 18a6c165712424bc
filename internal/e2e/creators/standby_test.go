package creators

import (
	"context"
	"encoding/json"
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
)

// standbys are the synchronous one of PostgreSQL and the other.
type standbys struct{ sync, other string }

func (s *threeRegions) standbys(t *testing.T, leader string) (found standbys) {
	t.Helper()
	host, _, _ := strings.Cut(s.Region(leader).Postgres, ":")
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		found = standbys{}
		b, err := request(ctx, http.MethodGet, "http://"+host+":"+portPatroni+"/cluster", nil)
		if err != nil {
			return err
		}
		var cluster struct {
			Members []struct{ Name, Role string }
		}
		if err := json.Unmarshal(b, &cluster); err != nil {
			return err
		}
		for _, m := range cluster.Members {
			switch m.Role {
			case "sync_standby":
				found.sync = m.Name
			case "replica":
				found.other = m.Name
			}
		}
		if found.sync == "" || found.other == "" {
			return fmt.Errorf("the members are %+v", cluster.Members)
		}
		return nil
	})
	return found
}

// sql connects to a region's PostgreSQL; commits there don't wait for another's.
func (s *threeRegions) sql(t *testing.T, name string) *pgx.Conn {
	t.Helper()
	password, err := s.Secret("postgres.secret")
	require.NoError(t, err)
	cfg := catalog.Config{User: "meridian", Password: service.Secret(password), Database: "meridian"}
	conn, err := pgx.Connect(t.Context(), cfg.DSN(s.Region(name).Postgres))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) }) // its server may be gone
	_, err = conn.Exec(t.Context(), "SET synchronous_commit = local")
	require.NoError(t, err)
	return conn
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

// postgresLog is what Patroni and PostgreSQL of a region have said.
func (s *threeRegions) postgresLog(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.State(), "logs", name+"-postgres.log"))
	require.NoError(t, err)
	return string(b)
}
