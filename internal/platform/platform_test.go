package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/cli"
	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

var update = flag.Bool("update", false, "rewrite golden files")

// upEnv makes the test binary the meridian program, for tests which kill it.
const upEnv = "PLATFORM_TEST_UP"

func TestMain(m *testing.M) {
	if os.Getenv(upEnv) != "" {
		os.Exit(cli.Main(os.Args[1:], &struct {
			Up          Command       `cmd:""`
			Region      RegionCommand `cmd:""`
			RegionAgent AgentCommand  `cmd:""`
		}{}))
	}
	goleak.VerifyTestMain(m)
}

// stateDir is a directory that PostgreSQL's user can reach, with a short path.
func stateDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "meridian-up-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kept with all logs: %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	return filepath.Join(dir, "state")
}

// freeNetwork finds region addresses that nobody uses, so that tests and a
// running platform never meet.
func freeNetwork(t *testing.T) int {
	for i := range 100 {
		n := 100 + (os.Getpid()+4*i)%140
		l, err := net.Listen("tcp", fmt.Sprintf("127.%d.0.1:%d", n+1, region.PortS3))
		if err == nil {
			require.NoError(t, l.Close())
			return n
		}
	}
	t.Fatal("no free loopback network")
	return 0
}

type upProcess struct {
	*exec.Cmd
	out  *testenv.Buffer
	done chan error
}

func startUp(t *testing.T, args ...string) *upProcess { return startProgram(t, os.Args[0], args...) }

func startProgram(t *testing.T, program string, args ...string) *upProcess {
	u := &upProcess{Cmd: exec.Command(program, append([]string{"up"}, args...)...), out: &testenv.Buffer{}, done: make(chan error, 1)}
	u.Env = append(os.Environ(), upEnv+"=1")
	u.Stdout, u.Stderr = u.out, u.out
	require.NoError(t, u.Start())
	go func() { u.done <- u.Wait() }()
	t.Cleanup(func() { _ = u.Process.Kill() })
	return u
}

// saysWithin waits until the output holds text.
func (u *upProcess) saysWithin(t *testing.T, text string, d time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(d); !strings.Contains(u.out.String(), text); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-u.done:
			u.done <- err // for endsWithin
			if !strings.Contains(u.out.String(), text) {
				t.Fatalf("up ended (%v) without %q in the output:\n%s", err, text, u.out)
			}
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %q in the output:\n%s", text, u.out)
		}
	}
}

func (u *upProcess) endsWithin(t *testing.T, d time.Duration) error {
	t.Helper()
	select {
	case err := <-u.done:
		return err
	case <-time.After(d):
		t.Fatalf("up doesn't end:\n%s", u.out)
		return nil
	}
}

// processes lists what works in or was told of the state directory.
func processes(t *testing.T, dir string) []int {
	procs, err := supervise.Procs()
	require.NoError(t, err)
	isPostgres := postmasters(dir)
	var out []int
	for _, p := range procs {
		cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		if p.Alive() && p.PID != os.Getpid() && (bytes.Contains(cmd, []byte(dir)) || isPostgres("", p.PID)) {
			out = append(out, p.PID)
		}
	}
	return out
}

func requireNothingLeft(t *testing.T, dir string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(processes(t, dir)) == 0 }, 15*time.Second, 20*time.Millisecond,
		"processes are left")
}

