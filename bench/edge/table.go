package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is what one run of wrk found.
type result struct {
	rate float64 // requests per second
	p99  time.Duration
}

func median(rs []result) result {
	if len(rs) == 0 {
		return result{}
	}
	rates, p99s := make([]float64, len(rs)), make([]time.Duration, len(rs))
	for i, r := range rs {
		rates[i], p99s[i] = r.rate, r.p99
	}
	slices.Sort(rates)
	slices.Sort(p99s)
	return result{rates[len(rs)/2], p99s[len(rs)/2]}
}

// hitTable writes requests per second and p99 of each server, and for ours the
// ratio to the best peer, in the same round, as median and range.
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
			fmt.Fprintf(&b, " %.0f/s, p99 %s |", m.rate, m.p99.Round(10*time.Microsecond))
			if isOurs(s.name) {
				b.WriteString(" " + ratios(servers, rs, cells, size) + " |")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func ratios(servers []*server, ours []result, cells map[string][]result, size int) string {
	var rs []result
	for i, own := range ours {
		best := 0.0
		for _, s := range servers {
			if peer := cells[s.name+"/"+sizeName(size)]; !isOurs(s.name) && i < len(peer) {
				best = max(best, peer[i].rate)
			}
		}
		if best > 0 {
			rs = append(rs, result{rate: own.rate / best})
		}
	}
	if len(rs) == 0 {
		return "no peer"
	}
	low, high := rs[0].rate, rs[0].rate
	for _, r := range rs {
		low, high = min(low, r.rate), max(high, r.rate)
	}
	return fmt.Sprintf("**%.2f** (%.2f–%.2f)", median(rs).rate, low, high)
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
