package ffmpeg

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/hls"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestArgs(t *testing.T) {
	const url = "http://127.0.0.1:1/x"
	rungs := []Rung{{1920, 1080, 6_000_000, 6_000_000, 40}, {640, 360, 800_000, 800_000, 30}}
	for name, args := range map[string][]string{
		"video-first": Video{URL: url, TimeBase: hls.Rational{Num: 1, Den: 15360}, Start: 0, End: 30720, SeekMicros: -1, Offset: 153600, Timescale: 15360,
			Every: 1, Preset: "veryfast", CRF: 23, Threads: 2, Rungs: rungs}.Args(),
		"video-later": Video{URL: url, Stream: 1, TimeBase: hls.Rational{Num: 1001, Den: 30000}, Start: 60, End: 180, SeekMicros: 1_334_667, Offset: 300, Timescale: 30000,
			Every: 1, Preset: "veryfast", CRF: 23, Threads: 2, Keyframes: []float64{11.985, 14.0140001}, Rungs: rungs[1:], DecodeThreads: 2}.Args(),
		"video-everything": Video{URL: url, TimeBase: hls.Rational{Num: 1, Den: 90000}, Start: 7, End: 180_007, SeekMicros: 0, Offset: 900_000, Timescale: 90000,
			Every: 2, DropRepeats: true, Rotate: 90, Deinterlace: true, ToneMap: true, Untagged: true, Preset: "veryfast", CRF: 23, Threads: 2, Rungs: rungs[1:]}.Args(),
		"audio": Audio{URL: url, Stream: 1, Zero: 512, ZeroBase: hls.Rational{Num: 1, Den: 15360}, SampleRate: 48000, Bitrate: 128000, PadTo: 480000, Seek: true}.Args(),
		"audio-takeover": Audio{URL: url, Stream: 1, Zero: 512, ZeroBase: hls.Rational{Num: 1, Den: 15360}, SampleRate: 48000, Bitrate: 128000,
			From: 185 * 1024, PadTo: 480000, Seek: true, GainDB: 3.5, Limit: true}.Args(),
		"audio-takeover-noseek": Audio{URL: url, ZeroBase: hls.Rational{Num: 1, Den: 1_000_000}, SampleRate: 48000, Bitrate: 128000, From: 185 * 1024}.Args(),
		"loudness":              Loudness{Stream: 1, Windows: []LoudnessWindow{{URL: url}}}.Args(),
		"loudness-whole": Audio{URL: url, Stream: 1, Zero: 512, ZeroBase: hls.Rational{Num: 1, Den: 15360}, SampleRate: 48000, Bitrate: 128000,
			From: 185 * 1024, PadTo: 480000, Seek: true, GainDB: 3.5}.LoudnessArgs(),
		"loudness-windows": Loudness{Stream: 2, Windows: []LoudnessWindow{{URL: url}, {URL: url, Start: time.Minute}}, Length: 6 * time.Second}.Args(),
		"copy":             Copy{URL: url, SeekMicros: 2_000_000, Timescale: 12800}.Args(),
		"sprites":          Sprites{URL: url, Width: 160, Height: 90, Columns: 10, Rows: 10}.Args(),
		"preview":          Preview{URL: url, Width: 320, Height: 180, Rate: 10, Frames: 48, Quality: 60, Slot: 30720, Length: 12288}.Args(),
		"poster": Poster(Video{URL: url, TimeBase: hls.Rational{Num: 1, Den: 90000}, Start: 7, End: 8, SeekMicros: 0, Every: 1, Rotate: 90,
			Rungs: []Rung{{Width: 720, Height: 1280}, {Width: 360, Height: 640}}}),
		"complexity": Complexity{URL: url, Width: 1920, Height: 1080, SmallWidth: 480, SmallHeight: 270, Start: 500, SeekMicros: -1, Frames: 15, Every: 1, Preset: "veryfast", CRF: 23}.Args(),
		"complexity-everything": Complexity{URL: url, Stream: 1, Width: 3840, Height: 2160, SmallWidth: 480, SmallHeight: 270, Start: 180_007, SeekMicros: 2_000_078, Frames: 15, Every: 2,
			ToneMap: true, Untagged: true, Preset: "veryfast", CRF: 20}.Args(),
		"remux":         Remux{URL: url, Video: 0, Audio: []int{2, 3}, Codec: "mpeg4", Format: "mp4", Path: "/scratch/source"}.Args(),
		"fragments":     Fragments{URL: url, Stream: 1, Codec: "mpeg4"}.Args(),
		"audio-endless": Audio{URL: url, Stream: 1, ZeroBase: hls.Rational{Num: 1, Den: 90000}, SampleRate: 48000, Bitrate: 128000, Endless: true}.Args(),
		"probe":         ProbeArgs(url),
		"index":         IndexArgs(url, 1, false),
		"index-decoded": IndexArgs(url, 0, true),
		"audio-end":     AudioEndArgs(url, 0),
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(args, "\n") + "\n"
			path := filepath.Join("testdata", name+".args")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
		})
	}
}
