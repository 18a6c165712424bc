package cache

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// written is how many objects the disk has once it has taken all it was given.
func written(t *testing.T, c *Cache) int {
	t.Helper()
	require.Eventually(t, func() bool { return c.Stats().Filling == 0 && c.disk.waiting.Load() == 0 }, 10*time.Second, time.Millisecond)
	return c.Stats().DiskObjects
}

// TestOneHitObjectsStayOffTheDisk: what is asked for once costs no write and pushes
// nothing out, however much there is of it.
func TestOneHitObjectsStayOffTheDisk(t *testing.T) {
	c := open(t, diskConfig(t.TempDir()))
	var org origin
	hot := object("hot", 100_000)
	keep(t, c, "hot", hot, &org)
	require.Equal(t, 1, written(t, c))
	for i := range 200 { // four times the disk
		key := fmt.Sprint("k", i)
		get(t, c, key, object(key, 150_000), &org)
	}
	require.Equal(t, 1, written(t, c))
	require.True(t, onDisk(t, c, "hot", hot))

	// Asked again after memory has dropped it, an object is written at once.
	require.Nil(t, c.Hit([]byte("k180"), false))
	require.Equal(t, Origin, get(t, c, "k180", object("k180", 150_000), &org).Tier)
	require.Equal(t, 2, written(t, c))
	// So long ago that the disk would have dropped it, too, it is as new.
	require.Equal(t, Origin, get(t, c, "k1", object("k1", 150_000), &org).Tier)
	require.Equal(t, 2, written(t, c))
}

func TestWhatCountsAsAskedAgain(t *testing.T) {
	b := object("k", 10_000)
	for name, x := range map[string]struct {
		ask  func(t *testing.T, c *Cache, org *origin)
		want int
	}{
		"a hit past Get": {func(t *testing.T, c *Cache, org *origin) {
			get(t, c, "k", b, org)
			require.NotNil(t, c.Hit([]byte("k"), false))
		}, 1},
		"one who joined while it arrived": {func(t *testing.T, c *Cache, org *origin) {
			allow := make(chan int, 1)
			org.wrap = func(r io.Reader) io.Reader { return &step{r: r, allow: allow, ctx: t.Context()} }
			for range 2 {
				_, _, err := c.Get(t.Context(), "k", org.source(b))
				require.NoError(t, err)
			}
			allow <- len(b)
		}, 1},
		"nobody but a prefetch": {func(t *testing.T, c *Cache, org *origin) {
			require.True(t, c.Prefetch("k", org.source(b)))
		}, 0},
		"one after a prefetch": {func(t *testing.T, c *Cache, org *origin) {
			require.True(t, c.Prefetch("k", org.source(b)))
			get(t, c, "k", b, org)
		}, 0},
		"two after a prefetch": {func(t *testing.T, c *Cache, org *origin) {
			require.True(t, c.Prefetch("k", org.source(b)))
			keep(t, c, "k", b, org)
		}, 1},
		"two of a peer's": {func(t *testing.T, c *Cache, org *origin) {
			peer := func(ctx context.Context, offset int64) (io.ReadCloser, Info, error) {
				r, info, err := org.source(b)(ctx, offset)
				info.Peer = true
				return r, info, err
			}
			for range 2 {
				o, _, err := c.Get(t.Context(), "k", peer)
				require.NoError(t, err)
				_, err = readAll(t.Context(), o)
				require.NoError(t, err)
			}
		}, 0},
		"one put": {func(t *testing.T, c *Cache, _ *origin) {
			require.True(t, c.Put("k", infoOf(b), b, false))
		}, 0},
		"one put and asked for": {func(t *testing.T, c *Cache, org *origin) {
			require.True(t, c.Put("k", infoOf(b), b, false))
			get(t, c, "k", b, org)
		}, 1},
		"one too large": {func(t *testing.T, c *Cache, org *origin) {
			large := object("large", int(diskConfig("").MaxObject)+1)
			require.False(t, c.Put("k", infoOf(large), large, true))
			for range 2 {
				o, _, err := c.Get(t.Context(), "k", org.source(large))
				require.NoError(t, err)
				require.True(t, o.Direct())
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, diskConfig(t.TempDir()))
			x.ask(t, c, &origin{})
			require.Equal(t, x.want, written(t, c))
		})
	}
}

func TestDoorkeeperIsBounded(t *testing.T) {
	d := doorkeeper{capacity: 1000}
	require.False(t, d.seen(1, 400))
	require.True(t, d.seen(1, 400))
	for n := range uint64(4) {
		require.False(t, d.seen(10+n, 400))
	}
	require.True(t, d.seen(1, 400), "less than a disk's worth has come since")
	for n := range uint64(10) {
		require.False(t, d.seen(100+n, 400))
	}
	require.False(t, d.seen(1, 400))
	d = doorkeeper{capacity: 1 << 40}
	for n := range uint64(3 * maxSeen) {
		require.False(t, d.seen(n, 1))
		require.LessOrEqual(t, len(d.young), maxSeen)
		require.LessOrEqual(t, len(d.old), maxSeen)
	}
}

// TestIndexMemory: what the disk's index holds of an object, key included.
func TestIndexMemory(t *testing.T) {
	const n = 100_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	d := &diskLog{index: map[string]*place{}}
	seg := &segment{}
	for i := range n {
		key := fmt.Sprintf("streams/abcdefghijklmnopqrstuvwxyz/r1/v1080/%05d-1/00000.m4s", i)
		d.index[key] = &place{seg: seg, at: int64(i), head: headerFixed, size: 1}
		seg.keys = append(seg.keys, key)
	}
	each := float64(heap()-before) / n
	runtime.KeepAlive(d)
	runtime.KeepAlive(seg)
	t.Logf("%.0f bytes an object", each)
	require.Less(t, each, 256.0)
}
