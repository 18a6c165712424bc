package encoder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/confine"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/jobs"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/testenv"
)

// workerProcess is `meridian encoder` in a process of its own.
type workerProcess struct {
	*exec.Cmd
	log     *testenv.Buffer
	scratch string
}

// workerProfiles are those of testOptions, with tasks of a few seconds.
const workerProfiles = `version: 1
profiles:
  - {name: default, preset: ultrafast, rungs: [360, 240], max_chunk: 3, threads: 2, copy: false, per_title: {enabled: false}}
  - {name: small, preset: ultrafast, rungs: [240], max_chunk: 3, threads: 2, copy: false, per_title: {enabled: false}}
  - {name: slow, preset: placebo, rungs: [360], max_chunk: 3, threads: 2, copy: false, per_title: {enabled: false}}
`

// process starts a worker in a region, with more flags if any are given.
func (q *queue) process(t *testing.T, region string, flags ...string) *workerProcess {
	t.Helper()
	w := q.command(t, region, flags...)
	w.start(t)
	return w
}

// command is a worker that has not been started.
func (q *queue) command(t *testing.T, region string, flags ...string) *workerProcess {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	table := *q.table
	table.Regions = slices.Clone(table.Regions)
	dsn, err := url.Parse(q.dsn)
	require.NoError(t, err)
	hosts := strings.Split(dsn.Host, ",")
	for i := range table.Regions {
		r := &table.Regions[i]
		// One server holds the streams, and is everywhere.
		r.Control, r.NATS, r.Postgres = i == 0, q.nats, hosts[min(i, len(hosts)-1)]
	}
	b, err := table.Marshal()
	require.NoError(t, err)
	w := &workerProcess{log: &testenv.Buffer{}, scratch: filepath.Join(dir, "scratch")}
	w.Cmd = exec.Command(os.Args[0], append([]string{"encoder", "--regions", file("regions.yaml", b), "--region", region,
		"--s3-access-key", q.s3.AccessKey.Reveal(), "--s3-secret-key", q.s3.SecretKey.Reveal(), "--s3-bucket", q.s3.Bucket,
		"--postgres-user", dsn.User.Username(), "--postgres-database", strings.TrimPrefix(dsn.Path, "/"),
		"--profiles", file("profiles.yaml", []byte(workerProfiles)), "--scratch-dir", w.scratch, "--slots", "2"}, flags...)...)
	w.Env = append(os.Environ(), workerEnv+"=1")
	w.Stdout, w.Stderr = w.log, w.log
	w.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return w
}

func (w *workerProcess) start(t *testing.T) {
	t.Helper()
	// It dies with the thread that starts it, and those of confined children end.
	release, err := confine.Free{}.Start(w.Cmd, w.Dir)
	require.NoError(t, err)
	t.Cleanup(release)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("worker:\n%s", w.log)
		}
		w.end(t)
	})
}

func (w *workerProcess) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	require.NoError(t, w.Process.Signal(s))
}

// end stops the worker, as an operator would.
func (w *workerProcess) end(t *testing.T) {
	if w.ProcessState != nil {
		return
	}
	w.signal(t, syscall.SIGTERM)
	w.signal(t, syscall.SIGCONT)
	require.NoError(t, w.Wait(), "%s", w.log)
}

// kill ends the worker by SIGKILL, with all it has started.
func (w *workerProcess) kill(t *testing.T) {
	t.Helper()
	children := w.children(t)
	w.signal(t, syscall.SIGKILL)
	require.Error(t, w.Wait())
	require.Eventually(t, func() bool { return !slices.ContainsFunc(children, running) }, 10*time.Second, 10*time.Millisecond, "ffmpeg outlives its worker")
}

// children are the ids of the processes the worker has started.
func (w *workerProcess) children(t *testing.T) []int {
	t.Helper()
	return childrenOf(w.Process.Pid)
}

func childrenOf(pid int) (out []int) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		panic(err)
	}
	for _, path := range lists {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		for _, s := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(s); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}

// running says whether a process has not ended.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// sending is an upload under way.
type sending struct {
	q         *queue
	data      []byte
	asset, id string
	parts, at int
	// frames the film has.
	frames int
}

func (q *queue) send(t *testing.T, data []byte) *sending {
	t.Helper()
	s := &sending{q: q, data: data, frames: denseFrames}
	s.asset, s.id = q.begin(t, len(data))
	return s
}

// until sends parts of size bytes through a process, until so many bytes are there.
func (s *sending) until(t *testing.T, cat *catalog.Catalog, size, end int) {
	t.Helper()
	for end = min(end, len(s.data)); s.at < end; s.parts++ {
		next := min(s.at+size, end)
		s.q.part(t, cat, s.asset, s.id, s.parts, s.at, s.data[s.at:next], true)
		s.at = next
	}
}

