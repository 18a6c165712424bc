package supervise

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

const childEnv = "SUPERVISE_TEST_CHILD"

func TestMain(m *testing.M) {
	if mark := os.Getenv(childEnv); mark != "" {
		child(mark)
	}
	goleak.VerifyTestMain(m)
}

type recorder struct {
	mu     sync.Mutex
	events []Event
}

func (r *recorder) report(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) states() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []State
	for _, e := range r.events {
		out = append(out, e.State)
	}
	return out
}

func newTest(t *testing.T) (*Supervisor, *recorder, string) {
	dir, rec := t.TempDir(), &recorder{}
	s, healed, err := New(Options{Mark: dir, Report: rec.report})
	require.NoError(t, err)
	require.Zero(t, healed)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		requireNone(t, dir)
	})
	return s, rec, dir
}

func requireNone(t *testing.T, mark string) {
	t.Helper()
	left, err := withDescendants(func(pid int) bool { return hasEnv(pid, markVar+"="+mark) })
	require.NoError(t, err)
	require.Empty(t, left, "processes are left")
}

func exists(path string) func(context.Context) error {
	return func(context.Context) error { _, err := os.Stat(path); return err }
}

func alive(pid int) bool {
	p, ok := statOf(pid)
	return ok && p.Alive()
}

func readPID(t *testing.T, path string) int {
	t.Helper()
	var pid int
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return pid
}

func TestReadyStopAndLog(t *testing.T) {
	s, rec, dir := newTest(t)
	up := filepath.Join(dir, "up")
	p, err := s.Group("eu").Start(Spec{Name: "a", Log: filepath.Join(dir, "a.log"), Ready: exists(up),
		Argv: []string{"/bin/sh", "-c", `trap 'echo bye; exit 0' TERM; echo hello; touch ` + up + `; while :; do sleep 0.02; done`}})
	require.NoError(t, err)
	require.NoError(t, p.WaitReady(t.Context()))
	s.Group("eu").Stop("a", "unknown")
	require.Equal(t, []State{Ready, Stopped}, rec.states())
	require.Equal(t, "hello\nbye\n", Tail(filepath.Join(dir, "a.log")))
	require.ErrorContains(t, p.WaitReady(t.Context()), "was stopped")
}

func TestCrashIsRestartedAndSaid(t *testing.T) {
	s, rec, dir := newTest(t)
	p, err := s.Group("eu").Start(Spec{Name: "a", Log: filepath.Join(dir, "a.log"), Argv: []string{"/bin/sleep", "1000"}})
	require.NoError(t, err)
	require.NoError(t, p.WaitReady(t.Context()))
	first := p.Status().PID
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	require.Eventually(t, func() bool { st := p.Status(); return st.State == Ready && st.PID != first },
		5*time.Second, 10*time.Millisecond)
	require.Equal(t, 1, p.Status().Restarts)
	require.Equal(t, []State{Ready, Waiting, Ready}, rec.states())
	require.Contains(t, rec.events[1].Problem, "killed")
	require.True(t, rec.events[2].Again)
}

func TestStartsAfterWhatItNeeds(t *testing.T) {
	s, rec, dir := newTest(t)
	there := filepath.Join(dir, "there")
	p, err := s.Group("eu").Start(Spec{Name: "a", Log: filepath.Join(dir, "a.log"), Argv: []string{"/bin/sleep", "1000"}, After: exists(there)})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(p.Status().Problem, "there") }, 5*time.Second, 10*time.Millisecond)
	require.Equal(t, Starting, p.Status().State)
	require.Zero(t, p.Status().PID)
	require.NoError(t, os.WriteFile(there, nil, 0o600))
	require.NoError(t, p.WaitReady(t.Context()))

	waiting, err := s.Group("eu").Start(Spec{Name: "b", Log: filepath.Join(dir, "b.log"), Argv: []string{"/bin/false"},
		After: exists(filepath.Join(dir, "never"))})
	require.NoError(t, err)
	waiting.Stop()
	require.Equal(t, Stopped, waiting.Status().State)
	require.Zero(t, waiting.Status().Restarts)
	require.Equal(t, []State{Ready, Stopped}, rec.states())
}

