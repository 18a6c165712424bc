package encoder

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/testenv"
)

var interlaced2 = []string{"-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-b:v", "2M", "-g", "15", "-bf", "2", "-c:a", "mp2"}

// unindexed are sources that are planned while they are remuxed; the more bytes they have in a
// second, the shorter may they be.
var unindexed = []strange{
	{name: "mpeg4.avi", rate: "25", length: 16, args: []string{"-c:v", "mpeg4", "-bf", "2", "-q:v", "5", "-c:a", "mp3"}, frames: 400, often: true},
	// TestProgressiveRemuxGoesOn and TestRemuxWorkerKilled remux such ones as well.
	{name: "h264.flv", rate: "25", length: 24, args: with(x264, "-ar", "44100"), frames: 600},
	// It was cut: before its first keyframe two frames are shown that need what came before.
	{name: "interlaced.mpg", rate: "50", length: 16, vf: "tinterlace=interleave_top,setfield=tff", args: interlaced2, then: []string{"-ss", "1.1", "-i", "IN", "-c", "copy"}, frames: 385, often: true},
	{name: "interlaced.ts", rate: "60000/1001", length: 20, vf: "tinterlace=interleave_top,setfield=tff", args: interlaced2, frames: 599},
	{name: "fields-h264.ts", size: "320x192", rate: "25", length: 16, vf: "setfield=tff,separatefields", args: []string{"-c:a", "mp2"}, fields: true, frames: 400, often: true},
	{name: "interlaced-h264.ts", rate: "50", length: 24, vf: "tinterlace=interleave_top,setfield=tff", args: with(x264, "-flags", "+ildct+ilme"), frames: 600},
	{name: "wmv2.wmv", rate: "25", length: 24, args: []string{"-c:v", "wmv2", "-b:v", "1M", "-c:a", "wmav2"}, frames: 600},
	{name: "flv1.flv", rate: "25", length: 24, args: []string{"-c:v", "flv1", "-q:v", "5", "-c:a", "mp3", "-ar", "44100"}, frames: 600},
	{name: "mjpeg.avi", rate: "25", length: 24, args: []string{"-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "8", "-c:a", "pcm_s16le"}, frames: 600},
	{name: "live.mkv", rate: "25", length: 24, args: with(x264, "-live", "1"), frames: 600},
}

// pouring are options under which small files are remuxed progressively, in many parts.
func (b *bench) pouring() {
	b.wholeRemux, b.firstRemux = 0, 64<<10
}

// A source without an index is encoded while it is remuxed: picture and sound of its beginning
// are there before the remux has ended. Every frame comes once, in order, at its time, sound in
// time with it, and a plan that is made when all is remuxed is of the same frames.
func TestProgressiveRemux(t *testing.T) {
	t.Parallel()
	for _, s := range unindexed {
		t.Run(s.name, func(t *testing.T) {
			if !s.often {
				testenv.Long(t)
			}
			file := s.source(t)
			options := func(o *Options) {
				divided(o)
				o.Profile.Rungs, o.Profile.Loudness, o.Profile.Threads = []int{360}, 0, 1
			}
			whole := newBench(t, file, options)
			require.NoError(t, whole.Handle(t.Context(), whole.task(catalog.KindPlan, "", 0, 1)))
			require.Equal(t, catalog.PlanWhole, whole.board.plan.State)

			b := newBench(t, file, options)
			b.pouring()
			grown, sound := 0, make(chan error, 1)
			b.board.offered = func(catalog.Plan) error {
				if grown++; grown > 1 {
					return nil
				}
				// Not in the test's goroutine: what fails is returned.
				if err := b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", 0, 1)); err != nil {
					return err
				}
				go func() { sound <- b.Handle(t.Context(), b.task(catalog.KindAudio, "a0", 0, 1)) }()
				if !assert.Eventually(t, func() bool {
					b.board.mu.Lock()
					defer b.board.mu.Unlock()
					return len(b.board.chunks["a0"]) > 0
				}, 2*time.Minute, 10*time.Millisecond, "the sound of what is known of the picture") {
					return errors.New("no sound")
				}
				return nil
			}
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
			require.Greater(t, grown, 1, "the plan grew while the remux went on")
			require.NoError(t, <-sound)
			p := *b.board.plan
			require.Equal(t, catalog.PlanGrown, p.State)
			require.Equal(t, whole.board.plan.Frames, p.Frames)
			require.InDelta(t, whole.board.plan.DurationMS, p.DurationMS, 20)
			for i, c := range p.Tracks[0].Chunks {
				if i > 0 && !c.Joined {
					require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", i, 1)))
				}
			}
			checkFilm(t, s, b, p, file)
			checkStream(t, b)
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindExtra, "v0", 0, 1)))
			require.NotEmpty(t, b.board.extras.Posters)
		})
	}
}

