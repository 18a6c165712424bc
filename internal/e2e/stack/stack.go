// Package stack runs a whole platform for tests, as an operator would: it builds
// the binary, runs `meridian up` with a state directory and client configuration
// of its own, and ends it as Ctrl-C does.
package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
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

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

const (
	// startWithin and stopWithin are generous: test machines are busy.
	startWithin = 3 * time.Minute
	stopWithin  = 2 * time.Minute
	commandTime = 5 * time.Minute
	// killAfter is how long a command may take to end once its context has.
	killAfter = 20 * time.Second
	// logTail is how much of each log is shown after a failure, in bytes.
	logTail = 6000
	// saysReady is printed with the addresses of a platform that is ready.
	saysReady = "meridian upload"
	// saysStoresReady ends the start of stores alone.
	saysStoresReady = "are ready after"
)

// Options of a platform.
type Options struct {
	// Name is a part of its directory's name.
	Name string
	// Args of `meridian up`; tests of different packages need networks of their own.
	Args []string
	// Meanwhile, if set, runs while the platform starts; it may leave files in dir.
	Meanwhile func(dir string) error
}

// Stack is a running platform.
type Stack struct {
	// Dir is removed by Stop; Bin is the program, built from this tree.
	Dir, Bin string
	Table    *region.Table
	// Key is the first API key.
	Key string
	// Took is how long it took to be ready.
	Took time.Duration

	cmd    *exec.Cmd
	output testenv.Buffer
}

// Start builds the program and returns once `meridian up` says that the platform
// is ready. Call it from the thread that outlives the tests, as TestMain's does:
// the platform ends when that thread does.
func Start(o Options) (_ *Stack, err error) {
	// Short, and where PostgreSQL's user can reach it.
	dir, err := os.MkdirTemp("/tmp", "meridian-"+o.Name+"-")
	if err != nil {
		return nil, err
	}
	s := &Stack{Dir: dir, Bin: filepath.Join(dir, "meridian")}
	defer func() {
		if err != nil {
			s.DumpLogs()
			err = errors.Join(err, s.Stop())
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-o", s.Bin, "github.com/meridian-video/meridian")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	meanwhile := func() error { return nil }
	if o.Meanwhile != nil {
		meanwhile = func() error { return o.Meanwhile(dir) }
	}
	if err := s.up(meanwhile, saysReady, o.Args...); err != nil {
		return nil, err
	}
	if s.Table, err = region.Load(filepath.Join(s.State(), "regions.yaml")); err != nil {
		return nil, err
	}
	fmt.Printf("%s up after at most %.1f s\n", strings.Join(s.Table.Names(), ", "), s.Took.Seconds())
	s.Key, err = s.Secret("api.key")
	return s, err
}

// up starts the platform and returns once it says that it is ready.
func (s *Stack) up(meanwhile func() error, ready string, args ...string) error {
	s.output = testenv.Buffer{}
	s.cmd = s.Command(context.Background(), append([]string{"up"}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	// However the tests end.
	runtime.LockOSThread()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return err
	}
	if err := meanwhile(); err != nil {
		return err
	}
	for !strings.Contains(s.output.String(), ready) {
		if time.Since(began) > startWithin {
			return fmt.Errorf("the platform isn't ready after %v", startWithin)
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.Took = time.Since(began)
	return nil
}

// Again starts a platform that was ended with End. Of stores alone
// (--stores-only) it returns once they are ready.
func (s *Stack) Again(args ...string) error {
	ready := saysReady
	if slices.Contains(args, "--stores-only") {
		ready = saysStoresReady
	}
	return s.up(func() error { return nil }, ready, args...)
}

// Run runs the tests of a package and stops the platform; it returns the code to
// exit with. Logs are shown if tests failed.
func (s *Stack) Run(m *testing.M) int {
	code := m.Run()
	if code != 0 {
		s.DumpLogs()
	}
	if err := s.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// State is the platform's state directory.
func (s *Stack) State() string { return filepath.Join(s.Dir, "state") }

// Secret reads one of the platform's secrets.
func (s *Stack) Secret(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.State(), "secrets", name))
	return strings.TrimSpace(string(b)), err
}

// Region is the region of a name; it panics for an unknown one.
func (s *Stack) Region(name string) region.Region {
	r, ok := s.Table.Get(name)
	if !ok {
		panic("no region " + name)
	}
	return r
}

// Env is the environment in which the program knows this platform.
func (s *Stack) Env() []string {
	return append(os.Environ(), "MERIDIAN_STATE="+s.State(),
		"XDG_CONFIG_HOME="+filepath.Join(s.Dir, "config"), "XDG_STATE_HOME="+filepath.Join(s.Dir, "client"))
}

// Command is a subcommand of the program; the end of ctx interrupts it.
func (s *Stack) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.Bin, args...)
	cmd.Env = s.Env()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	return cmd
}

// CLI runs a subcommand to its end and returns what it printed.
func (s *Stack) CLI(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := s.Command(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("meridian %s: %w\n%s%s", strings.Join(args, " "), err, &out, &errOut)
	}
	return out.String(), errOut.String(), err
}

// Regions does something to regions, as an operator does: kill, hang, start.
func (s *Stack) Regions(t *testing.T, op string, args ...string) {
	t.Helper()
	began := time.Now()
	if _, _, err := s.CLI(t.Context(), append([]string{"region", op}, args...)...); err != nil {
		t.Fatal(err)
	}
	t.Logf("region %s %v: %.1f s", op, args, time.Since(began).Seconds())
}

// Stop ends the platform as Ctrl-C does, removes its files, and fails if a
// process of it is left.
func (s *Stack) Stop() error {
	var errs []error
	if s.cmd != nil && s.cmd.Process != nil {
		errs = append(errs, s.end())
		if left := s.Processes(func(Process) bool { return true }); len(left) > 0 {
			errs = append(errs, fmt.Errorf("left running: %+v", left))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.Dir))...)
}

// End ends the platform as Ctrl-C does; its files stay.
func (s *Stack) End() error {
	err := s.end()
	s.cmd = nil
	return err
}

func (s *Stack) end() error {
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("meridian up: %w\n%s", err, &s.output)
		}
		return nil
	case <-time.After(stopWithin):
		return errors.Join(fmt.Errorf("meridian up didn't end within %v of SIGINT", stopWithin), s.cmd.Process.Kill(), <-done)
	}
}

