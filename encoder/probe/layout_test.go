package probe

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// part is a file of which the first bytes are there.
type part struct {
	file
	there int64
}

func (p part) Readable() int64 { return p.there }

func small(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	out, err := exec.CommandContext(context.Background(), "ffmpeg", append(append([]string{"-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=size=64x36:rate=10:duration=6", "-f", "lavfi", "-i", "sine=duration=6",
		"-c:v", "libx264", "-g", "10"}, args...), path)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

var layouts = []struct {
	name string
	kind Kind
	args []string
}{
	{"a.ts", TransportStream, nil},
	{"a.mkv", Matroska, nil},
	{"live.mkv", Matroska, []string{"-live", "1", "-f", "matroska"}},
	{"a.mp4", Fragmented, []string{"-movflags", "+frag_keyframe+empty_moov"}},
}

// Frames read in two halves are those read at once.
func TestFramesInHalves(t *testing.T) {
	t.Parallel()
	for _, c := range layouts {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := small(t, c.name, c.args...)
			_, f := serve(t, b)
			l, _, ok, err := ReadLayout(t.Context(), f)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, c.kind, l.Kind)
			for _, n := range []int64{0, 11, 100, l.Head + 1} {
				if n > l.Head && c.kind != TransportStream {
					continue
				}
				_, needs, ok, err := ReadLayout(t.Context(), part{f, n})
				require.NoError(t, err)
				require.False(t, ok)
				require.Greater(t, needs, n)
			}
			read := func(from, end int64) ([]Frame, int64) {
				var shown []byte
				for _, p := range l.Pieces(from, end) {
					if p.Bytes != nil {
						shown = append(shown, p.Bytes...)
					} else {
						shown = append(shown, b[p.From:p.From+p.Size]...)
					}
				}
				if c.kind != TransportStream {
					require.EqualValues(t, end, len(shown), "offsets stay")
				}
				url, _ := serve(t, shown)
				s, err := prober().Probe(t.Context(), url, f.Size())
				require.NoError(t, err)
				require.True(t, s.Fit())
				frames, next, err := prober().Frames(t.Context(), url, f, l, from, end, *s.Video)
				require.NoError(t, err)
				return frames, next
			}
			all, next := read(l.Head, f.Size())
			require.Len(t, all, 60)
			require.Equal(t, f.Size(), next)
			first, next := read(l.Head, f.Size()*2/3)
			require.NotEmpty(t, first)
			require.Greater(t, next, l.Head)
			rest, end := read(next, f.Size())
			require.Equal(t, f.Size(), end)
			require.True(t, slices.ContainsFunc(rest, func(f Frame) bool { return f.Key && f.Unit == next }))
			require.Equal(t, all, append(first, rest...))
		})
	}
}

// What comes as a file gives a layout, a request for more, or nothing, in bounded time.
func FuzzLayout(f *testing.F) {
	f.Add(bytes.Repeat([]byte{syncByte, 0x40, 0, 0x10}, 400), int64(900))
	// Units of nothing.
	mkv := []byte{0x1a, 0x45, 0xdf, 0xa3, 0x80, 0x18, 0x53, 0x80, 0x67, 0xff, 0x16, 0x54, 0xae, 0x6b, 0x80}
	f.Add(append(mkv, bytes.Repeat([]byte{0x1f, 0x43, 0xb6, 0x75, 0x80}, 20)...), int64(115))
	mp4 := []byte("\x00\x00\x00\x08ftyp\x00\x00\x00\x0cmoov....")
	f.Add(append(mp4, bytes.Repeat([]byte("\x00\x00\x00\x08moof"), 20)...), int64(180))
	f.Fuzz(func(t *testing.T, b []byte, there int64) {
		there = max(0, min(there, int64(len(b))))
		p := part{file{b}, there}
		l, needs, ok, err := ReadLayout(context.Background(), p)
		require.NoError(t, err)
		if !ok {
			require.True(t, needs == 0 || needs > there)
			return
		}
		starts, complete, err := l.Units(context.Background(), p, l.Head, there)
		if err != nil {
			require.ErrorIs(t, err, errOther)
			return
		}
		require.LessOrEqual(t, complete, there)
		for _, s := range starts[:min(len(starts), 100)] {
			require.GreaterOrEqual(t, s, l.Head)
			if s+16 > int64(len(b)) {
				continue
			}
			// After the head comes what is left out, then the unit.
			var shown []byte
			for _, p := range l.Pieces(s, int64(len(b))) {
				shown = append(append(shown, p.Bytes...), b[p.From:p.From+p.Size]...)
			}
			require.Len(t, shown, len(b))
			require.Equal(t, b[s:], shown[s:])
			if s == l.Head {
				continue
			}
			r := walker{ctx: context.Background(), f: file{shown}, end: int64(len(shown))}
			next, unit, err := int64(0), false, error(nil)
			if l.Kind == Matroska {
				next, unit, err = r.element(l.Head)
			} else {
				next, unit, err = r.box(l.Head)
			}
			require.NoError(t, err)
			require.False(t, unit)
			require.Equal(t, s, next)
		}
	})
}
