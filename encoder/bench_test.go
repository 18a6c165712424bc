package encoder

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/catalog"
)

// childCPU is the time ended children have used.
func childCPU(t testing.TB) time.Duration {
	var r syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_CHILDREN, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkAgainstFFmpeg encodes one source alternately by bare ffmpeg, in one
// process, and by this package, chunk after chunk: the same rungs, threads and
// grid. Store and queue are in memory here.
func BenchmarkAgainstFFmpeg(b *testing.B) {
	file := mediaFile("bbb-1080p30.mp4")
	rungs := plan.Ladder(1920, 1080, 30, []int{1080, 720, 360})
	bare := func() (wall, cpu time.Duration) {
		args := []string{"-v", "error", "-nostdin", "-i", file, "-filter_complex", "[0:v]split=3[a][b][c];[a]format=yuv420p[o0];[b]scale=1280:720[o1];[c]scale=640:360[o2]"}
		for i, r := range rungs {
			args = append(args, "-map", "[o"+strconv.Itoa(i)+"]", "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-threads", "2",
				"-maxrate", itoa(r.MaxRate), "-bufsize", itoa(r.BufferSize), "-force_key_frames", "expr:gte(t,n_forced*2)", "-sc_threshold", "0",
				"-f", "hls", "-hls_time", "2", "-hls_segment_type", "fmp4", "-hls_playlist_type", "vod", filepath.Join(b.TempDir(), "out.m3u8"))
		}
		start, before := time.Now(), childCPU(b)
		out, err := exec.CommandContext(b.Context(), "ffmpeg", args...).CombinedOutput()
		require.NoError(b, err, "%s", out)
		return time.Since(start), childCPU(b) - before
	}
	ours := func() (wall, cpu, first time.Duration) {
		x := newBench(b, file, func(o *Options) {
			o.Profile.Rungs, o.Profile.Preset = []int{1080, 720, 360}, "veryfast"
			o.Profile.PerTitle = plan.PerTitle{} // the same rungs under the same caps
			o.Child.Nice = 0
		})
		start, before := time.Now(), childCPU(b)
		require.NoError(b, x.Handle(b.Context(), x.task(catalog.KindPlan, "", 0, 1)))
		for i, c := range x.board.plan.Tracks[0].Chunks {
			if c.Joined {
				continue
			}
			require.NoError(b, x.Handle(b.Context(), x.task(catalog.KindVideo, "v0", i, 1)))
			if i == 0 {
				first = time.Since(start)
			}
		}
		return time.Since(start), childCPU(b) - before, first
	}
	var bw, bc, ow, oc, of time.Duration
	for b.Loop() {
		w, c := bare()
		bw, bc = bw+w, bc+c
		w, c, f := ours()
		ow, oc, of = ow+w, oc+c, of+f
	}
	n := float64(b.N)
	b.ReportMetric(bw.Seconds()/n, "bare-s")
	b.ReportMetric(ow.Seconds()/n, "ours-s")
	b.ReportMetric(of.Seconds()/n, "first-chunk-s")
	b.ReportMetric(float64(bw)/float64(ow), "throughput-ratio")
	b.ReportMetric(float64(oc)/float64(bc), "cpu-ratio")
}
