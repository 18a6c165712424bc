package main

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/maypok86/otter/v2"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

const (
	// traceMemory is what each cache may hold; the objects asked for are traceTimes
	// as much. Objects are of 4 to 128 KiB, segments of a ladder in small.
	traceMemory = 64 << 20
	traceTimes  = 10
	minObject   = 4 << 10
	maxObject   = 128 << 10 // a channel's segments are twice that
)

// policy is a cache that is asked for objects, and fetches what it hasn't.
type policy interface {
	// get reports whether the object was there.
	get(key string, size int) (bool, error)
	// ahead fetches it before it is asked for, and reports whether it wasn't there.
	ahead(key string, size int) bool
	close() error
}

var policyNames = []string{"LRU", "otter", "Meridian"}

func newPolicy(ctx context.Context, name string) (policy, error) {
	switch name {
	case "LRU":
		return &lru{at: map[string]*list.Element{}}, nil
	case "otter":
		c, err := otter.New(&otter.Options[string, int]{MaximumWeight: traceMemory, Weigher: func(_ string, size int) uint32 { return uint32(size) },
			Executor: func(f func()) { f() }})
		return tinyLFU{c}, err
	default:
		c, err := cache.Open(cache.Config{Memory: traceMemory})
		return &edgeCache{ctx, c, make([]byte, 2*maxObject)}, err
	}
}

// lru is the plain thing, weighted by bytes.
type lru struct {
	bytes  int
	recent list.List // of lruEntry, most recently asked first
	at     map[string]*list.Element
}

type lruEntry struct {
	key  string
	size int
}

func (l *lru) get(key string, size int) (bool, error) {
	if el, ok := l.at[key]; ok {
		l.recent.MoveToFront(el)
		return true, nil
	}
	l.at[key] = l.recent.PushFront(lruEntry{key, size})
	for l.bytes += size; l.bytes > traceMemory; {
		e := l.recent.Remove(l.recent.Back()).(lruEntry)
		delete(l.at, e.key)
		l.bytes -= e.size
	}
	return false, nil
}

func (l *lru) ahead(key string, size int) bool {
	if l.at[key] != nil {
		return false
	}
	_, _ = l.get(key, size)
	return true
}

func (l *lru) close() error { return nil }

// tinyLFU is otter, whose policy is W-TinyLFU.
type tinyLFU struct{ c *otter.Cache[string, int] }

func (t tinyLFU) get(key string, size int) (bool, error) {
	if _, ok := t.c.GetIfPresent(key); ok {
		return true, nil
	}
	t.c.Set(key, size)
	return false, nil
}

func (t tinyLFU) ahead(key string, size int) bool {
	if _, ok := t.c.GetEntryQuietly(key); ok {
		return false
	}
	t.c.Set(key, size)
	return true
}

func (t tinyLFU) close() error { t.c.StopAllGoroutines(); return nil }

// edgeCache is the edge's memory tier as it is, bytes and all. What it keeps of an
// object beyond its bytes counts in its memory; with the others nothing does.
type edgeCache struct {
	ctx  context.Context
	c    *cache.Cache
	body []byte
}

func (e *edgeCache) get(key string, size int) (bool, error) {
	o, out, err := e.c.Get(e.ctx, key, e.source(size))
	if err != nil {
		return false, err
	}
	for at := 0; at < size; {
		b, err := o.Bytes(e.ctx, int64(at))
		if err != nil {
			return false, err
		}
		at += len(b)
	}
	return out.Tier == cache.Memory, nil
}

func (e *edgeCache) source(size int) cache.Source {
	return func(context.Context, int64) (io.ReadCloser, cache.Info, error) {
		return io.NopCloser(bytes.NewReader(e.body[:size])), cache.Info{Size: int64(size)}, nil
	}
}

func (e *edgeCache) ahead(key string, size int) bool {
	if !e.c.Prefetch(key, e.source(size)) {
		return false
	}
	for e.c.Filling() > 0 {
		runtime.Gosched()
	}
	return true
}

func (e *edgeCache) close() error { return e.c.Close() }

// trace is a row of requests.
type trace struct {
	sizes    []int
	requests []int // objects
	// next is how many segments a video has, one object after the other: the one after
	// each that is asked for is brought ahead. 0 for none.
	next int
}

