package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"testing"
)

const (
	firstPort = 10_000
	// kernelPorts is where the kernel's own choice begins when it doesn't say.
	kernelPorts  = 32_768
	portAttempts = 100
)

// FreePort returns a port that nobody of 127.0.0.0/8 has, for TCP and UDP. It is for
// servers that are told their port, and those that start again on the one they had. The
// kernel gives it to nobody: one of those it chooses may be another's as soon as
// nobody listens on it, and other tests take hundreds a second.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatalf("testenv: %v", err)
	}
	return port
}

func freePort() (int, error) {
	end := kernelPorts
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		var from int
		if _, err := fmt.Sscan(string(b), &from); err == nil && from > 2*firstPort {
			end = from
		}
	}
	var err error
	for range portAttempts {
		port := firstPort + rand.IntN(end-firstPort)
		if err = portIsFree(port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port: %w", err)
}

func portIsFree(port int) error {
	at := fmt.Sprintf(":%d", port)
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	p, err := net.ListenPacket("udp", at)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return errors.Join(p.Close(), l.Close())
}
