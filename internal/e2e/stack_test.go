package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

// stack is a running platform of one region.
type stack struct {
	dir, bin string
	cmd      *exec.Cmd
	output   *testenv.Buffer
	table    *region.Table
	api, key string
}

var platform *stack

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "meridian-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Postgres runs as another user and must be able to pass.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	platform, err = start(dir)
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
	s.cmd = s.command(context.Background(), "up", "--regions", "eu", "--state", s.state(), "--network", "210")
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	// The platform ends with the tests, however they end. The signal is tied to
	// the thread that starts it, which must therefore stay.
	runtime.LockOSThread()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for {
		if err := s.load(); err == nil && s.ready() == nil {
			break
		} else if time.Since(began) > 2*time.Minute {
			s.dumpLogs()
			return nil, errors.Join(fmt.Errorf("the platform isn't ready after two minutes: %w", errors.Join(err, s.ready())), s.stop())
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Printf("one region up in %.1f s\n", time.Since(began).Seconds())
	return s, nil
}

func (s *stack) state() string { return filepath.Join(s.dir, "state") }

// command runs the binary with the configuration of this platform's own.
func (s *stack) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(s.dir, "config"), "XDG_STATE_HOME="+filepath.Join(s.dir, "client"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

func (s *stack) load() error {
	t, err := region.Load(filepath.Join(s.state(), "regions.yaml"))
	if err != nil {
		return err
	}
	s.table = t
	b, err := os.ReadFile(filepath.Join(s.dir, "config", "meridian", "client.yaml"))
	if err != nil {
		return err
	}
	var client struct {
		API string `yaml:"api"`
		Key string `yaml:"api_key"`
	}
	if err := yaml.Unmarshal(b, &client); err != nil {
		return err
	}
	s.api, s.key = client.API, client.Key
	return nil
}

// ready says whether the platform has told its user so.
func (s *stack) ready() error {
	if !strings.Contains(s.output.String(), "meridian upload") {
		return errors.New("the table of addresses isn't printed yet")
	}
	return nil
}

func (s *stack) region() region.Region { return s.table.Regions[0] }

// stop ends the platform as Ctrl-C does and checks that nothing of it is left.
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
	case <-time.After(time.Minute):
		return errors.Join(errors.New("meridian up didn't end within a minute of SIGINT"), s.cmd.Process.Kill())
	}
	if left := s.processes(func(process) bool { return true }); len(left) > 0 {
		return fmt.Errorf("left running: %+v", left)
	}
	return nil
}

func (s *stack) dumpLogs() {
	fmt.Printf("--- meridian up\n%s\n", s.output)
	err := filepath.WalkDir(s.state(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".log") {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Printf("--- %s\n%s\n", path, b[max(0, len(b)-6000):])
		return err
	})
	if err != nil {
		fmt.Println("logs:", err)
	}
}

// process is a process that belongs to this platform.
type process struct {
	pid  int
	args []string
	env  []string
}

func (p process) is(subcommand string) bool { return len(p.args) > 1 && p.args[1] == subcommand }
func (p process) has(env string) bool       { return slices.Contains(p.env, env) }

// processes finds this platform's processes by their environment or arguments.
func (s *stack) processes(match func(process) bool) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(args) == 0 || !bytes.Contains(append(env, args...), []byte(s.state())) {
			continue
		}
		p := process{pid, strings.Split(string(args), "\x00"), strings.Split(string(env), "\x00")}
		if match(p) {
			out = append(out, p)
		}
	}
	return out
}

func (s *stack) one(t *testing.T, match func(process) bool) process {
	t.Helper()
	var found []process
	require.Eventually(t, func() bool { found = s.processes(match); return len(found) == 1 }, 20*time.Second, 50*time.Millisecond, "processes: %+v", found)
	return found[0]
}

// signalled sends a signal to a process of the platform.
func signalled(t *testing.T, p process, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, syscall.Kill(p.pid, sig))
}

// cli runs a subcommand to its end and returns what it printed.
func (s *stack) cli(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := s.command(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// update is a line of `meridian upload --json`.
type update struct {
	// State is what was reached: "uploading", "received", "playable", "ready", "failed".
	State    string  `json:"event"`
	Asset    string  `json:"asset"`
	WatchURL string  `json:"watch"`
	Seconds  float64 `json:"seconds"`
	Raw      string  `json:"-"`
}

// upload is a running `meridian upload FILE --json`.
type upload struct {
	t       *testing.T
	cmd     *exec.Cmd
	updates chan update
	stderr  *testenv.Buffer
	ended   chan error
}

func (s *stack) upload(t *testing.T, file string, args ...string) *upload {
	t.Helper()
	u := &upload{t: t, updates: make(chan update, 1000), stderr: &testenv.Buffer{}, ended: make(chan error, 1)}
	u.cmd = s.command(t.Context(), append([]string{"upload", "--json", file}, args...)...)
	u.cmd.Stderr = u.stderr
	out, err := u.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, u.cmd.Start())
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var up update
			up.Raw = lines.Text()
			if err := json.Unmarshal(lines.Bytes(), &up); err != nil {
				up.Raw = err.Error() + ": " + up.Raw
			}
			u.updates <- up
		}
		close(u.updates)
		u.ended <- u.cmd.Wait()
	}()
	return u
}

// until waits for the upload's asset to be in a state.
func (u *upload) until(state string, timeout time.Duration) update {
	u.t.Helper()
	after := time.After(timeout)
	var last update
	for {
		select {
		case up, ok := <-u.updates:
			if !ok {
				u.t.Fatalf("upload ended (%v) before %q; last line %q\n%s", <-u.ended, state, last.Raw, u.stderr)
			}
			last = up
			if up.State == state {
				return up
			}
		case <-after:
			u.t.Fatalf("not %q within %v; last line %q\n%s", state, timeout, last.Raw, u.stderr)
		}
	}
}

// call sends a request to the API with the platform's key and decodes the JSON answer.
func (s *stack) call(t *testing.T, method, path, body string, header ...string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.api+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+s.key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	status, _, b := do(t, req)
	var out map[string]any
	if len(b) > 0 {
		require.NoError(t, json.Unmarshal(b, &out), "%s", b)
	}
	return status, out
}

// client follows no redirects, so that tests see them.
var client = &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func do(t *testing.T, req *http.Request) (int, http.Header, []byte) {
	t.Helper()
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, res.Header, b
}

func get(t *testing.T, url string, header ...string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return do(t, req)
}
