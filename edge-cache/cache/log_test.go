package cache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

func diskConfig(dir string) Config {
	return Config{Memory: 2 << 20, Dir: dir, Disk: 8 << 20, MaxObject: 256 << 10}
}

func get(t testing.TB, c *Cache, key string, b []byte, org *origin) Outcome {
	t.Helper()
	o, out, err := c.Get(t.Context(), key, org.source(b))
	require.NoError(t, err)
	defer o.Release()
	got, err := readAll(t.Context(), o)
	require.NoError(t, err)
	require.True(t, bytes.Equal(b, got), "%s: wrong bytes", key)
	require.Equal(t, infoOf(b).SHA256, o.Info().SHA256)
	require.Equal(t, infoOf(b).ETag, o.Info().ETag)
	require.True(t, infoOf(b).Modified.Equal(o.Info().Modified))
	return out
}

// keep asks twice, so that the object goes to disk.
func keep(t testing.TB, c *Cache, key string, b []byte, org *origin) {
	t.Helper()
	get(t, c, key, b, org)
	get(t, c, key, b, org)
}

func TestRestartIsWarm(t *testing.T) {
	dir := t.TempDir()
	var org origin
	c, err := Open(diskConfig(dir))
	require.NoError(t, err)
	for i := range 10 {
		key := fmt.Sprint("k", i)
		keep(t, c, key, object(key, i*20_000), &org)
	}
	_, err = Open(diskConfig(dir))
	require.ErrorContains(t, err, "another process")
	require.NoError(t, c.Close())
	require.EqualValues(t, 10, org.opens.Load())

	c = open(t, diskConfig(dir))
	for i := range 10 {
		key := fmt.Sprint("k", i)
		require.Equal(t, Disk, get(t, c, key, object(key, i*20_000), &org).Tier)
		require.Equal(t, Memory, get(t, c, key, object(key, i*20_000), &org).Tier, key)
	}
	require.EqualValues(t, 10, org.opens.Load(), "nothing was fetched again")
}

func TestDamagedBlocksAreFetchedAgain(t *testing.T) {
	dir := t.TempDir()
	var org origin
	c, err := Open(diskConfig(dir))
	require.NoError(t, err)
	b := object("k", 200_000)
	keep(t, c, "k", b, &org)
	keep(t, c, "cut", object("cut", 100_000), &org)
	require.NoError(t, c.Close())

	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	require.Len(t, logs, 1)
	f, err := os.OpenFile(logs[0], os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("damage"), 150_000) // the third block of the first record
	require.NoError(t, err)
	require.NoError(t, f.Close())
	// Without its checkpoint the segment is scanned.
	require.NoError(t, os.Remove(logs[0][:len(logs[0])-3]+"idx"))

	c = open(t, diskConfig(dir))
	get(t, c, "k", b, &org)
	require.EqualValues(t, 3, org.opens.Load(), "the damaged object's rest came from the origin")
	require.Eventually(t, func() bool { return onDisk(t, c, "k", b) }, 5*time.Second, time.Millisecond, "it is written again")
	require.Equal(t, Disk, get(t, c, "cut", object("cut", 100_000), &org).Tier)
}

func TestDiskStaysBoundedAndKeepsWhatIsHit(t *testing.T) {
	dir := t.TempDir()
	cfg := diskConfig(dir)
	c, err := Open(cfg)
	require.NoError(t, err)
	var org origin
	hot := object("hot", 100_000)
	keep(t, c, "hot", hot, &org)
	for i := range 100 {
		key := fmt.Sprint("k", i)
		keep(t, c, key, object(key, 150_000), &org)
		require.Eventually(t, func() bool { return c.disk.waiting.Load() == 0 }, 5*time.Second, time.Millisecond)
		// A hit on disk, as after an eviction from memory.
		r, _, ok := c.disk.open("hot")
		require.True(t, ok, "after %d objects", i)
		require.NoError(t, r.Close())
		s := c.Stats()
		require.LessOrEqual(t, s.DiskBytes, cfg.Disk)
	}
	require.NoError(t, c.Close())
	var size int64
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	for _, f := range files {
		st, err := os.Stat(f)
		require.NoError(t, err)
		size += st.Size()
	}
	require.LessOrEqual(t, size, cfg.Disk)
	require.Greater(t, size, cfg.Disk/2)
}

