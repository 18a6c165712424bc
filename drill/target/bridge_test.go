package target

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// TestBridgePort plugs a process with a network of its own into a bridge, as an engine
// does: with its port disabled nothing of it is heard, and no error is either.
func TestBridgePort(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: networks are made")
	}
	const bridgeName, portName, insideName = "mrd-test-b", "mrd-test-p", "mrd-test-i"
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	require.NoError(t, netlink.LinkAdd(bridge))
	defer func() { require.NoError(t, netlink.LinkDel(bridge)) }()
	outside, err := netlink.ParseAddr("198.19.250.1/30")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(bridge, outside))
	require.NoError(t, netlink.LinkSetUp(bridge))

	process := exec.Command("sleep", "60")
	process.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, process.Start())
	defer func() { require.NoError(t, process.Process.Kill()); _ = process.Wait() }() // killed
	pid := process.Process.Pid

	port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: portName}, PeerName: insideName}
	require.NoError(t, netlink.LinkAdd(port))
	peer, err := netlink.LinkByName(insideName)
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetNsPid(peer, pid))
	require.NoError(t, netlink.LinkSetMaster(port, bridge))
	require.NoError(t, netlink.LinkSetUp(port))
	listener := listenInside(t, pid, insideName, "198.19.250.2/30")
	defer listener.Close()

	x := container{Name: "/one"}
	x.State.Pid = pid
	_, err = findPort(x, netip.MustParseAddr("198.19.250.1"))
	require.ErrorContains(t, err, "no interface has the address 198.19.250.1")
	p, err := findPort(x, netip.MustParseAddr("198.19.250.2"))
	require.NoError(t, err)
	require.Equal(t, port.Attrs().Index, p.link)

	dial := func() error {
		c, err := net.DialTimeout("tcp", listener.Addr().String(), 500*time.Millisecond)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	require.Eventually(t, func() bool { return dial() == nil }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, p.set(portDisabled))
	var timeout net.Error
	require.ErrorAs(t, dial(), &timeout)
	require.True(t, timeout.Timeout(), timeout)
	require.NoError(t, p.set(portForwarding))
	require.Eventually(t, func() bool { return dial() == nil }, 10*time.Second, 10*time.Millisecond)
	p.link = 1 << 30
	require.ErrorContains(t, p.set(portDisabled), "bridge port of /one")
}

// listenInside gives a process's network an address, and listens there.
func listenInside(t *testing.T, pid int, link, address string) net.Listener {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	require.NoError(t, err)
	defer own.Close()
	theirs, err := netns.GetFromPid(pid)
	require.NoError(t, err)
	defer theirs.Close()
	require.NoError(t, netns.Set(theirs))
	defer func() { require.NoError(t, netns.Set(own)) }()
	l, err := netlink.LinkByName(link)
	require.NoError(t, err)
	a, err := netlink.ParseAddr(address)
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(l, a))
	require.NoError(t, netlink.LinkSetUp(l))
	listener, err := net.Listen("tcp", a.IP.String()+":0")
	require.NoError(t, err)
	return listener
}
