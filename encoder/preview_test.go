package encoder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// animation is what a WebP file says of itself; duration in milliseconds.
type animation struct{ width, height, frames, duration int }

// plays decodes every frame of an endless animation. ffmpeg's decoder knows only
// stills, so each frame is made one (RFC 9649, section 2.7).
func plays(t testing.TB, b []byte) animation {
	t.Helper()
	require.LessOrEqual(t, len(b), maxPreview)
	require.Greater(t, len(b), 30)
	require.Equal(t, "RIFF", string(b[:4]))
	require.EqualValues(t, len(b)-8, binary.LittleEndian.Uint32(b[4:]))
	require.Equal(t, "WEBPVP8X", string(b[8:16]))
	u24 := func(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }
	require.NotZero(t, b[20]&2, "not an animation")
	out := animation{width: u24(b[24:]) + 1, height: u24(b[27:]) + 1}
	var stills []byte
	looped := false
	for at := 30; at < len(b); {
		size := int(binary.LittleEndian.Uint32(b[at+4:]))
		data := b[at+8 : at+8+size]
		switch string(b[at : at+4]) {
		case "ANIM":
			looped = binary.LittleEndian.Uint16(data[4:]) == 0
		case "ANMF":
			out.frames++
			out.duration += u24(data[12:])
			// The frame's size, as a canvas of its own, which may be transparent.
			head := append([]byte("WEBPVP8X\x0a\x00\x00\x00\x10\x00\x00\x00"), data[6:12]...)
			stills = append(stills, "RIFF"...)
			stills = binary.LittleEndian.AppendUint32(stills, uint32(len(head)+len(data)-16))
			stills = append(append(stills, head...), data[16:]...)
		}
		at += 8 + size + size&1
	}
	require.True(t, looped, "it ends")
	path := filepath.Join(t.TempDir(), "stills")
	require.NoError(t, os.WriteFile(path, stills, 0o600))
	got, err := exec.CommandContext(t.Context(), "ffprobe", "-v", "error", "-f", "webp_pipe", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", path).CombinedOutput()
	require.NoError(t, err, "%s", got)
	require.Equal(t, []string{strconv.Itoa(out.frames)}, trimLines(string(got)))
	return out
}

func TestPreviewOfPortrait(t *testing.T) {
	t.Parallel()
	const pattern = "testsrc2=s=180x320:r=25:d=2,format=gbrp"
	b := newBench(t, makeFile(t, "a.mp4", "-f", "lavfi", "-i", pattern+",scale=out_color_matrix=bt709,format=yuv420p", "-colorspace", "bt709",
		"-c:v", "libx264", "-preset", "ultrafast"), oneRung)
	b.encode(t)
	require.NoError(t, b.Handle(t.Context(), b.task(catalog.KindExtra, "v0", 0, 1)))
	x := b.board.extras
	require.Equal(t, &hls.Preview{Path: "preview.webp-1", Width: 180, Height: 320, Duration: 2}, x.Preview)
	require.Equal(t, animation{width: 180, height: 320, frames: 20, duration: 2000}, plays(t, b.store.objects[objects.ExtraKey(asset, "r1", "preview.webp", 1)]))

	f, err := os.Open(makeFile(t, "a.png", "-f", "lavfi", "-i", pattern, "-frames:v", "1"))
	require.NoError(t, err)
	defer f.Close()
	want, err := png.Decode(f)
	require.NoError(t, err)
	got, err := jpeg.Decode(bytes.NewReader(b.store.objects[objects.ExtraKey(asset, "r1", "poster-360.jpg", 1)]))
	require.NoError(t, err)
	require.Less(t, difference(want, got), 0.03, "the poster's colours are others")
}

// difference is the mean of two pictures' colours, of 1.
func difference(a, b image.Image) float64 {
	sum := 0.0
	size := a.Bounds().Size()
	for y := range size.Y {
		for x := range size.X {
			r, g, b1, _ := a.At(x, y).RGBA()
			r2, g2, b2, _ := b.At(x, y).RGBA()
			for _, d := range []float64{float64(r) - float64(r2), float64(g) - float64(g2), float64(b1) - float64(b2)} {
				sum += math.Abs(d) / 0xffff / 3
			}
		}
	}
	return sum / float64(size.X*size.Y)
}

// TestPreviewStaysSmall: quality is lowered until the limit is kept, the same
// film gives the same file, and a limit that can't be kept is an error.
func TestPreviewStaysSmall(t *testing.T) {
	t.Parallel()
	b := newBenchBytes(t, []byte("x"), nil)
	film, err := os.ReadFile(makeFile(t, "a.mp4", "-f", "lavfi", "-i", "testsrc2=s=160x90:r=10:d=1,noise=alls=60:all_seed=1", "-c:v", "libx264", "-preset", "ultrafast"))
	require.NoError(t, err)
	url, remove := b.server.Add(memoryFile(film))
	defer remove()
	j := extraJob{e: b.Encoder}
	p := ffmpeg.Preview{URL: url, Width: 160, Height: 90, Slot: 10240, Length: 10240}
	best, _, err := j.animate(t.Context(), p, 1, maxPreview)
	require.NoError(t, err)
	again, _, err := j.animate(t.Context(), p, 1, maxPreview)
	require.NoError(t, err)
	require.Equal(t, best, again)
	less, length, err := j.animate(t.Context(), p, 1, len(best)-1)
	require.NoError(t, err)
	require.Less(t, len(less), len(best))
	require.InDelta(t, 1, length, 1e-9)
	require.Equal(t, 10, plays(t, less).frames)
	_, _, err = j.animate(t.Context(), p, 1, 100)
	require.ErrorIs(t, err, errLarge)
}

func TestPickMoments(t *testing.T) {
	for n, want := range map[int][]int{1: {0}, 2: {0, 1}, 6: {0, 1, 2, 3, 4, 5}, 7: {0, 1, 2, 4, 5, 6}, 3600: {300, 900, 1500, 2100, 2700, 3300}} {
		all := make([]segmentAt, n)
		for i := range all {
			all[i].n = i
		}
		var got []int
		for _, m := range pickMoments(all) {
			got = append(got, m.n)
		}
		require.Equal(t, want, got)
	}
	rungs := []plan.Rung{{Width: 1280, Height: 720}, {Width: 426, Height: 240}, {Width: 256, Height: 144}}
	for i, want := range []int{1280, 426, 426} {
		require.Equal(t, want, previewRung(rungs[:i+1]).Width, fmt.Sprint(i))
	}
	require.Equal(t, 256, previewRung(rungs[2:]).Width)
}