// patterns of requests, in the order of the table.
var patterns = []struct {
	name string
	make func(r *rand.Rand, n int) trace
}{
	{"Zipf 0.7", func(r *rand.Rand, n int) trace { return zipfTrace(r, 0.7, n) }},
	{"Zipf 0.9", func(r *rand.Rand, n int) trace { return zipfTrace(r, 0.9, n) }},
	{"Zipf 1.1", func(r *rand.Rand, n int) trace { return zipfTrace(r, 1.1, n) }},
	{"three in ten asked for once", onceTrace},
	{"new objects push down the old", driftTrace},
	{"popularity changes places", swapTrace},
	{"scans in between", scanTrace},
	{"viewers of videos, brought ahead", videoTrace},
	{"viewers of channels", channelTrace},
}

func (t *trace) add(r *rand.Rand, objects int) {
	for range objects {
		t.sizes = append(t.sizes, minObject+r.IntN(maxObject-minObject))
	}
}

// zipf draws from n ranks.
func zipf(r *rand.Rand, n int, exponent float64) func() int {
	upTo, sum := make([]float64, n), 0.0 // sums of the weights
	for i := range upTo {
		sum += math.Pow(float64(i+1), -exponent)
		upTo[i] = sum
	}
	return func() int {
		i, _ := slices.BinarySearch(upTo, r.Float64()*sum)
		return i
	}
}

// zipfTrace draws objects until they are traceTimes the memory, and n requests for
// them under Zipf's law. Size and popularity have nothing to do with each other.
func zipfTrace(r *rand.Rand, exponent float64, n int) trace {
	var t trace
	for sum := 0; sum < traceTimes*traceMemory; sum += t.sizes[len(t.sizes)-1] {
		t.add(r, 1)
	}
	draw := zipf(r, len(t.sizes), exponent)
	t.requests = make([]int, n)
	for i := range t.requests {
		t.requests[i] = draw()
	}
	return t
}

func onceTrace(r *rand.Rand, n int) trace {
	t := zipfTrace(r, 0.9, n)
	for i := range t.requests {
		if r.IntN(10) < 3 {
			t.requests[i] = len(t.sizes)
			t.add(r, 1)
		}
	}
	return t
}

// driftTrace: every fifty requests a new object is the most popular, and all others
// are one rank less.
func driftTrace(r *rand.Rand, n int) trace {
	const objects, every = 10_000, 50
	var t trace
	t.add(r, objects+n/every+1)
	draw := zipf(r, objects, 0.9)
	for i := range n {
		t.requests = append(t.requests, objects+i/every-draw())
	}
	return t
}

// swapTrace: every twenty requests two objects change places, one of them popular.
func swapTrace(r *rand.Rand, n int) trace {
	t := zipfTrace(r, 0.9, n)
	last := len(t.sizes) - 1
	object := r.Perm(last + 1)
	for i, rank := range t.requests {
		if i%20 == 0 {
			a, b := int(math.Pow(float64(last), r.Float64())), r.IntN(last+1)
			object[a], object[b] = object[b], object[a]
		}
		t.requests[i] = object[rank]
	}
	return t
}

// scanTrace: four thousand of each twenty thousand requests are half of a scan.
func scanTrace(r *rand.Rand, n int) trace {
	t := zipfTrace(r, 0.9, n)
	first, scanned := len(t.sizes), 0
	t.add(r, 8000)
	for i := range t.requests {
		if i%20_000 >= 12_000 && i%20_000 < 16_000 && i%2 == 0 {
			t.requests[i] = first + scanned%8000
			scanned++
		}
	}
	return t
}

// videoTrace: forty viewers, by turns, of two hundred videos of sixty segments. One
// in forty leaves after a segment.
func videoTrace(r *rand.Rand, n int) trace {
	const viewers, videos, segments = 40, 200, 60
	t := trace{next: segments}
	t.add(r, videos*segments)
	draw := zipf(r, videos, 0.9)
	at := make([]int, viewers)
	for i := range at {
		at[i] = draw()*segments + r.IntN(segments)
	}
	for i := range n {
		v := i % viewers
		t.requests = append(t.requests, at[v])
		if at[v]++; at[v]%segments == 0 || r.IntN(40) == 0 {
			at[v] = draw() * segments
		}
	}
	return t
}

