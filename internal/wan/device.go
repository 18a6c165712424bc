package wan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// deviceName inside a namespace; the kernel numbers devices on the host,
	// where several networks may meet.
	deviceName     = "wan0"
	hostDeviceName = "meridian%d"
	// deviceQueue is how many packets the kernel keeps for a reader that is late.
	deviceQueue = 2048
	// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
	addrGenModeNone = 1
)

// device is a TUN device. It exists as long as its descriptor is open.
type device struct {
	// fd doesn't block, and isn't watched by Go's poller.
	fd   int
	name string
}

func (d *device) write(b []byte) error { return rawWrite(d.fd, b) }

func (d *device) Close() error { return unix.Close(d.fd) }

// openDevice makes a TUN device in the namespace of the calling thread.
func openDevice(name string) (*device, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%w: %w", ErrNoTUN, err)
	case err != nil:
		return nil, fmt.Errorf("open /dev/net/tun: %w", explain(err))
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make TUN device %s: %w", name, explain(err)), unix.Close(fd))
	}
	return &device{fd, request.Name()}, nil
}

// attach makes the node's device and brings up its addresses and the route to
// the rest of the network. Inside a namespace the addresses are on the loopback,
// so that the inside doesn't depend on the device.
func attach(n *Namespace, host bool, network netip.Prefix, addresses []netip.Prefix) (*device, error) {
	name := deviceName
	if host {
		name = hostDeviceName
	}
	var dev *device
	err := n.Do(func() (err error) {
		dev, err = openDevice(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := configure(n.netlink, dev.name, host, network, addresses); err != nil {
		return nil, errors.Join(fmt.Errorf("configure device %s: %w", dev.name, explain(err)), dev.Close())
	}
	return dev, nil
}

func configure(h *netlink.Handle, name string, host bool, network netip.Prefix, addresses []netip.Prefix) error {
	tun, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if host {
		if err := untaken(h, network); err != nil {
			return err
		}
	}
	if err := h.LinkSetMTU(tun, MTU); err != nil {
		return fmt.Errorf("mtu: %w", err)
	}
	if err := h.LinkSetTxQLen(tun, deviceQueue); err != nil {
		return fmt.Errorf("queue length: %w", err)
	}
	// Without a link-local address the kernel has nothing to say in IPv6, which
	// isn't forwarded.
	if err := h.LinkSetIP6AddrGenMode(tun, addrGenModeNone); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("address mode: %w", err)
	}
	if err := h.LinkSetUp(tun); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	holder := tun
	if !host {
		if holder, err = h.LinkByName("lo"); err != nil {
			return err
		}
	}
	for _, p := range addresses {
		if err := addAddress(h, holder, p); err != nil {
			return err
		}
	}
	route := &netlink.Route{LinkIndex: tun.Attrs().Index, Dst: ipNet(network.Masked()),
		Src: addresses[0].Addr().AsSlice(), Scope: netlink.SCOPE_LINK}
	if err := h.RouteAdd(route); err != nil {
		if errors.Is(err, unix.EEXIST) { // another one began meanwhile
			return fmt.Errorf("%w: %s", ErrNetworkTaken, network)
		}
		return fmt.Errorf("route to %s: %w", network, err)
	}
	return nil
}

// untaken fails where a device of this host has some of the network's addresses next to it:
// a network like this one, or a bridge of containers. What the host sends to these addresses
// would go there.
func untaken(h *netlink.Handle, network netip.Prefix) error {
	routes, err := h.RouteList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Scope != netlink.SCOPE_LINK {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		address, ok := netip.AddrFromSlice(r.Dst.IP)
		if !ok || !network.Overlaps(netip.PrefixFrom(address.Unmap(), ones)) {
			continue
		}
		name := fmt.Sprintf("number %d", r.LinkIndex)
		if l, err := h.LinkByIndex(r.LinkIndex); err == nil {
			name = l.Attrs().Name
		}
		return fmt.Errorf("%w: %s, next to device %s, overlaps with %s", ErrNetworkTaken, r.Dst, name, network)
	}
	return nil
}

// addAddress gives the device one address. A prefix shorter than an address
// makes all of it local: any of its addresses can be bound and answers.
func addAddress(h *netlink.Handle, holder netlink.Link, p netip.Prefix) error {
	one := netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
	if err := h.AddrReplace(holder, &netlink.Addr{IPNet: ipNet(one)}); err != nil {
		return fmt.Errorf("address %s: %w", one, err)
	}
	if p.IsSingleIP() {
		return nil
	}
	err := h.RouteReplace(&netlink.Route{LinkIndex: holder.Attrs().Index, Dst: ipNet(p.Masked()),
		Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST})
	if err != nil {
		return fmt.Errorf("local prefix %s: %w", p, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// unread is how many packets the kernel dropped on their way to the reader.
func (nd *node) unread() (uint64, error) {
	tun, err := nd.Namespace.netlink.LinkByName(nd.device.name)
	if err != nil {
		return 0, fmt.Errorf("device of node %q: %w", nd.Name, err)
	}
	if s := tun.Attrs().Statistics; s != nil {
		return s.TxDropped, nil
	}
	return 0, nil
}
