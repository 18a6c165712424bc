package creators

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
)

const (
	network = "220"
	// startWithin is generous: test machines are busy.
	startWithin = 3 * time.Minute
	commandTime = 2 * time.Minute
)

// stack is a running platform of three regions.
type stack struct {
	dir, bin string
	cmd      *exec.Cmd
	output   *testenv.Buffer
	table    *region.Table
	key      string
}

var platform *stack

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	// Short, and where PostgreSQL's user can reach it.
	dir, err := os.MkdirTemp("/tmp", "meridian-creators-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		platform, err = start(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if code != 0 {
		platform.dumpLogs()
	}
	if err := platform.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func start(dir string) (*stack, error) {
	s := &stack{dir: dir, bin: filepath.Join(dir, "meridian"), output: &testenv.Buffer{}}
	build := exec.Command("go", "build", "-o", s.bin, "github.com/meridian-video/meridian")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	s.cmd = exec.Command(s.bin, "up", "--state", s.state(), "--network", network, "--client-config", "none")
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	// The platform ends with the tests, however they end. The signal is tied to
	// the thread that starts it, which must therefore stay.
	runtime.LockOSThread()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for !strings.Contains(s.output.String(), "meridian upload") {
		if time.Since(began) > startWithin {
			s.dumpLogs()
			return nil, errors.Join(fmt.Errorf("the platform isn't ready after %v", startWithin), s.stop())
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Printf("three regions up in %.1f s\n", time.Since(began).Seconds())
	var err error
	if s.table, err = region.Load(filepath.Join(s.state(), "regions.yaml")); err == nil {
		s.key, err = s.secret("api.key")
	}
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *stack) state() string { return filepath.Join(s.dir, "state") }

func (s *stack) secret(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.state(), "secrets", name))
	return strings.TrimSpace(string(b)), err
}

func (s *stack) region(name string) region.Region {
	r, _ := s.table.Get(name)
	return r
}

// others are the regions but one, in table order.
func (s *stack) others(than string) []string {
	var out []string
	for _, name := range s.table.Names() {
		if name != than {
			out = append(out, name)
		}
	}
	return out
}

func (s *stack) stop() error {
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("meridian up: %w\n%s", err, s.output)
		}
		return nil
	case <-time.After(2 * time.Minute):
		return errors.Join(errors.New("meridian up didn't end within two minutes of SIGINT"), s.cmd.Process.Kill())
	}
}

func (s *stack) dumpLogs() {
	fmt.Printf("--- meridian up\n%s\n", s.output)
	logs, err := filepath.Glob(filepath.Join(s.state(), "logs", "*.log"))
	if err != nil {
		fmt.Println("logs:", err)
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		fmt.Printf("--- %s\n%s\n", path, b[max(0, len(b)-6000):])
		if err != nil {
			fmt.Println(err)
		}
	}
	if keep := os.Getenv("MERIDIAN_TEST_KEEP"); keep != "" {
		if out, err := exec.Command("cp", "-r", filepath.Join(s.state(), "logs"), keep).CombinedOutput(); err != nil {
			fmt.Printf("keep logs: %v %s\n", err, out)
		}
	}
}

// cli runs a subcommand to its end.
func (s *stack) cli(ctx context.Context, args ...string) (stdout string, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("meridian %s: %w\n%s%s", strings.Join(args, " "), err, &out, &errOut)
	}
	return out.String(), nil
}

// regions does something to regions, as an operator does: kill, hang, resume, start.
func (s *stack) regions(t *testing.T, op string, args ...string) {
	t.Helper()
	began := time.Now()
	_, err := s.cli(t.Context(), append([]string{"region", op, "--state", s.state()}, args...)...)
	require.NoError(t, err)
	t.Logf("region %s %v: %.1f s", op, args, time.Since(began).Seconds())
}

// client is a creator's, who prefers the first region and knows the others too.
func (s *stack) client(t *testing.T, bases ...string) *client.Client {
	c := client.New(bases, s.key)
	t.Cleanup(c.Close)
	return c
}

// bases are the URLs of all APIs, those of the named regions first.
func (s *stack) bases(first ...string) []string {
	var out []string
	for _, name := range first {
		out = append(out, s.region(name).API)
	}
next:
	for _, r := range s.table.Regions {
		for _, name := range first {
			if r.Name == name {
				continue next
			}
		}
		out = append(out, r.API)
	}
	return out
}

// catalog opens the platform's database.
func (s *stack) catalog(t *testing.T) *catalog.Catalog {
	t.Helper()
	password, err := s.secret("postgres.secret")
	require.NoError(t, err)
	cfg := catalog.Config{User: "meridian", Password: service.Secret(password), Database: "meridian"}
	c, err := catalog.Open(cfg.DSN(s.table.PostgresDSNHosts("eu")), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// store opens the platform's object stores.
func (s *stack) store(t *testing.T) *objects.Store {
	t.Helper()
	secret, err := s.secret("s3.secret")
	require.NoError(t, err)
	st, err := objects.New(s.table, "eu", objects.Config{AccessKey: "meridian", SecretKey: service.Secret(secret), Bucket: "meridian"}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(st.Close)
	return st
}

const portPatroni = "8008"

// leader is the region whose PostgreSQL leads.
func (s *stack) leader(t *testing.T) string {
	t.Helper()
	var found string
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		for _, r := range s.table.Regions {
			host, _, _ := strings.Cut(r.Postgres, ":")
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+":"+portPatroni+"/primary", nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				continue
			}
			if err := resp.Body.Close(); err != nil {
				return err
			}
			if resp.StatusCode == http.StatusOK {
				found = r.Name
				return nil
			}
		}
		return errors.New("PostgreSQL has no leader")
	})
	return found
}

// leadStreams moves the leaders of all streams to a region.
func (s *stack) leadStreams(t *testing.T, to string) {
	t.Helper()
	nc, err := nats.Connect(strings.Join(s.table.NATSURLs(to), ","), nats.DontRandomize(), nats.Timeout(2*time.Second))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	for _, name := range []string{"JOBS", "EVENTS", "DEAD"} {
		eventually(t, 30*time.Second, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			str, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			if str.CachedInfo().Cluster.Leader == to {
				return nil
			}
			b, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": to}})
			if err != nil {
				return err
			}
			if _, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+name, b); err != nil {
				return err
			}
			return fmt.Errorf("stream %s is led by %s", name, str.CachedInfo().Cluster.Leader)
		})
	}
}

// eventually tries until it succeeds.
func eventually(t *testing.T, within time.Duration, try func(context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := try(t.Context())
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > within || t.Context().Err() != nil {
			t.Fatalf("not within %v: %v", within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
