package ffmpeg

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("MERIDIAN_TEST_HOLD_CHILD") != "" {
		holdChild()
		return
	}
	goleak.VerifyTestMain(m)
}

// holdChild is another process: it starts a child and waits to be killed.
func holdChild() {
	p, err := Start(context.Background(), Command{Name: "sleep", Args: []string{"600"}})
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString(strconv.Itoa(p.cmd.Process.Pid) + "\n")
	_ = p.Wait()
}

// TestChildDiesWithItsWorker, also when the worker is killed.
func TestChildDiesWithItsWorker(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "MERIDIAN_TEST_HOLD_CHILD=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return gone(pid) }, 20*time.Second, 5*time.Millisecond, "the child lives on")
}

// gone reports whether a process has ended, reaped or not.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func sh(script string) []string { return []string{"-c", script} }

func TestRunReturnsOutput(t *testing.T) {
	b, err := Run(t.Context(), Command{Name: "sh", Args: sh("echo hello >&4")}, 100)
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(b))
}

func TestRunBoundsOutput(t *testing.T) {
	_, err := Run(t.Context(), Command{Name: "sh", Args: sh("while :; do echo yyyyyyyyyyyyyyyy >&4; done")}, 1000)
	require.ErrorContains(t, err, "more than 1000 bytes")
}

func TestErrorKeepsTheLogsEnd(t *testing.T) {
	_, err := Run(t.Context(), Command{Name: "sh", Args: sh("i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done; exit 3")}, 10)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, ReasonExit, e.Reason)
	require.True(t, strings.HasSuffix(e.Log, "line 2999"), e.Log)
	require.LessOrEqual(t, len(e.Log), tailBytes)
}

func TestMissingProgram(t *testing.T) {
	_, err := Start(t.Context(), Command{Name: "no-such-program"})
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, ReasonStart, e.Reason)
}

// TestCancelEndsTheGroup: what the child started dies with it, at once.
func TestCancelEndsTheGroup(t *testing.T) {
	// Whoever outlives the child holds its log open, which costs a second at least. On a
	// busy machine the best of a few.
	least := time.Hour
	for i := 0; i < 5 && least >= time.Second; i++ {
		least = min(least, cancelled(t))
	}
	require.Less(t, least, time.Second)
}

// cancelled starts a child with a child of its own, cancels it and returns how long
// that took.
func cancelled(t *testing.T) time.Duration {
	t.Helper()
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancelCause(t.Context())
	p, err := Start(ctx, Command{Name: "sh", Args: sh("sleep 600 & echo $! > " + pidFile + "; echo up >&4; wait"), Outputs: 1})
	require.NoError(t, err)
	buf := make([]byte, 8)
	_, err = p.Output(0).Read(buf)
	require.NoError(t, err)
	b, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)

	stop := errors.New("task cancelled")
	start := time.Now()
	cancel(stop)
	err = p.Wait()
	took := time.Since(start)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, ReasonCancelled, e.Reason)
	require.ErrorIs(t, err, stop)
	require.Eventually(t, func() bool { return gone(pid) }, 20*time.Second, 5*time.Millisecond, "the grandchild lives on")
	return took
}

func TestDeadlines(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		limits Limits
		reason string
	}{
		"wall": {"while :; do echo x >&4; sleep 0.01; done", Limits{Wall: 300 * time.Millisecond, Idle: time.Minute}, ReasonWall},
		"idle": {"echo x >&4; sleep 600", Limits{Wall: time.Minute, Idle: 300 * time.Millisecond}, ReasonIdle},
		"reports without progress": {"while :; do echo frame=1 >&3; echo progress=continue >&3; sleep 0.02; done",
			Limits{Wall: time.Minute, Idle: 300 * time.Millisecond}, ReasonIdle},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Start(t.Context(), Command{Name: "sh", Args: sh(c.script), Outputs: 1, Limits: c.limits})
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, p.Output(0))
			require.NoError(t, err)
			var e *Error
			require.ErrorAs(t, p.Wait(), &e)
			require.Equal(t, c.reason, e.Reason)
		})
	}
}

