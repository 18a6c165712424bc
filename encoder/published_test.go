package encoder

import (
	"bytes"
	"context"
	"errors"
	"image/jpeg"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// loudness of a file in LUFS, and its true peak in dBTP.
func loudness(t testing.TB, path string) (integrated, peak float64) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ffmpeg", "-nostdin", "-hide_banner", "-i", path, "-af", "ebur128=peak=true", "-f", "null", "-").CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, summary, ok := strings.Cut(string(out), "Summary:")
	require.True(t, ok, "%s", out)
	_, i, _ := strings.Cut(summary, "I:")
	_, p, _ := strings.Cut(summary, "Peak:")
	return parseFloat(t, strings.Fields(i)[0]), parseFloat(t, strings.Fields(p)[0])
}

func TestLoudness(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		source string
		want   float64
		within float64
	}{
		"quiet": {"sine=f=440:d=5,volume=-10dB", -16, 0.5},
		// Peaks 24 dB above the rest stay below full scale.
		"peaks":  {"aevalsrc='0.06*sin(2*PI*440*t)+if(lt(mod(t\\,1)\\,0.01)\\,0.9*sin(2*PI*997*t)\\,0)':d=5", -16, 3.5},
		"loud":   {"anoisesrc=d=5:a=0.9:c=pink:seed=1", -16, 1},
		"silent": {"anullsrc=d=4", -70, 0.1},
		// Six channels that agree add up to twice full scale, for moments.
		"surround": {"aevalsrc='0.09*sin(2*PI*440*t)+if(lt(mod(t\\,1)\\,0.01)\\,0.9*sin(2*PI*997*t)\\,0)':d=5,pan=5.1|FL=c0|FR=c0|FC=c0|LFE=c0|BL=c0|BR=c0", -16, 3.5},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, makeFile(t, "a.wav", "-f", "lavfi", "-t", "5", "-i", c.source), nil)
			b.encode(t)
			path := filepath.Join(t.TempDir(), "a.mp4")
			require.NoError(t, os.WriteFile(path, b.joined(t, "a0", "a0-aac128"), 0o600))
			got, peak := loudness(t, path)
			require.InDelta(t, c.want, got, c.within)
			// The limiter keeps -1 dBTP; AAC adds a little to what it is given.
			require.Less(t, peak, 1.0)
		})
	}
}

func TestGainFor(t *testing.T) {
	unknown := math.Inf(1)
	for _, c := range []struct {
		loudness, peak, least, dB float64
		limit, mixed              bool
	}{
		{-16.3, unknown, minGain, 0, false, false},
		{-16.3, -3, 0, 0.3, false, false},
		{-50, unknown, minGain, maxGain, true, false},
		{-50, -40, 0, maxGain, false, false},
		{-26, -11.1, 0, 10, false, false},
		{-26, -10.9, 0, 10, true, false},
		{-4.8, unknown, minGain, -11.2, false, false},
		{-70, math.Inf(-1), 0, 0, false, false},
		{-16.3, unknown, minGain, 0, true, true},
		{-14, 4, 0, -2, true, true},
		{-14, 0.9, 0, -2, false, true},
		{-70, math.Inf(-1), 0, 0, false, true},
	} {
		got := gainFor(ffmpeg.Level{Integrated: c.loudness, Peak: c.peak}, plan.AudioTrack{Loudness: -16, Mixed: c.mixed}, c.least)
		require.InDelta(t, c.dB, got.dB, 1e-9, "%+v", c)
		require.Equal(t, c.limit, got.limit, "%+v", c)
	}
}

func TestExtras(t *testing.T) {
	t.Parallel()
	// A worker so slow that the highest rung comes later; posters don't depend on it.
	b := newBench(t, mediaFile("bikes-noaudio.mp4"), func(o *Options) { o.Speed.Pixels = 9e6 })
	b.encode(t)
	require.True(t, slices.ContainsFunc(b.board.plan.Tracks, func(tr catalog.PlanTrack) bool { return tr.Late }))
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindExtra, "v0", 0, 3)))
	x := b.board.extras
	require.Equal(t, &hls.Preview{Path: "preview.webp-3", Width: 320, Height: 134, Duration: 4.8}, x.Preview)
	require.Equal(t, animation{width: 320, height: 134, frames: 48, duration: 4800}, plays(t, b.store.objects[objects.ExtraKey(asset, "r1", "preview.webp", 3)]))
	picture := func(path string) (w, h int) {
		name, attempt, _ := strings.Cut(path, ".jpg-")
		require.Equal(t, "3", attempt)
		data, ok := b.store.objects[objects.ExtraKey(asset, "r1", name+".jpg", 3)]
		require.True(t, ok, path)
		c, err := jpeg.DecodeConfig(bytes.NewReader(data))
		require.NoError(t, err)
		return c.Width, c.Height
	}
	require.Len(t, x.Posters, 2)
	for _, p := range x.Posters {
		w, h := picture(p.Path)
		require.Equal(t, [2]int{640, 272}, [2]int{w, h})
		require.Equal(t, [2]int{p.Width, p.Height}, [2]int{w, h})
	}
	require.Equal(t, &hls.Storyboard{VTT: "storyboard.vtt-3", Sprites: []string{"storyboard-00000.jpg-3"}, Width: 160, Height: 66,
		Columns: 10, Rows: 10, Pictures: 5}, x.Storyboard)
	w, h := picture(x.Storyboard.Sprites[0])
	require.Equal(t, [2]int{1600, 660}, [2]int{w, h})
	vtt := string(b.store.objects[objects.ExtraKey(asset, "r1", "storyboard.vtt", 3)])
	require.True(t, strings.HasPrefix(vtt, "WEBVTT\n\n00:00:00.000 --> 00:00:02"), vtt)
	require.Contains(t, vtt, "storyboard-00000.jpg-3#xywh=480,0,160,66")
	require.Equal(t, 5, strings.Count(vtt, "-->"))
}

