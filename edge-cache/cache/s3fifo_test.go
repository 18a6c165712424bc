package cache

import (
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
			"": func(t *rapid.T) {
				var sum int64
				for _, n := range resident {
					sum += n.size
				}
				if p.bytes() != sum || sum > capacity || p.smallLen < 0 || p.mainLen < 0 {
					t.Fatalf("%d bytes counted, %d resident, capacity %d", p.bytes(), sum, capacity)
				}
				if p.small.Len()+p.main.Len() != len(resident) {
					t.Fatalf("%d queued, %d resident", p.small.Len()+p.main.Len(), len(resident))
				}
				if p.ghost.bytes > capacity || p.ghost.queue.Len() != len(p.ghost.at) || p.ghost.bytes < 0 {
					t.Fatalf("ghosts: %d bytes, %d queued, %d indexed", p.ghost.bytes, p.ghost.queue.Len(), len(p.ghost.at))
				}
			},
		})
	})
}

// TestScanDoesNotEmptyTheCache: objects hit before survive a long row of objects
// asked for once, which is what S3-FIFO is for.
func TestScanDoesNotEmptyTheCache(t *testing.T) {
	gone := map[uint64]bool{}
	p := newS3FIFO(1000, func(n *node) { gone[n.hash] = true })
	hot := []*node{}
	for h := range uint64(50) {
		n := &node{hash: h, size: 10}
		require.True(t, p.insert(n))
		hot = append(hot, n)
	}
	for h := uint64(1000); h < 5000; h++ {
		for _, n := range hot {
			n.touch()
		}
		require.True(t, p.insert(&node{hash: h, size: 10}))
	}
	for _, n := range hot {
		require.False(t, gone[n.hash], n.hash)
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

// TestMainIsRemembered: where there is a disk, what the main queue gives up comes back
// to it; what is on disk alone has no ghost of its own size.
func TestMainIsRemembered(t *testing.T) {
	p := newS3FIFO(1000, func(*node) {})
	p.remember = true
	p.ghost.add(1, 600)
	n := &node{hash: 1, size: 600}
	require.True(t, p.insert(n))
	require.True(t, n.main)
	p.ghost.add(2, 1)
	require.True(t, p.insert(&node{hash: 2, size: 600}))
	require.Nil(t, n.el)
	require.True(t, p.ghost.seen(1, 600))
	require.False(t, p.ghost.seen(3, 100))
	require.True(t, p.ghost.seen(3, 100))
	head := &node{hash: 3, size: 10, onDisk: true}
	require.True(t, p.insert(head))
	require.False(t, head.main, "its ghost is its bytes'")
	require.True(t, p.ghost.seen(3, 100))
	require.Equal(t, 1, p.onDisk)
	require.True(t, p.evictSmall())
	require.Zero(t, p.onDisk)
	require.EqualValues(t, 1, p.evictions)
}
