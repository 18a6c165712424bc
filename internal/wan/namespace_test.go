package wan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestNamespaceIsEmptyAndItsOwn(t *testing.T) {
	needRoot(t)
	ns, err := NewNamespace()
	require.NoError(t, err)
	out, err := ns.Command(within(t, 5*time.Second), "cat", "/proc/self/net/dev").Output()
	require.NoError(t, err)
	devices := 0
	for _, line := range strings.Split(string(out), "\n") {
		if name, _, ok := strings.Cut(line, ":"); ok {
			devices++
			require.NotContains(t, []string{"eth0", "wan0"}, strings.TrimSpace(name))
		}
	}
	require.Positive(t, devices, "the loopback")
	l, err := ns.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c, err := ns.DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err, "loopback inside")
	require.NoError(t, c.Close())
	require.NoError(t, l.Close())
	require.NoError(t, ns.Close())
	require.NoError(t, ns.Close(), "again")

	require.ErrorIs(t, ns.Do(func() error { return nil }), ErrClosed)
	require.ErrorIs(t, ns.Command(t.Context(), "true").Run(), ErrClosed)
	requireNamespaceGone(t, ns.link)
}

// requireNamespaceGone fails if a process, or a thread or descriptor of this one,
// still refers to the namespace. The kernel ends a thread after its goroutine.
func requireNamespaceGone(t *testing.T, link string) {
	t.Helper()
	require.Eventually(t, func() bool {
		var paths []string
		for _, glob := range []string{"/proc/[0-9]*/ns/net", "/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
			found, err := filepath.Glob(glob)
			require.NoError(t, err)
			paths = append(paths, found...)
		}
		for _, p := range paths {
			if target, err := os.Readlink(p); err == nil && target == link {
				return false
			}
		}
		return true
	}, 5*time.Second, 20*time.Millisecond, "namespace %s still in use", link)
}

func TestDialWantsAddresses(t *testing.T) {
	needRoot(t)
	ns, err := NewNamespace()
	require.NoError(t, err)
	defer func() { require.NoError(t, ns.Close()) }()
	_, err = ns.DialContext(t.Context(), "tcp", "localhost:80")
	require.ErrorContains(t, err, "want IP:port")
	_, err = ns.DialFrom(netip.MustParseAddr("127.0.0.2"))(t.Context(), "ip4:icmp", "127.0.0.1:1")
	require.ErrorContains(t, err, "no source address")
}

func TestOpenedNamespaceIsNotOurs(t *testing.T) {
	needRoot(t)
	made, err := NewNamespace()
	require.NoError(t, err)
	path := fmt.Sprintf("/proc/self/fd/%d", made.ns.Fd())
	opened, err := OpenNamespace(path)
	require.NoError(t, err)
	require.Equal(t, made.link, opened.link)
	require.ErrorIs(t, opened.Kill(t.Context()), ErrNotOwned)
	require.ErrorIs(t, opened.Hang(t.Context()), ErrNotOwned)
	require.ErrorIs(t, opened.Resume(), ErrNotOwned)
	require.NoError(t, opened.Close())
	require.NoError(t, made.Close())
	_, err = OpenNamespace("/proc/self/ns/uts")
	require.Error(t, err)
}

func TestExplainNamesTheRemedy(t *testing.T) {
	require.ErrorIs(t, explain(os.NewSyscallError("unshare", unix.EPERM)), ErrNeedsRoot)
	require.Equal(t, unix.EINVAL, explain(unix.EINVAL))
}

func TestWithoutRootNamesTheRemedy(t *testing.T) {
	cmd := exec.CommandContext(within(t, 10*time.Second), "/proc/self/exe")
	cmd.Env = append(os.Environ(), victimVariable+"=network")
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.Output()
	require.Error(t, err)
	require.Contains(t, string(out), ErrNeedsRoot.Error())
}

func TestStartWithoutPIDNamespace(t *testing.T) {
	needRoot(t)
	ns, err := NewNamespace()
	require.NoError(t, err)
	cmd := exec.Command("sleep", "1005")
	require.NoError(t, ns.Start(cmd))
	pids, err := ns.Processes()
	require.NoError(t, err)
	require.Equal(t, []int{cmd.Process.Pid}, pids)
	require.NoError(t, ns.Close())
	require.ErrorContains(t, cmd.Wait(), "killed")
}

