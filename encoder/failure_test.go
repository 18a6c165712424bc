package encoder

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/testenv"
)

// oneRung keeps tests short.
func oneRung(o *Options) { o.Profile.Rungs = []int{240} }

// divided has a process for every four seconds, also of short films.
func divided(o *Options) { o.Profile.MaxChunk = 2 }

// make makes a file with ffmpeg.
func makeFile(t testing.TB, name string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	out, err := exec.CommandContext(t.Context(), "ffmpeg", append(append([]string{"-v", "error", "-nostdin"}, args...), path)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// quietThenLoud is ten seconds of sound.
var quietThenLoud = []string{"-f", "lavfi", "-i", "anullsrc=d=5:r=48000:cl=stereo", "-f", "lavfi", "-i", "anoisesrc=d=5:r=48000:a=0.5:seed=1,aformat=channel_layouts=stereo", "-filter_complex", "[0][1]concat=v=0:a=1"}

func TestStrangeFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args          []string
		frames        int64
		width, height int
		rate          hls.Rational
		audio         int
	}{
		"copy.ts": {[]string{"-i", mediaFile("bikes-noaudio.mp4"), "-c", "copy"}, 250, 426, 180, hls.Rational{Num: 25, Den: 1}, 0},
		"odd-2997.avi": {[]string{"-f", "lavfi", "-i", "testsrc2=s=321x241:r=30000/1001:d=5", "-f", "lavfi", "-i", "sine=d=5", "-c:v", "mpeg4", "-c:a", "mp3"},
			150, 320, 240, hls.Rational{Num: 30000, Den: 1001}, 1},
		"variable.mp4": {[]string{"-f", "lavfi", "-i", "testsrc2=s=320x180:r=30:d=5", "-vf", "select='not(mod(floor(n/7),3))+not(mod(n,4))'", "-fps_mode", "vfr", "-c:v", "libx264", "-preset", "ultrafast"},
			77, 320, 180, hls.Rational{Num: 30, Den: 1}, 0},
		"ten-bit-open-gop-portrait.mkv": {[]string{"-f", "lavfi", "-i", "testsrc2=s=240x426:r=24000/1001:d=6", "-pix_fmt", "yuv420p10le", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "3", "-x264-params", "open-gop=1:keyint=20"},
			144, 240, 426, hls.Rational{Num: 24000, Den: 1001}, 0},
		"fast.mp4": {[]string{"-f", "lavfi", "-i", "testsrc2=s=320x240:r=120:d=3", "-c:v", "libx264", "-preset", "ultrafast"}, 180, 320, 240, hls.Rational{Num: 60, Den: 1}, 0},
		// More frames at a time than anything shows, though few on the average.
		"bursts.mp4": {[]string{"-f", "lavfi", "-i", "testsrc2=s=320x180:r=600:d=4", "-vf", "select='lt(mod(t\\,2)\\,0.1)+not(mod(n\\,20))'", "-fps_mode", "vfr", "-c:v", "libx264", "-preset", "ultrafast"},
			126, 320, 180, hls.Rational{Num: 60, Den: 1}, 0},
		"vp8.webm":               {[]string{"-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=4", "-c:v", "libvpx", "-cpu-used", "8", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "200k"}, 100, 160, 120, hls.Rational{Num: 25, Den: 1}, 0},
		"sound.mp3":              {[]string{"-f", "lavfi", "-i", "sine=d=9"}, 0, 0, 0, hls.Rational{}, 1},
		"no-header.mp3":          {[]string{"-f", "lavfi", "-i", "sine=d=5", "-write_xing", "0"}, 0, 0, 0, hls.Rational{}, 1},
		"no-header-variable.mp3": {append(slices.Clone(quietThenLoud), "-c:a", "libmp3lame", "-q:a", "4", "-write_xing", "0"), 0, 0, 0, hls.Rational{}, 1},
		// Its first half takes hardly a byte, which tells nothing of the second.
		"quiet-then-loud.aac": {append(slices.Clone(quietThenLoud), "-c:a", "aac", "-b:a", "192k"), 0, 0, 0, hls.Rational{}, 1},
		"tongues.mka": {[]string{"-f", "lavfi", "-i", "sine=d=5", "-f", "lavfi", "-i", "sine=f=880:d=5", "-map", "0", "-map", "1", "-c:a", "flac", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu"},
			0, 0, 0, hls.Rational{}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "copy.ts" || name == "no-header.mp3" {
				testenv.Long(t) // for TestFieldsAfterFrames and no-header-variable.mp3, which is harder
			}
			file := makeFile(t, name, c.args...)
			b := newBench(t, file, func(o *Options) { oneRung(o); divided(o) })
			p := b.encode(t)
			require.Equal(t, c.frames, p.Frames)
			audio := 0
			for _, tr := range p.Tracks {
				checkRecords(t, b, tr.ID)
				if tr.Kind == hls.Audio {
					audio++
					continue
				}
				r := tr.Renditions[0]
				require.Equal(t, [2]int{c.width, c.height}, [2]int{r.Width, r.Height})
				if c.rate.Num > 0 {
					require.Equal(t, c.rate, r.FrameRate)
				}
				data := b.joined(t, tr.ID, r.ID)
				require.EqualValues(t, c.frames, len(packets(t, data)))
				require.EqualValues(t, c.frames, decoded(t, data))
			}
			require.Equal(t, c.audio, audio)
			if c.frames == 0 {
				records := b.board.chunks["a0"]
				require.InDelta(t, plan.Duration(p).Seconds(), float64(records[len(records)-1].End())/plan.SampleRate, 0.1)
				require.InDelta(t, seconds(t, file), plan.Duration(p).Seconds(), 0.1)
			}
			for key := range b.store.objects {
				require.False(t, strings.HasPrefix(key, "work/") && c.audio == 2, "audio needs no remux: %s", key)
			}
		})
	}
}

