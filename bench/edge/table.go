package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is what one measurement found.
type result struct {
	rate float64 // requests per second
	p99  time.Duration
	cpu  time.Duration // the server's, for each request; zero where it isn't known
}

func median(rs []result) result {
	if len(rs) == 0 {
		return result{}
	}
	rates, p99s, cpus := make([]float64, len(rs)), make([]time.Duration, len(rs)), make([]time.Duration, len(rs))
	for i, r := range rs {
		rates[i], p99s[i], cpus[i] = r.rate, r.p99, r.cpu
	}
	slices.Sort(rates)
	slices.Sort(p99s)
	slices.Sort(cpus)
	return result{rates[len(rs)/2], p99s[len(rs)/2], cpus[len(rs)/2]}
}

// hitTable writes requests per second, p99 and processor time per request of each
// server, and for ours the ratios to the best peer, in the same round, as median and
// range: of the rate, and of the processor time.
func hitTable(servers []*server, sizes []int, cells map[string][]result) string {
	var b strings.Builder
	b.WriteString("| Size |")
	rule := "|---|"
	for _, s := range servers {
		b.WriteString(" " + s.name + " |")
		rule += "---|"
		if isOurs(s.name) {
			b.WriteString(" ÷ best peer |")
			rule += "---|"
		}
	}
	b.WriteString("\n" + rule + "\n")
	for _, size := range sizes {
		b.WriteString("| " + sizeName(size) + " |")
		for _, s := range servers {
			rs := cells[s.name+"/"+sizeName(size)]
			m := median(rs)
			fmt.Fprintf(&b, " %.0f/s, p99 %s, %s |", m.rate, m.p99.Round(10*time.Microsecond), m.cpu.Round(100*time.Nanosecond))
			if isOurs(s.name) {
				b.WriteString(" " + ratios(servers, rs, cells, size) + " |")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func ratios(servers []*server, ours []result, cells map[string][]result, size int) string {
	var rates, cpus []float64
	for i, own := range ours {
		best, least := 0.0, 0.0
		for _, s := range servers {
			if peer := cells[s.name+"/"+sizeName(size)]; !isOurs(s.name) && i < len(peer) {
				best = max(best, peer[i].rate)
				if cpu := peer[i].cpu.Seconds(); cpu > 0 && (least == 0 || cpu < least) {
					least = cpu
				}
			}
		}
		if best > 0 {
			rates = append(rates, own.rate/best)
		}
		if least > 0 {
			cpus = append(cpus, own.cpu.Seconds()/least)
		}
	}
	if len(rates) == 0 {
		return "no peer"
	}
	out := spread(rates)
	if len(cpus) > 0 {
		out += ", CPU " + spread(cpus)
	}
	return out
}

// spread is the median, and the range.
func spread(v []float64) string {
	slices.Sort(v)
	return fmt.Sprintf("**%.2f** (%.2f–%.2f)", v[len(v)/2], v[0], v[len(v)-1])
}

var units = []struct {
	suffix string
	bytes  int
}{{"MiB", 1 << 20}, {"KiB", 1 << 10}}

func sizeName(n int) string {
	for _, u := range units {
		if n%u.bytes == 0 {
			return strconv.Itoa(n/u.bytes) + u.suffix
		}
	}
	return strconv.Itoa(n)
}

func parseSizes(s string) ([]int, error) {
	var out []int
	for f := range strings.SplitSeq(s, ",") {
		n := 0
		for _, u := range units {
			if d, ok := strings.CutSuffix(f, u.suffix); ok {
				v, err := strconv.Atoi(d)
				if err != nil {
					return nil, fmt.Errorf("-sizes: %q: %w", f, err)
				}
				n = v * u.bytes
			}
		}
		if n < 1 || n > 32<<20 {
			return nil, fmt.Errorf("-sizes: %q: want a size like 256KiB, at most 32MiB", f)
		}
		out = append(out, n)
	}
	return out, nil
}
