// Command edge measures the edge beside nginx and Varnish on this machine.
//
// All serve the same bytes from memory to wrk, one after the other in rounds
// whose order turns, so that a machine that slows down slows all of them. What
// it prints are medians, and the ratio of the edge to the best peer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	rounds      int
	duration    time.Duration
	connections int
	clients     int
	sizes       string
	peers       string
	binary      string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "measurements of each cell")
	flag.DurationVar(&o.duration, "time", 3*time.Second, "length of one measurement, in whole seconds")
	flag.IntVar(&o.connections, "connections", 32, "connections of wrk")
	flag.IntVar(&o.clients, "clients", 1000, "clients on one cold object; 0 leaves that out")
	flag.StringVar(&o.sizes, "sizes", "2KiB,256KiB,1MiB,4MiB", "sizes of the objects")
	flag.StringVar(&o.peers, "servers", strings.Join(serverNames, ","), "who takes part")
	flag.StringVar(&o.binary, "binary", "", "meridian binary; empty builds it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/edge:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	sizes, err := parseSizes(o.sizes)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-edge-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // the peers' workers have users of their own
		return err
	}
	origin, err := newOrigin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, origin.close()) }()
	b := &bench{options: o, dir: dir, origin: origin, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	defer b.stop()
	if err := b.start(ctx, strings.Split(o.peers, ",")); err != nil {
		return err
	}
	if err := b.hits(ctx, sizes); err != nil {
		return err
	}
	if o.clients > 0 {
		return b.cold(ctx)
	}
	return nil
}

type bench struct {
	options
	dir     string
	origin  *origin
	log     *slog.Logger
	servers []*server
	stops   []func()
}

func (b *bench) stop() {
	for _, f := range slices.Backward(b.stops) {
		f()
	}
}

// hits measures every size at every server.
func (b *bench) hits(ctx context.Context, sizes []int) error {
	cells := map[string][]result{}
	for _, size := range sizes {
		for _, s := range b.servers {
			if err := s.check(ctx, size, b.origin); err != nil {
				return err
			}
		}
		for round := range b.rounds {
			for i := range b.servers {
				s := b.servers[(i+round)%len(b.servers)]
				r, err := b.wrk(ctx, s.url(size))
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, sizeName(size), err)
				}
				key := s.name + "/" + sizeName(size)
				cells[key] = append(cells[key], r)
			}
		}
	}
	fmt.Printf("Memory hits: wrk, 1 thread, %d connections, %s, medians of %d rounds.\n\n%s\n", b.connections, b.duration, b.rounds, hitTable(b.servers, sizes, cells))
	return nil
}