func TestBadSources(t *testing.T) {
	t.Parallel()
	bbb, err := os.ReadFile(mediaFile("bikes-noaudio.mp4"))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		data []byte
		code probe.Code
	}{
		"empty":     {nil, probe.CodeEmpty},
		"text":      {[]byte(strings.Repeat("not a video ", 1000)), probe.CodeNotMedia},
		"truncated": {bbb[:len(bbb)/3], probe.CodeTruncated},
		"too long":  {bbb, probe.CodeDuration},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBenchBytes(t, c.data, func(o *Options) {
				if name == "too long" {
					o.Source.Duration = 5 * time.Second
				}
			})
			before := len(b.store.objects)
			err := b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1))
			var bad *probe.InputError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, c.code, bad.Code)
			require.Len(t, b.store.objects, before, "something was left behind")
			require.Nil(t, b.board.plan)
		})
	}
}

// TestProfiles: a run is encoded as its upload asked, and says how.
func TestProfiles(t *testing.T) {
	t.Parallel()
	b := newBench(t, mediaFile("bikes-noaudio.mp4"), func(o *Options) {
		own := o.Profile
		own.Name, own.Version, own.Rungs, own.CRF = "small", 7, []int{240}, 30
		o.Profiles = plan.Profiles{"small": own}
	})
	b.board.profile = "small"
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	require.Len(t, b.board.plan.Tracks[0].Renditions, 1)
	var run plan.Run
	decodeJSON(t, b.board.plan.Encoder, &run)
	require.Equal(t, 7, run.Params.Version)
	require.Equal(t, 30, run.Params.CRF)
	require.NotEmpty(t, run.FFmpeg)
	b.board.profile = "large"
	var bad *probe.InputError
	require.ErrorAs(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)), &bad)
	require.Equal(t, probe.CodeProfile, bad.Code)
	require.Contains(t, bad.Detail, "[default small]")
}

// TestStoreAwayIsTransient: a source that can't be fetched is not a bad source.
func TestStoreAwayIsTransient(t *testing.T) {
	b := newBench(t, mediaFile("bikes-noaudio.mp4"), oneRung)
	b.store.broken = true
	err := b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1))
	require.ErrorIs(t, err, objects.ErrNotFound)
	var bad *probe.InputError
	require.False(t, errors.As(err, &bad))

	b.store.broken = false
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 2)))
	b.store.broken = true
	err = b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", 0, 1))
	require.ErrorIs(t, err, objects.ErrNotFound)
	require.Empty(t, b.board.chunks["v0"])
}

// TestCancelStopsFFmpeg within a second, long before the chunk is done, with nothing committed.
// On a busy machine the best of a few counts.
func TestCancelStopsFFmpeg(t *testing.T) {
	b := newBench(t, mediaFile("bbb-1080p30.mp4"), func(o *Options) { o.Profile.Preset = "placebo"; o.Profile.Rungs = []int{1080} })
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	least := time.Hour
	for attempt := 1; attempt <= 5 && least >= time.Second; attempt++ {
		least = min(least, b.cancelled(t, b.task(catalog.KindVideo, "v0", 1, attempt)))
		require.Empty(t, b.board.chunks["v0"])
	}
	require.Less(t, least, time.Second)
	testenv.Figure(t, "the last ffmpeg ends", "a task's context: after %d ms", least.Milliseconds())
}

// cancelled begins a task, cancels it while it encodes and returns how long that took.
func (b *bench) cancelled(t *testing.T, task Task) time.Duration {
	t.Helper()
	stop := errors.New("cancelled by the owner")
	ctx, cancel := context.WithCancelCause(t.Context())
	reads := func() int {
		b.store.mu.Lock()
		defer b.store.mu.Unlock()
		return b.store.gets
	}
	before := reads()
	done := make(chan error, 1)
	go func() { done <- b.Handle(ctx, task) }()
	// Until it reads its source, it hasn't started.
	require.Eventually(t, func() bool { return reads() > before }, 30*time.Second, 10*time.Millisecond)
	start := time.Now()
	cancel(stop)
	require.ErrorIs(t, <-done, stop)
	return time.Since(start)
}

