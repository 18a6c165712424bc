package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/wan"
)

// statusTimeout is how long a region's agent may take to tell its state.
const statusTimeout = 2 * time.Second

// errAgentGone is the end of a region's first process, and with it of all others.
var errAgentGone = errors.New("the region's agent has ended")

// injectedClock isn't empty in a program whose clock is ahead by the seconds in the
// environment variable clockEnv: drill/clockbuild builds it.
var injectedClock string

const clockEnv = "MERIDIAN_CLOCK_AHEAD"

// isolated is a place in namespaces of its own, kept by an agent there.
type isolated struct {
	namespace *wan.Namespace
	setup     setup
	log       string
	report    func(supervise.Event)
	// lost is called when the agent ends and kill wasn't called.
	lost func(error)

	mu    sync.Mutex
	agent *remoteAgent
	known []supervise.Status
}

// remoteAgent is the platform's side of the connection to an agent.
type remoteAgent struct {
	cmd  *wan.Cmd
	conn net.Conn
	// gone is closed when the agent's process has ended and all its with it.
	gone chan struct{}

	write sync.Mutex // one request on the wire at a time

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan answer
	killed  bool
}

func (i *isolated) open(ctx context.Context) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return err
	}
	log, err := os.OpenFile(i.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(diskFull(err, i.setup.StateDir), conn.Close())
	}
	defer log.Close()
	// Its life isn't that of the start: kill ends it, or the end of this process.
	cmd := i.namespace.Command(context.WithoutCancel(ctx), i.setup.Executable, "region-agent")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{theirs}
	cmd.Env = append(os.Environ(), supervise.Mark(i.setup.StateDir, i.setup.Region)...)
	// Ctrl-C is for the platform alone. PostgreSQL's shared memory goes with the region.
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWIPC
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("%s: start agent: %w", i.setup.Region, err), conn.Close())
	}
	a := &remoteAgent{cmd: cmd, conn: conn, gone: make(chan struct{}), waiting: map[uint64]chan answer{}}
	i.mu.Lock()
	i.agent = a
	i.mu.Unlock()
	go i.serve(a)
	if _, err := a.ask(ctx, request{Do: doSetup, Setup: &i.setup}); err != nil {
		return fmt.Errorf("%s: %w; its log: %s", i.setup.Region, err, i.log)
	}
	return nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket to a region: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "region"), os.NewFile(uintptr(fds[1]), "up"), nil
}

// serve owns the agent's process and connection.
func (i *isolated) serve(a *remoteAgent) {
	read := make(chan struct{})
	go func() {
		defer close(read)
		i.read(a)
	}()
	err := a.cmd.Wait()
	if err == nil {
		err = errAgentGone
	}
	a.conn.Close()
	<-read
	a.mu.Lock()
	killed := a.killed
	a.mu.Unlock()
	close(a.gone)
	if !killed {
		i.lost(err)
	}
}

func (i *isolated) read(a *remoteAgent) {
	dec := json.NewDecoder(a.conn)
	for {
		var in answer
		if err := dec.Decode(&in); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				// An agent we can't understand runs a region we can't steer.
				_ = a.cmd.Process.Kill()
			}
			return
		}
		if in.Event != nil {
			i.report(*in.Event)
			continue
		}
		a.mu.Lock()
		to := a.waiting[in.ID]
		delete(a.waiting, in.ID)
		a.mu.Unlock()
		if to != nil {
			to <- in
		}
	}
}

func (a *remoteAgent) ask(ctx context.Context, q request) (answer, error) {
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 2*startTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*startTimeout)
		defer cancel()
	}
	to := make(chan answer, 1)
	a.mu.Lock()
	a.next++
	q.ID = a.next
	a.waiting[q.ID] = to
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.waiting, q.ID)
		a.mu.Unlock()
	}()
	if err := a.send(q); err != nil {
		return answer{}, fmt.Errorf("%w: %w", errAgentGone, err)
	}
	select {
	case out := <-to:
		if out.Error != "" {
			return answer{}, errors.New(out.Error)
		}
		return out, nil
	case <-a.gone:
		return answer{}, errAgentGone
	case <-ctx.Done():
		return answer{}, fmt.Errorf("the region's agent doesn't answer: %w", ctx.Err())
	}
}

