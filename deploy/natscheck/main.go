// Command natscheck is the health check of a container with nats-server: it exits 0
// while the server is healthy, else 1 and says why. Healthy means: JetStream is on, and
// in a cluster it has a leader and is current.
//
// An engine restarts what has ended, not what is unhealthy. So a server that only takes
// up its streams again when it is restarted (see package natshealth) is ended here.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meridian-video/meridian/internal/natshealth"
)

const (
	program = "nats-server"
	timeout = 3 * time.Second
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "natscheck:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("want the URL of the server's monitoring, http://host:8222")
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := natshealth.Lost(ctx, args[0], natshealth.Settling); err != nil {
		return errors.Join(err, end(program))
	}
	return natshealth.Ready(ctx, args[0])
}

// end asks all processes of a program to end.
func end(program string) error {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	ended := 0
	for _, path := range names {
		name, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(name)) != program {
			continue // one that has ended meanwhile has no name
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGTERM)
		}
		if err != nil {
			return fmt.Errorf("end %s: %w", program, err)
		}
		ended++
	}
	if ended == 0 {
		return fmt.Errorf("end %s: no such process", program)
	}
	return nil
}
