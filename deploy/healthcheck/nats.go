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

	"github.com/meridian-video/meridian/internal/natshealth"
)

const natsServer = "nats-server"

// checkNATS asks the server with a monitoring URL (http://host:8222) whether JetStream is
// on, and in a cluster has a leader and is current.
//
// An engine restarts what has ended, not what is unhealthy. So a server that only takes
// up its streams again when it is restarted (see package natshealth) is ended here.
func checkNATS(monitor string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if err := natshealth.Lost(ctx, monitor, natshealth.Settling); err != nil {
			return errors.Join(err, end(natsServer))
		}
		return natshealth.Ready(ctx, monitor)
	}
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
