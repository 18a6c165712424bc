package cache

import "sync"

// maxSeen bounds each of the doorkeeper's generations, at about 20 bytes for each
// object.
const maxSeen = 1 << 18

// doorkeeper remembers objects that were asked for: at least as many as would fill
// half of the disk, at most twice that. What is asked for once would only push out
// what is asked for again (TinyLFU, Einziger et al., 2017, calls it so).
type doorkeeper struct {
	capacity int64 // bytes of a generation's objects

	mu         sync.Mutex
	young, old map[uint64]struct{} // hashes of keys
	bytes      int64               // of young
}

// seen notes that an object was asked for, and reports whether it was before.
func (d *doorkeeper) seen(hash uint64, size int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.young[hash]; ok {
		return true
	}
	_, ok := d.old[hash]
	if d.young == nil || len(d.young) >= maxSeen || d.bytes >= d.capacity {
		d.young, d.old, d.bytes = map[uint64]struct{}{}, d.young, 0
	}
	d.young[hash] = struct{}{}
	d.bytes += size
	return ok
}

// askedOnce notes the first who asks for an object since it was brought. It may
// have been here before.
func (c *Cache) askedOnce(o *Object) {
	if !o.written.Load() && c.door.seen(o.hash, o.info.Size) {
		c.askedAgain(o)
	}
}

// askedAgain has the disk keep an object, as soon as it is whole. It doesn't wait.
func (c *Cache) askedAgain(o *Object) {
	if o.written.Load() {
		return
	}
	o.wanted.Store(true)
	if o.complete.Load() {
		c.write(o)
	}
}

// write gives a whole object to the disk, unless that was done.
func (c *Cache) write(o *Object) {
	if !o.written.Swap(true) && !c.disk.enqueue(o) && c.cfg.Events.DiskDropped != nil {
		c.cfg.Events.DiskDropped()
	}
}