// TestBusyReaderIsNotIdleness: a child that waits for its reader isn't stuck.
func TestBusyReaderIsNotIdleness(t *testing.T) {
	p, err := Start(t.Context(), Command{Name: "sh", Args: sh("echo one >&4; echo two >&4"), Outputs: 1,
		Limits: Limits{Wall: time.Minute, Idle: 200 * time.Millisecond}})
	require.NoError(t, err)
	time.Sleep(600 * time.Millisecond) // the reader's own pause is what is tested
	b, err := io.ReadAll(p.Output(0))
	require.NoError(t, err)
	require.NoError(t, p.Wait())
	require.Equal(t, "one\ntwo\n", string(b))
}

// A child that others leave no processor isn't idle. Its own deadline ends it.
func TestWaitingForAProcessorIsNotIdleness(t *testing.T) {
	const forever = "while :; do :; done"
	for range 8 * runtime.NumCPU() {
		other := exec.CommandContext(t.Context(), "sh", "-c", forever)
		require.NoError(t, other.Start())
		defer func() { require.Error(t, other.Wait()) }()
		defer func() { require.NoError(t, other.Process.Kill()) }()
	}
	p, err := Start(t.Context(), Command{Name: "sh", Args: []string{"-c", forever}, Limits: Limits{Wall: 3 * time.Second, Idle: time.Second}})
	require.NoError(t, err)
	var ended *Error
	require.ErrorAs(t, p.Wait(), &ended)
	require.Equal(t, ReasonWall, ended.Reason)
}

// A child that doesn't get what it asks for says so, or is ended for it; what it was told
// to end for is still known.
func TestLacks(t *testing.T) {
	for name, c := range map[string]struct {
		script, reason string
		limits         Limits
	}{
		"disk":          {script: "echo 'Error writing trailer of x: No space left on device' >&2; exit 1", reason: ReasonDisk},
		"memory":        {script: "printf 'x264 [error]: malloc ' >&2; sleep 0.05; echo 'of size 74304 failed' >&2; i=0; while [ $i -lt 2000 ]; do echo no frame! >&2; i=$((i+1)); done; exit 1", reason: ReasonMemory},
		"decoder":       {script: "echo 'get_buffer() failed' >&2; exit 1", reason: ReasonMemory},
		"too large":     {script: "echo 'Picture size 30000x30000 is invalid' >&2; echo 'get_buffer() failed' >&2; exit 1", reason: ReasonExit},
		"killed":        {script: "kill -KILL $$", reason: ReasonMemory},
		"file too long": {script: "exec dd if=/dev/zero bs=64k count=4 of=" + filepath.Join(t.TempDir(), "file"), limits: Limits{FileSize: 100_000}, reason: ReasonDisk},
		"crashed":       {script: "kill -SEGV $$", reason: ReasonExit},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Start(t.Context(), Command{Name: "sh", Args: sh(c.script), Limits: c.limits})
			require.NoError(t, err)
			var e *Error
			require.ErrorAs(t, p.Wait(), &e)
			require.Equal(t, c.reason, e.Reason, e.Log)
		})
	}
	p, err := Start(t.Context(), Command{Name: "sh", Args: sh("echo 'No space left on device' >&2")})
	require.NoError(t, err)
	require.NoError(t, p.Wait())
	var e *Error
	require.ErrorAs(t, p.Lacked(), &e)
	require.Equal(t, ReasonDisk, e.Reason)

	p, err = Start(t.Context(), Command{Name: "sh", Args: sh("echo 'Cannot allocate memory' >&2; echo up >&4; exec sleep 60"), Outputs: 1})
	require.NoError(t, err)
	_, err = io.ReadFull(p.Output(0), make([]byte, 3))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return p.Lacked() != nil }, 10*time.Second, time.Millisecond)
	stop := errors.New("the reader has failed")
	p.Kill(stop)
	err = p.Wait()
	require.ErrorIs(t, err, stop)
	require.ErrorAs(t, err, &e)
	require.Equal(t, ReasonMemory, e.Reason)
}

