package testenv

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout is generous: test machines are busy.
	startTimeout = 60 * time.Second
	// startAttempts bounds how often a start is tried again because the free
	// port found for it was taken in between.
	startAttempts = 3
)

// keeper runs a server ("$@") and ends it with signal $1 when standard input
// ends, which happens at the latest when the process that started it dies; then
// it removes the directory $2.
const keeper = `sig=$1 dir=$2; shift 2
"$@" </dev/null 3>&- &
echo $! >&3; exec 3>&-
read -r _
kill -CONT $!; kill -"$sig" $!; wait $!
[ -z "$dir" ] || rm -rf "$dir"`

// process is a running server and its keeper.
type process struct {
	keeper *exec.Cmd
	hold   *os.File
	pid    int
	log    string
	// spec is what it was launched with.
	spec spec
}

// held keeps the write ends of all keepers' pipes reachable: the collector would
// close them and so end servers whose handle nobody keeps.
var held sync.Map

type spec struct {
	// dir is removed when the server has ended; empty for a directory someone else owns.
	dir string
	// log receives what the server prints.
	log    string
	signal string
	argv   []string
	env    []string
	cred   *syscall.Credential
}

func launch(s spec) (*process, error) {
	holdR, holdW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer holdR.Close()
	pidR, pidW, err := os.Pipe()
	if err != nil {
		holdW.Close()
		return nil, err
	}
	defer pidR.Close()
	logFile, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(err, holdW.Close(), pidW.Close())
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", keeper, "keeper", s.signal, s.dir}, s.argv...)...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = holdR, logFile, logFile
	cmd.ExtraFiles = []*os.File{pidW}
	// A session of its own: Ctrl-C at the terminal ends the tests, and these in turn the keeper.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.cred}
	err = cmd.Start()
	pidW.Close()
	logFile.Close()
	if err != nil {
		holdW.Close()
		return nil, fmt.Errorf("start %s: %w", s.argv[0], err)
	}
	held.Store(holdW, nil)
	p := &process{keeper: cmd, hold: holdW, log: s.log, spec: s}
	line, err := bufio.NewReader(pidR).ReadString('\n')
	if err == nil {
		p.pid, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("start %s: %w", s.argv[0], err)
	}
	return p, nil
}

// stop ends the server and returns when it is gone.
func (p *process) stop() {
	p.hold.Close()
	held.Delete(p.hold)
	// The keeper's status says how the server ended, which a stop needn't know.
	_ = p.keeper.Wait()
}

// Hang stops the server and all it has started: it answers nothing until Resume.
func (p *process) Hang() error {
	// The parent first, or it would start more.
	if err := syscall.Kill(p.pid, syscall.SIGSTOP); err != nil {
		return err
	}
	return p.signalChildren(syscall.SIGSTOP)
}

// Resume ends Hang.
func (p *process) Resume() error {
	return errors.Join(p.signalChildren(syscall.SIGCONT), syscall.Kill(p.pid, syscall.SIGCONT))
}

// Kill ends the server at once, and all it has started; its data stays.
func (p *process) Kill() error {
	children, err := childrenOf(p.pid)
	if err != nil {
		return err
	}
	// The keeper goes first, or it would remove the data.
	err = errors.Join(p.keeper.Process.Kill(), p.Hang())
	err = errors.Join(err, p.signalChildren(syscall.SIGKILL), syscall.Kill(p.pid, syscall.SIGKILL))
	p.stop()
	for _, pid := range append(children, p.pid) {
		for deadline := time.Now().Add(startTimeout); alive(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				return errors.Join(err, fmt.Errorf("process %d of %s doesn't end", pid, p.spec.argv[0]))
			}
		}
	}
	return err
}

// startAgain runs what was killed once more until it is ready.
func (p *process) startAgain(ctx context.Context, ready func(context.Context) error) error {
	if alive(p.pid) {
		return fmt.Errorf("%s already runs", p.spec.argv[0])
	}
	again, err := launch(p.spec)
	if err != nil {
		return err
	}
	*p = *again
	return p.await(ctx, ready)
}

func (p *process) signalChildren(s syscall.Signal) error {
	children, err := childrenOf(p.pid)
	for _, pid := range children {
		if kerr := syscall.Kill(pid, s); kerr != nil && !errors.Is(kerr, syscall.ESRCH) {
			err = errors.Join(err, kerr)
		}
	}
	return err
}

// childrenOf are the processes that one has started, by any of its threads.
func childrenOf(pid int) (out []int, err error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	for _, path := range lists {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		for _, f := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(f)
			if err != nil {
				return nil, err
			}
			out = append(out, child)
		}
	}
	return out, nil
}

// alive says whether a process has not ended, whoever reaps it.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

// ended: the keeper reaps the server only at its own end.
func (p *process) ended() bool { return !alive(p.pid) }

// await polls ready until it is nil, the server has ended or the deadline has passed.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		try, cancelTry := context.WithTimeout(ctx, 2*time.Second)
		err := ready(try)
		cancelTry()
		if err == nil {
			return nil
		}
		if p.ended() {
			return fmt.Errorf("%w: %w\n%s", errEnded, err, tail(p.log))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %s: %w\n%s", startTimeout, err, tail(p.log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

var errEnded = errors.New("the server ended while starting")

// tail is the end of a log, for error messages.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// startRetrying starts a server on a free port; a server that ends at once may
// have lost the port to another process and gets a new one.
func startRetrying[T any](start func(port int) (T, error)) (T, error) {
	var (
		server T
		err    error
	)
	for range startAttempts {
		var port int
		if port, err = freePort(); err != nil {
			break
		}
		if server, err = start(port); !errors.Is(err, errEnded) {
			break
		}
	}
	return server, err
}

// serverDir makes the directory of a server. It lies below /tmp when $TMPDIR is
// too deep for a unix socket's path.
func serverDir(name string) (string, error) {
	parent := os.TempDir()
	if len(parent) > 60 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "meridian-test-"+name+"-")
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}
