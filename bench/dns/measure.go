package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/bench/proc"
)

// measure runs dnsperf once.
func (b *bench) measure(ctx context.Context, s *server, subnet string) (result, error) {
	file := filepath.Join(b.dir, "queries")
	if err := os.WriteFile(file, []byte(qname+" A\n"), 0o600); err != nil {
		return result{}, err
	}
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return result{}, err
	}
	ip := net.ParseIP(subnet).To4()
	before, err := proc.CPU(s.pid)
	if err != nil {
		return result{}, err
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, b.duration+startTimeout)
	defer cancel()
	probes := make(chan []time.Duration, 1)
	probing, stop := context.WithTimeout(ctx, b.duration)
	defer stop()
	go func() { probes <- probe(probing, s.addr, ip) }()
	out, err := exec.CommandContext(ctx, "dnsperf", "-s", host, "-p", port, "-d", file, "-l", strconv.Itoa(int(b.duration/time.Second)),
		"-c", strconv.Itoa(b.clients), "-T", "1", "-e", "-E", fmt.Sprintf("8:00012000%x", []byte(ip))).Output()
	spent := time.Since(start)
	stop()
	waits := <-probes
	if err != nil {
		return result{}, fmt.Errorf("dnsperf: %w: %s", err, out)
	}
	after, err := proc.CPU(s.pid)
	if err != nil {
		return result{}, err
	}
	r, err := parseDnsperf(out)
	r.cpu = after - before
	r.p99 = quantile(waits, 0.99)
	if r.spent == 0 {
		r.spent = spent
	}
	return r, err
}

// parseDnsperf reads the statistics dnsperf ends with.
func parseDnsperf(out []byte) (result, error) {
	var r result
	found := 0
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		name, value, ok := strings.Cut(sc.Text(), ":")
		fields := strings.Fields(value)
		if !ok || len(fields) == 0 {
			continue
		}
		v, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			continue
		}
		switch strings.TrimSpace(name) {
		case "Queries per second":
			r.rate = v
		case "Queries lost":
			r.lost = int(v)
		case "Run time (s)":
			r.spent = time.Duration(v * float64(time.Second))
		case "Average Latency (s)":
			r.mean = time.Duration(v * float64(time.Second))
		default:
			continue
		}
		found++
	}
	if err := sc.Err(); err != nil {
		return r, err
	}
	if found < 4 || r.rate <= 0 {
		return r, fmt.Errorf("dnsperf printed no statistics: %s", out)
	}
	return r, nil
}

func (s *server) lost() int {
	n := 0
	for _, r := range s.results {
		n += r.lost
	}
	return n
}

const (
	// probeEvery is the pace of the queries whose waiting times are looked at one by
	// one: so few that they add nothing to the load.
	probeEvery   = 5 * time.Millisecond
	probeTimeout = time.Second
)

// probe asks one query after the other beside dnsperf, which tells no
// percentiles, and returns how long each answer took; lost ones count as probeTimeout.
func probe(ctx context.Context, addr string, subnet net.IP) []time.Duration {
	m := query(subnet)
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	c, err := net.Dial("udp", addr)
	if err != nil {
		return nil
	}
	defer c.Close()
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	var out []time.Duration
	in := make([]byte, 1500)
	for id := uint16(0); ; id++ {
		select {
		case <-ctx.Done():
			return out
		case <-t.C:
		}
		binary.BigEndian.PutUint16(b, id)
		start := time.Now()
		if c.SetDeadline(start.Add(probeTimeout)) != nil {
			return out
		}
		if _, err := c.Write(b); err != nil {
			continue
		}
		for {
			n, err := c.Read(in)
			if err != nil {
				out = append(out, probeTimeout)
				break
			}
			if n > 2 && binary.BigEndian.Uint16(in) == id {
				out = append(out, time.Since(start))
				break
			}
		}
	}
}

// quantile is the value that the share q of ds is not above; 0 of none.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[min(len(ds)-1, int(q*float64(len(ds))))]
}