func TestProgress(t *testing.T) {
	var got []Progress
	p, err := Start(t.Context(), Command{Name: "sh", Args: sh(
		"printf 'frame=10\\nout_time_us=400000\\nprogress=continue\\nframe=10\\nout_time_us=400000\\nprogress=continue\\nframe=25\\nspeed=1x\\nprogress=end\\n' >&3"),
		OnProgress: func(p Progress) { got = append(got, p) }})
	require.NoError(t, err)
	require.NoError(t, p.Wait())
	require.Equal(t, []Progress{{10, 400 * time.Millisecond}, {25, 400 * time.Millisecond}}, got)
}

func TestLimitsAreSet(t *testing.T) {
	p, err := Start(t.Context(), Command{Name: "sh", Args: sh("cat /proc/self/limits >&4; nice >&5"), Outputs: 2,
		Limits: Limits{Nice: 3, AddressSpace: 1 << 30, FileSize: 12345 << 10}})
	require.NoError(t, err)
	limits, err := io.ReadAll(p.Output(0))
	require.NoError(t, err)
	nice := number(t, p.Output(1))
	require.NoError(t, p.Wait())
	require.Regexp(t, `Max address space\s+1073741824`, string(limits))
	require.Regexp(t, `Max file size\s+12641280`, string(limits))
	require.Regexp(t, `Max core file size\s+0`, string(limits))
	own, err := exec.Command("nice").Output()
	require.NoError(t, err)
	require.Equal(t, min(number(t, bytes.NewReader(own))+3, 19), nice)
}

func TestBackground(t *testing.T) {
	p, err := Start(t.Context(), Command{Name: "sh", Args: sh("cut -d ' ' -f 41 /proc/self/stat >&4; nice >&5"), Outputs: 2, Limits: Limits{Background: true, Nice: 3}})
	require.NoError(t, err)
	policy, nice := number(t, p.Output(0)), number(t, p.Output(1))
	require.NoError(t, p.Wait())
	require.Equal(t, 19, nice)
	require.Equal(t, 5, policy) // SCHED_IDLE, see proc(5)
}

func number(t *testing.T, r io.Reader) int {
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	return n
}

func TestYieldLowersWhatRuns(t *testing.T) {
	p, err := Start(t.Context(), Command{Name: "ffmpeg", Outputs: 1, Limits: Limits{Nice: 1}, Args: []string{"-v", "error", "-nostdin", "-re",
		"-f", "lavfi", "-i", "testsrc2=d=60", "-c:v", "libx264", "-threads", "4", "-tune", "zerolatency", "-f", "mpegts", OutputPath(0)}})
	require.NoError(t, err)
	defer func() {
		p.Kill(errors.New("the test ends"))
		require.Error(t, p.Wait())
		require.Positive(t, p.CPU())
		require.NoError(t, p.Yield(7), "it has ended")
	}()
	// It plays, so it is ffmpeg that runs, no longer what set its limits.
	_, err = io.ReadFull(p.Output(0), make([]byte, 1))
	require.NoError(t, err)
	own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	require.NoError(t, err)
	require.NoError(t, p.Yield(6))
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.cmd.Process.Pid))
	require.NoError(t, err)
	require.Greater(t, len(threads), 4)
	for _, thread := range threads {
		id, err := strconv.Atoi(filepath.Base(thread))
		require.NoError(t, err)
		got, err := syscall.Getpriority(syscall.PRIO_PROCESS, id)
		require.NoError(t, err)
		require.Equal(t, min(20-own+6, 19), 20-got, "thread %d", id)
	}
}

func TestBuild(t *testing.T) {
	build, err := Build(t.Context(), Limits{Wall: time.Minute, Idle: 30 * time.Second})
	require.NoError(t, err)
	require.Regexp(t, `^ffmpeg \S.*, x264 \d+ r\d+`, build)
	again, err := Build(t.Context(), Limits{Wall: time.Minute, Idle: 30 * time.Second})
	require.NoError(t, err)
	require.Equal(t, build, again)
}
