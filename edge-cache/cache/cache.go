package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/semaphore"

	"github.com/meridian-video/meridian/edge-cache/pages"
)

// Config of a cache. Memory is required; without Dir there is no disk tier.
type Config struct {
	// Memory is how many bytes of objects are kept in memory.
	Memory int64
	// Dir holds the disk log, of at most Disk bytes.
	Dir  string
	Disk int64
	// Copies is how many bytes of bodies are kept a second time, as the kernel sends
	// them without copying; default an eighth of Memory.
	Copies int64
	// MaxObject is the largest object kept; default an eighth of Memory, at most 64 MiB.
	MaxObject int64
	// FillTimeout bounds the fetch of one object; default a minute.
	FillTimeout time.Duration
	// MissingFor is how long the absence of an object is remembered; default a second.
	MissingFor time.Duration
	// DiskRetry is after which pause a disk that has failed is looked at; pauses
	// double up to 60 times that. Default a second.
	DiskRetry time.Duration
	Log       *slog.Logger
	Events    Events
}

// Events are told what happens; all fields may be nil.
type Events struct {
	// Filled: an object was read from a tier below memory, in the given time.
	Filled func(tier Tier, bytes int64, took time.Duration)
	// Failed: a fill ended with an error.
	Failed func(tier Tier, err error)
	// DiskDropped: an object wasn't written to the log because the writer is behind.
	DiskDropped func()
}

const (
	// overhead is what an object costs beyond its bytes.
	overhead = 1280
	// maxAhead bounds the prefetches among them, busy is how many fills leave no
	// room for any.
	maxAhead = 8
	busy     = 32
	shards   = 64
)

// Rejecter may be a Source's body. Reject says that its bytes, read to their end,
// weren't what its Info said; opening the Source again gives another origin's
// where there is one.
type Rejecter interface{ Reject() }

// MaxFills bounds the fetches running at once, and so their goroutines.
const MaxFills = 512

// Source opens an object at its origin from offset to its end. ctx ends with
// the fill, not with the request that started it.
type Source func(ctx context.Context, offset int64) (io.ReadCloser, Info, error)

// Cache is safe for concurrent use.
type Cache struct {
	cfg    Config
	shards [shards]shard
	disk   *diskLog
	door   doorkeeper // of the disk
	drops  drops
	ctx    context.Context
	cancel context.CancelFunc
	fills  sync.WaitGroup

	running  *semaphore.Weighted // fills
	arriving *semaphore.Weighted // bytes
	bringing atomic.Int32        // objects on their way from disk to memory
	filling  atomic.Int32        // fills that run
	ahead    atomic.Int32        // prefetches among them

	closeMu sync.RWMutex
	closed  bool

	mu     sync.Mutex // of policy; taken before a shard's
	policy *s3fifo
	window *pages.Window
}

type shard struct {
	mu sync.RWMutex
	m  map[string]*Object
}

