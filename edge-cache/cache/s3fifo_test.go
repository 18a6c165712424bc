package cache

import (
	"container/list"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestPolicyInvariants runs random inserts, hits, pins and removals: bytes are
// bounded and add up, what was evicted was never pinned, and ghosts are bounded.
func TestPolicyInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.Int64Range(10, 2000).Draw(t, "capacity")
		resident := map[uint64]*node{}
		p := newS3FIFO(capacity, func(n *node) {
			if n.pinned.Load() {
				t.Fatalf("evicted pinned %d", n.hash)
			}
			if resident[n.hash] != n {
				t.Fatalf("evicted %d twice", n.hash)
			}
			delete(resident, n.hash)
		})
		some := func(t *rapid.T) *node { return resident[rapid.Uint64Range(0, 50).Draw(t, "key")] }
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				h := rapid.Uint64Range(0, 50).Draw(t, "key")
				if resident[h] != nil {
					return
				}
				n := &node{hash: h, size: rapid.Int64Range(1, capacity+5).Draw(t, "size")}
				n.pinned.Store(rapid.IntRange(0, 9).Draw(t, "pin") == 0)
				n.ahead.Store(rapid.IntRange(0, 3).Draw(t, "ahead") == 0)
				before := len(resident)
				if p.insert(n) {
					resident[h] = n
				} else if n.size <= capacity && before > 0 {
					for _, o := range resident {
						if !o.pinned.Load() {
							t.Fatalf("refused %d bytes of %d while %d could go", n.size, capacity, o.size)
						}
					}
				}
			},
			"hit": func(t *rapid.T) {
				if n := some(t); n != nil {
					n.ahead.Store(false)
					n.touch()
				}
			},
			"unpin": func(t *rapid.T) {
				if n := some(t); n != nil {
					n.pinned.Store(false)
				}
			},
			"remove": func(t *rapid.T) {
				if n := some(t); n != nil {
					p.remove(n)
					p.remove(n)
					delete(resident, n.hash)
				}
			},
			"halve": func(*rapid.T) { p.halve() },
			"": func(t *rapid.T) {
				var sum, queued int64
				for _, n := range resident {
					sum += n.size
					if h := n.hits.Load(); h < 0 || h > maxHits {
						t.Fatalf("%d hits", h)
					}
				}
				objects := 0
				for _, q := range append(slices.Clone(p.main[:]), p.small) {
					back := 0
					for n := q.back; n != nil; n = n.prev {
						queued += n.size
						back++
					}
					if back != q.len {
						t.Fatalf("%d queued, %d counted", back, q.len)
					}
					objects += q.len
				}
				if p.bytes() != sum || queued != sum || sum > capacity {
					t.Fatalf("%d bytes counted, %d queued, %d resident, capacity %d", p.bytes(), queued, sum, capacity)
				}
				if n, _ := p.size(); n != len(resident) || objects != n {
					t.Fatalf("%d queued, %d counted, %d resident", objects, n, len(resident))
				}
				if p.target > max(capacity/10, p.of(maxSmall)) || p.target < min(capacity/10, p.of(minSmall)) {
					t.Fatalf("small may have %d of %d", p.target, capacity)
				}
			},
		})
	})
}

// player asks a policy for objects.
type player struct {
	p    *s3fifo
	here map[uint64]*node
}

func newPlayer(capacity int64) *player {
	x := &player{here: map[uint64]*node{}}
	x.p = newS3FIFO(capacity, func(n *node) { delete(x.here, n.hash) })
	return x
}

// ask reports whether the object was there.
func (x *player) ask(hash uint64, size int64) bool {
	n := x.here[hash]
	hit := n != nil
	if !hit {
		n = &node{hash: hash, size: size}
		if x.p.insert(n) {
			x.here[hash] = n
		}
	}
	n.ahead.Store(false)
	n.touch()
	return hit
}

func (x *player) bring(hash uint64, size int64) {
	n := &node{hash: hash, size: size}
	n.ahead.Store(true)
	if x.p.insert(n) {
		x.here[hash] = n
	}
}

const kib = 1 << 10

// TestScanLeavesTheHotSet: a row of objects asked for once, ten times the cache,
// pushes out nothing that was asked for three times before.
func TestScanLeavesTheHotSet(t *testing.T) {
	x := newPlayer(10_000 * kib)
	for range 3 {
		for hash := range uint64(70) {
			x.ask(hash, 100*kib)
		}
	}
	for hash := uint64(1000); hash < 2000; hash++ {
		x.ask(hash, 100*kib)
	}
	for hash := range uint64(70) {
		require.NotNil(t, x.here[hash], hash)
	}
}