// channelTrace: two hundred viewers of twenty channels ask for the newest segments,
// each as far behind as he is; each third request is for something else.
func channelTrace(r *rand.Rand, n int) trace {
	const viewers, channels = 200, 20
	t := zipfTrace(r, 0.8, n)
	first := len(t.sizes)
	channel := zipf(r, channels, 0.9)
	watches, behind := make([]int, viewers), make([]int, viewers)
	for v := range viewers {
		watches[v], behind[v] = channel(), int(0.7*r.ExpFloat64())
	}
	asked := 0
	for i := range t.requests {
		if i%3 == 0 {
			continue
		}
		v, now := asked%viewers, asked/viewers
		asked++
		object := first + max(now-behind[v], 0)*channels + watches[v]
		for len(t.sizes) <= object {
			t.sizes = append(t.sizes, 2*maxObject)
		}
		t.requests[i] = object
	}
	return t
}

// share is what a cache answered, of requests and of bytes.
type share struct{ objects, bytes float64 }

// run asks for all; the first quarter only fills the cache. What was brought ahead
// isn't a hit for the origin, which gave it, and gave it in vain if nobody came.
func (t trace) run(ctx context.Context, p policy) (share, error) {
	var hits, all, hitBytes, allBytes int
	for i, n := range t.requests {
		hit, err := p.get(strconv.Itoa(n), t.sizes[n])
		if err != nil {
			return share{}, err
		}
		brought := 0
		if next := n + 1; t.next > 0 && next%t.next != 0 && p.ahead(strconv.Itoa(next), t.sizes[next]) {
			brought = t.sizes[next]
		}
		if i < len(t.requests)/4 {
			continue
		}
		if all, allBytes = all+1, allBytes+t.sizes[n]; hit {
			hits, hitBytes = hits+1, hitBytes+t.sizes[n]
		}
		hitBytes -= brought
		if i%1024 == 0 && ctx.Err() != nil {
			return share{}, ctx.Err()
		}
	}
	return share{float64(hits) / float64(all), float64(hitBytes) / float64(allBytes)}, nil
}

// traces compares the edge's cache with others.
func traces(ctx context.Context, o options) error {
	found := map[string]map[string][]share{}
	for _, pattern := range patterns {
		found[pattern.name] = map[string][]share{}
		for round := range o.rounds {
			t := pattern.make(rand.New(rand.NewPCG(uint64(round), 1)), o.requests)
			for _, name := range policyNames {
				p, err := newPolicy(ctx, name)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				s, err := t.run(ctx, p)
				if err := errors.Join(err, p.close()); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				found[pattern.name][name] = append(found[pattern.name][name], s)
			}
		}
	}
	fmt.Printf("Hit ratios of a cache of %s: %d requests, the first quarter not counted, medians of %d rounds. Zipf's law is over %d times as much. Bytes, and objects in brackets; bytes brought ahead count as missed.\n\n%s\n",
		sizeName(traceMemory), o.requests, o.rounds, traceTimes, traceTable(found))
	return nil
}

// traceTable writes the shares, and ours to the others' in the same round, by bytes.
func traceTable(found map[string]map[string][]share) string {
	var b strings.Builder
	b.WriteString("| Requests | LRU | otter | Meridian | ÷ LRU | ÷ otter |\n|---|---|---|---|---|---|\n")
	for _, pattern := range patterns {
		rows, ok := found[pattern.name]
		if !ok {
			continue
		}
		fmt.Fprintf(&b, "| %s |", pattern.name)
		of := func(name string, f func(i int, s share) float64) []float64 {
			var out []float64
			for i, s := range rows[name] {
				out = append(out, f(i, s))
			}
			slices.Sort(out)
			return out
		}
		for _, name := range policyNames {
			n := len(rows[name]) / 2
			fmt.Fprintf(&b, " %.2f %% (%.2f %%) |", 100*of(name, func(_ int, s share) float64 { return s.bytes })[n], 100*of(name, func(_ int, s share) float64 { return s.objects })[n])
		}
		for _, peer := range []string{"LRU", "otter"} {
			rs := of("Meridian", func(i int, s share) float64 { return s.bytes / rows[peer][i].bytes })
			fmt.Fprintf(&b, " **%.3f** (%.3f–%.3f) |", rs[len(rs)/2], rs[0], rs[len(rs)-1])
		}
		b.WriteString("\n")
	}
	return b.String()
}
