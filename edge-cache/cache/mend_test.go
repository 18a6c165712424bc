package cache

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// lose takes the directory away, as a disk that is no longer there, and returns
// what brings it back.
func lose(t require.TestingT, dir string) func() {
	away := dir + ".away"
	require.NoError(t, os.Rename(dir, away))
	return func() { require.NoError(t, os.Rename(away, dir)) }
}

// fillDisk writes objects until the log begins another segment.
func fillDisk(t *testing.T, c *Cache, name string) {
	t.Helper()
	for i := range 6 {
		key := fmt.Sprint(name, i)
		keep(t, c, key, object(key, 200_000), &origin{})
		// It is written a moment after it was read, or the writer has found that it can't be.
		require.Eventually(t, func() bool { return c.DiskErr() != nil || onDisk(t, c, key, object(key, 200_000)) }, 5*time.Second, time.Millisecond)
	}
}

// onDisk reports whether the log has the object, and that its bytes are right.
func onDisk(t *testing.T, c *Cache, key string, b []byte) bool {
	t.Helper()
	r, _, ok := c.disk.open(key)
	if !ok {
		return false
	}
	var got bytes.Buffer
	_, err := got.ReadFrom(r)
	require.NoError(t, errors.Join(err, r.Close()))
	require.True(t, bytes.Equal(b, got.Bytes()), "%s: wrong bytes", key)
	return true
}

// TestDiskComesBack: by itself, with what it had but for what was dropped
// meanwhile, and to be written to.
func TestDiskComesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	cfg := diskConfig(dir)
	cfg.DiskRetry = 5 * time.Millisecond
	c, err := Open(cfg)
	require.NoError(t, err)
	fillDisk(t, c, "a")
	fillDisk(t, c, "b")
	bring := lose(t, dir)
	fillDisk(t, c, "c")
	require.Eventually(t, func() bool { return c.Disk().Tries >= 2 }, 10*time.Second, time.Millisecond)
	s := c.Disk()
	require.ErrorIs(t, s.Err, os.ErrNotExist)
	require.ErrorIs(t, c.DiskErr(), os.ErrNotExist)
	require.Equal(t, [2]int64{1, 0}, [2]int64{s.Failures, s.Recoveries})
	require.WithinRange(t, s.Next, s.Since, s.Since.Add(time.Minute))
	require.Zero(t, c.Stats().DiskObjects)
	require.NoDirExists(t, dir, "a directory made here would be on another disk")
	_, err = c.Drop(func(key string) bool { return strings.HasPrefix(key, "a") })
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, Memory, get(t, c, "c5", object("c5", 200_000), &origin{}).Tier)

	bring()
	require.Eventually(t, func() bool { return c.DiskErr() == nil }, 10*time.Second, time.Millisecond)
	require.Equal(t, DiskState{Failures: 1, Recoveries: 1}, c.Disk())
	for i := range 6 {
		a, b := fmt.Sprint("a", i), fmt.Sprint("b", i)
		require.False(t, onDisk(t, c, a, nil), a)
		require.True(t, onDisk(t, c, b, object(b, 200_000)), b)
	}
	keep(t, c, "new", object("new", 1000), &origin{})
	require.Eventually(t, func() bool { return onDisk(t, c, "new", object("new", 1000)) }, 5*time.Second, time.Millisecond)
	_, err = os.Stat(filepath.Join(dir, "probe.tmp"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Open(cfg)
	require.ErrorContains(t, err, "another process")
	require.NoError(t, c.Close())

	c = open(t, cfg)
	require.False(t, onDisk(t, c, "a1", nil))
	require.True(t, onDisk(t, c, "b1", object("b1", 200_000)))
	require.True(t, onDisk(t, c, "new", object("new", 1000)))
}

// TestDiskIsReplaced: by an empty one, while a reader has a file of the old one.
func TestDiskIsReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	cfg := diskConfig(dir)
	cfg.DiskRetry = 5 * time.Millisecond
	c := open(t, cfg)
	fillDisk(t, c, "a")
	r, _, ok := c.disk.open("a0")
	require.True(t, ok)
	_ = lose(t, dir)
	fillDisk(t, c, "b")
	require.Eventually(t, func() bool { return c.DiskErr() != nil }, 10*time.Second, time.Millisecond)
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.Eventually(t, func() bool { return c.DiskErr() == nil }, 10*time.Second, time.Millisecond)
	require.Zero(t, c.Stats().DiskObjects)
	fillDisk(t, c, "c")
	require.True(t, onDisk(t, c, "c5", object("c5", 200_000)))
	var got bytes.Buffer
	_, err := got.ReadFrom(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.True(t, bytes.Equal(object("a0", 200_000), got.Bytes()))
}

// TestClosesWithAFailedDisk: and what it owed is found again, of which Drop warned.
func TestClosesWithAFailedDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	c, err := Open(diskConfig(dir))
	require.NoError(t, err)
	fillDisk(t, c, "a")
	bring := lose(t, dir)
	fillDisk(t, c, "b")
	require.Eventually(t, func() bool { return c.DiskErr() != nil }, 10*time.Second, time.Millisecond)
	_, err = c.Drop(func(string) bool { return true })
	require.Error(t, err)
	require.NoError(t, c.Close())
	bring()
	require.True(t, onDisk(t, open(t, diskConfig(dir)), "a0", object("a0", 200_000)))
}

