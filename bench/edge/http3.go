package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/meridian-video/meridian/bench/proc"
)

// warmUp is how long asking goes on before it is measured.
const warmUp = time.Second

// compareH3 measures hits over HTTP/3 beside HTTP/2 at our servers. Debian's h2load
// knows no HTTP/3: both are asked by Go's clients, whose own work is most of it, so
// the server's processor time says more than the rate.
func (b *bench) compareH3(ctx context.Context, names []string, sizes []int) error {
	var rows strings.Builder
	for _, name := range names {
		if !isOurs(name) {
			continue
		}
		if err := b.apart(ctx, func(one *bench) { one.http3 = true }, func(one *bench) error {
			return one.measureH3(ctx, &rows, one.servers[0], sizes)
		}, name); err != nil {
			return fmt.Errorf("HTTP/3: %s: %w", name, err)
		}
	}
	fmt.Printf("Memory hits over HTTP/3 beside HTTP/2, both over TLS 1.3: Go's clients, %d connections of %d requests each, %s, medians of %d rounds. In brackets the server's processor time for each request. Debian's nginx (1.22), Varnish and Traffic Server have no HTTP/3.\n\n"+
		"| Server, size | HTTP/2 | HTTP/3 | requests ÷ HTTP/2 | processor time ÷ HTTP/2 |\n|---|---|---|---|---|\n%s\n",
		b.connections/h2Streams, h2Streams, b.duration, b.rounds, rows.String())
	return nil
}

func (b *bench) measureH3(ctx context.Context, rows *strings.Builder, s *server, sizes []int) error {
	ways := []way{b.way(rowH2), b.way(rowH3)}
	for _, size := range sizes {
		for _, w := range ways {
			if err := s.check(ctx, w, size, b.origin); err != nil {
				return err
			}
		}
		var found [2][]result
		for round := range b.rounds {
			for i := range ways {
				i = (i + round) % len(ways)
				a, err := b.askBy(ctx, ways[i], s, size)
				if err != nil {
					return fmt.Errorf("%s, HTTP/%d: %w", sizeName(size), ways[i].proto, err)
				}
				found[i] = append(found[i], a)
			}
		}
		rows.WriteString(h3Row(s.name, size, found))
	}
	return nil
}

// h3Row writes the medians of HTTP/2 and HTTP/3, and ratios within rounds.
func h3Row(name string, size int, found [2][]result) string {
	rate := func(a result) float64 { return a.rate }
	cpu := func(a result) float64 { return a.cpu.Seconds() }
	of := func(as []result, f func(result) float64) float64 {
		var v []float64
		for _, a := range as {
			v = append(v, f(a))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %s, %s |", name, sizeName(size))
	for _, as := range found {
		fmt.Fprintf(&b, " %.0f/s (%.0f µs) |", of(as, rate), 1e6*of(as, cpu))
	}
	for _, f := range []func(result) float64{rate, cpu} {
		var v []float64
		for i := range found[1] {
			if two := f(found[0][i]); two > 0 {
				v = append(v, f(found[1][i])/two)
			}
		}
		slices.Sort(v)
		if len(v) == 0 {
			b.WriteString(" – |")
			continue
		}
		fmt.Fprintf(&b, " **%.2f** (%.2f–%.2f) |", v[len(v)/2], v[0], v[len(v)-1])
	}
	return b.String() + "\n"
}

// newH3Client speaks nothing but HTTP/3.
func (b *bench) newH3Client() *http.Client {
	return &http.Client{Transport: &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: b.cert.pool, ServerName: certName,
		CurvePreferences: []tls.CurveID{curve}}}}
}

// askBy has Go's clients ask for as long as a measurement takes.
func (b *bench) askBy(ctx context.Context, w way, s *server, size int) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, warmUp+b.duration+20*time.Second)
	defer cancel()
	asking, stop := context.WithCancel(ctx)
	defer stop()
	url := w.base(s) + s.path("hit", size)
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		times   []time.Duration
		errs    []error
		counted bool
	)
	done := func(took time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			errs = append(errs, err)
			stop()
		case counted:
			times = append(times, took)
		}
	}
	count := func(on bool) int {
		mu.Lock()
		defer mu.Unlock()
		counted = on
		return len(times)
	}
	clients := make([]*http.Client, max(1, b.connections/h2Streams))
	for i := range clients {
		clients[i] = w.newClient()
		for range h2Streams {
			wg.Go(func() {
				buffer := make([]byte, 64<<10)
				for asking.Err() == nil {
					began := time.Now()
					err := hit(asking, clients[i], url, size, buffer)
					if asking.Err() != nil {
						return
					}
					done(time.Since(began), err)
				}
			})
		}
	}
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-asking.Done():
		}
	}
	wait(warmUp)
	count(true)
	before, err := proc.CPU(s.pid)
	began := time.Now()
	wait(b.duration)
	n := count(false)
	spent := time.Since(began)
	after, aerr := proc.CPU(s.pid)
	stop()
	wg.Wait()
	for _, c := range clients {
		errs = append(errs, closeClient(c))
	}
	if err := errors.Join(append(errs, err, aerr, ctx.Err())...); err != nil {
		return result{}, err
	}
	if n == 0 {
		return result{}, fmt.Errorf("%s: no answer in %s", url, spent)
	}
	times = times[:n]
	slices.Sort(times)
	return result{float64(n) / spent.Seconds(), times[n*99/100], (after - before) / time.Duration(n)}, nil
}

// closeClient ends its connections.
func closeClient(c *http.Client) error {
	if closer, ok := c.Transport.(io.Closer); ok {
		return closer.Close()
	}
	c.CloseIdleConnections()
	return nil
}

// hit asks once and counts the bytes.
func hit(ctx context.Context, c *http.Client, url string, size int, buffer []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buffer)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || n != int64(size) {
		return fmt.Errorf("%s: status %d, %d of %d bytes", url, res.StatusCode, n, size)
	}
	return nil
}