// finish sends the rest.
func (s *sending) finish(t *testing.T, cat *catalog.Catalog) {
	t.Helper()
	s.until(t, cat, 1<<20, len(s.data))
	_, err := cat.FinishUpload(t.Context(), s.id)
	require.NoError(t, err)
}

// committed are the attempts of the picture's chunks that count, in order.
func (s *sending) committed(t *testing.T) (attempts []int) {
	t.Helper()
	records, err := s.q.cat.CommittedChunks(t.Context(), s.asset, 1, "v0")
	require.NoError(t, err)
	for i, r := range records {
		if r.Chunk != i {
			break // one before it is still under way
		}
		attempts = append(attempts, r.Attempt)
	}
	return attempts
}

// planTask is how the task stands that makes the plan grow.
func (s *sending) planTask(t *testing.T) (state string, attempt, failures int, needs int64) {
	t.Helper()
	s.q.sql(t, "SELECT state, attempt, failures, needs FROM tasks WHERE id = $1", []any{s.asset + "/r1/plan"}, &state, &attempt, &failures, &needs)
	return state, attempt, failures, needs
}

// grows waits until some of the picture is encoded, all of what is known of it, and the
// plan waits for more.
func (s *sending) grows(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		state, _, failures, needs := s.planTask(t)
		require.Zero(t, failures)
		return state == "queued" && needs > 0 && len(s.committed(t)) > 0 && s.q.open(t, s.asset) == 1
	}, 3*time.Minute, lookEvery)
	require.Equal(t, catalog.Uploading, s.q.asset(t, s.asset).State)
}

// stopGrowing sends more until a worker makes the plan grow, and stops the worker in
// the middle of that.
func (s *sending) stopGrowing(t *testing.T, w *workerProcess) {
	t.Helper()
	_, before, _, needs := s.planTask(t)
	require.Less(t, needs, int64(len(s.data)), "the film is too short for the test")
	s.until(t, s.q.cat, 1<<20, int(needs))
	// It knows by then that the task is its own: what is lost of a claim is the answer.
	started := fmt.Sprintf("task=%s/r1/plan attempt=%d ", s.asset, before+1)
	require.Eventually(t, func() bool {
		state, attempt, _, _ := s.planTask(t)
		return state == "running" && attempt == before+1 && strings.Contains(w.log.String(), started)
	}, time.Minute, 5*time.Millisecond)
	w.signal(t, syscall.SIGSTOP)
	state, attempt, _, _ := s.planTask(t)
	require.Equal(t, "running", state)
	require.Equal(t, before+1, attempt)
}

// open is how much there is to do for an asset.
func (q *queue) open(t *testing.T, asset string) (n int) {
	t.Helper()
	q.sql(t, "SELECT count(*) FROM tasks WHERE asset = $1 AND kind <> 'cleanup' AND state IN ('queued', 'running')", []any{asset}, &n)
	return n
}

// sql asks the leader. It keeps its connection, for tests ask often, and connecting costs
// far more than asking; another one is made when it breaks, with its leader.
func (q *queue) sql(t *testing.T, query string, args []any, into ...any) {
	t.Helper()
	// Longer than another leader takes.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.ask(ctx, query, args, into)
	if err != nil {
		err = q.ask(ctx, query, args, into)
	}
	require.NoError(t, err)
}

func (q *queue) ask(ctx context.Context, query string, args, into []any) (err error) {
	if q.leader == nil {
		if q.leader, err = pgx.Connect(ctx, q.dsn+"&target_session_attrs=read-write"); err != nil {
			return err
		}
	}
	if len(into) == 0 {
		_, err = q.leader.Exec(ctx, query, args...)
	} else {
		err = q.leader.QueryRow(ctx, query, args...).Scan(into...)
	}
	if err != nil {
		err = errors.Join(err, q.forget())
	}
	return err
}

// forget ends the connection to the leader.
func (q *queue) forget() error {
	c := q.leader
	q.leader = nil
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.Close(ctx)
}

var keyOfSegment = regexp.MustCompile(`/r(\d+)/([^/]+)/(\d{5})-(\d+)/\d{5}\.m4s$`)

