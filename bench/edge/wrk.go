package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// wrk runs one measurement.
func (b *bench) wrk(ctx context.Context, url string, p *part) (result, error) {
	var more []string
	if p != nil {
		more = []string{"-H", "Range: " + p.field()}
	}
	return b.wrkWith(ctx, url, more...)
}

func (b *bench) wrkWith(ctx context.Context, url string, more ...string) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, b.duration+20*time.Second)
	defer cancel()
	seconds := strconv.Itoa(max(1, int(b.duration/time.Second)))
	args := append([]string{"-t", "1", "-c", strconv.Itoa(b.connections), "-d", seconds, "--timeout", "30s", "--latency"}, more...)
	out, err := exec.CommandContext(ctx, "wrk", append(args, url)...).CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	return parseWrk(string(out))
}

var (
	wrkRate = regexp.MustCompile(`(?m)^Requests/sec:\s+([0-9.]+)$`)
	wrkP99  = regexp.MustCompile(`(?m)^\s+99%\s+([0-9.]+(?:us|ms|s|m)) *$`)
	wrkBad  = regexp.MustCompile(`(?m)^\s+(Non-2xx or 3xx responses: .*|Socket errors: .*)$`)
)

// parseWrk reads wrk's report. A run with failed requests is an error: refusing
// is quick, and no measure of serving.
func parseWrk(out string) (result, error) {
	if m := wrkBad.FindStringSubmatch(out); m != nil {
		return result{}, errors.New("wrk: " + m[1])
	}
	rate, p99 := wrkRate.FindStringSubmatch(out), wrkP99.FindStringSubmatch(out)
	if rate == nil || p99 == nil {
		return result{}, fmt.Errorf("wrk: can't read its report: %s", out)
	}
	r, err := strconv.ParseFloat(rate[1], 64)
	if err != nil {
		return result{}, err
	}
	d, err := time.ParseDuration(p99[1])
	return result{rate: r, p99: d}, err
}
