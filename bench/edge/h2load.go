package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// h2Streams is how many requests a connection of h2load has under way.
const h2Streams = 4

// h2load runs one measurement over HTTP/2, after a second that isn't measured.
func (b *bench) h2load(ctx context.Context, url string, _ *part) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, b.duration+20*time.Second)
	defer cancel()
	log := filepath.Join(b.dir, "h2load.log")
	seconds := strconv.Itoa(max(1, int(b.duration/time.Second)))
	out, err := exec.CommandContext(ctx, "h2load", "-t", "1", "-c", strconv.Itoa(b.connections/h2Streams), "-m", strconv.Itoa(h2Streams),
		"-D", seconds, "--warm-up-time", "1", "--log-file", log, url).CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("h2load: %w: %s", err, out)
	}
	r, err := parseH2load(string(out))
	if err != nil {
		return result{}, err
	}
	times, err := os.ReadFile(log)
	if err != nil {
		return result{}, err
	}
	r.p99, err = h2loadP99(string(times))
	return r, errors.Join(err, os.Remove(log))
}

var (
	h2loadRate   = regexp.MustCompile(`(?m)^finished in [^,]+, ([0-9.]+) req/s`)
	h2loadBad    = regexp.MustCompile(`(?m)^requests: .* ([0-9]+) failed, ([0-9]+) errored, ([0-9]+) timeout$`)
	h2loadStatus = regexp.MustCompile(`(?m)^status codes: ([0-9]+) 2xx, 0 3xx, 0 4xx, 0 5xx$`)
	h2loadTLS    = regexp.MustCompile(`(?m)^TLS Protocol: (.*)\nCipher: (.*)\nServer Temp Key: (\S+).*\nApplication protocol: (.*)$`)
)

// parseH2load reads the rate from h2load's report. A run with failed requests, or
// another cipher, is an error.
func parseH2load(out string) (result, error) {
	if m := h2loadTLS.FindStringSubmatch(out); m == nil || m[1] != "TLSv1.3" || m[2] != cipherName || m[3] != curveName || m[4] != "h2" {
		return result{}, fmt.Errorf("h2load: it wasn't TLS 1.3 with %s and %s: %s", cipherName, curveName, out)
	}
	bad, status, rate := h2loadBad.FindStringSubmatch(out), h2loadStatus.FindStringSubmatch(out), h2loadRate.FindStringSubmatch(out)
	if bad == nil || rate == nil {
		return result{}, fmt.Errorf("h2load: can't read its report: %s", out)
	}
	if slices.ContainsFunc(bad[1:], func(n string) bool { return n != "0" }) || status == nil || status[1] == "0" {
		return result{}, fmt.Errorf("h2load: failed requests: %s", out)
	}
	r, err := strconv.ParseFloat(rate[1], 64)
	return result{rate: r}, err
}

// h2loadP99 reads its log of requests: start, status and microseconds.
func h2loadP99(log string) (time.Duration, error) {
	var times []int
	for line := range strings.Lines(log) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return 0, fmt.Errorf("h2load: its log has %q", line)
		}
		us, err := strconv.Atoi(f[2])
		if err != nil {
			return 0, fmt.Errorf("h2load: its log has %q", line)
		}
		times = append(times, us)
	}
	if len(times) == 0 {
		return 0, errors.New("h2load: its log is empty")
	}
	slices.Sort(times)
	return time.Duration(times[len(times)*99/100]) * time.Microsecond, nil
}
