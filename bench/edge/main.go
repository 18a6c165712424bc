// Command edge measures the edge beside nginx, Varnish and Apache Traffic Server on
// this machine.
//
// All serve the same bytes from memory to wrk or h2load, one after the other in
// rounds whose order turns, so that a machine that slows down slows all of them.
// What it prints are medians, and the ratio of the edge to the best peer. -rows
// chooses what is measured:
//
//	hits   memory hits over HTTP/1.1
//	range  the same of a part of each object
//	tls    the same over TLS 1.3, all with one cipher and one curve
//	h2     the same over HTTP/2 and TLS 1.3
//	h3     the same over HTTP/3 beside HTTP/2, of ours alone
//	idle   memory of connections that wait
//	disk   hits among more objects than memory holds
//	cold   many clients at once on an object that nobody has yet
//	trace  hit ratios of the edge's cache, plain LRU and otter; no server runs
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meridian-video/meridian/bench/command"
)

type options struct {
	rows        string
	rounds      int
	duration    time.Duration
	connections int
	clients     int
	idle        int
	sizes       string
	peers       string
	binary      string
	before      string
	requests    int
}

// The rows' names on the command line.
const (
	rowHits  = "hits"
	rowRange = "range"
	rowTLS   = "tls"
	rowH2    = "h2"
	rowH3    = "h3"
	rowIdle  = "idle"
	rowDisk  = "disk"
	rowCold  = "cold"
	rowTrace = "trace"
)

var rowNames = []string{rowHits, rowRange, rowTLS, rowH2, rowH3, rowIdle, rowDisk, rowCold, rowTrace}

func main() {
	var o options
	flag.StringVar(&o.rows, "rows", strings.Join(rowNames, ","), "what is measured")
	flag.IntVar(&o.rounds, "rounds", 3, "measurements of each cell")
	flag.DurationVar(&o.duration, "time", 3*time.Second, "length of one measurement, in whole seconds")
	flag.IntVar(&o.connections, "connections", 32, "connections of wrk; h2load has a quarter, with four requests on each")
	flag.IntVar(&o.clients, "clients", 1000, "clients on one cold object")
	flag.IntVar(&o.idle, "idle", 10_000, "idle connections")
	flag.StringVar(&o.sizes, "sizes", "2KiB,256KiB,1MiB,4MiB", "sizes of the objects")
	flag.StringVar(&o.peers, "servers", strings.Join(serverNames, ","), "who takes part")
	flag.StringVar(&o.binary, "binary", "", "meridian binary; empty builds it")
	flag.StringVar(&o.before, "before", "", "another meridian binary, whose edge takes part too")
	flag.IntVar(&o.requests, "requests", 300_000, "requests of a trace")
	flag.Parse()
	command.Main("bench/edge", 0, func(ctx context.Context) error { return run(ctx, o) })
}

func run(ctx context.Context, o options) (err error) {
	sizes, err := parseSizes(o.sizes)
	if err != nil {
		return err
	}
	rows := strings.Split(o.rows, ",")
	for _, row := range rows {
		if !slices.Contains(rowNames, row) {
			return fmt.Errorf("-rows: %q: want some of %v", row, rowNames)
		}
	}
	if o.rounds < 1 || o.connections < 4 || o.clients < 1 || o.requests < 1000 {
		return errors.New("want at least 1 of -rounds, 4 -connections, 1 of -clients and 1000 -requests")
	}
	if o.idle < idleAsking || o.idle > maxIdle {
		return fmt.Errorf("-idle %d: want %d to %d", o.idle, idleAsking, maxIdle)
	}
	if slices.Contains(rows, rowIdle) && !slices.Contains(sizes, idleSize) {
		return fmt.Errorf("-sizes: idle connections have asked for %s", sizeName(idleSize))
	}
	if slices.Equal(rows, []string{rowTrace}) {
		return traces(ctx, o)
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
	if b.cert, err = newCertificate(dir); err != nil {
		return err
	}
	names := strings.Split(o.peers, ",")
	if o.before != "" {
		names = append(names, nameBefore)
	}
	if slices.ContainsFunc(rows, func(row string) bool { return !slices.Contains([]string{rowH3, rowIdle, rowDisk, rowTrace}, row) }) {
		if err := b.start(ctx, rows, names); err != nil {
			return err
		}
	}
	for _, row := range rows {
		switch row {
		case rowH3:
			err = b.compareH3(ctx, names, sizes)
		case rowIdle:
			err = b.weighIdle(ctx, names)
		case rowDisk:
			err = b.compareDisk(ctx, names)
		case rowCold:
			err = b.cold(ctx)
		case rowTrace:
			err = traces(ctx, o)
		default:
			err = b.hits(ctx, b.way(row), sizes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type bench struct {
	options
	dir     string
	origin  *origin
	log     *slog.Logger
	cert    *certificate
	http3   bool // ours answer it
	small   bool // memory is, where it can be; the store has many objects
	home    *home
	servers []*server
	stops   []func()
}

func (b *bench) stop() {
	for _, f := range slices.Backward(b.stops) {
		f()
	}
}

// hits measures every size at every server that can be asked that way.
func (b *bench) hits(ctx context.Context, w way, sizes []int) error {
	var servers []*server
	for _, s := range b.servers {
		if w.base(s) != "" {
			servers = append(servers, s)
		}
	}
	cells := map[string][]result{}
	for _, size := range sizes {
		for _, s := range servers {
			if err := s.check(ctx, w, size, b.origin); err != nil {
				return err
			}
		}
		for round := range b.rounds {
			for i := range servers {
				s := servers[(i+round)%len(servers)]
				r, err := s.costs(func() (result, error) { return w.measure(ctx, w.base(s)+s.path("hit", size), w.part(size)) })
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, sizeName(size), err)
				}
				key := s.name + "/" + sizeName(size)
				cells[key] = append(cells[key], r)
			}
		}
	}
	fmt.Printf("Memory hits%s, %s, medians of %d rounds; last the server's processor time for each request.\n\n%s\n", w.title, b.duration, b.rounds, hitTable(servers, sizes, cells))
	return nil
}
