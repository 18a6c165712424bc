package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// programEnv makes the test binary a program whose command ends late.
const programEnv = "CLI_TEST_PROGRAM"

type lingering struct{}

func (*lingering) Run(ctx context.Context) error {
	fmt.Println("begun")
	<-ctx.Done()
	fmt.Println("ending")
	time.Sleep(time.Minute)
	return nil
}

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) != "" {
		os.Exit(Main(os.Args[1:], &struct {
			Linger lingering `cmd:""`
		}{}))
	}
	os.Exit(m.Run())
}

// program runs a shell command with the program as $0, and returns it once it has begun.
func program(t *testing.T, shell string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", shell, os.Args[0])
	cmd.Env = append(os.Environ(), programEnv+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	says(t, lines, "begun")
	return cmd, lines
}

func says(t *testing.T, lines *bufio.Scanner, want string) {
	t.Helper()
	require.True(t, lines.Scan(), "it ended: %v", lines.Err())
	require.Equal(t, want, lines.Text())
}

func TestTheFirstSignalDrainsAndTheSecondExits(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		cmd, lines := program(t, `exec "$0" linger`)
		require.NoError(t, cmd.Process.Signal(sig))
		says(t, lines, "ending")
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		require.Equal(t, 130, exit.ExitCode(), "after %s", sig)
	}
}

// Whoever starts a command with nohup may leave.
func TestATerminalThatGoes(t *testing.T) {
	cmd, lines := program(t, `trap "" HUP; exec "$0" linger`)
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	says(t, lines, "ending")
	ended := make(chan bool, 1)
	go func() { ended <- lines.Scan() }()
	select {
	case <-ended:
		t.Error("SIGHUP counted: SIGTERM was the second signal")
	case <-time.After(time.Second):
	}
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
}
