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
	maxObject   = 128 << 10
)

// exponents of the popularity of the nth object, 1/n^s: from flat to steep.
var exponents = []float64{0.7, 0.9, 1.1}

// policy is a cache that is asked for objects, and fetches what it hasn't.
type policy interface {
	// get reports whether the object was there.
	get(key string, size int) (bool, error)
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
		return &edgeCache{ctx, c, make([]byte, maxObject)}, err
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

func (t tinyLFU) close() error { t.c.StopAllGoroutines(); return nil }

// edgeCache is the edge's memory tier as it is, bytes and all. What it keeps of an
// object beyond its bytes counts in its memory; with the others nothing does.
type edgeCache struct {
	ctx  context.Context
	c    *cache.Cache
	body []byte
}

func (e *edgeCache) get(key string, size int) (bool, error) {
	o, out, err := e.c.Get(e.ctx, key, func(context.Context, int64) (io.ReadCloser, cache.Info, error) {
		return io.NopCloser(bytes.NewReader(e.body[:size])), cache.Info{Size: int64(size)}, nil
	})
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

func (e *edgeCache) close() error { return e.c.Close() }

// trace is a row of requests.
type trace struct {
	sizes    []int
	requests []int // objects
}

// newTrace draws objects until they are traceTimes the memory, and n requests for
// them under Zipf's law. Size and popularity have nothing to do with each other.
func newTrace(seed uint64, exponent float64, n int) trace {
	r := rand.New(rand.NewPCG(seed, math.Float64bits(exponent)))
	var t trace
	for sum := 0; sum < traceTimes*traceMemory; {
		size := minObject + r.IntN(maxObject-minObject)
		t.sizes = append(t.sizes, size)
		sum += size
	}
	upTo := make([]float64, len(t.sizes)) // sums of the weights
	sum := 0.0
	for i := range upTo {
		sum += math.Pow(float64(i+1), -exponent)
		upTo[i] = sum
	}
	t.requests = make([]int, n)
	for i := range t.requests {
		x := r.Float64() * sum
		t.requests[i], _ = slices.BinarySearch(upTo, x)
	}
	return t
}

// share is what a cache answered, of requests and of bytes.
type share struct{ objects, bytes float64 }

// run asks for all; the first quarter only fills the cache.
func (t trace) run(ctx context.Context, p policy) (share, error) {
	var hits, all, hitBytes, allBytes int
	for i, n := range t.requests {
		hit, err := p.get(strconv.Itoa(n), t.sizes[n])
		if err != nil {
			return share{}, err
		}
		if i < len(t.requests)/4 {
			continue
		}
		if all, allBytes = all+1, allBytes+t.sizes[n]; hit {
			hits, hitBytes = hits+1, hitBytes+t.sizes[n]
		}
		if i%1024 == 0 && ctx.Err() != nil {
			return share{}, ctx.Err()
		}
	}
	return share{float64(hits) / float64(all), float64(hitBytes) / float64(allBytes)}, nil
}

// traces compares the edge's cache with others over Zipf's law.
func traces(ctx context.Context, o options) error {
	found := map[float64]map[string][]share{}
	for _, exponent := range exponents {
		found[exponent] = map[string][]share{}
		for round := range o.rounds {
			t := newTrace(uint64(round), exponent, o.requests)
			for _, name := range policyNames {
				p, err := newPolicy(ctx, name)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				s, err := t.run(ctx, p)
				if err := errors.Join(err, p.close()); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				found[exponent][name] = append(found[exponent][name], s)
			}
		}
	}
	fmt.Printf("Hit ratios of a cache of %s for %d times as much: %d requests under Zipf's law, the first quarter not counted, medians of %d rounds. Bytes, and objects in brackets.\n\n%s\n",
		sizeName(traceMemory), traceTimes, o.requests, o.rounds, traceTable(found))
	return nil
}

// traceTable writes the shares, and ours to the others' in the same round, by bytes.
func traceTable(found map[float64]map[string][]share) string {
	var b strings.Builder
	b.WriteString("| Exponent | LRU | otter | Meridian | ÷ LRU | ÷ otter |\n|---|---|---|---|---|---|\n")
	for _, exponent := range exponents {
		rows, ok := found[exponent]
		if !ok {
			continue
		}
		fmt.Fprintf(&b, "| %.1f |", exponent)
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
