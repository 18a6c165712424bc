package cache

import "sync/atomic"

// maxHits is the cap of an object's count. More would tell hot objects apart,
// which stay anyway, and remember for longer those that were hot.
const maxHits = 8

// node is what the policy knows of an object. hits is touched by hits without
// any lock; everything else belongs to the policy.
type node struct {
	key  string
	hash uint64
	size int64
	// hits counts those who asked, halved from time to time.
	hits atomic.Int32
	// pinned nodes are never evicted: their bytes are still arriving, and another
	// asker would have to fetch them a second time.
	pinned atomic.Bool
	// ahead: brought before anyone asked, and nobody has yet.
	ahead atomic.Bool
	// onDisk: its bytes aren't in memory, and size is what it costs beyond them.
	onDisk bool

	in         *queue
	prev, next *node // towards the front and the back of in
}

// touch counts a hit.
func (n *node) touch() {
	if h := n.hits.Load(); h < maxHits {
		n.hits.CompareAndSwap(h, h+1)
	}
}

// queue is a list of nodes, newest in front, and their bytes.
type queue struct {
	front, back *node
	len         int
	bytes       int64
}

func (q *queue) push(n *node) {
	n.in, n.prev, n.next = q, nil, q.front
	if q.front == nil {
		q.back = n
	} else {
		q.front.prev = n
	}
	q.front = n
	q.len++
	q.bytes += n.size
}

// leave takes the node out of its queue, if it is in one.
func (n *node) leave() {
	q := n.in
	if q == nil {
		return
	}
	if n.prev == nil {
		q.front = n.next
	} else {
		n.prev.next = n.next
	}
	if n.next == nil {
		q.back = n.prev
	} else {
		n.next.prev = n.prev
	}
	q.len--
	q.bytes -= n.size
	n.in, n.prev, n.next = nil, nil, nil
}

// s3fifo decides who stays in memory. It is S3-FIFO (Yang et al., SOSP 2023)
// weighted by bytes, with counts. Not safe for concurrent use, but for what node
// says of hits.
//
//   - New objects wait in a small queue. At its end they enter main if they were
//     asked for more often than each who must leave it for them (TinyLFU, Einziger,
//     Friedman and Manes, ACM Transactions on Storage 2017). What a scan brings isn't.
//   - Who leaves main was asked for least, and of those looked at longest ago: main
//     is a queue for each count. An object that was hit moves to that of its count
//     when it is its turn, not when it is hit.
//   - A ghost remembers the count of an object that left, and where it left from.
//     Counts are halved whenever six times the capacity wasn't here, so they hold for
//     long while most is here, and are soon forgotten when others are asked for.
//   - The small queue has a twentieth of the bytes or more. It grows by an object that
//     is asked for soon after it left small, and shrinks by one that left main, as
//     in ARC (Megiddo and Modha, FAST 2003). Both times "soon" is what a tenth more
//     of the capacity would have kept. So it grows where many watch what is new, and
//     whenever an object brought ahead left before its viewer came.
//
// An object that is on disk alone takes a thousandth of others' bytes, so it doesn't
// compete with them: the oldest leaves when those have more than maxOnDisk.
//
// It costs 40 bytes in each object's node, and up to four ghosts of at most 80.
type s3fifo struct {
	capacity int64
	small    queue
	target   int64 // bytes of small; main may have the others
	main     [maxHits + 1]queue
	onDisk   queue // those whose bytes are on disk alone
	ghosts   ghosts
	evicted  func(*node)

	left     [2]int64 // bytes so far, from small and from main
	brought  int64    // or sent from disk, bytes since counts were halved
	halvings uint32

	evictions, refused int64
}

const (
	minSmall  = 0.05 // of the capacity
	maxSmall  = 0.8
	maxOnDisk = 1.0 / 16
	soon      = 0.1
	memory    = 6
)

func newS3FIFO(capacity int64, evicted func(*node)) *s3fifo {
	return &s3fifo{capacity: capacity, target: capacity / 10, evicted: evicted}
}

// size is how many objects there are, and their bytes.
func (p *s3fifo) size() (n int, bytes int64) {
	n, bytes = p.small.len+p.onDisk.len, p.small.bytes+p.onDisk.bytes
	for i := range p.main {
		n, bytes = n+p.main[i].len, bytes+p.main[i].bytes
	}
	return n, bytes
}

func (p *s3fifo) bytes() int64 {
	_, b := p.size()
	return b
}

// insert admits n, evicting others; false when that isn't possible.
func (p *s3fifo) insert(n *node) bool {
	if g, ok := p.ghosts.take(n.hash); ok {
		if !n.ahead.Load() && !n.onDisk && !g.onDisk {
			p.learn(g, n.size)
		}
		for range p.lately(g) {
			n.touch()
		}
	}
	if n.size > p.capacity || !p.makeRoom(n.size) {
		p.refused++
		return false
	}
	if n.onDisk {
		p.onDisk.push(n)
		for p.onDisk.bytes > p.of(maxOnDisk) {
			p.drop(p.onDisk.back, fromSmall)
		}
		return true
	}
	p.small.push(n)
	p.age(n.size)
	return true
}

// age halves the counts in time. Bytes that were asked for and aren't in memory bring
// that about, whether they come to it or are sent from disk: else who was asked for
// often long ago would stay for ever.
func (p *s3fifo) age(bytes int64) {
	if p.brought += bytes; p.brought > p.of(memory) {
		p.halve()
	}
}

// of is a share of the capacity.
func (p *s3fifo) of(share float64) int64 { return int64(share * float64(p.capacity)) }