func TestOneRegionFromNothingThroughCrashesToTheEnd(t *testing.T) {
	ctx := t.Context()
	dir, network := stateDir(t), freeNetwork(t)
	args := []string{"--regions", "eu", "--stores-only", "--state", dir, "--network", fmt.Sprint(network),
		"--client-config", filepath.Join(filepath.Dir(dir), "client.yaml")}
	const ready = "are ready after"
	up := startUp(t, args...)
	up.saysWithin(t, ready, startTimeout)

	addr := fmt.Sprintf("127.%d.0.1", network+1)
	password, err := os.ReadFile(filepath.Join(dir, "secrets", databaseFile))
	require.NoError(t, err)
	dsn := fmt.Sprintf("postgres://%s:%s@%s:5432/%s?sslmode=disable&target_session_attrs=read-write",
		dbUser, strings.TrimSpace(string(password)), addr, dbName)
	db, err := pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	_, err = db.Exec(ctx, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
	require.NoError(t, err)
	require.NoError(t, db.Close(ctx))
	nc, err := nats.Connect("nats://" + addr + ":4222")
	require.NoError(t, err)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.AccountInfo(ctx)
	require.NoError(t, err)
	nc.Close()
	client, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "client.yaml"))
	require.NoError(t, err)
	require.Contains(t, string(client), "api: http://"+addr+":8080\napi_key: mk_")

	second := startUp(t, args...)
	require.Error(t, second.endsWithin(t, 20*time.Second))
	require.Contains(t, second.out.String(), fmt.Sprintf("runs already on %s (process %d)", dir, up.Process.Pid))

	elsewhere := startUp(t, append(args[:4:4], stateDir(t), "--network", fmt.Sprint(network), "--client-config", "none")...)
	require.Error(t, elsewhere.endsWithin(t, 20*time.Second))
	require.Contains(t, elsewhere.out.String(), addr+":9000, wanted by eu minio, is in use by process")

	st, err := controlClient{dir}.status(ctx)
	require.NoError(t, err)
	require.Len(t, st.Regions, 1)
	require.Equal(t, Up, st.Regions[0].Condition)
	require.Len(t, st.Regions[0].Processes, 4)
	for _, s := range st.Regions[0].Processes {
		require.Equal(t, supervise.Ready, s.State, s.Name)
		if s.Name == procMinIO {
			require.NoError(t, syscall.Kill(s.PID, syscall.SIGKILL))
		}
	}
	up.saysWithin(t, "minio      ended (signal: killed)", 10*time.Second)
	up.saysWithin(t, "minio      ready again", time.Minute)

	killAndStart(t, dir, network)

	// Nothing survives a supervisor that gets no chance to stop anything.
	require.NoError(t, up.Process.Kill())
	require.Error(t, up.endsWithin(t, 10*time.Second))
	requireNothingLeft(t, dir)

	up = startUp(t, args...)
	up.saysWithin(t, ready, startTimeout)
	db, err = pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	var n int
	require.NoError(t, db.QueryRow(ctx, "SELECT n FROM kept").Scan(&n))
	require.Equal(t, 7, n, "state must go on")
	require.NoError(t, db.Close(ctx))
	require.NoError(t, up.Process.Signal(syscall.SIGINT))
	require.NoError(t, up.endsWithin(t, time.Minute), up.out.String())
	require.Contains(t, up.out.String(), "nothing is left running")
	require.Empty(t, processes(t, dir))
	require.ErrorContains(t, (&StatusCommand{State: dir}).Run(ctx), "no platform runs")

	other := startUp(t, append([]string{"--regions", "us"}, args[2:]...)...)
	require.Error(t, other.endsWithin(t, 20*time.Second))
	require.Contains(t, other.out.String(), "was made for regions eu; use --regions eu")
}

// Whoever read what up prints may be gone before it ends.
func TestOutputNobodyReads(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "photo.jpg"), nil, 0o600))
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	defer w.Close()
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), os.Args[0], "up", "--regions", "eu", "--state", dir, "--client-config", "none")
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), upEnv+"=1"), w, &said
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Run(), &exit)
	require.Equal(t, 1, exit.ExitCode(), "%v", exit)
	require.Contains(t, said.String(), "holds other files")
}