// Where an attempt ends in the middle of a remux, the next one comes to the same bytes and goes
// on; where it doesn't, the run is given up.
func TestProgressiveRemuxGoesOn(t *testing.T) {
	t.Parallel()
	i := slices.IndexFunc(unindexed, func(s strange) bool { return s.name == "h264.flv" })
	file := unindexed[i].source(t)
	begin := func() *bench {
		b := newBench(t, file, func(o *Options) { o.Profile.Rungs, o.Profile.PerTitle.Enabled = []int{240}, false })
		b.pouring()
		grown, killed := 0, errors.New("killed")
		b.board.offered = func(catalog.Plan) error {
			if grown++; grown == 2 {
				return killed
			}
			return nil
		}
		require.ErrorIs(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)), killed)
		require.Equal(t, catalog.PlanOffered, b.board.plan.State)
		left, err := os.ReadDir(b.opt.Scratch)
		require.NoError(t, err)
		require.Empty(t, left)
		b.board.offered, b.board.failures = nil, 1
		return b
	}
	parts := func(p catalog.Plan) (out []plan.Part) {
		var run plan.Run
		require.NoError(t, json.Unmarshal(p.Encoder, &run))
		return run.Parts
	}
	b := begin()
	before := *b.board.plan
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 2)))
	require.Equal(t, catalog.PlanGrown, b.board.plan.State)
	have := parts(before)
	require.NotEmpty(t, have)
	require.Greater(t, len(parts(*b.board.plan)), len(have))
	require.Equal(t, have, parts(*b.board.plan)[:len(have)], "nothing is stored twice")
	require.EqualValues(t, 600, b.board.plan.Frames)
	for i, c := range before.Tracks[0].Chunks {
		require.JSONEq(t, string(c.Encoder), string(b.board.plan.Tracks[0].Chunks[i].Encoder))
	}
	b.board.failures = 0
	for i, c := range b.board.plan.Tracks[0].Chunks {
		if !c.Joined {
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindVideo, "v0", i, 1)))
		}
	}
	require.Equal(t, 600, decoded(t, b.joined(t, "v0", b.board.plan.Tracks[0].Renditions[0].ID)))

	// As another build's ffmpeg might.
	b = begin()
	var run plan.Run
	require.NoError(t, json.Unmarshal(b.board.plan.Encoder, &run))
	run.Parts[0].SHA256 = run.Parts[0].SHA256[1:] + "0"
	b.board.plan.Encoder = encodeJSON(t, run)
	var bad *probe.InputError
	require.ErrorAs(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 2)), &bad)
	require.Equal(t, probe.CodeChanged, bad.Code)
}

// What can't be planned while it is remuxed is planned after it, as before.
func TestNotProgressive(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"invisible.mkv": {"-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus", "-live", "1"},
		"short.flv":     with(x264, "-t", "3"),
		"fast.flv":      with(x264, "-r", "120", "-t", "5"),
	} {
		t.Run(name, func(t *testing.T) {
			file := strange{name: name, rate: "25", length: 6, args: args}.source(t)
			b := newBench(t, file, func(o *Options) { o.Profile.PerTitle.Enabled = false })
			b.pouring()
			require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindPlan, "", 0, 1)))
			require.Equal(t, catalog.PlanWhole, b.board.plan.State)
			require.True(t, slices.ContainsFunc(b.board.plan.Tracks, func(tr catalog.PlanTrack) bool { return tr.Kind == hls.Audio }))
		})
	}
}