// TestNewObjectsStay: what was just brought is there for those who ask next,
// however hot the rest is and however small the queue for it has become.
func TestNewObjectsStay(t *testing.T) {
	x := newPlayer(10_000 * kib)
	for range 5 {
		for hash := range uint64(1000) {
			x.ask(hash, 10*kib)
		}
	}
	x.p.target = x.p.of(minSmall)
	for hash := uint64(5000); hash < 6000; hash++ {
		x.ask(hash, 10*kib)
		require.NotNil(t, x.here[hash-min(hash-5000, 48)], "500 KiB are its queue's")
	}
}

// TestBroughtAheadStays: thirty viewers, each of another video, have their next
// segment brought ahead, six times what the small queue may have at first. It
// becomes large enough, however hot the rest is.
func TestBroughtAheadStays(t *testing.T) {
	x := newPlayer(10_000 * kib)
	for range 5 {
		for hash := range uint64(1000) {
			x.ask(hash, 10*kib)
		}
	}
	x.p.target = x.p.of(minSmall)
	lost := 0
	for segment := range uint64(100) {
		for viewer := range uint64(30) {
			hash := 10_000*(1+viewer) + segment
			if !x.ask(hash, 100*kib) && segment >= 10 {
				lost++
			}
			x.bring(hash+1, 100*kib)
		}
	}
	require.Zero(t, lost)
}

// TestBorderMoves by what was asked for again after it had left, within bounds.
func TestBorderMoves(t *testing.T) {
	p := newS3FIFO(1000, func(*node) {})
	p.left = [2]int64{500, 500}
	for _, c := range []struct {
		ghost
		want int64
	}{
		{ghost{from: fromSmall, at: 450}, 140},
		{ghost{from: fromSmall, at: 350}, 100},
		{ghost{from: fromSmall, at: 350, ahead: true}, 140},
		{ghost{from: fromMain, at: 450}, 60},
		{ghost{from: fromMain, at: 350}, 100},
	} {
		p.target = 100
		p.learn(c.ghost, 40)
		require.Equal(t, c.want, p.target, "%+v", c.ghost)
	}
	p.learn(ghost{from: fromMain, at: 450}, 500)
	require.EqualValues(t, 50, p.target)
	p.learn(ghost{from: fromSmall, at: 450}, 5000)
	require.EqualValues(t, 800, p.target)
}

// TestLeastAskedLeavesMain, by what was asked since it came there.
func TestLeastAskedLeavesMain(t *testing.T) {
	x := newPlayer(1000 * kib)
	for range 3 {
		for hash := range uint64(9) {
			x.ask(hash, 100*kib)
		}
	}
	x.ask(9, 100*kib)
	x.ask(10, 100*kib) // takes them to main
	for range 2 {
		for hash := range uint64(9) {
			if hash != 4 {
				x.ask(hash, 100*kib)
			}
		}
	}
	for hash := uint64(20); x.here[4] != nil; hash++ {
		require.Less(t, hash, uint64(100))
		for range maxHits {
			x.ask(hash, 100*kib)
		}
	}
	for hash := range uint64(9) {
		require.Equal(t, hash != 4, x.here[hash] != nil, hash)
	}
}

// TestPromotedNodeCanGo: the only node that may go was hit, so the small queue
// moves it to the main one first.
func TestPromotedNodeCanGo(t *testing.T) {
	p := newS3FIFO(10, func(*node) {})
	arriving := &node{hash: 1, size: 7}
	arriving.pinned.Store(true)
	require.True(t, p.insert(arriving))
	require.False(t, p.insert(&node{hash: 2, size: 4}))
	hit := &node{hash: 3, size: 1}
	require.True(t, p.insert(hit))
	hit.touch()
	hit.touch()
	require.True(t, p.insert(&node{hash: 4, size: 3}))
}

// lru is what the policy is compared with.
type lru struct {
	capacity, bytes int64
	recent          list.List // of *node
	at              map[uint64]*list.Element
}

func (l *lru) ask(hash uint64, size int64) bool {
	if el, ok := l.at[hash]; ok {
		l.recent.MoveToFront(el)
		return true
	}
	l.at[hash] = l.recent.PushFront(&node{hash: hash, size: size})
	for l.bytes += size; l.bytes > l.capacity; {
		n := l.recent.Remove(l.recent.Back()).(*node)
		delete(l.at, n.hash)
		l.bytes -= n.size
	}
	return false
}

