package proc

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTree(t *testing.T) {
	// A shell with a child, which says that both run.
	cmd := exec.Command("sh", "-c", "(echo started; read -r _); true")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 8))
	require.NoError(t, err)

	all, err := Tree(cmd.Process.Pid)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, os.Getpid(), all[0].Parent)
	require.Equal(t, all[0].PID, all[1].Parent)
	require.Equal(t, "sh", all[0].Name)
	both, err := Memory(cmd.Process.Pid)
	require.NoError(t, err)
	one, err := Memory(all[1].PID)
	require.NoError(t, err)
	require.Positive(t, one)
	require.Greater(t, both, one)

	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	_, err = Tree(cmd.Process.Pid)
	require.Error(t, err)
	_, err = CPU(cmd.Process.Pid)
	require.Error(t, err)
	_, err = Memory(cmd.Process.Pid)
	require.Error(t, err)
}

func TestCPU(t *testing.T) {
	before, err := CPU(os.Getpid())
	require.NoError(t, err)
	for began := time.Now(); time.Since(began) < 30*time.Second; {
		after, err := CPU(os.Getpid())
		require.NoError(t, err)
		if after-before >= 2*Tick {
			return
		}
	}
	t.Fatal("what this test does costs nothing")
}

func TestParse(t *testing.T) {
	p, err := parse([]byte("42 (a) (b c) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 1000 200 20 0 1 0 9 9 9\n"))
	require.NoError(t, err)
	require.Equal(t, Process{PID: 42, Parent: 7, Name: "a) (b c", CPU: 2 * time.Second, Ended: 12 * time.Second}, p)
	for _, bad := range []string{"", "42", "42 (a) S 7", "x (a) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 1000 200 20", "42 (a) S 7 42 42 0 -1 4194560 1 2 3 4 150 x 1000 200 20"} {
		_, err := parse([]byte(bad))
		require.Error(t, err, bad)
	}
	_, err = pss([]byte("Rss: 5 kB\n"))
	require.Error(t, err)
	n, err := pss([]byte("559c-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  912 kB\nPss:  88 kB\nPss_Anon: 80 kB\n"))
	require.NoError(t, err)
	require.EqualValues(t, 88<<10, n)
}
