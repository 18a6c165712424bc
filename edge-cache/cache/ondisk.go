package cache

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// diskBody is where the bytes of an object are that isn't brought into memory: it was
// read once, all of it, since the log was opened, and found right. Of the object
// itself memory has what it costs beyond its bytes.
type diskBody struct {
	d      *diskLog
	p      *place
	blocks []uint32 // checksums
	bad    atomic.Bool
	moving atomic.Bool // it is being brought into memory
}

// gone reports whether nobody is to be given the bytes any more.
func (x *diskBody) gone() bool { return x.bad.Load() || x.p.seg.dead.Load() }

// block reads block i into b, of blockSize, and returns what it is of it.
func (x *diskBody) block(i int64, b []byte) ([]byte, error) {
	b = b[:min(blockSize, x.p.size-i*blockSize)]
	return b, x.p.readBlock(int(i), x.blocks[i], b)
}

var blockBuffers = sync.Pool{New: func() any { return new([blockSize]byte) }}

// stays reports whether an object is left on disk and sent from there. It comes to
// memory where there is room, or what would leave for it was asked for less: one that
// is on disk alone waits there for what others wait for in the small queue, and pushes
// nothing out meanwhile.
func (c *Cache) stays(o *Object, r *recordReader) bool {
	if o.info.Size == 0 || !r.p.verified.Load() {
		return false
	}
	if o.ahead.Load() {
		return true // nobody has asked yet
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.policy.worth(c.policy.lately(c.policy.ghosts.of(o.hash))+1, o.info.Size+overhead)
}

// worth notes that an object on disk alone was asked for, and reports whether it is
// worth its bytes in memory.
func (c *Cache) worth(o *Object) bool {
	size := o.info.Size + overhead
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy.age(size)
	return c.policy.worth(o.hits.Load(), size)
}

// leave makes an object one that is on disk alone.
func (c *Cache) leave(o *Object, r *recordReader) {
	if !o.ahead.Swap(false) { // nothing on disk is more ahead than the rest
		o.touch()
	}
	o.disk = &diskBody{d: c.disk, p: r.p, blocks: r.head.blocks}
	o.onDisk = true
	o.written.Store(true)
	kept := c.admit(o, overhead)
	o.finish()
	close(o.opened)
	if !kept {
		c.forget(o)
	}
}

// maxBringing bounds the objects that are brought from disk to memory at once. They
// are sent from disk meanwhile, and whoever asks next begins again.
const maxBringing = 2

// askedOnDisk notes a hit of an object that is on disk alone, and has it brought into
// memory when it is worth that.
func (c *Cache) askedOnDisk(o *Object) {
	o.touch()
	if o.disk.p.hits.Load() == 0 {
		o.disk.p.hits.Store(1)
	}
	if !c.worth(o) || o.disk.moving.Swap(true) {
		return
	}
	c.closeMu.RLock()
	defer c.closeMu.RUnlock()
	if c.closed || c.bringing.Add(1) > maxBringing {
		if !c.closed {
			c.bringing.Add(-1)
		}
		o.disk.moving.Store(false)
		return
	}
	c.fills.Go(func() {
		c.bring(o)
		c.bringing.Add(-1)
		o.disk.moving.Store(false)
	})
}

// bring puts an object in memory in place of o, which is on disk alone.
func (c *Cache) bring(o *Object) {
	if !c.arriving.TryAcquire(o.info.Size) {
		return
	}
	defer c.arriving.Release(o.info.Size)
	started := time.Now()
	// Before the disk is looked at: a drop is in the way from now on.
	better := c.newObject(o.key, o.hash)
	better.written.Store(true)
	better.hits.Store(o.hits.Load())
	r, info, ok := c.disk.open(o.key)
	if !ok {
		return
	}
	if info.Size != o.info.Size { // another object by now
		_ = r.Close() // nothing was read
		return
	}
	body := make([]byte, info.Size)
	_, err := io.ReadFull(r, body)
	if err = errors.Join(err, r.Close()); err != nil {
		o.Failed(err)
		return
	}
	if c.put(better, info, body, o) && c.cfg.Events.Filled != nil {
		c.cfg.Events.Filled(Disk, info.Size, time.Since(started))
	}
}

// OnDisk reports whether the bytes are on disk alone. Such an object keeps their file
// open until Release.
func (o *Object) OnDisk() bool { return o.disk != nil }

// hold keeps the file open; false when the bytes aren't to be had any more.
func (o *Object) hold() bool { return !o.disk.gone() && o.disk.p.seg.hold() }

// lend returns an object of one asker's own, with a buffer for what it reads; nil when
// the bytes aren't to be had any more.
func (o *Object) lend() *Object {
	if !o.hold() {
		return nil
	}
	l := &Object{node: node{key: o.key, hash: o.hash}, info: o.info, tier: Disk, opened: o.opened, disk: o.disk}
	l.complete.Store(true)
	return l
}

// Release ends the use of an object that Get or Hit returned, and of what its Bytes did.
func (o *Object) Release() {
	if o.disk == nil {
		return
	}
	if o.buffer != nil {
		blockBuffers.Put(o.buffer)
		o.buffer = nil
	}
	_ = o.disk.p.seg.release() // of a file that was removed nothing can be lost
}

// readDisk returns bytes from offset to the end of their block.
func (o *Object) readDisk(offset int64) ([]byte, error) {
	i := offset / blockSize
	if o.buffer == nil {
		o.buffer, o.block = blockBuffers.Get().(*[blockSize]byte), nil
	}
	if o.block == nil || o.blockAt != i {
		var err error
		o.blockAt = i
		if o.block, err = o.disk.block(i, o.buffer[:]); err != nil {
			o.block = nil
			o.Failed(err)
			return nil, err
		}
	}
	return o.block[offset-i*blockSize:], nil
}

// File is the descriptor of the file an object on disk is in, valid until Release, and
// where its bytes begin.
func (o *Object) File() (fd int, at int64) { return o.disk.p.seg.fd, o.disk.p.body() }

// Load brings a part of an object on disk into the kernel's memory. The kernel may have
// read it long ago, and let go of it: it is checked again.
func (o *Object) Load(offset, length int64) error {
	fd, at := o.File()
	// All of it at once; what is read below only waits for it.
	_ = unix.Fadvise(fd, at+offset, length, unix.FADV_WILLNEED)
	b := blockBuffers.Get().(*[blockSize]byte)
	defer blockBuffers.Put(b)
	for i := offset / blockSize; i*blockSize < offset+length; i++ {
		if _, err := o.disk.block(i, b[:]); err != nil {
			o.Failed(err)
			return err
		}
	}
	return nil
}

// Failed says that an object's bytes can't be read from disk. It is fetched again for
// who asks next.
func (o *Object) Failed(err error) {
	if !o.disk.bad.Swap(true) {
		o.disk.d.damaged(o.key, err)
	}
}