func TestWaitReadyGivesUpOnACrashLoop(t *testing.T) {
	s, _, dir := newTest(t)
	p, err := s.Group("eu").Start(Spec{Name: "a", Log: filepath.Join(dir, "a.log"),
		Ready: func(context.Context) error { return errors.New("not yet") },
		Argv:  []string{"/bin/sh", "-c", "echo no such setting; exit 3"}})
	require.NoError(t, err)
	err = p.WaitReady(t.Context())
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "no such setting")
}

func TestWaitReadySaysWhyNot(t *testing.T) {
	s, _, dir := newTest(t)
	p, err := s.Group("eu").Start(Spec{Name: "a", Log: filepath.Join(dir, "a.log"), Argv: []string{"/bin/sleep", "1000"},
		Ready: func(context.Context) error { return errors.New("no leader") }})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // it is asked at least once
	defer cancel()
	require.ErrorContains(t, p.WaitReady(ctx), "no leader")
}

func TestStopKillsAfterGraceAlsoAStoppedProcess(t *testing.T) {
	s, _, dir := newTest(t)
	g := s.Group("eu")
	p, err := g.Start(Spec{Name: "deaf", Log: filepath.Join(dir, "a.log"), Grace: 100 * time.Millisecond,
		Argv: []string{"/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.02; done"}})
	require.NoError(t, err)
	require.NoError(t, p.WaitReady(t.Context()))
	pid := p.Status().PID
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	p.Stop()
	require.False(t, alive(pid))
}

// daemon is a shell that leaves a process in a session of its own, as PostgreSQL does.
func daemon(pidFile string) []string {
	return []string{"/bin/sh", "-c", `setsid sh -c 'echo $$ >` + pidFile + `.tmp; mv ` + pidFile + `.tmp ` + pidFile + `; exec sleep 1000' & wait`}
}

func TestKillTakesWhatLeftTheProcessGroup(t *testing.T) {
	s, _, dir := newTest(t)
	file := filepath.Join(dir, "pid")
	other, err := s.Group("us").Start(Spec{Name: "a", Log: filepath.Join(dir, "b.log"), Argv: []string{"/bin/sleep", "1000"}})
	require.NoError(t, err)
	p, err := s.Group("eu").Start(Spec{Name: "a", Log: filepath.Join(dir, "a.log"), Argv: daemon(file)})
	require.NoError(t, err)
	orphan := readPID(t, file)
	// Its parent dies first: it becomes the supervisor's.
	require.NoError(t, syscall.Kill(p.Status().PID, syscall.SIGKILL))
	require.NoError(t, s.Group("eu").Kill())
	require.False(t, alive(orphan))
	require.Equal(t, Stopped, p.Status().State)
	require.NoError(t, other.WaitReady(t.Context()))
	require.True(t, alive(other.Status().PID), "another group was hit")
}

func TestHangStopsAllAndRestartsNothing(t *testing.T) {
	s, rec, dir := newTest(t)
	g, file := s.Group("eu"), filepath.Join(dir, "pid")
	p, err := g.Start(Spec{Name: "a", Log: filepath.Join(dir, "a.log"), Argv: daemon(file)})
	require.NoError(t, err)
	crashing, err := g.Start(Spec{Name: "b", Log: filepath.Join(dir, "b.log"), Argv: []string{"/bin/false"},
		Ready: func(context.Context) error { return errors.New("never") }})
	require.NoError(t, err)
	pids := []int{readPID(t, file), p.Status().PID}
	require.Eventually(t, func() bool { return crashing.Status().State == Waiting }, 5*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, g.Hang(ctx))
	procs, err := Procs()
	require.NoError(t, err)
	stands := 0
	for _, q := range procs {
		if slices.Contains(pids, q.PID) {
			require.Equal(t, "T", string(q.State))
			stands++
		}
	}
	require.Equal(t, len(pids), stands)
	before := len(rec.states())
	time.Sleep(3 * firstBackoff)
	require.Len(t, rec.states(), before, "a hung group must restart nothing")
	require.NoError(t, g.Resume())
	require.Eventually(t, func() bool { return len(rec.states()) > before }, 5*time.Second, time.Millisecond)
	require.NoError(t, g.Hang(ctx))
	require.NoError(t, g.Kill())
	require.False(t, alive(pids[0]) || alive(pids[1]))
}

