package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/meridian-video/meridian/tools"
)

// PostgresEnv names a shared server: the DSN of a superuser.
const PostgresEnv = "MERIDIAN_TEST_POSTGRES"

// PostgresServer is a running PostgreSQL.
type PostgresServer struct {
	// DSN connects as superuser to the database postgres.
	DSN string
	*process
}

var sharedPostgres = sync.OnceValues(func() (string, error) {
	if dsn := os.Getenv(PostgresEnv); dsn != "" {
		return dsn, nil
	}
	s, err := StartPostgres(context.Background())
	if err != nil {
		return "", err
	}
	return s.DSN, nil
})

// Postgres returns the DSN of a fresh, empty database which is dropped when the
// test ends. Its role is superuser and may create further databases.
func Postgres(t testing.TB) string {
	t.Helper()
	admin, err := sharedPostgres()
	if err != nil {
		t.Fatalf("testenv: PostgreSQL: %v", err)
	}
	name := "t_" + strings.ToLower(rand.Text())
	if err := adminExec(admin, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("testenv: %v", err)
	}
	t.Cleanup(func() {
		// FORCE: a test that leaves connections open must not keep the next from a clean server.
		if err := adminExec(admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("testenv: %v", err)
		}
	})
	return strings.Replace(admin, "/postgres?", "/"+name+"?", 1)
}

func adminExec(dsn, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, sql)
	if cerr := c.Close(ctx); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// StartPostgres starts a server of its own. It refuses to run as root, so then
// it runs as the user postgres.
func StartPostgres(ctx context.Context) (*PostgresServer, error) {
	bin, _, err := tools.PostgresBin()
	if err != nil {
		return nil, err
	}
	cred, err := tools.PostgresCredential()
	if err != nil {
		return nil, err
	}
	return startRetrying(func(port int) (*PostgresServer, error) { return startPostgres(ctx, bin, cred, port) })
}

func startPostgres(ctx context.Context, bin string, cred *syscall.Credential, port int) (*PostgresServer, error) {
	dir, err := postgresDir(cred)
	if err != nil {
		return nil, err
	}
	initCtx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	initdb := exec.CommandContext(initCtx, filepath.Join(bin, "initdb"), "-D", filepath.Join(dir, "data"), "-U", "postgres",
		"-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.Dir = dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := initdb.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return runPostgres(ctx, bin, cred, dir, port, func(context.Context, *pgx.Conn) error { return nil })
}

func postgresDir(cred *syscall.Credential) (string, error) {
	dir, err := serverDir("pg")
	if err == nil && cred != nil {
		err = os.Chown(dir, int(cred.Uid), int(cred.Gid))
	}
	return dir, err
}

// runPostgres runs the server whose data is in dir, until it is ready.
func runPostgres(ctx context.Context, bin string, cred *syscall.Credential, dir string, port int, ready func(context.Context, *pgx.Conn) error) (*PostgresServer, error) {
	argv := []string{filepath.Join(bin, "postgres"), "-D", filepath.Join(dir, "data")}
	for _, set := range []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(port), "unix_socket_directories=" + dir,
		"max_connections=300", "shared_buffers=64MB",
		// Losing test data costs nothing; waiting for the disk does.
		"fsync=off", "synchronous_commit=off", "full_page_writes=off",
	} {
		argv = append(argv, "-c", set)
	}
	// QUIT is an immediate shutdown: postgres ends all its processes, each in a session of its own.
	p, err := launch(spec{dir: dir, log: filepath.Join(dir, "log"), signal: "QUIT", argv: argv, cred: cred})
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	s := &PostgresServer{process: p, DSN: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)}
	err = p.await(ctx, func(ctx context.Context) error { return s.ask(ctx, ready) })
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// ask calls fn with a connection.
func (s *PostgresServer) ask(ctx context.Context, fn func(context.Context, *pgx.Conn) error) error {
	c, err := pgx.Connect(ctx, s.DSN)
	if err != nil {
		return err
	}
	return errors.Join(fn(ctx, c), c.Close(ctx))
}

// Durable makes the server tell of a commit only once it survives Kill, on connections
// that begin after this.
func (s *PostgresServer) Durable() error {
	// A role's settings go before those of the command line.
	return adminExec(s.DSN, "ALTER ROLE postgres SET synchronous_commit = on")
}

// Start starts the server again after Kill, on the same port and data.
func (s *PostgresServer) Start(ctx context.Context) error {
	// What this names has ended, but may not have been reaped.
	if err := os.Remove(filepath.Join(s.spec.dir, "data", "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.startAgain(ctx, func(ctx context.Context) error {
		return s.ask(ctx, func(context.Context, *pgx.Conn) error { return nil })
	})
}

// Stop ends the server and removes its files.
func (s *PostgresServer) Stop() {
	s.stop()
	os.RemoveAll(s.spec.dir)
}

// DSNHostPort returns the host:port of a URL DSN, for components which take
// hosts, user and database apart.
func DSNHostPort(dsn string) (string, error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s:%d", c.Host, c.Port), nil
}