// DumpLogs prints what the platform said and the end of each log.
func (s *Stack) DumpLogs() {
	fmt.Printf("--- meridian up\n%s\n", &s.output)
	err := filepath.WalkDir(filepath.Join(s.State(), "logs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".log") {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Printf("--- %s\n%s\n", path, b[max(0, len(b)-logTail):])
		return err
	})
	if err != nil {
		fmt.Println("logs:", err)
	}
}

// Process is a process that belongs to a platform.
type Process struct {
	PID       int
	Args, Env []string
}

// Is says whether it runs a subcommand of the program.
func (p Process) Is(subcommand string) bool { return len(p.Args) > 1 && p.Args[1] == subcommand }

// Has says whether its environment has an entry, "NAME=value".
func (p Process) Has(env string) bool { return slices.Contains(p.Env, env) }

// Processes finds the platform's processes by their environment or arguments.
func (s *Stack) Processes(match func(Process) bool) []Process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// They may have ended meanwhile.
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(args) == 0 || !bytes.Contains(append(slices.Clone(env), args...), []byte(s.State())) {
			continue
		}
		if p := (Process{pid, strings.Split(string(args), "\x00"), strings.Split(string(env), "\x00")}); match(p) {
			out = append(out, p)
		}
	}
	return out
}

// One waits until exactly one process matches.
func (s *Stack) One(t *testing.T, match func(Process) bool) Process {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		found := s.Processes(match)
		if len(found) == 1 {
			return found[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("want one process, found %+v", found)
		}
	}
}