// A region's processes as they come: a first process, a child in a session of
// its own, and a daemon whose parent has gone.
const regionScript = `
setsid sh -c 'sleep 1001 & sleep 1002' &
setsid setsid sh -c '(sleep 1003 &) ; exit 0'
echo up
sleep 1004
wait`

// startRegion starts regionScript and waits until all its processes are there.
func startRegion(t *testing.T, ns *Namespace) *Cmd {
	t.Helper()
	cmd := ns.Command(context.Background(), "sh", "-c", regionScript)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "up\n", line)
	require.Eventually(t, func() bool { return len(sleepers(t, ns)) == 4 }, 5*time.Second, 5*time.Millisecond)
	return cmd
}

// sleepers are the living processes of regionScript's leaves.
func sleepers(t *testing.T, ns *Namespace) []int {
	t.Helper()
	pids, err := ns.Processes()
	require.NoError(t, err)
	var out []int
	for _, pid := range pids {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && string(name) == "sleep\n" {
			out = append(out, pid)
		}
	}
	return out
}

func alive(pids []int) (out []int) {
	for _, pid := range pids {
		if unix.Kill(pid, 0) == nil {
			out = append(out, pid)
		}
	}
	return out
}

func TestFirstProcessTakesItsTreeAlong(t *testing.T) {
	needRoot(t)
	for name, kill := range map[string]func(*testing.T, *Namespace, *Cmd){
		"killed": func(t *testing.T, _ *Namespace, cmd *Cmd) { require.NoError(t, cmd.Process.Kill()) },
		"namespace killed": func(t *testing.T, ns *Namespace, _ *Cmd) {
			require.NoError(t, ns.Kill(within(t, 5*time.Second)))
		},
		"namespace closed": func(t *testing.T, ns *Namespace, _ *Cmd) { require.NoError(t, ns.Close()) },
		"hung, then killed": func(t *testing.T, ns *Namespace, _ *Cmd) {
			require.NoError(t, ns.Hang(within(t, 5*time.Second)))
			require.NoError(t, ns.Kill(within(t, 5*time.Second)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns, err := NewNamespace()
			require.NoError(t, err)
			cmd := startRegion(t, ns)
			pids := sleepers(t, ns)
			kill(t, ns, cmd)
			require.ErrorContains(t, cmd.Wait(), "killed")
			require.Empty(t, alive(pids))
			rest, err := ns.Processes()
			require.NoError(t, err)
			require.Empty(t, rest)
			require.NoError(t, ns.Close())
		})
	}
}

func TestCommandSeesItsOwnProcesses(t *testing.T) {
	needRoot(t)
	ns, err := NewNamespace()
	require.NoError(t, err)
	defer func() { require.NoError(t, ns.Close()) }()
	out, err := ns.Command(within(t, 5*time.Second), "sh", "-c", `echo $$; echo /proc/[0-9]*; exit 3`).CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 3, exit.ExitCode())
	require.Equal(t, "1\n/proc/1\n", string(out))
	self, err := os.Readlink("/proc/self")
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(os.Getpid()), self, "the new /proc is not ours")
	require.ErrorIs(t, ns.Command(t.Context(), "no-such-program").Run(), exec.ErrNotFound)
}

func TestHungProcessesStandStillUntilResumed(t *testing.T) {
	needRoot(t)
	ns, err := NewNamespace()
	require.NoError(t, err)
	defer func() { require.NoError(t, ns.Close()) }()
	cmd := startRegion(t, ns)
	require.NoError(t, ns.Hang(within(t, 5*time.Second)))
	pids, err := ns.Processes()
	require.NoError(t, err)
	state := func(pid int) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			return "gone" // short-lived children end as soon as they go on
		}
		assert.NoError(t, err) // not require: Eventually calls this on a goroutine
		return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))[0]
	}
	for _, pid := range pids {
		require.Equal(t, "T", state(pid))
	}
	require.NoError(t, ns.Resume())
	require.Eventually(t, func() bool {
		for _, pid := range pids {
			if state(pid) == "T" {
				return false
			}
		}
		return true
	}, 5*time.Second, 5*time.Millisecond)
	require.NoError(t, ns.Kill(within(t, 5*time.Second)))
	require.Error(t, cmd.Wait())
}

