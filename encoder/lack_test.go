package encoder

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/encoder/source"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/jobs"
)

// smallDisk names a directory where a worker of a test mounts a file system of smallDiskSize.
const (
	smallDisk     = "MERIDIAN_TEST_SMALL_DISK"
	smallDiskSize = "256k"
)

func mountSmallDisk() {
	if dir := os.Getenv(smallDisk); dir != "" {
		if err := unix.Mount("", dir, "tmpfs", 0, "size="+smallDiskSize); err != nil {
			panic(err)
		}
	}
}

// small gives the worker a scratch directory that is soon full.
func (w *workerProcess) small(t *testing.T) {
	t.Helper()
	require.NoError(t, os.MkdirAll(w.scratch, 0o700))
	w.Env = append(w.Env, smallDisk+"="+w.scratch)
	w.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	w.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	w.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
}

// becomes waits until an asset is in a state.
func (q *queue) becomes(t *testing.T, asset string, s catalog.State, within time.Duration) {
	t.Helper()
	require.Eventually(t, func() bool { return q.asset(t, asset).State == s }, within, lookEvery, "%s: %s", asset, s)
}

// dead asserts that an asset has failed for a lack of ours, and returns the dead task.
func (q *queue) dead(t *testing.T, asset, reason string) catalog.TaskInfo {
	t.Helper()
	require.Eventually(t, func() bool {
		// How long a task rests after a failure isn't the point.
		q.sql(t, "UPDATE tasks SET not_before = now() WHERE asset = $1 AND kind <> 'cleanup' AND state = 'queued' AND not_before > now()", []any{asset})
		return q.asset(t, asset).State == catalog.Failed
	}, 3*time.Minute, lookEvery, "%s: it doesn't fail", asset)
	require.Equal(t, catalog.InternalFailure, q.asset(t, asset).Failure.Code)
	tasks, err := q.cat.DeadTasks(t.Context(), 100)
	require.NoError(t, err)
	i := slices.IndexFunc(tasks, func(i catalog.TaskInfo) bool { return i.Asset == asset })
	require.GreaterOrEqual(t, i, 0, "there is no dead task")
	require.Equal(t, catalog.MaxFailures, tasks[i].Failures)
	require.Contains(t, tasks[i].Failure.Detail, reason)
	return tasks[i]
}

// letters returns the tasks the DEAD stream tells of.
func (q *queue) letters(t *testing.T) (tasks []string) {
	t.Helper()
	nc, err := nats.Connect(q.nats)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), "DEAD")
	require.NoError(t, err)
	for n := uint64(1); n <= s.CachedInfo().State.LastSeq; n++ {
		m, err := s.GetMsg(t.Context(), n)
		require.NoError(t, err)
		var l jobs.DeadLetter
		decodeJSON(t, m.Data, &l)
		tasks = append(tasks, l.Task)
	}
	return tasks
}

// frames asserts that a run has all frames, as a decoder sees them.
func (q *queue) frames(t *testing.T, asset string, run, want int) {
	t.Helper()
	p, err := q.cat.RunPlan(t.Context(), asset, run)
	require.NoError(t, err)
	require.EqualValues(t, want, p.Frames)
	records, err := q.cat.CommittedChunks(t.Context(), asset, run, "v0")
	require.NoError(t, err)
	for _, r := range p.Tracks[0].Renditions {
		require.Equal(t, want, decoded(t, q.film(t, asset, run, r.ID, records)), r.ID)
	}
}

