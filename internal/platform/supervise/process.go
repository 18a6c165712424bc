package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second
	// startExits is how many exits a process may have before WaitReady gives up on it.
	startExits    = 3
	probeInterval = 50 * time.Millisecond
	probeTimeout  = 2 * time.Second
	// A process is looked at each lostInterval for whether only a restart helps, and
	// restarted when it did so lostTimes in a row.
	lostInterval = 2 * time.Second
	lostTimes    = 3
	defaultGrace = 10 * time.Second
)

// Spec says how a process is run.
type Spec struct {
	Name string
	Argv []string
	// Env is added to the few variables of the supervisor's own environment
	// that every program needs.
	Env []string
	Dir string
	// Credential runs the process as another user; nil for the supervisor's.
	Credential *syscall.Credential
	// Log is the file that receives what the process prints.
	Log string
	// Grace is how long the process may take to end after SIGTERM before it is killed; 0 is ten seconds.
	Grace time.Duration
	// Ready says why the process can't do its work yet. It must honour its context.
	Ready func(context.Context) error
	// After, if set, must have returned nil once before the process is started, each
	// time it is: what it needs and doesn't wait for well itself. It must honour its
	// context.
	After func(context.Context) error
	// Lost says why the process, though it runs, only does its work again after a
	// restart; nil while it does, or may without. It must honour its context.
	Lost func(context.Context) error
}

// State of a process.
type State string

const (
	Starting State = "starting"
	Ready    State = "ready"
	Waiting  State = "waiting to restart"
	Stopped  State = "stopped"
)

// Status is a snapshot of a process.
type Status struct {
	Group    string    `json:"group"`
	Name     string    `json:"name"`
	State    State     `json:"state"`
	PID      int       `json:"pid,omitempty"`
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts"`
	// Problem is why the process isn't ready, or how it last ended.
	Problem string `json:"problem,omitempty"`
	Log     string `json:"log"`
}

// Event tells of a change of a process.
type Event struct {
	Status
	// Took is the time from start to readiness, or to the end.
	Took time.Duration
	// Again is set when the process was ready before.
	Again bool
	// Backoff is the pause before the restart of a crashed process.
	Backoff time.Duration
}

// Process is one supervised process.
type Process struct {
	spec  Spec
	group *Group
	log   *logPipe

	stop     chan struct{}
	stopOnce sync.Once
	kill     bool // guarded by mu: end without grace
	done     chan struct{}

	mu      sync.Mutex
	status  Status
	err     error
	changed chan struct{} // closed and replaced at every change
}

func newProcess(g *Group, spec Spec) (*Process, error) {
	log, err := newLogPipe(spec.Log)
	if err != nil {
		return nil, err
	}
	if spec.Grace == 0 {
		spec.Grace = defaultGrace
	}
	p := &Process{spec: spec, group: g, log: log, stop: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{})}
	p.status = Status{Group: g.name, Name: spec.Name, State: Starting, Since: time.Now(), Log: spec.Log}
	return p, nil
}

// Status returns the process's state now.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *Process) update(change func(*Status), err error) Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.status)
	p.err = err
	p.status.Problem = ""
	if err != nil {
		p.status.Problem = err.Error()
	}
	close(p.changed)
	p.changed = make(chan struct{})
	return p.status
}

// WaitReady returns when the process is ready; or an error when ctx ends, when
// it was stopped, or when it has ended several times without having been ready.
func (p *Process) WaitReady(ctx context.Context) error {
	for {
		p.mu.Lock()
		s, err, changed := p.status, p.err, p.changed
		p.mu.Unlock()
		switch {
		case s.State == Ready:
			return nil
		case s.State == Stopped:
			return fmt.Errorf("%s %s was stopped", s.Group, s.Name)
		case s.Restarts >= startExits:
			return fmt.Errorf("%s %s ends again and again: %w; its log, %s, ends:\n%s", s.Group, s.Name, err, s.Log, Tail(s.Log))
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return fmt.Errorf("%s %s is not ready: %w; its log: %s", s.Group, s.Name, err, s.Log)
		case <-changed:
		}
	}
}

// Stop ends the process: SIGTERM, then SIGKILL after its grace. It returns when
// the process has ended.
func (p *Process) Stop() {
	p.stopOnce.Do(func() { close(p.stop) })
	<-p.done
}

func (p *Process) killNow() {
	p.mu.Lock()
	p.kill = true
	p.mu.Unlock()
	p.stopOnce.Do(func() { close(p.stop) })
}