// Encoders give ffmpeg a network of its own: it hangs, goes on and dies with its region.
func TestProcessesThatLeftTheNetworkBelongToIt(t *testing.T) {
	needRoot(t)
	ns, err := NewNamespace()
	require.NoError(t, err)
	defer func() { require.NoError(t, ns.Close()) }()
	cmd := ns.Command(t.Context(), "sh", "-c", `unshare --net sh -c 'echo begun; while :; do :; done' & wait`)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = io.ReadFull(out, make([]byte, len("begun\n")))
	require.NoError(t, err)
	pids, err := ns.Processes()
	require.NoError(t, err)
	require.Len(t, pids, 2)
	states := func() (all string) {
		for _, pid := range pids {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				continue // gone
			}
			all += strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))[0]
		}
		return all
	}
	require.NoError(t, ns.Hang(within(t, 5*time.Second)))
	require.Equal(t, "TT", states())
	require.NoError(t, ns.Resume())
	require.Eventually(t, func() bool { return strings.Contains(states(), "R") }, 5*time.Second, 5*time.Millisecond)
	require.NoError(t, ns.Kill(within(t, 5*time.Second)))
	require.Error(t, cmd.Wait())
	require.Empty(t, alive(pids))
}

// The three faces of loss: hung accepts and never answers, killed refuses at
// once, silent does nothing; and what each does to a connection that is open.
func TestFacesOfLoss(t *testing.T) {
	n := newNetwork(t, "ab")
	a, b := namespace(t, n, "a"), namespace(t, n, "b")
	cmd := b.Command(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), victimVariable+"=198.18.2.1:80")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, line)
	greeted := func(c net.Conn, wait time.Duration) error {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(wait)))
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	open := dial(t, a, "tcp4", "198.18.2.1:80")
	require.NoError(t, greeted(open, 5*time.Second))

	require.NoError(t, b.Hang(within(t, 5*time.Second)))
	waiting := dial(t, a, "tcp4", "198.18.2.1:80")
	require.ErrorIs(t, greeted(waiting, 150*time.Millisecond), os.ErrDeadlineExceeded, "hung")
	require.NoError(t, b.Resume())
	require.NoError(t, greeted(waiting, 5*time.Second), "resumed")

	require.NoError(t, b.Kill(within(t, 5*time.Second)))
	require.Error(t, cmd.Wait())
	require.True(t, isReset(greeted(open, 5*time.Second)), "killed: open connections end")
	_, err = a.DialContext(within(t, 5*time.Second), "tcp4", "198.18.2.1:80")
	require.ErrorIs(t, err, syscall.ECONNREFUSED, "killed")

	require.NoError(t, n.Silence("b", BothWays))
	_, err = a.DialContext(within(t, 150*time.Millisecond), "tcp4", "198.18.2.1:80")
	require.True(t, isTimeout(err), "silent: %v", err)
}

func isReset(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) }

// victimVariable makes the test binary a process that waits to be killed: with an
// address it greets connections to it, else it has a network with a host node and
// a region.
const victimVariable = "MERIDIAN_WAN_TEST_VICTIM"

func victim(address string) int {
	if _, err := netip.ParseAddrPort(address); err == nil {
		return greet(address)
	}
	n, err := New(Config{Prefix: hostPrefix, Nodes: []Node{
		{Name: "region", Addresses: []netip.Prefix{netip.MustParsePrefix("198.19.41.1/32")}},
		{Name: HostNode, Host: true, Addresses: []netip.Prefix{netip.MustParsePrefix("198.19.42.1/32")}},
	}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ns, err := n.Namespace("region")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	cmd := ns.Command(context.Background(), "sh", "-c", regionScript)
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(cmd.Process.Pid, n.nodes[HostNode].device.name, ns.link)
	_ = cmd.Wait()
	return 1
}

func greet(address string) int {
	l, err := net.Listen("tcp4", address)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		_, _ = c.Write([]byte{'!'})
	}
}

func TestNothingOutlivesAKilledProcess(t *testing.T) {
	needRoot(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimVariable+"=network")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pid int
	var device, link string
	_, err = fmt.Fscanln(bufio.NewReader(out), &pid, &device, &link)
	require.NoError(t, err)
	_, err = os.Stat("/sys/class/net/" + device)
	require.NoError(t, err)
	ns := &Namespace{link: link}
	require.Eventually(t, func() bool { return len(sleepers(t, ns)) == 4 }, 5*time.Second, 5*time.Millisecond)

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool {
		rest, err := ns.Processes()
		require.NoError(t, err)
		_, err = os.Stat("/sys/class/net/" + device)
		return len(rest) == 0 && os.IsNotExist(err)
	}, 5*time.Second, 5*time.Millisecond)
	requireNamespaceGone(t, link)
}