// TestLoudnessOfWindows: a long track is judged by parts of it all over.
func TestLoudnessOfWindows(t *testing.T) {
	t.Parallel()
	file := makeFile(t, "a.mka", "-f", "lavfi", "-i", "sine=f=440:d=60", "-f", "lavfi", "-i", "sine=f=440:d=60", "-filter_complex", "[0]volume=-20dB[a];[a][1]concat=v=0:a=1", "-c:a", "flac")
	b := newBench(t, file, nil)
	task := b.task(catalog.KindAudio, "a0", 0, 1)
	in, err := b.open(t.Context(), task, plan.Run{})
	require.NoError(t, err)
	defer in.Close()
	spec := plan.AudioTrack{Num: 1, Den: 1_000_000, Loudness: -16}
	// Half of it is 20 dB louder and counts alone: the rest is below the gate.
	got, err := b.gain(t.Context(), task, in, spec, 2*time.Minute, plan.Run{Seekable: true})
	require.NoError(t, err)
	require.InDelta(t, 5.8, got.dB, 0.4)
	got, err = b.gain(t.Context(), task, in, spec, 2*time.Minute, plan.Run{})
	require.NoError(t, err)
	require.InDelta(t, maxGain, got.dB, 0.01, "only the quiet beginning was heard")
}

// TestLoudnessOfTheWhole: what no window shows is heard when all is measured.
func TestLoudnessOfTheWhole(t *testing.T) {
	t.Parallel()
	file := makeFile(t, "a.flac", "-f", "lavfi", "-i", "aevalsrc='if(lt(t\\,10)\\,0.004\\,0.12*gt(t\\,84))*sin(2*PI*440*t)':s=8000:d=91")
	b := newBench(t, file, func(o *Options) { o.Profile.LoudnessMeasure = plan.LoudnessWhole })
	b.encode(t)
	path := filepath.Join(t.TempDir(), "a.mp4")
	require.NoError(t, os.WriteFile(path, b.joined(t, "a0", "a0-aac128"), 0o600))
	got, peak := loudness(t, path)
	require.InDelta(t, -16, got, 0.5)
	require.Less(t, peak, -1.0)

	task := b.task(catalog.KindAudio, "a0", 0, 1)
	in, err := b.open(t.Context(), task, plan.Run{})
	require.NoError(t, err)
	defer in.Close()
	spec := plan.AudioTrack{Num: 1, Den: 1_000_000, Loudness: -16, LoudnessMeasure: plan.LoudnessSampled, PadTo: 91 * plan.SampleRate}
	level, err := b.gain(t.Context(), task, in, spec, 91*time.Second, plan.Run{Seekable: true})
	require.NoError(t, err)
	require.Equal(t, gain{dB: maxGain, limit: true}, level, "no window shows the loud end")

	// A measurement that takes too long is another worker's to try, then left out.
	b.opt.Child.Idle = time.Nanosecond
	spec.LoudnessMeasure = plan.LoudnessWhole
	_, err = b.gain(t.Context(), task, in, spec, 91*time.Second, plan.Run{Seekable: true})
	var child *ffmpeg.Error
	require.ErrorAs(t, err, &child)
	require.Equal(t, ffmpeg.ReasonIdle, child.Reason)
	task.Failures = 1
	level, err = b.gain(t.Context(), task, in, spec, 91*time.Second, plan.Run{Seekable: true})
	require.NoError(t, err)
	require.Zero(t, level)

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("given up"))
	_, err = b.gain(ctx, task, in, spec, 91*time.Second, plan.Run{Seekable: true})
	require.ErrorContains(t, err, "given up")
}