// killAndStart loses the only region in every way loopback addresses allow.
func killAndStart(t *testing.T, dir string, network int) {
	t.Helper()
	table, err := (&Command{Regions: []string{"eu"}, Network: network}).table()
	require.NoError(t, err)
	eu := table.Regions[0]
	settingsOfTheFile(t, table)
	require.ErrorIs(t, operate(t, dir, opSilence, "eu", "direction", "both"), &Error{Code: NotIsolated})
	require.NoError(t, operate(t, dir, opHang, "eu"))
	require.Equal(t, Hung, conditionOf(t, dir, "eu").Condition)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.ErrorIs(t, httpReady(eu.S3+"/", http.StatusForbidden, "")(ctx), context.DeadlineExceeded)
	require.NoError(t, operate(t, dir, opResume, "eu"))
	until(t, 5*time.Second, httpReady(eu.S3+"/", http.StatusForbidden, ""))

	require.NoError(t, operate(t, dir, opKill, "eu"))
	require.Empty(t, processesOf(t, dir, "eu"))
	requireRefused(t, eu)
	require.ErrorIs(t, operate(t, dir, opHang, "eu"), &Error{Code: AlreadyKilled})
	// Who is impatient neither helps nor harms.
	started := make(chan error, 1)
	go func() { started <- operate(t, dir, opStart, "eu", "wipe-objects", "false") }()
	until(t, 5*time.Second, func(context.Context) error {
		if is := conditionOf(t, dir, "eu").Condition; is != Starting {
			return fmt.Errorf("eu is %s", is)
		}
		return nil
	})
	require.ErrorIs(t, operate(t, dir, opStart, "eu", "wipe-objects", "false"), &Error{Code: NotUp})
	require.NoError(t, <-started)
	require.Len(t, conditionOf(t, dir, "eu").Processes, 4)
	require.NoError(t, operate(t, dir, opStop, "eu"))
	require.Empty(t, processesOf(t, dir, "eu"))
	require.ErrorIs(t, operate(t, dir, opStop, "eu"), &Error{Code: AlreadyDown})
	require.NoError(t, operate(t, dir, opStart, "eu", "wipe-objects", "false"))
	require.Equal(t, Up, conditionOf(t, dir, "eu").Condition)
}

// settingsOfTheFile gives a cluster other settings, as if an earlier version had made it.
func settingsOfTheFile(t *testing.T, table *region.Table) {
	t.Helper()
	url := "http://" + at(table.Regions[0], portPatroni) + "/config"
	ask := func(ctx context.Context, method, body string) (settings struct{ TTL int }, err error) {
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			return settings, err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return settings, err
		}
		defer res.Body.Close()
		defer http.DefaultClient.CloseIdleConnections()
		if res.StatusCode != http.StatusOK {
			return settings, fmt.Errorf("%s %s: %s", method, url, res.Status)
		}
		return settings, json.NewDecoder(res.Body).Decode(&settings)
	}
	changed, err := ask(t.Context(), http.MethodPatch, `{"ttl": 77, "applied": null}`)
	require.NoError(t, err)
	require.Equal(t, 77, changed.TTL)
	until(t, 15*time.Second, func(ctx context.Context) error {
		now, err := ask(ctx, http.MethodGet, "")
		if want := int(timingFor(table).patroniTTL / time.Second); err == nil && now.TTL != want {
			err = fmt.Errorf("ttl is %d, want %d", now.TTL, want)
		}
		return err
	})
}