// TestTreesAreHitWhole: a process and what it started in a session of its own hang,
// go on and end together, and nothing else does.
func TestTreesAreHitWhole(t *testing.T) {
	s, _, dir := newTest(t)
	g, file := s.Group("eu"), filepath.Join(dir, "pid")
	other, err := g.Start(Spec{Name: "b", Log: filepath.Join(dir, "b.log"), Argv: []string{"/bin/sleep", "1000"}})
	require.NoError(t, err)
	require.NoError(t, other.WaitReady(t.Context()))
	p, err := g.Start(Spec{Name: "a", Log: filepath.Join(dir, "a.log"), Argv: daemon(file)})
	require.NoError(t, err)
	below, pid := readPID(t, file), p.Status().PID
	stands := Stands
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, HangTree(ctx, pid, nil))
	require.True(t, stands(pid) && stands(below))
	require.NoError(t, ResumeTree(pid, nil))
	require.False(t, stands(pid) || stands(below))
	apart := func(p int) bool { return p == other.Status().PID }
	require.NoError(t, HangTree(ctx, pid, apart))
	require.True(t, stands(pid) && stands(below) && stands(other.Status().PID))
	require.NoError(t, ResumeTree(pid, apart))
	require.False(t, stands(pid) || stands(below) || stands(other.Status().PID))
	require.NoError(t, KillTree(ctx, pid, nil))
	require.Eventually(t, func() bool { return !alive(pid) && !alive(below) }, 5*time.Second, time.Millisecond)
	require.True(t, alive(other.Status().PID) && !stands(other.Status().PID), "another process was hit")
	require.ErrorIs(t, HangTree(ctx, below, nil), syscall.ESRCH)
}

// child is a supervisor in a process of its own, for tests which kill it.
func child(mark string) {
	s, healed, err := New(Options{Mark: mark})
	if err != nil {
		panic(err)
	}
	p, err := s.Group("eu").Start(Spec{Name: "a", Log: filepath.Join(mark, "a.log"), Argv: daemon(filepath.Join(mark, "pid"))})
	if err != nil {
		panic(err)
	}
	if err := p.WaitReady(context.Background()); err != nil {
		panic(err)
	}
	fmt.Println(healed, p.Status().PID, s.guard.Process.Pid)
	select {}
}

func startChild(t *testing.T, mark string) (cmd *exec.Cmd, healed, pid, guard int) {
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+mark)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	_, err = fmt.Sscan(line, &healed, &pid, &guard)
	require.NoError(t, err)
	return cmd, healed, pid, guard
}

func TestNothingOutlivesAKilledSupervisor(t *testing.T) {
	mark := t.TempDir()
	cmd, _, pid, _ := startChild(t, mark)
	orphan := readPID(t, filepath.Join(mark, "pid"))
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return !alive(pid) && !alive(orphan) }, 10*time.Second, 10*time.Millisecond)
	requireNone(t, mark)
}

func TestNextSupervisorHealsWhenTheGuardDiedToo(t *testing.T) {
	mark := t.TempDir()
	cmd, _, _, guard := startChild(t, mark)
	orphan := readPID(t, filepath.Join(mark, "pid"))
	require.NoError(t, syscall.Kill(guard, syscall.SIGKILL))
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.True(t, alive(orphan), "the test needs a process that is left")
	s, healed, err := New(Options{Mark: mark})
	require.NoError(t, err)
	require.Equal(t, 1, healed)
	require.False(t, alive(orphan))
	require.NoError(t, s.Close())
}

func TestLogsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	l, err := openLog(path)
	require.NoError(t, err)
	block := make([]byte, 1<<20)
	for range 20 {
		_, err := l.Write(block)
		require.NoError(t, err)
	}
	require.NoError(t, l.Close())
	for _, f := range []string{path, path + ".1"} {
		info, err := os.Stat(f)
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size(), int64(maxLogBytes))
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a) b) S 7 12 12 0"))
	f.Add([]byte("12 (a"))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(1, b) })
}

func TestParseStat(t *testing.T) {
	p, ok := parseStat(12, []byte("12 (a) Z 1) S 7 12 12 0 -1 4194304"))
	require.True(t, ok)
	require.Equal(t, Proc{PID: 12, Parent: 7, State: 'S'}, p)
	require.True(t, p.Alive())
}
