package ffmpeg

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/encoder/confine"
)

// Limits bound one child.
type Limits struct {
	// Nice is added to the worker's own niceness.
	Nice int
	// Background children get only the CPU that nothing else wants (SCHED_IDLE);
	// their niceness is 19, so that what counts load counts them as niced.
	Background bool
	// AddressSpace and FileSize in bytes; 0 means no limit.
	AddressSpace, FileSize uint64
	// Wall is the longest the child may run; Idle the longest without progress, while
	// it isn't waiting for a processor.
	Wall, Idle time.Duration
	// Launcher, if set, starts the child in its confinement.
	Launcher Launcher
}

// Launcher starts commands; what release does follows when they have been waited for.
// Into dir, if it isn't empty, the command writes.
type Launcher interface {
	Start(cmd *exec.Cmd, dir string) (release func(), err error)
}

// Progress is what ffmpeg reports about itself.
type Progress struct {
	Frames int64
	// Time is the position in the output.
	Time time.Duration
}

// Command is one child to run.
type Command struct {
	// Name is the executable: "ffmpeg" or "ffprobe".
	Name string
	Args []string
	// Dir, if set, is where the child is, and the only place it writes into.
	Dir string
	// Outputs is how many pipes the child writes to; the i-th is OutputPath(i).
	Outputs int
	Limits  Limits
	// OnProgress, if set, is told of every report that shows progress.
	OnProgress func(Progress)
}

// The child's descriptors: progress, then outputs.
const firstPipe = 3

// ProgressPath is where ffmpeg must report progress (-progress).
const ProgressPath = "pipe:3"

// OutputPath is the i-th output as an ffmpeg URL.
func OutputPath(i int) string { return "pipe:" + strconv.Itoa(firstPipe+1+i) }

// Reasons a child ended badly.
const (
	ReasonExit      = "exit"
	ReasonWall      = "deadline"
	ReasonIdle      = "no progress"
	ReasonCancelled = "cancelled"
	ReasonStart     = "start"
	// It didn't get what it asked for, which is not its input's fault.
	ReasonMemory = "out of memory"
	ReasonDisk   = "out of disk"
)

// Error is a child that did not succeed.
type Error struct {
	Name, Reason string
	// Log is the end of what it wrote to stderr.
	Log string
	Err error
}

func (e *Error) Error() string {
	s := e.Name + ": " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Log != "" {
		s += ": " + e.Log
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

var (
	errWall = errors.New("ran longer than allowed")
	errIdle = errors.New("made no progress")
)

// Process is a running child.
type Process struct {
	cmd      *exec.Cmd
	name     string
	ctx      context.Context
	cancel   context.CancelCauseFunc
	wall     *time.Timer
	outputs  []*os.File
	progress *os.File
	last     atomic.Int64
	// waiting counts outputs whose reader waits for the child, or has its end.
	waiting  atomic.Int32
	log      tail
	release  func()
	watchers sync.WaitGroup
	done     chan struct{}
}

// Start runs the command. The caller reads every output to its end, then calls Wait.
func Start(ctx context.Context, c Command) (*Process, error) {
	path, err := exec.LookPath(c.Name)
	if err != nil {
		return nil, &Error{Name: c.Name, Reason: ReasonStart, Err: err}
	}
	p := &Process{name: c.Name, done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	line := c.Limits.under(path, c.Args)
	p.cmd = exec.CommandContext(p.ctx, line[0], line[1:]...)
	p.cmd.Stderr = &p.log
	// A group of its own, so that what it starts dies with it; and with us, even by SIGKILL.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Cancel = func() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }
	p.cmd.WaitDelay = time.Second
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	var ours []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			_ = f.Close()
		}
	}
	for range c.Outputs + 1 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(ours)
			closeAll(p.cmd.ExtraFiles)
			p.cancel(nil)
			return nil, &Error{Name: c.Name, Reason: ReasonStart, Err: err}
		}
		ours = append(ours, r)
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, w)
	}
	launcher := c.Limits.Launcher
	if launcher == nil {
		launcher = confine.Free{}
	}
	p.release, err = launcher.Start(p.cmd, c.Dir)
	closeAll(p.cmd.ExtraFiles)
	if err != nil {
		closeAll(ours)
		p.cancel(nil)
		return nil, &Error{Name: c.Name, Reason: ReasonStart, Err: err}
	}
	p.progress, p.outputs = ours[0], ours[1:]
	p.touch()
	if c.Limits.Wall > 0 {
		p.wall = time.AfterFunc(c.Limits.Wall, func() { p.cancel(errWall) })
	}
	p.watchers.Go(func() { p.readProgress(c.OnProgress) })
	p.watchers.Go(func() { p.watchIdle(c.Limits.Idle) })
	return p, nil
}

