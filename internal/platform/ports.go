package platform

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Ports of a region which only the stores themselves use; the others are in
// internal/region.
const (
	portEtcdClient   = 2379
	portEtcdPeer     = 2380
	portPatroni      = 8008
	portNATSCluster  = 6222
	portNATSMonitor  = 8222
	portMinIOConsole = 9001
)

// listener is an address a process is going to listen on.
type listener struct {
	owner   string // "eu minio"
	network string // tcp or udp
	addr    string
}

// checkPorts names every address that is taken, by whom, and what to do.
func checkPorts(listeners []listener) error {
	var errs []error
	for _, l := range listeners {
		if err := tryListen(l); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w\nend what uses them and start again", errors.Join(errs...))
}

func tryListen(l listener) error {
	var err error
	switch l.network {
	case "udp":
		var c net.PacketConn
		if c, err = net.ListenPacket("udp", l.addr); err == nil {
			err = c.Close()
		}
	default:
		var c net.Listener
		if c, err = net.Listen("tcp", l.addr); err == nil {
			err = c.Close()
		}
	}
	if err == nil {
		return nil
	}
	if who := portHolder(l.network, l.addr); who != "" {
		return fmt.Errorf("%s %s, wanted by %s, is in use by %s", l.network, l.addr, l.owner, who)
	}
	return fmt.Errorf("%s %s, wanted by %s: %w", l.network, l.addr, l.owner, err)
}

// portHolder says which process has a socket bound to addr, "" if it can't tell.
func portHolder(network, addr string) string {
	want, err := netip.ParseAddrPort(addr)
	if err != nil {
		return ""
	}
	inode := ""
	for _, table := range []string{network, network + "6"} {
		b, err := os.ReadFile("/proc/net/" + table)
		if err != nil {
			continue
		}
		if inode = findSocket(string(b), network, want); inode != "" {
			break
		}
	}
	if inode == "" {
		return ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil || to != "socket:["+inode+"]" {
			continue
		}
		pid := strings.Split(link, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			return "process " + pid
		}
		return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
	}
	return "another user's process"
}

// findSocket finds the inode of a listening socket in the text of
// /proc/net/{tcp,udp}{,6}: field 1 is the local address in hexadecimal words of
// the machine's byte order, 3 the state (0A is listening), 9 the inode.
func findSocket(table, network string, want netip.AddrPort) string {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 || network == "tcp" && f[3] != "0A" {
			continue
		}
		host, port, ok := strings.Cut(f[1], ":")
		if !ok {
			continue
		}
		p, err := strconv.ParseUint(port, 16, 16)
		if err != nil || uint16(p) != want.Port() {
			continue
		}
		addr, ok := parseProcAddr(host)
		if !ok || !addr.IsUnspecified() && addr.Unmap() != want.Addr() {
			continue
		}
		return f[9]
	}
	return ""
}

func parseProcAddr(s string) (netip.Addr, bool) {
	if len(s) != 8 && len(s) != 32 {
		return netip.Addr{}, false
	}
	var b []byte
	for i := 0; i < len(s); i += 8 {
		w, err := strconv.ParseUint(s[i:i+8], 16, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		b = append(b, byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
	}
	return netip.AddrFromSlice(b)
}