// whole asserts that the film is ready as it should be, with the run that grew: what
// was committed before stayed, and every frame is there once.
func (s *sending) whole(t *testing.T, before []int) {
	t.Helper()
	q := s.q
	require.Eventually(t, func() bool { return q.asset(t, s.asset).State == catalog.Ready && q.open(t, s.asset) == 0 }, 4*time.Minute, lookEvery)
	require.Equal(t, 1, q.asset(t, s.asset).CurrentRun)
	attempts := s.committed(t)
	require.Greater(t, len(attempts), len(before))
	require.Equal(t, before, attempts[:len(before)], "what was committed is done again")
	p, err := q.cat.RunPlan(t.Context(), s.asset, 1)
	require.NoError(t, err)
	require.Equal(t, catalog.PlanGrown, p.State)
	require.EqualValues(t, s.frames, p.Frames)
	for _, tr := range p.Tracks {
		records, err := q.cat.CommittedChunks(t.Context(), s.asset, 1, tr.ID)
		require.NoError(t, err)
		if tr.Kind == hls.Video {
			require.Len(t, records, len(tr.Chunks))
		}
		at := int64(0)
		for i, r := range records {
			require.Equal(t, i, r.Chunk)
			require.Equal(t, at, r.Start)
			at = r.End()
			require.Equal(t, i == len(records)-1, r.Last)
		}
		for _, r := range tr.Renditions {
			film := q.film(t, s.asset, 1, r.ID, records)
			if tr.Kind != hls.Video {
				require.InDelta(t, p.DurationMS*48000/1000, at, 2048)
				continue
			}
			require.Equal(t, s.frames, decoded(t, film))
			times := packets(t, film)
			require.Len(t, slices.Compact(slices.Clone(times)), s.frames, "no frame is there twice")
			require.Equal(t, tr.Chunks[len(tr.Chunks)-1].End, at)
		}
	}
}

// film reads a rendition, each of whose objects the given regions have, or all.
func (q *queue) film(t *testing.T, asset string, run int, rendition string, records []hls.Record, regions ...string) (film []byte) {
	t.Helper()
	if len(regions) == 0 {
		regions = q.table.Names()
	}
	name := hls.RunName(run)
	var keys []string
	for i, r := range records {
		rs := r.Renditions[rendition]
		if i == 0 {
			keys = append(keys, objects.InitKey(asset, name, rendition, rs.Init))
		}
		require.Equal(t, records[0].Renditions[rendition].Init, rs.Init)
		for n := range rs.Segments {
			keys = append(keys, objects.SegmentKey(asset, name, rendition, r.SegmentPath(rendition, n)))
		}
	}
	for _, k := range keys {
		for _, name := range regions {
			_, err := q.store.In(name).Stat(t.Context(), k)
			require.NoError(t, err)
		}
		b, err := q.store.ReadAll(t.Context(), k, 1<<26, objects.Placement{})
		require.NoError(t, err)
		film = append(film, b...)
	}
	return film
}

// attemptsStored are, of each chunk of a rendition, the attempts that stored segments.
func (q *queue) attemptsStored(t *testing.T, asset, rendition string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	require.NoError(t, q.store.Own().List(t.Context(), objects.RunPrefix(asset, "r1")+rendition+"/", "", func(o objects.Info) bool {
		if m := keyOfSegment.FindStringSubmatch(o.Key); m != nil && !slices.Contains(out[m[3]], m[4]) {
			out[m[3]] = append(out[m[3]], m[4])
		}
		return true
	}))
	return out
}

// The worker is killed in the middle of a look at what has come: another one in another
// region goes on from the plan that was committed.
func TestGrowingWorkerKilled(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	s := q.send(t, streamed(t, "film.ts"))
	first := q.process(t, "eu")
	s.until(t, q.cat, 1<<20, 5<<20)
	s.grows(t)
	before, known := s.committed(t), q.chunks(t, s.asset)
	s.stopGrowing(t, first)
	first.kill(t)
	require.Equal(t, known, q.chunks(t, s.asset), "what it hadn't committed isn't there")
	q.process(t, "us")
	s.finish(t, q.cat)
	s.whole(t, before)
	_, _, failures, _ := s.planTask(t)
	require.Equal(t, 1, failures)
	for chunk, attempts := range q.attemptsStored(t, s.asset, denseRung) {
		require.Len(t, attempts, 1, "chunk %s was encoded twice", chunk)
	}
}

// chunks are those of the picture's plan.
func (q *queue) chunks(t *testing.T, asset string) []catalog.PlanChunk {
	t.Helper()
	p, err := q.cat.RunPlan(t.Context(), asset, 1)
	require.NoError(t, err)
	return p.Tracks[0].Chunks
}