// Programs are what a child's command line runs.
func Programs() []string { return []string{"ffmpeg", "ffprobe", "prlimit", "chrt", "nice"} }

// under is the command line that runs a command within the limits: util-linux'
// prlimit and chrt and coreutils' nice set them and then become the command, so
// they hold from its first instruction and for all it starts.
func (l Limits) under(name string, args []string) []string {
	line := []string{"prlimit", "--core=0"}
	set := func(option string, v uint64) {
		if v > 0 {
			line = append(line, fmt.Sprintf("--%s=%d:%d", option, v, v))
		}
	}
	set("as", l.AddressSpace)
	set("fsize", l.FileSize)
	line = append(line, "--")
	niceness := l.Nice
	if l.Background {
		line = append(line, "chrt", "--idle", "0")
		niceness = 19 // nice stops there by itself
	}
	if niceness != 0 {
		line = append(line, "nice", "-n", strconv.Itoa(niceness), "--")
	}
	return append(append(line, name), args...)
}

func (p *Process) touch() { p.last.Store(time.Now().UnixNano()) }

func (p *Process) watchIdle(limit time.Duration) {
	if limit <= 0 {
		return
	}
	every := max(limit/8, 10*time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	had, looked := time.Duration(0), time.Now()
	for {
		select {
		case <-tick.C:
			// A child whose reader is busy elsewhere can't progress, nor can one that
			// gets no processor, as in the background of a busy machine, or that was
			// paused with its worker; that is not its fault.
			before, late := had, time.Since(looked) > 2*every
			looked = time.Now()
			var wants bool
			had, wants = p.runs()
			if int(p.waiting.Load()) < len(p.outputs) || wants && had-before < every/2 || late {
				p.touch()
			}
			if time.Since(time.Unix(0, p.last.Load())) > limit {
				p.cancel(errIdle)
				return
			}
		case <-p.done:
			return
		case <-p.ctx.Done():
			return
		}
	}
}

// runs is the processor time the child's threads have had, and whether one of them
// could use more now (proc_pid_stat(5)).
func (p *Process) runs() (had time.Duration, wants bool) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, false
	}
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may hold anything.
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(f) < 13 {
			continue
		}
		wants = wants || f[0] == "R"
		for _, ticks := range f[11:13] {
			if n, err := strconv.ParseInt(ticks, 10, 64); err == nil {
				had += time.Duration(n) * time.Second / 100
			}
		}
	}
	return had, wants
}

// readProgress reads ffmpeg's key=value reports; only a change counts as progress.
func (p *Process) readProgress(report func(Progress)) {
	var now, last Progress
	s := bufio.NewScanner(p.progress)
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), "=")
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		switch {
		case key == "progress":
			if now != last {
				last = now
				p.touch()
				if report != nil {
					report(now)
				}
			}
		case err != nil:
		case key == "frame":
			now.Frames = n
		case key == "out_time_us":
			now.Time = time.Duration(n) * time.Microsecond
		}
	}
}

// Output is the i-th pipe, for one reader. Data from it counts as progress.
func (p *Process) Output(i int) io.Reader { return &activeReader{r: p.outputs[i], p: p} }

type activeReader struct {
	r     io.Reader
	p     *Process
	ended bool
}

func (a *activeReader) Read(b []byte) (int, error) {
	if a.ended {
		return 0, io.EOF
	}
	a.p.waiting.Add(1)
	n, err := a.r.Read(b)
	if n > 0 {
		a.p.touch()
	}
	if err != nil {
		a.ended = true
		return n, err
	}
	a.p.waiting.Add(-1)
	return n, nil
}

// Yield sets the niceness of all the child's threads to what a new child with
// Limits.Nice would have.
func (p *Process) Yield(nice int) error {
	select {
	case <-p.done:
		return nil // its id may be another's
	default:
	}
	// What getpriority(2) returns is 20 minus the niceness.
	own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	if err != nil {
		return fmt.Errorf("%s: own niceness: %w", p.name, err)
	}
	// Niceness is a thread's own (sched(7)); a thread that begins has its creator's.
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: threads: %w", p.name, err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err == nil {
			err = syscall.Setpriority(syscall.PRIO_PROCESS, id, min(20-own+nice, 19))
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) { // it has ended
			return fmt.Errorf("%s: niceness %d: %w", p.name, nice, err)
		}
	}
	return nil
}

