package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// coldSize is the object that many ask for at once while nobody has it.
const coldSize = 1 << 20

// cold lets all clients ask for an object that isn't cached, whose origin takes
// its time, and says when their first and last bytes came beside the origin's own.
func (b *bench) cold(ctx context.Context) error {
	var out strings.Builder
	fmt.Fprintf(&out, "%d clients at once on a cold object of %s; the origin sends a quarter at once and the rest in three steps of %s.\n\n", b.clients, sizeName(coldSize), slowStep)
	out.WriteString("| | origin fetches | first byte, median | first byte, last client | whole, last client |\n|---|---|---|---|---|\n")
	alone, err := b.crowd(ctx, 1, "http://"+b.origin.addr+originPath(slowName+"-origin", coldSize))
	if err != nil {
		return err
	}
	fmt.Fprintf(&out, "| origin itself, one client | 1 | %s | %s | %s |\n", alone.first[0], alone.first[0], alone.whole[0])
	for _, s := range b.servers {
		if s.path("x", coldSize) != originPath("x", coldSize) {
			continue // it has a store of its own
		}
		path := originPath(slowName+"-"+s.name, coldSize)
		c, err := b.crowd(ctx, b.clients, s.base+path)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		n := len(c.first)
		fmt.Fprintf(&out, "| %s | %d | %s | %s | %s |\n", s.name, b.origin.fetches(path), c.first[n/2], c.first[n-1], c.whole[n-1])
	}
	fmt.Println(out.String())
	return nil
}

// crowd is when each client had its first byte and all bytes, sorted.
type crowd struct{ first, whole []time.Duration }

func (b *bench) crowd(ctx context.Context, n int, url string) (crowd, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tr := &http.Transport{MaxIdleConnsPerHost: n, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	// Connections are opened before, on another object: what is measured is the cache.
	warm := url[:strings.LastIndexByte(url, '/')+1] + "64"
	each := func(f func(i int) error) error {
		var wg sync.WaitGroup
		errs := make([]error, n)
		for i := range n {
			wg.Go(func() { errs[i] = f(i) })
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	one := func(url string, started time.Time) (first, whole time.Duration, err error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, 0, err
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, 0, err
		}
		var b [1]byte
		_, err = io.ReadFull(res.Body, b[:])
		first = time.Since(started)
		got, cerr := io.Copy(io.Discard, res.Body)
		err = errors.Join(err, cerr, res.Body.Close())
		if err == nil && (res.StatusCode != http.StatusOK || got+1 != max(res.ContentLength, 1)) {
			err = fmt.Errorf("%s: status %d, %d of %d bytes", url, res.StatusCode, got+1, res.ContentLength)
		}
		return first, time.Since(started), err
	}
	if err := each(func(int) error { _, _, err := one(warm, time.Now()); return err }); err != nil {
		return crowd{}, err
	}
	c := crowd{make([]time.Duration, n), make([]time.Duration, n)}
	started := time.Now()
	err := each(func(i int) (err error) {
		c.first[i], c.whole[i], err = one(url, started)
		return err
	})
	for _, ds := range [][]time.Duration{c.first, c.whole} {
		slices.Sort(ds)
		for i := range ds {
			ds[i] = ds[i].Round(100 * time.Microsecond)
		}
	}
	return c, err
}
