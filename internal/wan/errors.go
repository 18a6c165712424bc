package wan

import (
	"errors"
	"fmt"
	"os"
)

var (
	// ErrNeedsRoot: the kernel refused to make a namespace or a device.
	ErrNeedsRoot = errors.New("network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN): run as root, or use loopback regions")
	// ErrNoTUN: the machine has no TUN driver.
	ErrNoTUN = errors.New("no /dev/net/tun: load the kernel module tun, or give the container the device")
	// ErrNetworkTaken: another network on this host has some of the addresses.
	ErrNetworkTaken = errors.New("the addresses are taken on this host: end the other network first, or where containers left it, remove its device (ip link del)")
	// ErrUnknownNode: no node has that name.
	ErrUnknownNode = errors.New("no such node")
	// ErrClosed: the network or namespace has been closed.
	ErrClosed = errors.New("closed")
	// ErrNotOwned: processes of a namespace that NewNamespace didn't make are not ours to signal.
	ErrNotOwned = errors.New("namespace was opened, not made here: its processes are not ours to signal")
)

// explain adds the typed error, and with it the remedy, to a kernel's refusal.
func explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: %w", ErrNeedsRoot, err)
	}
	return err
}
