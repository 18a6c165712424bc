package encoder

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/testenv"
)

// seen is a progress told at a time.
type seen struct {
	catalog.Progress
	at time.Time
}

// follow collects an asset's progress events until it is ready, and the state of each.
func (q *queue) follow(t *testing.T, asset string) (told func() []seen) {
	t.Helper()
	sub, err := q.conn.Subscribe(t.Context(), asset, 0)
	require.NoError(t, err)
	t.Cleanup(sub.Stop)
	var all []seen
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	go func() {
		for {
			e, _, err := sub.Next(ctx)
			if err != nil {
				done <- err
				return
			}
			if e.Progress != nil {
				all = append(all, seen{*e.Progress, time.Now()})
			}
			if e.Type == catalog.EventReady {
				done <- nil
				return
			}
		}
	}()
	return func() []seen {
		require.NoError(t, <-done)
		return all
	}
}

// Progress tells, by events and when asked, how many frames are done, never fewer than
// before, although a worker is killed with some that it told of; never more than are
// encoded, and how long the rest takes.
func TestProgress(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	q.janitor(t)
	film := readFile(t, mediaFile("small-426x240-27s.mp4"))
	asset, upload := q.begin(t, len(film))
	told := q.follow(t, asset)
	first := q.process(t, "eu")
	q.complete(t, asset, upload, film)
	began := time.Now()
	var asked []seen
	ask := func() seen {
		p := seen{q.asset(t, asset).Progress, time.Now()}
		asked = append(asked, p)
		return p
	}
	lost := q.hold(t, first, asset, func() { ask() })
	require.Positive(t, lost)
	before := ask()
	first.kill(t)
	// As it will be in a while.
	q.sql(t, "UPDATE tasks SET lease_until = now() - interval '1 minute' WHERE asset = $1 AND state = 'running'", []any{asset})
	q.process(t, "us")
	require.Eventually(t, func() bool {
		ask()
		return q.asset(t, asset).State == catalog.Ready
	}, 3*time.Minute, 50*time.Millisecond)
	end := ask()
	require.Equal(t, end.FramesTotal, end.FramesDone)
	var again int
	q.sql(t, "SELECT count(*) FROM tasks WHERE asset = $1 AND kind = 'video' AND failures > 0", []any{asset}, &again)
	require.Positive(t, again, "no task was lost")

	events := told()
	var chunks int
	q.sql(t, "SELECT count(*) FROM chunks WHERE asset = $1 AND track = 'v0'", []any{asset}, &chunks)
	require.Greater(t, len(events), chunks)
	for _, list := range [][]seen{events, asked} {
		checkProgress(t, list)
		last := list[len(list)-1]
		require.Equal(t, last.FramesTotal, last.FramesDone)
		require.NotNil(t, last.SecondsLeft)
		require.Zero(t, *last.SecondsLeft)
	}
	// Its processes were stopped for much of the time before, which is part of the pace.
	held := before.at.Sub(began).Seconds()
	for _, p := range asked {
		if p.at.Before(before.at) || 2*p.FramesDone < p.FramesTotal || p.SecondsLeft == nil {
			continue
		}
		took := end.at.Sub(p.at).Seconds()
		require.InDelta(t, took, float64(*p.SecondsLeft), held+took+10, "%d of %d frames are done", p.FramesDone, p.FramesTotal)
	}
	testenv.Figure(t, "estimates of the time left from half the frames on, a worker killed", "%s", estimates(asked, end.at))
}

// checkProgress asserts that what is told in turn can all be true.
func checkProgress(t *testing.T, list []seen) {
	t.Helper()
	var last seen
	for i, p := range list {
		require.GreaterOrEqual(t, p.FramesDone, last.FramesDone, "fewer frames are done than before")
		if last.FramesTotal > 0 {
			require.Equal(t, last.FramesTotal, p.FramesTotal)
			require.LessOrEqual(t, p.FramesDone, p.FramesTotal)
		}
		if p.FramesDone > 0 && p.FramesTotal > 0 {
			require.NotNil(t, p.SecondsLeft, "%d: %d of %d frames", i, p.FramesDone, p.FramesTotal)
			require.GreaterOrEqual(t, *p.SecondsLeft, int64(0))
			require.Equal(t, p.FramesDone == p.FramesTotal, *p.SecondsLeft == 0)
		}
		last = p
	}
}

func estimates(list []seen, end time.Time) string {
	var out []string
	last := int64(-1)
	for _, p := range list {
		if 2*p.FramesDone >= p.FramesTotal && p.SecondsLeft != nil && *p.SecondsLeft != last {
			last = *p.SecondsLeft
			out = append(out, fmt.Sprintf("%d s where it took %.1f", last, end.Sub(p.at).Seconds()))
		}
	}
	return strings.Join(out, ", ")
}

// hold lets a worker encode until it has told of frames of a chunk that it hasn't
// committed, and returns how many; its process is stopped then.
func (q *queue) hold(t *testing.T, w *workerProcess, asset string, meanwhile func()) (frames int64) {
	t.Helper()
	const running = "SELECT coalesce(max(t.frames), 0) FROM tasks t WHERE t.asset = $1 AND t.kind = 'video' AND t.state = 'running' AND t.frames < t.frames_total AND t.frames > 0 AND t.chunk > 0"
	stopped := map[int]time.Time{}
	require.Eventually(t, func() bool {
		meanwhile()
		for _, pid := range w.children(t) {
			if !encoding(pid) {
				continue
			}
			// ffmpeg reports by the clock: once more than half a second has passed, with
			// its first frames.
			if at, ok := stopped[pid]; !ok || time.Since(at) > 600*time.Millisecond {
				if ok {
					_ = syscall.Kill(pid, syscall.SIGCONT)
					time.Sleep(30 * time.Millisecond)
				}
				_ = syscall.Kill(pid, syscall.SIGSTOP)
				stopped[pid] = time.Now()
			}
		}
		q.sql(t, running, []any{asset}, &frames)
		return frames > 0
	}, 2*time.Minute, 10*time.Millisecond, "no task tells of frames before its end")
	return frames
}
