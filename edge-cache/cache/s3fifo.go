package cache

import (
	"container/list"
	"sync/atomic"
)

// maxFreq is the cap of an object's access count (S3-FIFO uses two bits).
const maxFreq = 3

// node is what the policy knows of an object. freq is touched by hits without
// any lock; everything else belongs to the policy.
type node struct {
	key  string
	hash uint64
	size int64
	freq atomic.Int32
	// pinned nodes are never evicted: their bytes are still arriving, and another
	// asker would have to fetch them a second time.
	pinned atomic.Bool
	// onDisk: its bytes aren't in memory, and size is what it costs beyond them.
	onDisk bool

	el   *list.Element
	main bool
}

// touch counts a hit.
func (n *node) touch() {
	if f := n.freq.Load(); f < maxFreq {
		n.freq.CompareAndSwap(f, f+1)
	}
}

// s3fifo is the S3-FIFO policy (Yang et al., SOSP 2023) weighted by bytes: new
// objects wait in a small queue and enter the main one when they were hit again
// or had been evicted recently. Not safe for concurrent use.
type s3fifo struct {
	capacity           int64
	small, main        list.List // of *node, newest in front
	smallLen, mainLen  int64     // bytes
	ghost              ghosts
	evicted            func(*node)
	evictions, refused int64
	onDisk             int // of the nodes
	// remember also what the main queue gives up: there is a disk, whose objects come
	// back only when they are asked for again while they are remembered.
	remember bool
}

func newS3FIFO(capacity int64, evicted func(*node)) *s3fifo {
	return &s3fifo{capacity: capacity, ghost: ghosts{capacity: capacity, at: map[uint64]*list.Element{}}, evicted: evicted}
}

func (p *s3fifo) bytes() int64 { return p.smallLen + p.mainLen }

// insert admits n, evicting others; false when that isn't possible.
func (p *s3fifo) insert(n *node) bool {
	for p.bytes()+n.size > p.capacity {
		if n.size > p.capacity || !p.evictOne() {
			p.refused++
			return false
		}
	}
	// The ghost of one on disk is of its bytes.
	p.push(n, !n.onDisk && p.ghost.take(n.hash))
	return true
}

// remove forgets n, if it is known, without a ghost.
func (p *s3fifo) remove(n *node) {
	switch {
	case n.el == nil:
		return
	case n.main:
		p.main.Remove(n.el)
		p.mainLen -= n.size
	default:
		p.small.Remove(n.el)
		p.smallLen -= n.size
	}
	n.el = nil
	if n.onDisk {
		p.onDisk--
	}
}

func (p *s3fifo) push(n *node, main bool) {
	if n.main = main; main {
		n.el = p.main.PushFront(n)
		p.mainLen += n.size
	} else {
		n.el = p.small.PushFront(n)
		p.smallLen += n.size
	}
	if n.onDisk {
		p.onDisk++
	}
}

func (p *s3fifo) evictOne() bool {
	// The small queue takes a tenth of the bytes; beyond that it gives first.
	if p.smallLen > p.capacity/10 || p.main.Len() == 0 {
		if p.evictSmall() {
			return true
		}
	}
	// The small queue may only move nodes to the main one, where one can go then.
	return p.evictMain() || p.evictSmall() || p.evictMain()
}

func (p *s3fifo) evictSmall() bool {
	for range p.small.Len() {
		n := p.small.Back().Value.(*node)
		p.remove(n)
		if n.pinned.Load() || n.freq.Load() > 1 {
			n.freq.Store(0)
			p.push(n, true)
			continue
		}
		if !n.onDisk {
			p.ghost.add(n.hash, n.size)
		}
		p.drop(n)
		return true
	}
	return false
}

func (p *s3fifo) evictMain() bool {
	for range p.main.Len() * (maxFreq + 1) {
		n := p.main.Back().Value.(*node)
		if n.pinned.Load() {
			p.main.MoveToFront(n.el)
			continue
		}
		if f := n.freq.Load(); f > 0 {
			n.freq.Store(f - 1)
			p.main.MoveToFront(n.el)
			continue
		}
		p.remove(n)
		if p.remember && !n.onDisk {
			p.ghost.add(n.hash, n.size)
		}
		p.drop(n)
		return true
	}
	return false
}

func (p *s3fifo) drop(n *node) {
	if !n.onDisk {
		p.evictions++
	}
	p.evicted(n)
}

// maxGhosts bounds the ghost queue's entries whatever the objects' sizes.
const maxGhosts = 1 << 17

// ghosts remembers the hashes of objects lately evicted from the small queue, or sent
// from disk, as many as would fill the cache once.
type ghosts struct {
	capacity, bytes int64
	queue           list.List // of ghost, newest in front
	at              map[uint64]*list.Element
}

type ghost struct {
	hash uint64
	size int64
}

func (g *ghosts) add(hash uint64, size int64) {
	g.take(hash)
	g.at[hash] = g.queue.PushFront(ghost{hash, size})
	g.bytes += size
	for g.bytes > g.capacity || g.queue.Len() > maxGhosts {
		g.take(g.queue.Back().Value.(ghost).hash)
	}
}

// seen reports whether the hash is there, and adds it if it isn't.
func (g *ghosts) seen(hash uint64, size int64) bool {
	_, ok := g.at[hash]
	if !ok {
		g.add(hash, size)
	}
	return ok
}

// take removes the hash and reports whether it was there.
func (g *ghosts) take(hash uint64) bool {
	el, ok := g.at[hash]
	if ok {
		g.bytes -= g.queue.Remove(el).(ghost).size
		delete(g.at, hash)
	}
	return ok
}
