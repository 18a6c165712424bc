package target

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// bridgePort is where a container is plugged into the bridge of a network.
type bridgePort struct {
	container container
	link      int // index of the port's interface
}

// States of a port, as BR_STATE_ in linux/if_bridge.h. What a disabled port gets from
// either side is dropped, and nobody is told.
const (
	portDisabled   = 0
	portForwarding = 3
)

// findPort finds the port behind which an address of a container is.
func findPort(x container, address netip.Addr) (bridgePort, error) {
	ns, err := netns.GetFromPid(x.State.Pid)
	if err != nil {
		return bridgePort{}, err
	}
	h, err := netlink.NewHandleAt(ns)
	if err = errors.Join(err, ns.Close()); err != nil {
		return bridgePort{}, err
	}
	defer h.Close()
	addresses, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return bridgePort{}, err
	}
	for _, a := range addresses {
		if ip, ok := netip.AddrFromSlice(a.IP); !ok || ip.Unmap() != address {
			continue
		}
		l, err := h.LinkByIndex(a.LinkIndex)
		if err != nil {
			return bridgePort{}, err
		}
		return bridgePort{container: x, link: l.Attrs().ParentIndex}, nil
	}
	return bridgePort{}, fmt.Errorf("no interface has the address %s", address)
}

func (p bridgePort) set(state uint8) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(p.link)
	req.AddData(msg)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{state})
	req.AddData(port)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("bridge port of %s: %w", p.container.Name, err)
	}
	return nil
}