// run is the process's owner: it ends after Stop or Kill.
func (p *Process) run() {
	defer close(p.done)
	defer p.log.close()
	backoff, wasReady := firstBackoff, false
	for {
		p.group.awaitResume(p.stop)
		start := time.Now()
		p.update(func(s *Status) { s.State, s.Since, s.PID = Starting, start, 0 }, nil)
		var ready bool
		var err error
		if p.awaitAfter() {
			ready, err = p.incarnation(start, wasReady)
		}
		wasReady = wasReady || ready
		if p.stopping() {
			s := p.update(func(s *Status) { s.State, s.Since, s.PID = Stopped, time.Now(), 0 }, nil)
			p.group.s.report(Event{Status: s, Took: time.Since(start)})
			return
		}
		if time.Since(start) > maxBackoff {
			backoff = firstBackoff
		}
		s := p.update(func(s *Status) {
			s.State, s.Since, s.PID = Waiting, time.Now(), 0
			s.Restarts++
		}, err)
		p.group.s.report(Event{Status: s, Took: time.Since(start), Again: wasReady, Backoff: backoff})
		timer := time.NewTimer(backoff)
		select {
		case <-timer.C:
		case <-p.stop:
			timer.Stop()
		}
		if p.stopping() {
			s := p.update(func(s *Status) { s.State, s.Since = Stopped, time.Now() }, nil)
			p.group.s.report(Event{Status: s})
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (p *Process) stopping() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

// awaitAfter waits for what must be there first; false when the process is to stop.
func (p *Process) awaitAfter() bool {
	if p.spec.After == nil {
		return true
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	there := make(chan bool, 1)
	go func() { there <- p.poll(ctx, p.spec.After) }()
	select {
	case ok := <-there:
		return ok
	case <-p.stop:
		cancel()
		<-there
		return false
	}
}

// incarnation runs the process once and says how it ended and whether it was ready.
func (p *Process) incarnation(start time.Time, again bool) (ready bool, err error) {
	cmd := exec.Command(p.spec.Argv[0], p.spec.Argv[1:]...)
	cmd.Env = append(p.group.s.environ(p.group.name), p.spec.Env...)
	cmd.Dir = p.spec.Dir
	// A file, not a writer: Wait must not wait for grandchildren that hold the output open.
	cmd.Stdout, cmd.Stderr = p.log.w, p.log.w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: p.spec.Credential}
	if err := p.group.s.start(cmd); err != nil {
		return false, fmt.Errorf("start %s: %w", p.spec.Argv[0], err)
	}
	p.update(func(s *Status) { s.PID = cmd.Process.Pid }, nil)
	if p.group.held() {
		// Hang may have looked before there was a process to stop.
		_ = cmd.Process.Signal(syscall.SIGSTOP)
	}
	exit := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		p.group.s.ended(cmd.Process.Pid)
		exit <- err
	}()
	probes, cancel := context.WithCancel(context.Background())
	becameReady := make(chan bool, 1)
	go func() { becameReady <- p.probe(probes, start, again) }()
	lost, unwatched := make(chan error, 1), make(chan struct{})
	go func() { defer close(unwatched); lost <- p.watch(probes) }()
	defer func() {
		cancel()
		ready = <-becameReady
		<-unwatched
	}()
	select {
	case err := <-lost:
		p.terminate(cmd.Process, exit)
		return false, err
	case err := <-exit:
		if err == nil {
			err = errors.New("it ended by itself")
		}
		return false, err
	case <-p.stop:
		cancel()
		p.terminate(cmd.Process, exit)
		return false, nil
	}
}

func (p *Process) terminate(process *os.Process, exit <-chan error) {
	p.mu.Lock()
	kill := p.kill
	p.mu.Unlock()
	if !kill {
		// A process that has just ended, or one that is stopped (SIGSTOP), which must first go on.
		_ = process.Signal(syscall.SIGCONT)
		_ = process.Signal(syscall.SIGTERM)
		timer := time.NewTimer(p.spec.Grace)
		defer timer.Stop()
		select {
		case <-exit:
			return
		case <-timer.C:
		}
	}
	_ = process.Kill()
	<-exit
}

// probe asks for readiness until it is there.
func (p *Process) probe(ctx context.Context, start time.Time, again bool) bool {
	ready := p.spec.Ready
	if ready == nil {
		ready = func(context.Context) error { return nil }
	}
	if !p.poll(ctx, ready) {
		return false
	}
	s := p.update(func(s *Status) { s.State = Ready }, nil)
	p.group.s.report(Event{Status: s, Took: time.Since(start), Again: again})
	return true
}

// watch returns why the process is to be restarted, once it is; it ends with ctx.
func (p *Process) watch(ctx context.Context) error {
	if p.spec.Lost == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	tick := time.NewTicker(lostInterval)
	defer tick.Stop()
	for times := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		try, cancel := context.WithTimeout(ctx, probeTimeout)
		err := p.spec.Lost(try)
		cancel()
		if err == nil {
			times = 0
		} else if times++; times == lostTimes {
			return err
		}
	}
}

// poll asks until the answer is nil, or ctx ends: then it returns false. The last
// answer is the process's problem.
func (p *Process) poll(ctx context.Context, ask func(context.Context) error) bool {
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, probeTimeout)
		err := ask(try)
		cancel()
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			return true
		}
		p.update(func(*Status) {}, err)
		select {
		case <-ctx.Done():
		case <-time.After(probeInterval):
		}
	}
	return false
}