func (a *remoteAgent) send(q request) error {
	a.write.Lock()
	defer a.write.Unlock()
	// Requests are small: a socket that takes none for this long is a hung agent's.
	if err := a.conn.SetWriteDeadline(time.Now().Add(statusTimeout)); err != nil {
		return err
	}
	return json.NewEncoder(a.conn).Encode(q)
}

func (i *isolated) current() *remoteAgent {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.agent
}

func (i *isolated) ask(ctx context.Context, q request) (answer, error) {
	a := i.current()
	if a == nil {
		return answer{}, errAgentGone
	}
	return a.ask(ctx, q)
}

func (i *isolated) start(ctx context.Context, k kind) error {
	_, err := i.ask(ctx, request{Do: doStart, Kind: k})
	i.status(ctx) // so that a region that doesn't answer later is known
	return err
}

func (i *isolated) stop(ctx context.Context, names ...string) error {
	a := i.current()
	if a == nil {
		return nil
	}
	_, err := a.ask(ctx, request{Do: doStop, Names: names})
	if err != nil && a.hasEnded() {
		return nil // and all its processes with it
	}
	return err
}

func (a *remoteAgent) hasEnded() bool {
	select {
	case <-a.gone:
		return true
	default:
		return false
	}
}

func (i *isolated) kill(ctx context.Context) error {
	a := i.current()
	if a != nil {
		a.mu.Lock()
		a.killed = true
		a.mu.Unlock()
	}
	if err := i.namespace.Kill(ctx); err != nil {
		return err
	}
	if a != nil {
		select {
		case <-a.gone:
		case <-ctx.Done():
			return fmt.Errorf("%s: the agent doesn't end: %w", i.setup.Region, ctx.Err())
		}
	}
	left, err := i.namespace.Processes()
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s: processes %v are left", i.setup.Region, left)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.agent = nil
	for n := range i.known {
		s := &i.known[n]
		s.State, s.PID, s.Since, s.Problem = supervise.Stopped, 0, time.Now(), ""
	}
	return err
}

func (i *isolated) change(how startup) error {
	if how.clock != 0 && injectedClock == "" {
		return refuse(BadRequest, "clock: this program has the system's clock; build one whose clock can be wrong with `make build-drill`")
	}
	if how.program != "" {
		i.setup.Executable = how.program
	}
	i.setup.Env = nil
	if how.clock != 0 {
		i.setup.Env = []string{fmt.Sprintf("%s=%d", clockEnv, int(how.clock.Seconds()))}
	}
	return nil
}

func (i *isolated) hang(ctx context.Context) error { return i.namespace.Hang(ctx) }
func (i *isolated) resume() error                  { return i.namespace.Resume() }

func (i *isolated) status(ctx context.Context) []supervise.Status {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	out, err := i.ask(ctx, request{Do: doStatus})
	i.mu.Lock()
	defer i.mu.Unlock()
	if err == nil {
		i.known = i.outside(out.Processes)
	}
	return slices.Clone(i.known)
}

// outside replaces the numbers processes have inside by those they have here.
func (i *isolated) outside(list []supervise.Status) []supervise.Status {
	all, err := i.namespace.Processes()
	if err != nil {
		all = nil // their numbers stay unknown
	}
	numbers := map[int]int{}
	for _, pid := range all {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
			numbers[innermostPID(string(b))] = pid
		}
	}
	for n := range list {
		list[n].PID = numbers[list[n].PID]
	}
	return list
}

// innermostPID reads the last of a process's numbers, that of its own namespace.
func innermostPID(status string) int {
	for line := range strings.Lines(status) {
		numbers, ok := strings.CutPrefix(line, "NSpid:")
		if f := strings.Fields(numbers); ok && len(f) > 0 {
			pid, err := strconv.Atoi(f[len(f)-1])
			if err == nil {
				return pid
			}
		}
	}
	return -1
}
