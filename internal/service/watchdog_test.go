package service

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// watchedEnv makes the test's own binary a process with a watchdog of so much patience.
const watchedEnv = "MERIDIAN_TEST_WATCHED"

// watched lives with a watchdog and says so, then without one and says so.
func watched(patience time.Duration) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- watch(ctx, patience) }()
	// Far longer than it could live if nobody put its end off.
	time.Sleep(3 * patience)
	os.Stdout.WriteString("watched\n")
	var more [1]byte
	if _, err := os.Stdin.Read(more[:]); err != nil {
		return err
	}
	stop()
	if err := <-ended; err != nil {
		return err
	}
	os.Stdout.WriteString("unwatched\n")
	_, err := os.Stdin.Read(more[:])
	return err
}

// TestWatchdog: a process that works lives on, one that is stopped is ended by the
// kernel, and without a watchdog it stays.
func TestWatchdog(t *testing.T) {
	const patience = 2 * leastPatience // a busy machine may need the least
	start := func(t *testing.T) (cmd *exec.Cmd, said func() string, tell func()) {
		t.Helper()
		cmd = exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), watchedEnv+"="+patience.String())
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		said = func() string { require.True(t, lines.Scan()); return lines.Text() }
		return cmd, said, func() { _, err := in.Write([]byte{0}); require.NoError(t, err) }
	}
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		cmd, said, _ := start(t)
		require.Equal(t, "watched", said())
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		begun := time.Now()
		err := cmd.Wait()
		require.Less(t, time.Since(begun), 20*patience)
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
	})
	t.Run("stopped without", func(t *testing.T) {
		t.Parallel()
		cmd, said, tell := start(t)
		require.Equal(t, "watched", said())
		tell()
		require.Equal(t, "unwatched", said())
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		time.Sleep(3 * patience)
		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		tell()
		require.NoError(t, cmd.Wait())
	})
}

func TestWatchdogSettings(t *testing.T) {
	require.NoError(t, Watchdog{}.Validate())
	require.NoError(t, Watchdog{Patience: time.Second}.Validate())
	require.ErrorContains(t, Watchdog{Patience: time.Millisecond}.Validate(), "--watchdog 1ms: want 0 or at least 1s")
}