// The upload is cut in the middle of a packet and goes on elsewhere, after all that
// could be done was: nothing is held, counted or done again meanwhile.
func TestGrowingUploadCut(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"film.mkv": nil, "fragments.mp4": {"-movflags", "+frag_keyframe+empty_moov"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name != "film.mkv" {
				testenv.Long(t)
			}
			q := newQueue(t)
			s := q.send(t, streamed(t, name, args...))
			q.worker(t, "eu", growing)
			s.until(t, q.cat, 1<<20, 4<<20)
			s.grows(t)
			_, _, _, needs := s.planTask(t)
			s.until(t, q.cat, 777_777, int(needs)+4321)
			s.grows(t)
			before := s.committed(t)
			elsewhere := q.other(t)
			// What the one that was cut still sends comes too late.
			late := catalog.Part{N: s.parts, ID: "late", Start: int64(s.at), Size: 4321, SHA256: make([]byte, 32), Regions: []string{"eu", "us"}}
			s.until(t, elsewhere, 1<<20, s.at+1<<20)
			var offset *catalog.OffsetError
			require.ErrorAs(t, q.cat.AppendPart(t.Context(), s.id, late, true), &offset)
			require.EqualValues(t, s.at, offset.Want)
			s.finish(t, elsewhere)
			s.whole(t, before)
			var failed string
			var attempts int
			q.sql(t, "SELECT coalesce(string_agg(concat_ws(' ', id, error_code, error_detail), E'\\n') FILTER (WHERE failures > 0), ''), max(attempt) FILTER (WHERE kind = 'video') FROM tasks WHERE asset = $1",
				[]any{s.asset}, &failed, &attempts)
			require.Empty(t, failed)
			require.Equal(t, 1, attempts)
		})
	}
}

// The creator deletes the asset, or doesn't come back: nothing is left of the run, no
// task, process or object.
func TestGrowingUploadAbandoned(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *sending){
		"deleted": func(t *testing.T, s *sending) { require.NoError(t, s.q.cat.DeleteAsset(t.Context(), "o", s.asset)) },
		"expired": func(t *testing.T, s *sending) {
			s.q.sql(t, "UPDATE uploads SET expires_at = now() - interval '1 second' WHERE id = $1", []any{s.id})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "deleted" { // so are those of TestEarlyOnTheRealQueue and TestEncodedAnew
				testenv.Long(t)
			}
			q := newQueue(t)
			start(t, (&jobs.Janitor{Catalog: q.cat, Conn: q.conn, Objects: q.store, Name: "j", Log: slog.New(slog.DiscardHandler)}).Run)
			s := q.send(t, streamed(t, "film.ts"))
			w := q.process(t, "eu")
			s.until(t, q.cat, 1<<20, 5<<20)
			s.grows(t)
			require.NotEmpty(t, q.stored(t, s.asset))
			// While the plan is made to grow.
			s.stopGrowing(t, w)
			end(t, s)
			w.signal(t, syscall.SIGCONT)
			require.Eventually(t, func() bool { return len(w.children(t)) == 0 && q.open(t, s.asset) == 0 }, time.Minute, lookEvery)
			require.Eventually(t, func() bool { return len(q.stored(t, s.asset)) == 0 }, time.Minute, lookEvery)
			require.ErrorIs(t, q.cat.AppendPart(t.Context(), s.id, catalog.Part{N: s.parts, ID: "p", Start: int64(s.at), Size: 1, SHA256: make([]byte, 32)}, true), catalog.ErrState)
		})
	}
}

// stored are an asset's objects in any region, but for its playback records, which
// tell edges that it is gone.
func (q *queue) stored(t *testing.T, asset string) (keys []string) {
	t.Helper()
	for _, prefix := range []string{"sources/", "work/", "streams/"} {
		for _, b := range q.store.Regions() {
			require.NoError(t, b.List(t.Context(), prefix+asset+"/", "", func(o objects.Info) bool {
				if !strings.HasPrefix(o.Key, objects.PlaybackJournal(asset)) {
					keys = append(keys, o.Key)
				}
				return true
			}))
		}
	}
	return keys
}

// The database's leader is lost in the middle of a look, and its standby leads: the look
// is committed there, and the run goes on.
func TestGrowingLeaderChanges(t *testing.T) {
	t.Parallel()
	leader, err := testenv.StartPostgres(t.Context())
	require.NoError(t, err)
	t.Cleanup(leader.Stop)
	standby, err := leader.Standby(t.Context())
	require.NoError(t, err)
	t.Cleanup(standby.Stop)
	dsn, err := url.Parse(leader.DSN)
	require.NoError(t, err)
	other, err := url.Parse(standby.DSN)
	require.NoError(t, err)
	dsn.Host += "," + other.Host
	q := newQueueOn(t, dsn.String())
	s := q.send(t, streamed(t, "film.ts"))
	w := q.process(t, "us")
	s.until(t, q.cat, 1<<20, 5<<20)
	s.grows(t)
	before := s.committed(t)
	s.stopGrowing(t, w)
	_, attempt, _, _ := s.planTask(t)
	leader.Stop()
	require.NoError(t, standby.Promote(t.Context()))
	w.signal(t, syscall.SIGCONT)
	require.Eventually(t, func() bool {
		state, now, _, _ := s.planTask(t)
		return state == "queued" && now == attempt
	}, time.Minute, lookEvery, "the look is committed by the attempt that made it")
	require.Greater(t, len(q.chunks(t, s.asset)), len(before))
	s.finish(t, q.cat)
	s.whole(t, before)
}