// janitor buries what is dead.
func (q *queue) janitor(t *testing.T) {
	t.Helper()
	start(t, (&jobs.Janitor{Catalog: q.cat, Conn: q.conn, Objects: q.store, Name: "j", Log: slog.New(slog.DiscardHandler)}).Run)
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

// What doesn't fit a worker's disk is nobody's fault but the disk's: tried again, in the
// end dead, and encoded when there is room. The worker goes on with the rest, and leaves
// nothing on its disk.
func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.janitor(t)
	// Both have no index, and are copied into a container with one; of one of the
	// two containers ffmpeg's end is good when the disk is full. The larger one is planned
	// meanwhile, at first: then it's the worker that writes.
	pattern := func(size string) []string { return []string{"-f", "lavfi", "-i", "testsrc2=r=25:d=5:s=" + size} }
	large := map[string][]byte{
		"film.ts":  readFile(t, makeFile(t, "film.ts", append(pattern("640x360"), "-c:v", "mpeg2video", "-q:v", "2")...)),
		"film.flv": readFile(t, makeFile(t, "film.flv", append(pattern("320x180"), "-c:v", "flv1", "-q:v", "2")...)),
	}
	require.Greater(t, len(large["film.ts"]), firstPart)
	w := q.command(t, "eu")
	w.small(t)
	w.start(t)
	assets := map[string]string{}
	for name, data := range large {
		require.Greater(t, len(data), 512<<10, name)
		assets[name] = q.upload(t, data)
	}
	dead := map[string]string{}
	for name, asset := range assets {
		dead[name] = q.dead(t, asset, ffmpeg.ReasonDisk).ID
	}
	require.Eventually(t, func() bool { return len(q.letters(t)) == len(dead) }, 30*time.Second, lookEvery, "the dead letters don't come")
	for name, task := range dead {
		require.Contains(t, q.letters(t), task, name)
	}
	fits := q.upload(t, readFile(t, mediaFile("bikes-noaudio.mp4")))
	q.becomes(t, fits, catalog.Ready, 2*time.Minute)
	left, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(w.Process.Pid), "root", w.scratch, "work"))
	require.NoError(t, err)
	require.Empty(t, left)
	w.end(t)

	q.process(t, "us")
	for name, task := range dead {
		run, err := q.cat.Replay(t.Context(), task)
		require.NoError(t, err)
		require.Equal(t, 2, run)
		q.becomes(t, assets[name], catalog.Ready, 2*time.Minute)
		q.frames(t, assets[name], run, 125)
	}
}

// What a worker lacks memory for fails as that, however its decoder says it, and no frame
// is taken to be damaged; another worker does it, also when the kernel ends a process to
// have its memory back.
func TestMemoryIsShort(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.janitor(t)
	film := readFile(t, makeFile(t, "film.mp4", "-i", mediaFile("bbb-1080p30.mp4"), "-frames:v", "90", "-an", "-c", "copy"))
	least := leastMemory(t, film)
	change := func(o *Options) {
		o.Profile.Copy, o.Profile.PerTitle.Enabled, o.Child.AddressSpace = false, false, least
	}
	stop := q.worker(t, "eu", change)
	first := q.upload(t, film)
	task := q.dead(t, first, ffmpeg.ReasonMemory)
	require.Equal(t, catalog.KindVideo, task.Kind, task.Failure)
	require.Eventually(t, func() bool { return slices.Contains(q.letters(t), task.ID) }, 30*time.Second, lookEvery, "the dead letter doesn't come")

	second := q.upload(t, film)
	require.Eventually(t, func() bool {
		var failures int
		q.sql(t, "SELECT coalesce(max(failures), 0) FROM tasks WHERE asset = $1 AND error_detail LIKE '%' || $2 || '%'", []any{second, ffmpeg.ReasonMemory}, &failures)
		return failures > 0
	}, time.Minute, 20*time.Millisecond)
	stop()
	w := q.process(t, "us")
	require.Eventually(t, func() bool {
		for _, pid := range w.children(t) {
			if encoding(pid) && syscall.Kill(pid, syscall.SIGKILL) == nil {
				return true
			}
		}
		return false
	}, time.Minute, time.Millisecond, "no process encodes")
	q.becomes(t, second, catalog.Ready, 2*time.Minute)
	q.frames(t, second, 1, 90)
	run, err := q.cat.Replay(t.Context(), task.ID)
	require.NoError(t, err)
	q.becomes(t, first, catalog.Ready, 2*time.Minute)
	q.frames(t, first, run, 90)
}

// leastMemory is the least address space in which a file can be probed here, in steps:
// too little for encoding it.
func leastMemory(t *testing.T, data []byte) uint64 {
	t.Helper()
	s, err := source.Listen(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	url, _ := s.Add(memoryFile(data))
	for limit := uint64(128 << 20); limit < 4<<30; limit += 32 << 20 {
		p := probe.Prober{Limits: probe.DefaultLimits(), Process: ffmpeg.Limits{AddressSpace: limit, Wall: time.Minute, Idle: 30 * time.Second}}
		_, err := p.Probe(t.Context(), url, int64(len(data)))
		if err == nil {
			return limit
		}
		var bad *probe.InputError
		require.NotErrorAs(t, err, &bad, "%d MiB", limit>>20)
	}
	require.Fail(t, "no memory is enough")
	return 0
}
