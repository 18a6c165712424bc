// Command dns measures the router's name server beside gdnsd and Knot DNS on this
// machine.
//
// All answer the same name for the same three data centres from the same geo
// database; a bare responder that always sends one prepared answer shows what
// the machine allows. dnsperf asks them with client subnets, one after the other
// in rounds whose order turns, so that a machine that slows down slows all of
// them. What it prints are medians, and ratios within a round.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meridian-video/meridian/bench/command"
	"github.com/meridian-video/meridian/bench/proc"
)

type options struct {
	rounds   int
	duration time.Duration
	clients  int
	servers  string
	database string
	binary   string
	before   string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "measurements of each server")
	flag.DurationVar(&o.duration, "time", 3*time.Second, "length of one measurement, in whole seconds")
	flag.IntVar(&o.clients, "clients", 8, "sockets of dnsperf")
	flag.StringVar(&o.servers, "servers", strings.Join(serverNames, ","), "who takes part")
	flag.StringVar(&o.database, "database", "testdata/geo/GeoLite2-City-Test.mmdb", "geo database of all servers")
	flag.StringVar(&o.binary, "binary", "", "meridian binary; empty builds it")
	flag.StringVar(&o.before, "before", "", "another meridian binary to measure as well")
	bare := flag.String("bare", "", "be the bare responder at this address")
	flag.Parse()
	command.Main("bench/dns", 0, func(ctx context.Context) error {
		if *bare != "" {
			return serveBare(ctx, *bare)
		}
		return run(ctx, o)
	})
}

func run(ctx context.Context, o options) (err error) {
	if o.rounds < 1 || o.duration < time.Second || o.duration%time.Second != 0 || o.clients < 1 {
		return errors.New("want at least one round, one client and one whole second")
	}
	dir, err := os.MkdirTemp("", "bench-dns-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{options: o, dir: dir}
	defer b.stop()
	names := strings.Split(o.servers, ",")
	if o.before != "" {
		names = append(names, nameBefore)
	}
	for _, name := range names {
		s, err := b.start(ctx, name)
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		b.servers = append(b.servers, s)
	}
	for _, s := range b.servers {
		if err := s.check(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for round := range o.rounds {
		for i := range b.servers {
			s := b.servers[(i+round)%len(b.servers)]
			r, err := b.measure(ctx, s, subnets[round%len(subnets)])
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			s.results = append(s.results, r)
		}
	}
	fmt.Printf("dnsperf, EDNS with client subnet, %d sockets, %s, medians of %d rounds.\n\n%s", o.clients, o.duration, o.rounds, table(b.servers))
	return nil
}

// result is one measurement.
type result struct {
	rate  float64       // answers per second
	cpu   time.Duration // the server's, user and system
	spent time.Duration // how long it took
	lost  int
	mean  time.Duration // of the latency, as dnsperf says
	p99   time.Duration // of the latency, of queries sent beside dnsperf's
}

// perCPU is answers for each second of the server's processor time.
func (r result) perCPU() float64 {
	if r.cpu <= 0 {
		return 0
	}
	return r.rate * r.spent.Seconds() / r.cpu.Seconds()
}

func median(rs []result, of func(result) float64) float64 {
	v := make([]float64, len(rs))
	for i, r := range rs {
		v[i] = of(r)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func typical(rs []result, of func(result) time.Duration) time.Duration {
	return time.Duration(median(rs, func(r result) float64 { return float64(of(r)) })).Round(time.Microsecond)
}

// table compares the servers; ratios are to the peer, round by round.
func table(servers []*server) string {
	var peer *server
	for _, s := range servers {
		if s.name == nameGdnsd {
			peer = s
		}
	}
	rate := func(r result) float64 { return r.rate }
	var b strings.Builder
	b.WriteString("| Server | queries/s | ÷ gdnsd | queries per CPU second | ÷ gdnsd | mean latency | p99 | lost | memory |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range servers {
		fmt.Fprintf(&b, "| %s | %.0f | %s | %.0f | %s | %s | %s | %d | %s |\n", s.name, median(s.results, rate), ratio(s, peer, rate),
			median(s.results, result.perCPU), ratio(s, peer, result.perCPU),
			typical(s.results, func(r result) time.Duration { return r.mean }), typical(s.results, func(r result) time.Duration { return r.p99 }), s.lost(), s.memory())
	}
	return b.String()
}

// memory is what the server has; "–" when it can't be told.
func (s *server) memory() string {
	n, err := proc.Memory(s.pid)
	if err != nil {
		return "–"
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

func ratio(s, peer *server, of func(result) float64) string {
	if peer == nil || s == peer {
		return "1"
	}
	var rs []float64
	for i := range min(len(s.results), len(peer.results)) {
		if p := of(peer.results[i]); p > 0 {
			rs = append(rs, of(s.results[i])/p)
		}
	}
	if len(rs) == 0 {
		return "–"
	}
	slices.Sort(rs)
	return fmt.Sprintf("**%.2f** (%.2f–%.2f)", rs[len(rs)/2], rs[0], rs[len(rs)-1])
}