// TestHitRatios by bytes, against LRU's in points, on traces ten times the cache.
func TestHitRatios(t *testing.T) {
	const objects, capacity, requests = 5000, 50_000 * kib, 100_000
	r := rand.New(rand.NewPCG(1, 2))
	sizes := make([]int64, objects)
	for i := range sizes {
		sizes[i] = 10*kib + r.Int64N(180*kib)
	}
	zipf := func(exponent float64) func() int {
		upTo, sum := make([]float64, objects), 0.0
		for i := range upTo {
			sum += math.Pow(float64(i+1), -exponent)
			upTo[i] = sum
		}
		return func() int {
			i, _ := slices.BinarySearch(upTo, r.Float64()*sum)
			return i
		}
	}
	for _, c := range []struct {
		name   string
		next   func(i int) int
		better float64
	}{
		{"flat", func() func(int) int { z := zipf(0.7); return func(int) int { return z() } }(), 10},
		{"steep", func() func(int) int { z := zipf(1.1); return func(int) int { return z() } }(), 4},
		{"objects become popular and less so", func() func(int) int {
			z := zipf(0.9)
			return func(i int) int { return (z() + objects - i/100%objects) % objects }
		}(), 8},
		{"in a row, a little more than the cache", func(i int) int { return i % (objects * 12 / 100) }, 50},
	} {
		x, l := newPlayer(capacity), &lru{capacity: capacity, at: map[uint64]*list.Element{}}
		var ours, theirs, all float64
		for i := range requests {
			n := c.next(i)
			hash, size := uint64(n), sizes[n]
			hit, theirHit := x.ask(hash, size), l.ask(hash, size)
			if i < requests/4 {
				continue
			}
			if all += float64(size); hit {
				ours += float64(size)
			}
			if theirHit {
				theirs += float64(size)
			}
		}
		t.Logf("%s: %.1f %%, LRU %.1f %%", c.name, 100*ours/all, 100*theirs/all)
		require.Greater(t, 100*(ours-theirs)/all, c.better, c.name)
	}
}

// TestGhostsAreBounded in number, and in what one holds.
func TestGhostsAreBounded(t *testing.T) {
	var g ghosts
	for hash := range uint64(1000) {
		g.add(hash, ghost{}, 10)
		require.LessOrEqual(t, len(g.young), 10)
		require.LessOrEqual(t, len(g.old), 10)
	}
	for hash := range uint64(1000) {
		_, ok := g.take(hash)
		require.Equal(t, hash >= 980, ok, hash)
		_, ok = g.take(hash)
		require.False(t, ok, "it is taken once")
	}

	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 100_000
	before := heap()
	g = ghosts{}
	for hash := range uint64(n) {
		g.add(hash, ghost{}, n/2)
	}
	each := float64(heap()-before) / n
	runtime.KeepAlive(g)
	t.Logf("%.0f bytes a ghost", each)
	require.Less(t, each, 80.0)
}

// TestWorth: what is on disk alone comes to memory when it was asked for more than who
// would leave, whatever its own cost beyond its bytes.
func TestWorth(t *testing.T) {
	p := newS3FIFO(1000, func(*node) {})
	require.False(t, p.worth(1, 100), "once says nothing")
	require.True(t, p.worth(2, 100), "there is room")
	for hash := range uint64(20) {
		n := &node{hash: hash, size: 50}
		n.hits.Store(3)
		require.True(t, p.insert(n))
	}
	for p.small.bytes > p.target {
		p.enter(p.oldest())
	}
	require.False(t, p.worth(3, 100), "others are asked for as often")
	require.False(t, p.worth(4, 100), "it may not be their turn yet")
	require.True(t, p.worth(5, 100))

	head := &node{hash: 99, size: 10, onDisk: true}
	head.hits.Store(2)
	require.True(t, p.insert(head))
	require.Equal(t, 1, p.onDisk.len)
	evictions := p.evictions
	p.drop(head, fromSmall)
	require.Zero(t, p.onDisk.len)
	require.Equal(t, evictions, p.evictions, "nothing left memory")
	require.EqualValues(t, 2, p.lately(p.ghosts.of(99)), "how often is remembered")
	for hash := range uint64(100) {
		require.True(t, p.insert(&node{hash: 1000 + hash, size: 10, onDisk: true}))
	}
	require.Equal(t, 6, p.onDisk.len, "a sixteenth")
}
