package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	markVar  = "MERIDIAN_SUPERVISOR"
	groupVar = "MERIDIAN_GROUP"
	// killWithin bounds how long SIGKILL may take to show.
	killWithin = 10 * time.Second
	reapEvery  = 2 * time.Second
)

// guardScript kills everything with the mark "$1" in its environment once the
// supervisor, which holds the other end of standard input, has ended.
const guardScript = `trap '' INT TERM HUP
read -r _
n=0
while [ $n -lt 100 ]; do
  left=$(grep -lszFx -e "$1" /proc/[0-9]*/environ)
  [ -n "$left" ] || exit 0
  for f in $left; do f=${f#/proc/}; kill -9 "${f%%/*}"; done 2>/dev/null
  n=$((n + 1)); sleep 0.05
done`

// Options of a supervisor.
type Options struct {
	// Mark tells this supervisor's processes from all others, also from those
	// of an earlier supervisor that died; it must be unique to what they work
	// on (a directory) and the caller must hold that for itself (a lock).
	Mark string
	// Owns recognises a process of a group ("": of any) that has overwritten its
	// environment; may be nil.
	Owns func(group string, pid int) bool
	// Contained says that the caller is the first process of a PID namespace: the
	// kernel kills everything with it, so that no guard is needed.
	Contained bool
	// Report receives every event, in order for a process; it must not block.
	Report func(Event)
}

// Supervisor runs groups of processes.
type Supervisor struct {
	opt   Options
	spawn chan func()
	guard *exec.Cmd
	hold  *os.File

	mu       sync.Mutex
	children map[int]bool // direct children somebody waits for
	groups   []*Group

	stopReaper context.CancelFunc
	workers    sync.WaitGroup
}

// New returns a supervisor, after it has killed what an earlier one with the
// same mark left behind; healed says how many processes those were.
func New(opt Options) (s *Supervisor, healed int, err error) {
	s = &Supervisor{opt: opt, spawn: make(chan func()), children: map[int]bool{}}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, 0, fmt.Errorf("become a subreaper: %w", err)
	}
	healed, err = killAll(s.owns, killWithin)
	if err != nil {
		return nil, healed, fmt.Errorf("end the previous run: %w", err)
	}
	s.workers.Go(func() {
		// Never unlocked: the thread ends with the goroutine, not before.
		runtime.LockOSThread()
		for f := range s.spawn {
			f()
		}
	})
	if !opt.Contained {
		err = s.startGuard()
	}
	if err != nil {
		close(s.spawn)
		s.workers.Wait()
		return nil, healed, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stopReaper = cancel
	s.workers.Go(func() { s.reap(ctx) })
	return s, healed, nil
}

func (s *Supervisor) owns(pid int) bool {
	return hasEnv(pid, s.mark()) || s.opt.Owns != nil && s.opt.Owns("", pid)
}

func (s *Supervisor) mark() string { return markVar + "=" + s.opt.Mark }

// Mark is what marks a process in its environment as one of a supervisor's, for
// those it doesn't start itself.
func Mark(mark, group string) []string {
	return []string{markVar + "=" + mark, groupVar + "=" + group}
}

func (s *Supervisor) startGuard() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	s.guard = exec.Command("/bin/sh", "-c", guardScript, "meridian-guard", s.mark())
	s.guard.Stdin, s.guard.Dir = r, "/"
	s.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.hold = w
	if err := s.guard.Start(); err != nil {
		return errors.Join(fmt.Errorf("start guard: %w", err), w.Close())
	}
	s.mu.Lock()
	s.children[s.guard.Process.Pid] = true
	s.mu.Unlock()
	return nil
}

func (s *Supervisor) report(e Event) {
	if s.opt.Report != nil {
		s.opt.Report(e)
	}
}

// environ is what every process gets: little of ours, so that a platform
// doesn't depend on the shell it was started from.
func (s *Supervisor) environ(group string) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, Mark(s.opt.Mark, group)...)
}

func (s *Supervisor) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	s.spawn <- func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		err := cmd.Start()
		if err == nil {
			s.children[cmd.Process.Pid] = true
		}
		result <- err
	}
	return <-result
}

func (s *Supervisor) ended(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.children, pid)
}

// reap collects the zombies of adopted processes: children nobody waits for.
// Only those which were zombies at the last look too are taken, so that no
// exit status is stolen from someone who has just started a process.
func (s *Supervisor) reap(ctx context.Context) {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	self, seen := os.Getpid(), map[int]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		procs, err := Procs()
		if err != nil {
			continue // no /proc for the moment: the zombies stay
		}
		now := map[int]bool{}
		s.mu.Lock()
		for _, p := range procs {
			if p.Parent != self || p.State != 'Z' || s.children[p.PID] {
				continue
			}
			if seen[p.PID] {
				_, _ = syscall.Wait4(p.PID, nil, syscall.WNOHANG, nil)
			} else {
				now[p.PID] = true
			}
		}
		s.mu.Unlock()
		seen = now
	}
}

// Group returns the named group, which holds no process at first.
func (s *Supervisor) Group(name string) *Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		if g.name == name {
			return g
		}
	}
	g := &Group{s: s, name: name}
	s.groups = append(s.groups, g)
	return g
}

// Status lists all processes in the order they were started.
func (s *Supervisor) Status() []Status {
	s.mu.Lock()
	groups := slices.Clone(s.groups)
	s.mu.Unlock()
	var out []Status
	for _, g := range groups {
		out = append(out, g.Status()...)
	}
	return out
}

// Close kills what still runs and ends the supervisor.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	groups := slices.Clone(s.groups)
	s.mu.Unlock()
	var errs []error
	for _, g := range groups {
		errs = append(errs, g.Kill())
	}
	_, err := killAll(s.owns, killWithin)
	errs = append(errs, err)
	close(s.spawn)
	s.stopReaper()
	s.workers.Wait()
	if s.guard != nil {
		s.hold.Close()
		if err := s.guard.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("guard: %w", err))
		}
	}
	return errors.Join(errs...)
}
