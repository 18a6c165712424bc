package probe

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// packetsOf are a stream's packets as ffmpeg's demuxer gives them: times, flags, data.
func packetsOf(t testing.TB, path string, stream int) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ffprobe", "-v", "error", "-select_streams", strconv.Itoa(stream), "-show_packets", "-show_data_hash", "md5",
		"-show_entries", "packet=pts,dts,flags,size,data_hash", "-of", "csv=p=0", path).Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, s := range list {
		set[s] = true
	}
	return set
}

func timeOf(t testing.TB, packet string) int64 {
	t.Helper()
	first, _, _ := strings.Cut(packet, ",")
	n, err := strconv.ParseInt(first, 10, 64)
	require.NoError(t, err)
	return n
}

// What is shown of a movie is what ffmpeg reads there of all of it, to the packet.
func TestClip(t *testing.T) {
	t.Parallel()
	film := []string{"-i", "../../testdata/media/small-426x240-27s.mp4", "-c", "copy"}
	for name, args := range map[string][]string{
		"film.mp4":     film,
		"turned.mp4":   {"-stream_loop", "20", "-i", "../../testdata/media/bbb-rotated-180.mov", "-c", "copy"},
		"late.mp4":     append([]string{"-itsoffset", "1.5"}, film...),
		"cut.mp4":      append(slices.Clone(film), "-ss", "3.3"),
		"vp9.mp4":      {"-stream_loop", "30", "-i", "../../testdata/media/vp9-in-mp4.mp4", "-c", "copy"},
		"pcm.mov":      {"-f", "lavfi", "-i", "testsrc2=size=64x36:rate=25:duration=40", "-f", "lavfi", "-i", "sine=duration=40", "-c:v", "libx264", "-g", "50", "-c:a", "pcm_s16le"},
		"uneven.mp4":   {"-f", "lavfi", "-i", "testsrc2=size=64x36:rate=50:duration=40", "-vf", "select='not(mod(n*n\\,7))'", "-fps_mode", "vfr", "-c:v", "libx264", "-g", "40"},
		"opengop.mp4":  {"-f", "lavfi", "-i", "testsrc2=size=64x36:rate=30:duration=40", "-c:v", "libx264", "-x264-params", "open-gop=1:keyint=40:bframes=3"},
		"twovideo.mp4": {"-f", "lavfi", "-i", "testsrc2=size=64x36:rate=30:duration=40", "-f", "lavfi", "-i", "testsrc=size=32x32:rate=10:duration=40", "-map", "0", "-map", "1", "-c:v", "libx264", "-g", "30"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), name)
			out, err := exec.CommandContext(t.Context(), "ffmpeg", append(append([]string{"-v", "error", "-nostdin"}, args...), path)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			url, f := serve(t, b)
			whole, err := prober().Probe(t.Context(), url, f.Size())
			require.NoError(t, err)
			m, err := ReadMovie(t.Context(), f)
			require.NoError(t, err)
			require.NotNil(t, m)
			show := func(spans ...Span) string {
				head := m.clip(spans)
				require.NotNil(t, head)
				url, _ := serve(t, slices.Concat(head, b))
				return url
			}
			// A probe sees the same.
			shown, err := prober().Probe(t.Context(), show(), f.Size())
			require.NoError(t, err)
			require.Equal(t, whole, shown)

			all := packetsOf(t, path, whole.Video.Stream)
			at := func(share float64) int64 { return timeOf(t, all[int(float64(len(all))*share)]) }
			keys := slices.DeleteFunc(slices.Clone(all), func(p string) bool { return !strings.Contains(p, "K") })
			for _, spans := range [][]Span{
				{{whole.Video.Stream, at(0.5), at(0.6)}},
				{{whole.Video.Stream, at(0.4), at(0.45)}, {whole.Video.Stream, at(0.9), math.MaxInt64}, {whole.Video.Stream, at(0.42), at(0.5)}},
			} {
				got := packetsOf(t, show(spans...), whole.Video.Stream)
				has := setOf(got)
				// Of all packets those are left out that nobody asked for, and their order stays.
				rest := all
				for _, p := range got {
					i := slices.Index(rest, p)
					require.GreaterOrEqual(t, i, 0, "packet %s isn't in the file, or elsewhere", p)
					rest = rest[i+1:]
				}
				for _, s := range spans {
					from := int64(math.MinInt64)
					for _, k := range keys {
						if at := timeOf(t, k); at <= s.From {
							from = at
						}
					}
					for _, p := range all {
						if at := timeOf(t, p); at >= from && at < s.To {
							require.True(t, has[p], p)
						}
					}
				}
			}
			for _, a := range whole.Audio {
				all := packetsOf(t, path, a.Stream)
				require.Equal(t, all, packetsOf(t, show(Everything(a.Stream)), a.Stream))
				got := packetsOf(t, show(m.Around(a.Stream, 20*time.Second, 5*time.Second)), a.Stream)
				has := setOf(all)
				require.False(t, slices.ContainsFunc(got, func(p string) bool { return !has[p] }))
				if name != "pcm.mov" {
					require.Less(t, len(got), len(all))
				}
			}
		})
	}
}

// A header that lies gives a shorter one, or none, and no panic. Its seeds, in testdata/fuzz as
// those of FuzzMoov and FuzzLayout, are of films of 16 × 16 and six frames.
func FuzzClip(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, from, to int64) {
		m, err := parseMoov(b)
		if err != nil || m.fragmented {
			return
		}
		for _, tr := range m.tracks {
			if tr.count() > 1<<20 {
				return
			}
		}
		movie := Movie{moov: b, movie: m, size: 1 << 40}
		for i := range min(len(m.tracks), 3) {
			if head := movie.clip([]Span{{i, from, to}}); head != nil {
				require.LessOrEqual(t, len(head), 64*len(b)+1<<16)
			}
		}
	})
}