// Open makes a cache. A disk log that can't be used is an error here; one that
// fails later only costs the disk tier, until it works again.
func Open(cfg Config) (*Cache, error) {
	if cfg.Memory < 1<<20 {
		return nil, fmt.Errorf("cache: %d bytes of memory: want at least 1 MiB", cfg.Memory)
	}
	if cfg.MaxObject == 0 {
		cfg.MaxObject = min(64<<20, cfg.Memory/8)
	}
	if cfg.Copies == 0 {
		cfg.Copies = cfg.Memory / 8
	}
	if cfg.FillTimeout == 0 {
		cfg.FillTimeout = time.Minute
	}
	if cfg.MissingFor == 0 {
		cfg.MissingFor = time.Second
	}
	if cfg.DiskRetry == 0 {
		cfg.DiskRetry = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{cfg: cfg, running: semaphore.NewWeighted(MaxFills), arriving: semaphore.NewWeighted(cfg.Memory / 2)}
	for i := range c.shards {
		c.shards[i].m = map[string]*Object{}
	}
	c.policy = newS3FIFO(cfg.Memory, func(n *node) { c.unlink(n) })
	if cfg.Dir != "" {
		d, err := openLog(cfg.Dir, cfg.Disk, cfg.MaxObject, cfg.DiskRetry, &c.drops, cfg.Log)
		if err != nil {
			return nil, err
		}
		c.disk, c.door.capacity = d, cfg.Disk/2
	}
	c.window = pages.Open(cfg.Copies, func(err error) {
		cfg.Log.Warn("cache: bodies are sent without copies of them in memory files", "err", err)
	})
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends running fills, writes what waits for the disk and closes the log.
func (c *Cache) Close() error {
	c.closeMu.Lock()
	c.closed = true
	c.closeMu.Unlock()
	c.cancel()
	c.fills.Wait()
	c.window.Close()
	if c.disk == nil {
		return nil
	}
	return c.disk.close()
}

// DiskErr is why the disk tier isn't used, nil when it is or there is none.
func (c *Cache) DiskErr() error { return c.Disk().Err }

// DiskKeys are those of the objects on disk.
func (c *Cache) DiskKeys() []string {
	if c.disk == nil {
		return nil
	}
	return c.disk.keys()
}

// Window has the copies of bodies asked for most.
func (c *Cache) Window() *pages.Window { return c.window }

// Stats are sizes at one moment.
type Stats struct {
	Bytes, Capacity, Evictions, Refused int64
	DiskBytes, DiskCapacity             int64
	Objects, DiskObjects                int
	// Filling is how many objects are arriving.
	Filling int
	// Copies is how many bytes are in memory a second time.
	Copies int64
}

// Filling is how many objects are arriving.
func (c *Cache) Filling() int { return int(c.filling.Load()) }

// Stats returns the cache's sizes.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	s := Stats{Capacity: c.policy.capacity, Evictions: c.policy.evictions, Refused: c.policy.refused}
	s.Objects, s.Bytes = c.policy.size()
	s.Objects -= c.policy.onDisk.len
	c.mu.Unlock()
	s.Filling = int(c.filling.Load())
	s.Copies = c.window.Bytes()
	if c.disk != nil {
		s.DiskBytes, s.DiskObjects = c.disk.size()
		s.DiskCapacity = c.cfg.Disk
	}
	return s
}

// Outcome says how a Get was answered.
type Outcome struct {
	// Tier the bytes come from. For Disk and Origin they may still be arriving.
	Tier Tier
	// Collapsed: another request had asked for the object and it was still arriving.
	Collapsed bool
	// Negative: that the object is missing was remembered.
	Negative bool
	// Prefetched: it was brought before anyone asked, and this is who asks first.
	Prefetched bool
}

// Get returns the object under key, opening src if it is neither in memory nor
// on disk, and waits until its Info is known, not for its bytes. Release it.
func (c *Cache) Get(ctx context.Context, key string, src Source) (*Object, Outcome, error) {
	hash := xxhash.Sum64String(key)
	s := &c.shards[hash%shards]
	s.mu.RLock()
	o := s.m[key]
	s.mu.RUnlock()
	if o != nil && o.complete.Load() && !stale(o) {
		first := o.ahead.Load() && o.ahead.Swap(false)
		if o.disk != nil {
			l := o.lend()
			if l == nil {
				return c.Get(ctx, key, src) // it has gone this moment
			}
			c.askedOnDisk(o)
			return l, Outcome{Tier: Disk, Prefetched: first}, nil
		}
		o.touch()
		if first {
			c.askedOnce(o)
		} else {
			c.askedAgain(o)
		}
		return o, Outcome{Tier: Memory, Prefetched: first}, nil
	}
	return c.wait(ctx, key, hash, o, src)
}

// Prefetch brings the object into memory before anyone asks; false when it is
// there or on its way, or while fills that are asked for leave no room.
func (c *Cache) Prefetch(key string, src Source) bool {
	if c.filling.Load() >= busy {
		return false
	}
	hash := xxhash.Sum64String(key)
	s := &c.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m[key] != nil {
		return false
	}
	if c.ahead.Add(1) > maxAhead {
		c.ahead.Add(-1)
		return false
	}
	o := c.newObject(key, hash)
	o.ahead.Store(true)
	if !c.start(o, src) {
		c.ahead.Add(-1)
		return false
	}
	s.m[key] = o
	return true
}

// Hit returns the object under key if it is whole and in memory, or with files on
// disk, and was asked for before, else nil. It doesn't wait or keep key. Release the
// object.
func (c *Cache) Hit(key []byte, files bool) *Object {
	hash := xxhash.Sum64(key)
	s := &c.shards[hash%shards]
	s.mu.RLock()
	o := s.m[string(key)]
	s.mu.RUnlock()
	if o == nil || !o.complete.Load() || o.direct || o.ahead.Load() {
		return nil
	}
	if o.disk != nil {
		if !files || !o.hold() {
			return nil
		}
		c.askedOnDisk(o)
		return o
	}
	o.touch()
	c.askedAgain(o)
	return o
}

func (c *Cache) wait(ctx context.Context, key string, hash uint64, o *Object, src Source) (*Object, Outcome, error) {
	out := Outcome{Collapsed: true}
	if o == nil || stale(o) {
		s := &c.shards[hash%shards]
		s.mu.Lock()
		old := s.m[key]
		if o = old; o == nil || stale(o) {
			o, out.Collapsed = c.newObject(key, hash), false
			if !c.start(o, src) {
				s.mu.Unlock()
				return nil, Outcome{}, ErrClosed
			}
			s.m[key] = o
		}
		s.mu.Unlock()
		if !out.Collapsed && old != nil {
			c.forget(old)
		}
	}
	select {
	case <-o.opened:
	case <-ctx.Done():
		return nil, out, ctx.Err()
	}
	out.Tier = o.tier
	if err := o.failure(); err != nil {
		out.Negative = out.Collapsed && errors.Is(err, ErrNotFound)
		return nil, out, err
	}
	out.Prefetched = o.ahead.Load() && o.ahead.Swap(false)
	if o.disk != nil {
		l := o.lend()
		if l == nil {
			return c.Get(ctx, key, src)
		}
		out.Collapsed = false
		return l, out, nil
	}
	if !out.Collapsed || out.Prefetched {
		c.askedOnce(o)
	} else {
		c.askedAgain(o)
	}
	if out.Collapsed && o.complete.Load() {
		out.Collapsed, out.Tier = false, Memory
	}
	o.touch()
	return o, out, nil
}

// Put adds a whole object that didn't come through a Source, replacing one of the
// same key; false when memory has no room for it. body is the cache's from now on.
// again: it was asked for before, and goes to disk at once.
func (c *Cache) Put(key string, info Info, body []byte, again bool) bool {
	o := c.newObject(key, xxhash.Sum64String(key))
	o.wanted.Store(again)
	return c.put(o, info, body, nil)
}

// put adds a whole object; instead is the one it may replace, nil for any.
func (c *Cache) put(o *Object, info Info, body []byte, instead *Object) bool {
	info.Size = int64(len(body))
	o.info, o.body = info, body
	if info.Size > c.cfg.MaxObject {
		o.written.Store(true)
	}
	o.finish()
	close(o.opened)
	s := &c.shards[o.hash%shards]
	s.mu.Lock()
	old := s.m[o.key]
	// A drop that comes later finds it.
	if instead != nil && old != instead || c.drops.since(o.born, o.key) {
		s.mu.Unlock()
		return false
	}
	s.m[o.key] = o
	s.mu.Unlock()
	if old != nil {
		c.forget(old)
	}
	if info.Size > c.cfg.MaxObject || !c.admit(o, info.Size+overhead) {
		c.forget(o)
		return false
	}
	if o.wanted.Load() {
		c.write(o)
	}
	return true
}

// stale reports whether an entry's failure is old enough to ask again, or its bytes
// aren't on disk any more. Only absence is remembered; other failures end with the fill.
func stale(o *Object) bool {
	if o.complete.Load() {
		return o.disk != nil && o.disk.gone()
	}
	err := o.failure()
	return err != nil && (o.expires.IsZero() || time.Now().After(o.expires))
}

func (c *Cache) start(o *Object, src Source) bool {
	c.closeMu.RLock()
	defer c.closeMu.RUnlock()
	if c.closed {
		return false
	}
	c.fills.Add(1)
	c.filling.Add(1)
	prefetch := o.ahead.Load()
	go func() {
		defer c.fills.Done()
		c.fill(o, src)
		c.filling.Add(-1)
		if prefetch {
			c.ahead.Add(-1)
		}
	}()
	return true
}

// admit puts the object under the policy; false when there is no room.
func (c *Cache) admit(o *Object, size int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy.remove(&o.node)
	o.size = size
	return c.policy.insert(&o.node)
}

// forget takes the object out of index and policy.
func (c *Cache) forget(o *Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy.remove(&o.node)
	c.unlink(&o.node)
}

// Drop forgets every object whose key matches and returns how many were in
// memory. Readers that have one keep it, those of one that is arriving get it
// whole; who asks after Drop has returned gets neither. The error is of the disk: it
// is removed there before the disk is used again, but a cache opened anew may find
// it. match is called later too, and by several goroutines.
func (c *Cache) Drop(match func(key string) bool) (int, error) {
	c.drops.add(match)
	// The disk first: what is taken from there meanwhile is found in memory.
	var err error
	if c.disk != nil {
		err = c.disk.remove(match)
		c.drops.add(match) // for what was taken from the disk just before
	}
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		var found []*Object
		s.mu.RLock()
		for key, o := range s.m {
			if match(key) {
				found = append(found, o)
			}
		}
		s.mu.RUnlock()
		for _, o := range found {
			c.forget(o)
		}
		n += len(found)
	}
	return n, err
}

// drops remembers which drops there were lately, so that an object that was on its way
// then isn't kept when it has arrived.
type drops struct {
	mu   sync.Mutex
	n    uint64 // how many there were
	last [maxDrops]func(key string) bool
}

// maxDrops is how many are remembered. An object that took longer isn't kept.
const maxDrops = 256

func (d *drops) add(match func(key string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last[d.n%maxDrops] = match
	d.n++
}

func (d *drops) count() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n
}

// since reports whether an object may have been dropped after the first n drops.
func (d *drops) since(n uint64, key string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n-n > maxDrops {
		return true
	}
	for i := n; i < d.n; i++ {
		if d.last[i%maxDrops](key) {
			return true
		}
	}
	return false
}

// unlink takes the object out of the index, unless another has its place.
func (c *Cache) unlink(n *node) {
	s := &c.shards[n.hash%shards]
	s.mu.Lock()
	if o := s.m[n.key]; o != nil && &o.node == n {
		delete(s.m, n.key)
	}
	s.mu.Unlock()
}