// CPU is the processor time of a child that has been waited for, and of what it waited
// for itself.
func (p *Process) CPU() time.Duration {
	s := p.cmd.ProcessState
	return s.UserTime() + s.SystemTime()
}

// Kill ends the child; Wait then returns an *Error that wraps cause.
func (p *Process) Kill(cause error) { p.cancel(cause) }

// Wait returns when the child has ended and everything of it is released.
func (p *Process) Wait() error {
	err := p.cmd.Wait()
	p.release()
	close(p.done)
	if p.wall != nil {
		p.wall.Stop()
	}
	// The group may outlive its leader.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.watchers.Wait()
	for _, f := range append(p.outputs, p.progress) {
		_ = f.Close()
	}
	cause := context.Cause(p.ctx)
	p.cancel(nil)
	if err == nil {
		return nil
	}
	e := &Error{Name: p.name, Reason: ReasonExit, Log: p.log.String(), Err: err}
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch lacked := p.log.lacked(); {
	case errors.Is(cause, errWall):
		e.Reason, e.Err = ReasonWall, cause
	case errors.Is(cause, errIdle):
		e.Reason, e.Err = ReasonIdle, cause
	case lacked != "":
		e.Reason, e.Err = lacked, cmp.Or(cause, err)
	case cause != nil:
		e.Reason, e.Err = ReasonCancelled, cause
	case status.Signaled() && status.Signal() == syscall.SIGKILL:
		e.Reason = ReasonMemory // none but the kernel does that
	case status.Signaled() && status.Signal() == syscall.SIGXFSZ:
		e.Reason = ReasonDisk
	}
	return e
}

// Lacked is an *Error if the child said that it didn't get the memory or disk it asked for,
// however it ended: a decoder then leaves frames out as if they were damaged.
func (p *Process) Lacked() error {
	reason := p.log.lacked()
	if reason == "" {
		return nil
	}
	return &Error{Name: p.name, Reason: reason, Log: p.log.String()}
}

// Run runs the command and returns its only output, of at most limit bytes.
func Run(ctx context.Context, c Command, limit int64) ([]byte, error) {
	c.Outputs = 1
	out, err := RunAll(ctx, c, limit)
	if out == nil {
		return nil, err
	}
	return out[0], err
}

// RunAll runs the command and returns its outputs, of at most limit bytes each.
func RunAll(ctx context.Context, c Command, limit int64) ([][]byte, error) {
	p, err := Start(ctx, c)
	if err != nil {
		return nil, err
	}
	out := make([][]byte, c.Outputs)
	var readers errgroup.Group
	for i := range out {
		readers.Go(func() (err error) {
			out[i], err = io.ReadAll(io.LimitReader(p.Output(i), limit+1))
			if int64(len(out[i])) > limit {
				err = fmt.Errorf("%s wrote more than %d bytes: %w", c.Name, limit, ErrTooMuch)
				p.Kill(err)
			}
			return err
		})
	}
	rerr := readers.Wait()
	return out, errors.Join(rerr, p.Wait())
}

// ErrTooMuch is an output that is longer than allowed.
var ErrTooMuch = errors.New("more output than allowed")

// tail keeps the end of a log, and what all of it said was lacking.
type tail struct {
	mu   sync.Mutex
	b    []byte
	lack string
	// sized says that a picture's size was refused, which looks like a lack.
	sized bool
}

const tailBytes = 4 << 10

// complaints are how ffmpeg, x264 and the dynamic linker say that they lack something.
var complaints = []struct{ text, reason string }{
	{"No space left on device", ReasonDisk},
	{"Disk quota exceeded", ReasonDisk},
	{"File too large", ReasonDisk},
	{"Cannot allocate memory", ReasonMemory},
	{"malloc of size", ReasonMemory},
	{"failed to map segment", ReasonMemory},
	{"Resource temporarily unavailable", ReasonMemory}, // for a thread
	{getBuffer, ReasonMemory},
}

const getBuffer = "get_buffer() failed"

// longestComplaint is how much of what came before may belong to one.
const longestComplaint = 32

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fresh := max(0, len(t.b)-longestComplaint)
	t.b = append(t.b, p...)
	t.sized = t.sized || bytes.Contains(t.b[fresh:], []byte("Picture size"))
	for _, c := range complaints {
		if t.lack == "" && bytes.Contains(t.b[fresh:], []byte(c.text)) && !(t.sized && c.text == getBuffer) {
			t.lack = c.reason
		}
	}
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) lacked() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lack
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(t.b)), "")
}
