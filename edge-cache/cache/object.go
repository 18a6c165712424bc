package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meridian-video/meridian/edge-cache/pages"
)

// Info describes an object.
type Info struct {
	Size int64
	// ETag is quoted, as HTTP wants it.
	ETag string
	// SHA256 in lower-case hex; empty when the origin knows none.
	SHA256   string
	Modified time.Time
	// Fetched is when the origin answered, for Age.
	Fetched time.Time
	// Origin names where the bytes came from.
	Origin string
	// Peer: they came from another cache, which keeps them: they aren't written to
	// this one's disk.
	Peer bool
}

// Tier is where an object's bytes came from.
type Tier string

// The tiers.
const (
	Memory Tier = "memory"
	Disk   Tier = "disk"
	Origin Tier = "origin"
)

// Object is an object in the cache, maybe still arriving. Its bytes must not be
// changed and are valid as long as the caller holds them; those of one that is on disk
// alone until the next call of Bytes, or Release.
type Object struct {
	node
	born    uint64    // how many drops there had been
	expires time.Time // of a missing object's entry

	opened chan struct{} // closed once Info, or why there is none, is known
	info   Info
	direct bool
	tier   Tier // where the fill takes the bytes from

	complete atomic.Bool // the whole body may be read without the lock
	body     []byte

	disk *diskBody // where the body is instead; nil while it is in memory, or arriving
	// Of an asker's own: what it has read of it.
	buffer  *[blockSize]byte // nil without
	block   []byte           // of buffer; nil when it has none
	blockAt int64

	memo [2]atomic.Value
	slot *pages.Slot
	// wanted: it was asked for more than once, and is to be written to disk when it is
	// complete. written: it was, or is not to be.
	wanted, written atomic.Bool

	mu     sync.Mutex
	filled int64         // bytes of body that may be read
	woken  chan struct{} // closed when filled or err changes
	err    error
}

func (c *Cache) newObject(key string, hash uint64) *Object {
	o := &Object{node: node{key: key, hash: hash}, born: c.drops.count(), opened: make(chan struct{}), woken: make(chan struct{}), tier: Origin, slot: new(pages.Slot)}
	o.written.Store(c.disk == nil)
	return o
}

// Info describes the object.
func (o *Object) Info() *Info { return &o.info }

// Direct reports that the object is too large to be kept: read it from the origin.
func (o *Object) Direct() bool { return o.direct }

// Memo returns what SetMemo put into slot 0 or 1, nil before.
func (o *Object) Memo(slot int) any { return o.memo[slot].Load() }

// SetMemo keeps what a caller made from the object, at most some hundred bytes,
// for those who get the object later. All values of a slot have one type.
func (o *Object) SetMemo(slot int, v any) { o.memo[slot].Store(v) }

// Slot is where a copy of the body may be.
func (o *Object) Slot() *pages.Slot { return o.slot }

// Complete reports whether all bytes are here.
func (o *Object) Complete() bool { return o.complete.Load() }

// Bytes returns the bytes from offset that are here, at least one: it waits for
// them if they haven't arrived. The error is why they never will, or ctx's.
func (o *Object) Bytes(ctx context.Context, offset int64) ([]byte, error) {
	if o.complete.Load() {
		if o.disk != nil {
			return o.readDisk(offset)
		}
		return o.body[offset:], nil
	}
	for {
		o.mu.Lock()
		filled, woken, err := o.filled, o.woken, o.err
		o.mu.Unlock()
		switch {
		case filled > offset:
			return o.body[offset:filled], nil
		case err != nil:
			return nil, err
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// All returns the whole body once it is here, for as long as the caller holds it.
func (o *Object) All(ctx context.Context) ([]byte, error) {
	size := o.info.Size
	if o.disk == nil {
		if size > 0 {
			if _, err := o.Bytes(ctx, size-1); err != nil {
				return nil, err
			}
		}
		return o.body, nil
	}
	b := make([]byte, 0, size)
	for int64(len(b)) < size {
		p, err := o.readDisk(int64(len(b)))
		if err != nil {
			return nil, err
		}
		b = append(b, p...)
	}
	return b, nil
}

// Whole returns the body of a complete object in memory.
func (o *Object) Whole() []byte { return o.body }

// Available returns how many bytes are here.
func (o *Object) Available() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.filled
}

func (o *Object) publish(filled int64) {
	o.mu.Lock()
	o.filled = filled
	close(o.woken)
	o.woken = make(chan struct{})
	o.mu.Unlock()
}

// finish makes the whole body readable without the lock.
func (o *Object) finish() {
	o.complete.Store(true)
	o.publish(int64(len(o.body)))
}

func (o *Object) fail(err error) {
	o.mu.Lock()
	o.err = err
	close(o.woken)
	o.woken = make(chan struct{})
	o.mu.Unlock()
}

// failure is why the object isn't there, or never will be whole.
func (o *Object) failure() error {
	if o.complete.Load() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