// TestAudioTakeOver: another attempt goes on after the committed chunks, and the
// whole is as long, and sounds the same, as one encode.
func TestAudioTakeOver(t *testing.T) {
	t.Parallel()
	b := newBench(t, mediaFile("small-426x240-27s.mp4"), oneRung)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindAudio, "a0", 0, 1)))
	whole := b.joined(t, "a0", "a0-aac128")
	require.Greater(t, len(b.board.chunks["a0"]), 2)
	last := len(b.board.chunks["a0"]) - 1
	for i := 1; i <= last; i++ {
		delete(b.board.chunks["a0"], i)
	}
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindAudio, "a0", 0, 2)))
	require.Len(t, b.board.chunks["a0"], last+1)
	require.Equal(t, 1, b.board.chunks["a0"][0].Attempt)
	require.Equal(t, 2, b.board.chunks["a0"][1].Attempt)
	checkRecords(t, b, "a0")
	joined := b.joined(t, "a0", "a0-aac128")
	require.Equal(t, packets(t, whole), packets(t, joined))

	one, two := samples(t, whole), samples(t, joined)
	require.Len(t, two, len(one))
	signal, noise := 0.0, 0.0
	for i := range one {
		signal += float64(one[i]) * float64(one[i])
		d := float64(one[i]) - float64(two[i])
		noise += d * d
	}
	// Two encodes of the same sound differ by their rounding; a shift by one
	// frame would give about 0 dB.
	require.Greater(t, 10*math.Log10(signal/noise), 12.0, "signal to difference in dB")
}

// seconds is how much sound a decoder finds in a file.
func seconds(t testing.TB, path string) float64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ffmpeg", "-v", "error", "-i", path, "-map", "0:a:0", "-f", "s16le", "-ac", "1", "-ar", "8000", "-").Output()
	require.NoError(t, err)
	return float64(len(out)) / 2 / 8000
}

func samples(t testing.TB, data []byte) []int16 {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audio.mp4")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	out, err := exec.CommandContext(t.Context(), "ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-ac", "1", "-").Output()
	require.NoError(t, err)
	s := make([]int16, len(out)/2)
	for i := range s {
		s[i] = int16(out[2*i]) | int16(out[2*i+1])<<8
	}
	return s
}

// TestDamagedSource: frames the decoder can't give are missing, the rest plays
// on the same timeline; it is only believed when seen twice.
func TestDamagedSource(t *testing.T) {
	t.Parallel()
	b := newBench(t, mediaFile("bikes-noaudio.mp4"), oneRung)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
	// The index promises a frame which the decoder won't show.
	tr := &b.board.plan.Tracks[0]
	var c plan.Chunk
	decodeJSON(t, tr.Chunks[1].Encoder, &c)
	c.Hash = plan.FramesHash([]int64{1, 2, 3})
	tr.Chunks[1].Encoder = encodeJSON(t, c)
	tr.Chunks[1].Frames++
	require.ErrorContains(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", 1, 1)), "index")
	require.Empty(t, b.board.chunks["v0"])
	b.board.failures = 1
	other := b.task(catalog.KindVideo, "v0", 1, 2)
	other.Lost = true
	require.ErrorContains(t, b.Handle(t.Context(), other), "index", "a worker that was lost has seen nothing")
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", 1, 3)))
	r := b.board.chunks["v0"][1]
	require.Equal(t, tr.Chunks[1].Start, r.Start)
	require.Equal(t, tr.Chunks[1].End, r.End())
}

// TestJoinedIsAsGood: chunks joined are as close to the source as one encode.
func TestJoinedIsAsGood(t *testing.T) {
	t.Parallel()
	file := mediaFile("bikes-noaudio.mp4")
	change := func(o *Options) { o.Profile.Preset = "veryfast"; o.Profile.Rungs = []int{360}; divided(o) }
	b := newBench(t, file, change)
	p := b.encode(t)
	require.Greater(t, len(p.Tracks[0].Chunks), 2)
	joined := filepath.Join(t.TempDir(), "joined.mp4")
	require.NoError(t, os.WriteFile(joined, b.joined(t, "v0", "v360"), 0o600))
	r := plan.Ladder(640, 272, 25, []int{360})[0]
	whole := makeFile(t, "whole.mp4", "-i", file, "-vf", "scale=640:272", "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-threads", "2",
		"-maxrate", itoa(r.MaxRate), "-bufsize", itoa(r.BufferSize), "-force_key_frames", "expr:gte(t,n_forced*2)", "-sc_threshold", "0", "-g", "1000000")
	require.InDelta(t, ssim(t, whole, file), ssim(t, joined, file), 0.001)
}

func ssim(t testing.TB, a, b string) float64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ffmpeg", "-nostdin", "-hide_banner", "-i", a, "-i", b, "-lavfi", "[0:v]settb=1/1000,setpts=N[a];[1:v]settb=1/1000,setpts=N[b];[a][b]ssim", "-f", "null", "-").CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, all, ok := strings.Cut(string(out), "All:")
	require.True(t, ok, "%s", out)
	return parseFloat(t, strings.Fields(all)[0])
}