func TestFailingDiskLeavesMemory(t *testing.T) {
	dir := t.TempDir()
	cfg := diskConfig(dir)
	cfg.DiskRetry = time.Hour
	c := open(t, cfg)
	var org origin
	keep(t, c, "a", object("a", 1000), &org)
	require.Eventually(t, func() bool { return c.disk.waiting.Load() == 0 }, 5*time.Second, time.Millisecond)
	require.NoError(t, c.disk.active.file.Close())
	keep(t, c, "b", object("b", 1000), &org)
	require.Eventually(t, func() bool { return c.DiskErr() != nil }, 5*time.Second, time.Millisecond)
	get(t, c, "c", object("c", 1000), &org)
	require.Equal(t, Memory, get(t, c, "c", object("c", 1000), &org).Tier)
	require.Zero(t, c.Stats().DiskBytes)
}

const crashDir = "MERIDIAN_TEST_CRASH_DIR"

// TestCrash kills a process that writes, again and again, and looks at what the
// next one finds. The process is this test itself.
func TestCrash(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		fillUntilKilled(t, dir)
		return
	}
	rounds := 4
	if testenv.IsLong() {
		rounds = 100
	}
	dir := t.TempDir()
	var found int64
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrash$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // already ended, unless the test fails
			if t.Failed() {
				t.Logf("round %d: %s", round, said.String())
			}
		})
		// At any moment once this process has written something of its own.
		from, more := logEnd(t, dir), int64(1+rand.IntN(4<<20))
		require.Eventually(t, func() bool { return logEnd(t, dir) > from+more }, 30*time.Second, time.Millisecond)
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		_ = cmd.Wait()
		require.Empty(t, said.String())

		c, err := Open(diskConfig(dir))
		require.NoError(t, err, "round %d", round)
		require.LessOrEqual(t, c.Stats().DiskBytes, diskConfig(dir).Disk)
		for i := range 400 {
			key := fmt.Sprint("k", i)
			if r, _, ok := c.disk.open(key); ok {
				require.NoError(t, r.Close())
				require.Equal(t, Disk, get(t, c, key, object(key, 1000+i*517), &origin{}).Tier)
				found++
			}
		}
		require.NoError(t, c.Close())
	}
	require.Positive(t, found, "no object survived any of the kills")
}

// logEnd is how far the log has been written since it was made, which grows also
// when the log is full.
func logEnd(t *testing.T, dir string) (end int64) {
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	for _, f := range files {
		var id int64
		_, err := fmt.Sscanf(filepath.Base(f), "%x.log", &id)
		require.NoError(t, err)
		if st, err := os.Stat(f); err == nil { // it may be dropped while we look
			end = max(end, id*diskConfig(dir).Disk/minSegments+st.Size())
		}
	}
	return end
}

func fillUntilKilled(t *testing.T, dir string) {
	c, err := Open(diskConfig(dir))
	require.NoError(t, err)
	for {
		n := rand.IntN(400)
		key := fmt.Sprint("k", n)
		keep(t, c, key, object(key, 1000+n*517), &origin{})
	}
}

// sealed is b as a header with the right magic, length and checksum: nearly
// everything else ends at the checksum.
func sealed(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) >= headerFixed {
		binary.LittleEndian.PutUint32(b, recordMagic)
		binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	}
	return b
}

func FuzzDecodeHeader(f *testing.F) {
	b := object("k", 100_000)
	h, err := encodeHeader("k", infoOf(b), b)
	require.NoError(f, err)
	f.Add(h)
	f.Add(h[:50])
	f.Add(append(bytes.Clone(h), make([]byte, recordAlign)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, sealed(b)} {
			h, err := decodeHeader(b, 1<<20)
			if err == nil && (h.key == "" || h.info.Size < 0 || h.info.Size > 1<<20 || len(h.blocks) != blockCount(h.info.Size)) {
				t.Fatalf("accepted %+v", h)
			}
			list, end, err := scan(bytes.NewReader(b), int64(len(b)), 1<<20)
			if err != nil || end > int64(len(b)) || len(list) > len(b)/recordAlign {
				t.Fatalf("scan: %d records to %d of %d: %v", len(list), end, len(b), err)
			}
			for _, e := range list {
				if e.at < 0 || e.at+int64(e.head)+e.size > end {
					t.Fatalf("scan: %+v beyond %d", e, end)
				}
			}
		}
	})
}

