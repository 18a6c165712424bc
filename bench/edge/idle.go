package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/meridian-video/meridian/bench/proc"
)

const (
	// idleSize is the object each connection has asked for.
	idleSize = 2 << 10
	// idleAsking connections ask at the same time.
	idleAsking = 64
	// idleFor is how long all wait before they are weighed.
	idleFor = 5 * time.Second
	// idleWithin bounds a measurement.
	idleWithin = 3 * time.Minute
	// idleTries is how often a client asks until it keeps its connection.
	idleTries = 10
	// maxIdle leaves ports and files for others.
	maxIdle = 15_000
	// moreFiles are what a process opens beyond connections.
	moreFiles = 500
)

// idleWays are how idle connections are made, and what the table calls them.
var idleWays = []struct{ row, title string }{{rowHits, "HTTP/1.1"}, {rowTLS, "HTTP/1.1 over TLS 1.3"}, {rowH2, "HTTP/2 over TLS 1.3"}}

// openFiles lets this process, and those it starts, have n connections.
func openFiles(n int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Max < uint64(n+moreFiles) {
		return fmt.Errorf("-idle %d: a process may have only %d files open (ulimit -Hn)", n, limit.Max)
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// weighIdle finds what a connection costs that has had an answer and waits. Each
// measurement has a server that was just started: what others have freed would be
// used again.
func (b *bench) weighIdle(ctx context.Context, names []string) error {
	if err := openFiles(b.idle); err != nil {
		return err
	}
	cells := map[string]float64{}
	for _, way := range idleWays {
		for _, name := range names {
			err := b.apart(ctx, func(*bench) {}, func(one *bench) error {
				w, s := one.way(way.row), one.servers[0]
				if w.base(s) == "" {
					return nil
				}
				weight, err := one.weigh(ctx, w, s)
				cells[name+"/"+way.row] = weight
				return err
			}, name)
			if err != nil {
				return fmt.Errorf("%d idle connections of %s: %s: %w", b.idle, way.title, name, err)
			}
		}
	}
	fmt.Printf("%d idle connections, each after one hit of %s: memory of the server's processes for each, without the kernel's for its socket, which is everybody's. One measurement each; less is better.\n\n%s\n",
		b.idle, sizeName(idleSize), idleTable(names, cells))
	return nil
}

// weigh returns the bytes a connection costs.
func (b *bench) weigh(ctx context.Context, w way, s *server) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, idleWithin)
	defer cancel()
	if err := s.check(ctx, w, idleSize, b.origin); err != nil {
		return 0, err
	}
	before, err := proc.Memory(s.pid)
	if err != nil {
		return 0, err
	}
	clients := make([]*http.Client, b.idle)
	for i := range clients {
		clients[i] = w.newClient()
		defer clients[i].CloseIdleConnections()
	}
	url := w.base(s) + s.path("hit", idleSize)
	if err := askAll(ctx, clients, url, false); err != nil {
		return 0, err
	}
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := proc.Memory(s.pid)
	if err != nil {
		return 0, err
	}
	// Those that the server has closed would cost nothing.
	return float64(after-before) / float64(b.idle), askAll(ctx, clients, url, true)
}

// askAll has every client ask, on a connection it has already or on a new one.
func askAll(ctx context.Context, clients []*http.Client, url string, again bool) error {
	var wg sync.WaitGroup
	errs := make([]error, idleAsking)
	var other atomic.Int64
	for i := range errs {
		wg.Go(func() {
			for k := i; k < len(clients) && errs[i] == nil; k += idleAsking {
				var how asked
				how, errs[i] = askOn(ctx, clients[k], url)
				for try := 1; !again && errs[i] == nil && !how.kept && try < idleTries; try++ {
					how, errs[i] = askOn(ctx, clients[k], url)
				}
				if how.reused != again {
					other.Add(1)
				}
			}
		})
	}
	wg.Wait()
	err := errors.Join(errs...)
	if n := other.Load(); n > 0 && err == nil {
		err = fmt.Errorf("%s: %d of %d connections were there before: %v, want %v", url, n, len(clients), !again, again)
	}
	return err
}

// asked is whether the connection was there before, and whether the client keeps it.
// Go's lets go of one whose writing half has said nothing 50 ms after it wrote the
// request, which happens where processors are busy; over HTTP/2 it keeps them all.
type asked struct{ reused, kept bool }

func askOn(ctx context.Context, c *http.Client, url string) (how asked, err error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:     func(i httptrace.GotConnInfo) { how.reused = i.Reused },
		PutIdleConn: func(err error) { how.kept = err == nil },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return how, err
	}
	res, err := c.Do(req)
	if err != nil {
		return how, err
	}
	n, err := io.Copy(io.Discard, res.Body) // which ends when the connection was kept, or not
	how.kept = how.kept || res.ProtoMajor == 2
	switch err := errors.Join(err, res.Body.Close()); {
	case err != nil:
		return how, err
	case res.StatusCode != http.StatusOK || n != idleSize:
		return how, fmt.Errorf("%s: status %d, %d bytes", url, res.StatusCode, n)
	}
	return how, nil
}

// idleTable writes what a connection costs in KiB, and for ours the ratio to the
// best peer.
func idleTable(names []string, cells map[string]float64) string {
	var b strings.Builder
	b.WriteString("| Connections |")
	rule := "|---|"
	for _, name := range names {
		b.WriteString(" " + name + " |")
		rule += "---|"
		if isOurs(name) {
			b.WriteString(" ÷ best peer |")
			rule += "---|"
		}
	}
	b.WriteString("\n" + rule + "\n")
	for _, way := range idleWays {
		best := 0.0
		for _, name := range names {
			if v := cells[name+"/"+way.row]; v > 0 && !isOurs(name) && (best == 0 || v < best) {
				best = v
			}
		}
		b.WriteString("| " + way.title + " |")
		for _, name := range names {
			v, ok := cells[name+"/"+way.row]
			switch {
			case !ok:
				b.WriteString(" – |")
			default:
				fmt.Fprintf(&b, " %.1f KiB |", v/1024)
			}
			if !isOurs(name) {
				continue
			}
			if !ok || best == 0 {
				b.WriteString(" no peer |")
			} else {
				fmt.Fprintf(&b, " **%.2f** |", v/best)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