// remove forgets n, if it is known, without a ghost.
func (p *s3fifo) remove(n *node) { n.leave() }

// lately is how often a ghost's object was asked for, as counted now.
func (p *s3fifo) lately(g ghost) int32 { return g.hits >> (p.halvings - g.halvings) }

// worth reports whether an object of so many bytes that was asked for so often, more
// than once, is worth them: there is room, or who leaves main next was asked for less.
// One time less says nothing: where all are asked for in turn it only isn't yet its turn.
func (p *s3fifo) worth(hits int32, size int64) bool {
	if hits < 2 {
		return false
	}
	if p.bytes()+size <= p.capacity {
		return true
	}
	v := p.least()
	return v != nil && hits > v.hits.Load()+1
}

// learn moves the border between small and main by an object that was asked for
// after it had left.
func (p *s3fifo) learn(g ghost, size int64) {
	back := p.left[g.from]-g.at <= p.of(soon)
	switch {
	case g.from == fromSmall && (back || g.ahead):
		p.target = min(p.target+size, p.of(maxSmall))
	case g.from == fromMain && back:
		p.target = max(p.target-size, p.of(minSmall))
	}
}

func (p *s3fifo) makeRoom(size int64) bool {
	for p.bytes()+size > p.capacity {
		n := p.oldest()
		if n != nil && p.small.bytes+size > p.target {
			p.compete(n)
		} else if v := p.least(); v != nil {
			p.drop(v, fromMain)
		} else if n != nil {
			p.drop(n, fromSmall)
		} else if n = p.onDisk.back; n != nil {
			p.drop(n, fromSmall)
		} else {
			return false
		}
	}
	return true
}

// oldest is who leaves small next, nil for nobody.
func (p *s3fifo) oldest() *node {
	for range p.small.len {
		n := p.small.back
		if !n.pinned.Load() {
			return n
		}
		n.leave()
		p.small.push(n)
	}
	return nil
}

// least is who leaves main next, nil for nobody.
func (p *s3fifo) least() *node {
	for i := range p.main {
		for range p.main[i].len {
			n := p.main[i].back
			if int(n.hits.Load()) == i && !n.pinned.Load() {
				return n
			}
			p.enter(n)
		}
	}
	return nil
}

// enter puts n into main, by its count.
func (p *s3fifo) enter(n *node) {
	n.leave()
	p.main[n.hits.Load()].push(n)
}

// compete takes n into main if it was asked for more often than those who must
// leave for it, else it drops n.
func (p *s3fifo) compete(n *node) {
	room := p.capacity - p.target - (p.bytes() - p.small.bytes)
	var losers queue
	for room < n.size {
		v := p.least()
		if v == nil || n.hits.Load() <= v.hits.Load() {
			if v != nil {
				p.enter(v) // others are compared next
			}
			for losers.len > 0 {
				p.enter(losers.back)
			}
			p.drop(n, fromSmall)
			return
		}
		v.leave()
		losers.push(v)
		room += v.size
	}
	for losers.len > 0 {
		p.drop(losers.back, fromMain)
	}
	p.enter(n)
}

// halve forgets half of the counts.
func (p *s3fifo) halve() {
	p.brought, p.halvings = 0, p.halvings+1
	half := func(from, to *queue) {
		for range from.len {
			n := from.back
			n.hits.Add(-(n.hits.Load() + 1) / 2)
			n.leave()
			to.push(n)
		}
	}
	half(&p.small, &p.small)
	half(&p.onDisk, &p.onDisk)
	var all queue
	for i := range p.main {
		half(&p.main[i], &all)
	}
	for all.len > 0 {
		p.enter(all.back)
	}
}

// drop evicts n and leaves a ghost of it.
func (p *s3fifo) drop(n *node, from source) {
	n.leave()
	if !n.onDisk {
		p.left[from] += n.size
		p.evictions++
	}
	objects, _ := p.size()
	p.ghosts.add(n.hash, ghost{hits: n.hits.Load(), ahead: n.ahead.Load(), onDisk: n.onDisk, from: from, at: p.left[from], halvings: p.halvings},
		min(2*objects+minGhosts, int(p.capacity/bytesOfGhost)))
	p.evicted(n)
}

const (
	minGhosts = 64
	// bytesOfGhost bounds ghosts to one for 2 KiB, in two generations: a fortieth of
	// the memory, if all objects are very small.
	bytesOfGhost = 4 << 10
)

// ghosts remembers objects lately evicted, in two generations.
type ghosts struct{ young, old map[uint64]ghost }

type ghost struct {
	at       int64 // bytes that had left from there
	hits     int32
	halvings uint32 // there had been
	from     source
	ahead    bool // nobody had asked for it
	onDisk   bool // its bytes weren't in memory
}

// source is the queue a ghost has left.
type source uint8

const (
	fromSmall source = iota
	fromMain
)

// add remembers the ghost among the last most or up to twice as many.
func (g *ghosts) add(hash uint64, x ghost, most int) {
	if g.young == nil || len(g.young) >= most {
		g.young, g.old = map[uint64]ghost{}, g.young
	}
	g.young[hash] = x
}

// of returns the ghost of a hash, the zero one if there is none.
func (g *ghosts) of(hash uint64) ghost {
	if x, ok := g.young[hash]; ok {
		return x
	}
	return g.old[hash]
}

// take removes the ghost and reports whether it was there.
func (g *ghosts) take(hash uint64) (ghost, bool) {
	x, ok := g.young[hash]
	if !ok {
		x, ok = g.old[hash]
	}
	delete(g.young, hash)
	delete(g.old, hash)
	return x, ok
}