func FuzzDecodeIndex(f *testing.F) {
	f.Add([]byte{}, int64(4096))
	one := append(make([]byte, 12), 1, 0, 0, 0, 1, 0, 'k')
	one = binary.LittleEndian.AppendUint64(one, 4096)
	one = binary.LittleEndian.AppendUint32(one, headerFixed+5)
	one = binary.LittleEndian.AppendUint64(one, 1000)
	f.Add(one, int64(8192))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		right := bytes.Clone(b)
		if len(right) >= 16 {
			binary.LittleEndian.PutUint32(right, indexMagic)
			binary.LittleEndian.PutUint64(right[4:], uint64(size))
			right = binary.LittleEndian.AppendUint32(right, crc32.Checksum(right, castagnoli))
		}
		for _, b := range [][]byte{b, right} {
			list, ok := decodeIndex(b, size, 1<<20)
			for _, e := range list {
				if ok && (e.key == "" || e.at < 0 || e.size < 0 || e.head < headerFixed || e.at > size-int64(e.head)-e.size) {
					t.Fatalf("entry %+v outside of %d bytes", e, size)
				}
			}
		}
	})
}

// TestDropLasts: also after a crash, in which nothing more is written.
func TestDropLasts(t *testing.T) {
	dir := t.TempDir()
	var org origin
	c := open(t, diskConfig(dir))
	for i := range 20 { // several segments
		for _, asset := range []string{"a/", "b/"} {
			key := fmt.Sprint(asset, i)
			keep(t, c, key, object(key, 100_000), &org)
		}
	}
	require.Eventually(t, func() bool { return c.Stats().DiskObjects == 40 }, 5*time.Second, time.Millisecond)
	before := len(c.disk.segments)
	require.Greater(t, before, 3)
	_, err := c.Drop(func(key string) bool { return key[0] == 'a' })
	require.NoError(t, err)
	require.Equal(t, 20, c.Stats().DiskObjects)
	keep(t, c, "b/new", object("b/new", 1000), &org)
	require.Eventually(t, func() bool { return c.Stats().DiskObjects == 21 }, 5*time.Second, time.Millisecond)

	crashed := t.TempDir()
	require.NoError(t, os.CopyFS(crashed, os.DirFS(dir)))
	again := open(t, diskConfig(crashed))
	require.Equal(t, 21, again.Stats().DiskObjects)
	opens := org.opens.Load()
	require.Equal(t, Disk, get(t, again, "b/new", object("b/new", 1000), &org).Tier)
	require.Equal(t, Disk, get(t, again, "b/7", object("b/7", 100_000), &org).Tier)
	require.Equal(t, Origin, get(t, again, "a/7", object("a/7", 100_000), &org).Tier)
	require.Equal(t, opens+1, org.opens.Load())

	_, err = again.Drop(func(string) bool { return true })
	require.NoError(t, err)
	require.Zero(t, again.Stats().DiskObjects)
	require.Zero(t, again.Stats().DiskBytes)
	get(t, again, "b/7", object("b/7", 100_000), &org)
}

// What was on its way when it was dropped reaches its readers, and nobody who asks
// later, neither from memory nor from disk.
func TestDropWhileArriving(t *testing.T) {
	dir := t.TempDir()
	before, after := object("before", 5000), object("after", 6000)
	allow := make(chan int, 1)
	org := origin{wrap: func(r io.Reader) io.Reader { return &step{r: r, allow: allow, ctx: t.Context()} }}
	c, err := Open(diskConfig(dir))
	require.NoError(t, err)
	o, _, err := c.Get(t.Context(), "k", org.source(before))
	require.NoError(t, err)
	again, _, err := c.Get(t.Context(), "k", org.source(before))
	require.NoError(t, err)
	require.Same(t, o, again)
	_, err = c.Drop(func(key string) bool { return key == "k" })
	require.NoError(t, err)
	allow <- len(before)
	got, err := readAll(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, before, got)
	org.wrap = nil
	require.Equal(t, Origin, get(t, c, "k", after, &org).Tier)
	require.Equal(t, Memory, get(t, c, "k", after, &org).Tier)
	require.NoError(t, c.Close())

	next := open(t, diskConfig(dir))
	require.Equal(t, 1, next.Stats().DiskObjects)
	require.Equal(t, Disk, get(t, next, "k", after, &org).Tier)
}