// TestRetriesBackOff: pauses double up to a bound, and begin anew once the disk
// has worked for long.
func TestRetriesBackOff(t *testing.T) {
	d, err := openLog(t.TempDir(), 8<<20, 256<<10, time.Second, &drops{}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	close(d.queue)
	<-d.done
	d.works = time.Now().Add(-time.Minute)
	pauses := func(n int) (out []time.Duration) {
		for range n {
			d.fail(errors.New("broken"))
			out = append(out, d.pause/time.Second)
		}
		return out
	}
	require.Equal(t, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}, pauses(8))
	again := func(worked time.Duration) {
		d.mend()
		require.NoError(t, d.failure())
		d.works = time.Now().Add(-worked)
	}
	again(time.Minute)
	require.Equal(t, []time.Duration{60}, pauses(1))
	again(time.Hour)
	require.Equal(t, []time.Duration{1, 2}, pauses(2))
	again(0)
	require.EqualValues(t, 3, d.state.Recoveries)
	d.retry.Stop()
	require.NoError(t, errors.Join(d.closeFiles(), d.lock.Close()))
}

// TestOwesWithoutBound: too many drops to remember are one of everything.
func TestOwesWithoutBound(t *testing.T) {
	var d diskLog
	for range 3*maxDrops + 1 {
		d.owe(func(string) bool { return false })
		require.LessOrEqual(t, len(d.owed), maxDrops)
	}
	require.True(t, d.owed[0]("any"))
}

const smallDisk = "MERIDIAN_TEST_SMALL_DISK"

// TestFullDisk: what is there makes room for what comes, until nothing of ours is
// left; then memory has to do, until there is space. It runs in a process of its
// own, which may mount a small file system.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(smallDisk); dir != "" {
		fullDisk(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), smallDisk+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func fullDisk(t *testing.T, dir string) {
	require.NoError(t, unix.Mount("", dir, "tmpfs", 0, "size=4m"))
	cfg := diskConfig(filepath.Join(dir, "cache")) // of 8 MiB
	cfg.DiskRetry = 10 * time.Millisecond
	c := open(t, cfg)
	for i := range 40 {
		key := fmt.Sprint("k", i)
		keep(t, c, key, object(key, 200_000), &origin{})
		require.Eventually(t, func() bool { return onDisk(t, c, key, object(key, 200_000)) }, 5*time.Second, time.Millisecond, key)
	}
	require.NoError(t, c.DiskErr())
	require.Less(t, c.Stats().DiskBytes, int64(4<<20))
	require.Greater(t, c.Stats().DiskBytes, int64(2<<20))

	// Others take all there is, and what we give up.
	other, err := os.Create(filepath.Join(dir, "other"))
	require.NoError(t, err)
	takes := func() {
		var err error
		for err == nil {
			_, err = other.Write(make([]byte, 4096))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
	}
	until := time.Now().Add(time.Minute)
	for i := 0; c.Disk().Tries < 4; i++ {
		takes()
		key := fmt.Sprint("l", i)
		keep(t, c, key, object(key, 200_000), &origin{})
		require.Eventually(t, func() bool { return c.disk.waiting.Load() == 0 }, 5*time.Second, time.Millisecond)
		require.True(t, time.Now().Before(until), "%+v", c.Disk())
	}
	require.ErrorIs(t, c.DiskErr(), syscall.ENOSPC)
	require.Zero(t, c.Stats().DiskBytes)
	require.NoError(t, errors.Join(other.Close(), os.Remove(other.Name())))
	require.Eventually(t, func() bool { return c.DiskErr() == nil }, 10*time.Second, time.Millisecond)
	keep(t, c, "new", object("new", 200_000), &origin{})
	require.Eventually(t, func() bool { return onDisk(t, c, "new", object("new", 200_000)) }, 5*time.Second, time.Millisecond)
}
