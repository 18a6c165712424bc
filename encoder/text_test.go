package encoder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/testenv"
)

// TestSubtitles: text tracks become WebVTT on the picture's timeline.
func TestSubtitles(t *testing.T) {
	t.Parallel()
	srt := filepath.Join(t.TempDir(), "a.srt")
	require.NoError(t, os.WriteFile(srt, []byte("1\n00:00:00,500 --> 00:00:01,500\nGood <i>day</i>\n\n2\n00:00:02,000 --> 00:00:03,000\nTwo\nlines\n"), 0o600))
	base := []string{"-f", "lavfi", "-i", "testsrc2=s=160x90:r=25:d=4", "-i", srt, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"}
	for name, args := range map[string][]string{
		"two.mkv": {"-map", "0", "-map", "1", "-map", "1", "-c:s:0", "srt", "-c:s:1", "ass", "-metadata:s:s:0", "language=eng", "-metadata:s:s:1", "language=eng"},
		// Picture and text begin later, by the same time.
		"late.mp4": {"-map", "0", "-map", "1", "-c:s", "mov_text", "-metadata:s:s:0", "language=eng", "-output_ts_offset", "1.2"},
		"live.mkv": {"-map", "0", "-map", "1", "-c:s", "srt", "-metadata:s:s:0", "language=eng", "-live", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "two.mkv" {
				testenv.Long(t)
			}
			b := newBench(t, makeFile(t, name, append(base[:len(base):len(base)], args...)...), oneRung)
			p := b.encode(t)
			texts := 0
			for _, tr := range p.Tracks {
				if tr.Kind != hls.Text {
					continue
				}
				require.True(t, tr.Late)
				require.Equal(t, "en", tr.Renditions[0].Language)
				r := b.board.chunks[tr.ID][0]
				require.Len(t, r.Renditions[tr.ID].Segments, 1)
				text := string(b.store.objects[objects.SegmentKey(asset, "r1", tr.ID, r.SegmentPath(tr.ID, 0))])
				require.True(t, strings.HasPrefix(text, "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000\n\n00:00:00.500 --> 00:00:01.500"), "%s", text)
				require.Contains(t, text, "day")
				require.Contains(t, text, "00:00:02.000 --> 00:00:03.000\nTwo\nlines\n")
				texts++
			}
			require.Equal(t, strings.Count(strings.Join(args, " "), "language"), texts)
		})
	}
}

// A film that was cut begins with the first frame that can be decoded, and so do its subtitles,
// also where the picture is read from a copy: two frames before its first keyframe need others.
func TestSubtitlesOfCutFilm(t *testing.T) {
	t.Parallel()
	srt := filepath.Join(t.TempDir(), "a.srt")
	require.NoError(t, os.WriteFile(srt, []byte("1\n00:00:02,000 --> 00:00:03,000\nTwo\n"), 0o600))
	film := makeFile(t, "film.mp4", "-f", "lavfi", "-i", "testsrc2=s=160x90:r=25:d=4", "-i", srt, "-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-c:s", "mov_text")
	// The keyframe before 1.1 s is the 25th frame.
	b := newBench(t, makeFile(t, "cut.mkv", "-ss", "1.1", "-i", film, "-map", "0", "-c:v", "copy", "-c:s", "srt", "-output_ts_offset", "1", "-live", "1"), oneRung)
	p := b.encode(t)
	require.EqualValues(t, 76, p.Frames)
	text := string(b.store.objects[objects.SegmentKey(asset, "r1", "t0", b.board.chunks["t0"][0].SegmentPath("t0", 0))])
	require.Contains(t, text, "\n\n00:00:01.040 --> 00:00:02.040\nTwo\n")
}