// The databases of a platform are lost, with their machine; they come back as
// they were at a time, and archive on.
func TestDatabaseIsRestoredAtATime(t *testing.T) {
	testenv.Long(t)
	ctx := t.Context()
	dir, network := stateDir(t), freeNetwork(t)
	home := filepath.Dir(dir)
	// PostgreSQL's user writes there.
	repository := filepath.Join(home, "repository")
	require.NoError(t, os.Mkdir(repository, 0o777))
	require.NoError(t, os.Chmod(repository, 0o777))
	conf := filepath.Join(home, "repository.conf")
	require.NoError(t, os.WriteFile(conf, []byte("repo1-path="+repository+"\n"), 0o600))
	args := []string{"--regions", "eu", "--stores-only", "--state", dir, "--network", fmt.Sprint(network), "--client-config", "none", "--backup-config", conf}
	const ready = "are ready after"
	connect := func() *pgx.Conn {
		password, err := os.ReadFile(filepath.Join(dir, "secrets", superuserFile))
		require.NoError(t, err)
		conn, err := pgx.Connect(ctx, fmt.Sprintf("postgres://postgres:%s@127.%d.0.1:%d/postgres?sslmode=disable", strings.TrimSpace(string(password)), network+1, region.PortPostgres))
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close(context.WithoutCancel(ctx)) })
		return conn
	}
	do := func(conn *pgx.Conn, sql string) {
		t.Helper()
		_, err := conn.Exec(ctx, sql)
		require.NoError(t, err)
	}
	// archived ends the current segment and waits until the archive has it.
	archived := func(conn *pgx.Conn) {
		t.Helper()
		var segment string
		require.NoError(t, conn.QueryRow(ctx, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").Scan(&segment))
		do(conn, "SELECT pg_switch_wal()")
		require.Eventually(t, func() bool {
			var done bool
			err := conn.QueryRow(ctx, "SELECT coalesce(last_archived_wal >= $1, false) FROM pg_stat_archiver", segment).Scan(&done)
			return err == nil && done
		}, 2*time.Minute, 50*time.Millisecond, "the archive doesn't take %s", segment)
	}
	backups := func() string {
		cmd := exec.CommandContext(ctx, "pgbackrest", "--config="+filepath.Join(dir, "eu", "postgres", "pgbackrest.conf"), "--stanza="+backupStanza, "info")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}

	up := startUp(t, args...)
	up.saysWithin(t, ready, 2*time.Minute)
	conn := connect()
	do(conn, "CREATE TABLE kept (what text)")
	require.Eventually(t, func() bool { return strings.Contains(backups(), "full backup") }, 3*time.Minute, 200*time.Millisecond)
	// A restore wants a base backup that ended in an earlier second.
	time.Sleep(2 * time.Second)
	do(conn, "INSERT INTO kept VALUES ('after the base backup')")
	var at time.Time
	require.NoError(t, conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&at))
	do(conn, "DROP TABLE kept")
	archived(conn)
	require.NoError(t, up.Process.Signal(os.Interrupt))
	require.NoError(t, up.endsWithin(t, time.Minute))

	// Beside databases that are there nothing is restored.
	refused := startUp(t, append(args, "--restore", RestoreLatest)...)
	require.Error(t, refused.endsWithin(t, time.Minute))
	require.Contains(t, refused.out.String(), "holds a database already")

	for _, store := range []string{procEtcd, procPostgres} {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "eu", store)))
	}
	up = startUp(t, append(args, "--restore", at.Format(time.RFC3339Nano))...)
	up.saysWithin(t, ready, 2*time.Minute)
	conn = connect()
	var what string
	require.NoError(t, conn.QueryRow(ctx, "SELECT what FROM kept").Scan(&what))
	require.Equal(t, "after the base backup", what)
	do(conn, "INSERT INTO kept VALUES ('after the restore')")
	archived(conn)
	require.NoError(t, up.Process.Signal(os.Interrupt))
	require.NoError(t, up.endsWithin(t, time.Minute))

	// What followed the restore is in the archive too.
	for _, store := range []string{procEtcd, procPostgres} {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "eu", store)))
	}
	up = startUp(t, append(args, "--restore", RestoreLatest)...)
	up.saysWithin(t, ready, 2*time.Minute)
	var rows int
	require.NoError(t, connect().QueryRow(ctx, "SELECT count(*) FROM kept").Scan(&rows))
	require.Equal(t, 2, rows)
	require.NoError(t, up.Process.Signal(os.Interrupt))
	require.NoError(t, up.endsWithin(t, time.Minute))
	requireNothingLeft(t, dir)
}
