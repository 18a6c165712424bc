package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const onDiskSize = 200_000

// onDiskCache has n objects of onDiskSize on disk, of which memory has none.
func onDiskCache(t *testing.T, n int) (*Cache, func(i int) (string, []byte)) {
	t.Helper()
	cfg := diskConfig(t.TempDir())
	of := func(i int) (string, []byte) {
		key := fmt.Sprint("k", i)
		return key, object(key, onDiskSize)
	}
	c, err := Open(cfg)
	require.NoError(t, err)
	for i := range n {
		key, b := of(i)
		keep(t, c, key, b, &origin{})
		require.Eventually(t, func() bool { return c.disk.waiting.Load() == 0 }, 5*time.Second, time.Millisecond)
	}
	require.NoError(t, c.Close())
	return open(t, cfg), of
}

// hit is a hit of a loop's, read as a loop sends it.
func hit(t *testing.T, c *Cache, key string, b []byte) *Object {
	t.Helper()
	o := c.Hit([]byte(key), true)
	if o != nil && o.OnDisk() {
		require.Equal(t, b, sent(t, o))
	}
	return o
}

func sent(t *testing.T, o *Object) []byte {
	t.Helper()
	fd, at := o.File()
	b := make([]byte, o.Info().Size)
	n, err := unix.Pread(fd, b, at)
	require.NoError(t, err)
	return b[:n]
}

// TestHitsStayOnDisk: what is asked for in turn, more than memory holds, is verified
// once and then sent from disk, and pushes nothing out of memory.
func TestHitsStayOnDisk(t *testing.T) {
	const n = 30 // of 2 MiB of memory
	c, of := onDiskCache(t, n)
	org := &origin{}
	for i := range n {
		key, b := of(i)
		require.Nil(t, c.Hit([]byte(key), true), "it isn't verified")
		require.Equal(t, Disk, get(t, c, key, b, org).Tier)
	}
	for i := range n {
		key, b := of(i)
		get(t, c, key, b, org)
	}
	before := c.Stats()
	var memory, disk int
	for range 3 {
		for i := range n {
			key, b := of(i)
			require.Nil(t, hit(t, c, "absent", nil))
			o := hit(t, c, key, b)
			require.NotNil(t, o, key)
			require.Equal(t, infoOf(b).ETag, o.Info().ETag)
			if o.OnDisk() {
				disk++
				require.Nil(t, c.Hit([]byte(key), false), "without files")
			} else {
				memory++
			}
			o.Release()
		}
	}
	require.Equal(t, before.Evictions, c.Stats().Evictions)
	require.Equal(t, before.Objects, c.Stats().Objects)
	require.Equal(t, 3*before.Objects, memory)
	require.Equal(t, 3*n, memory+disk)
	require.Zero(t, org.opens.Load())
}

// TestAskedForOftenComesToMemory: an object on disk alone that is asked for more than
// those in memory.
func TestAskedForOftenComesToMemory(t *testing.T) {
	c, of := onDiskCache(t, 30)
	x, b := away(t, c, of)
	key := x.key
	x.Release()
	require.Eventually(t, func() bool { return get(t, c, key, b, &origin{}).Tier == Memory }, 5*time.Second, time.Millisecond)
	o := c.Hit([]byte(key), true)
	require.False(t, o.OnDisk())
	require.Greater(t, o.hits.Load(), int32(1), "what is known of it comes with it")
}

// TestWhoWasHotLeaves: counts grow old too where nothing comes to memory, for all is
// on disk.
func TestWhoWasHotLeaves(t *testing.T) {
	c, of := onDiskCache(t, 30)
	x, b := away(t, c, of)
	key := x.key
	x.Release()
	for range 3 {
		for i := range 30 {
			other, _ := of(i)
			for range maxHits {
				if o := c.Hit([]byte(other), false); o != nil {
					o.Release()
				}
			}
		}
	}
	require.Eventually(t, func() bool { return get(t, c, key, b, &origin{}).Tier == Memory }, 5*time.Second, time.Microsecond)
}

// away returns an object that is on disk alone, held.
func away(t *testing.T, c *Cache, of func(int) (string, []byte)) (*Object, []byte) {
	t.Helper()
	for range 2 {
		for i := range 30 {
			key, b := of(i)
			get(t, c, key, b, &origin{})
		}
	}
	for i := range 30 {
		key, b := of(i)
		if o := hit(t, c, key, b); o != nil && o.OnDisk() {
			return o, b
		}
	}
	t.Fatal("all are in memory")
	return nil, nil
}

// TestDroppedSegmentLastsAsLongAsItsReaders: and not for others.
func TestDroppedSegmentLastsAsLongAsItsReaders(t *testing.T) {
	c, of := onDiskCache(t, 30)
	o, b := away(t, c, of)
	lent, _, err := c.Get(t.Context(), o.key, (&origin{}).source(b))
	require.NoError(t, err)
	require.True(t, lent.OnDisk())
	_, err = c.Drop(func(string) bool { return true })
	require.NoError(t, err)
	require.Nil(t, c.Hit([]byte(o.key), true))
	require.False(t, o.hold())
	_, err = os.Stat(o.disk.p.seg.file.Name())
	require.ErrorIs(t, err, os.ErrNotExist)
	other := object("other", onDiskSize)
	get(t, c, o.key, other, &origin{}) // files of others are opened
	keep(t, c, "more", other, &origin{})
	require.Equal(t, b, sent(t, o))
	o.Release()
	got, err := readAll(t.Context(), lent)
	require.NoError(t, err)
	require.True(t, bytes.Equal(b, got))
	lent.Release()
	require.Zero(t, o.disk.p.seg.refs.Load())
	_, err = o.disk.p.seg.file.Stat()
	require.ErrorIs(t, err, os.ErrClosed)
}

// TestLoadChecks: what the kernel has let go of is checked when it comes again, and
// fetched when it is wrong.
func TestLoadChecks(t *testing.T) {
	for name, read := range map[string]func(*Object) error{
		"load":  func(o *Object) error { return o.Load(100_000, 50_000) },
		"bytes": func(o *Object) error { _, err := readAll(t.Context(), o); return err },
		"all":   func(o *Object) error { _, err := o.All(t.Context()); return err },
		"told":  func(o *Object) error { o.Failed(errors.New("as the kernel says")); return errors.New("told") },
	} {
		t.Run(name, func(t *testing.T) {
			c, of := onDiskCache(t, 30)
			o, b := away(t, c, of)
			defer o.Release()
			require.NoError(t, o.Load(0, onDiskSize))
			lent := o.lend()
			defer lent.Release()
			if name != "told" {
				_, err := o.disk.p.seg.file.WriteAt([]byte("damage"), o.disk.p.body()+120_000)
				require.NoError(t, err)
			}
			require.NoError(t, lent.Load(0, 65_536), "another block")
			require.Error(t, read(lent))
			require.Nil(t, c.Hit([]byte(o.key), true))
			org := &origin{}
			require.Equal(t, Origin, get(t, c, o.key, b, org).Tier)
			require.EqualValues(t, 1, org.opens.Load())
		})
	}
}
