package encoder

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
)

// separate are options under which each picture can become a field: it has no others to refer
// to, and its bits can be moved.
var separate = []string{"-c:v", "libx264", "-profile:v", "main", "-preset", "ultrafast", "-x264-params", "keyint=1:cabac=0:8x8dct=0:threads=1:bframes=0:level=4"}

// fieldCoded makes of H.264 pictures, all of which are IDR, pairs of fields: the first of two is
// the upper one, the second, which isn't IDR any more, the lower one of the same frame (ITU-T
// H.264, 7.3.2.1.1 and 7.3.3). Cameras write such, x264 can't. The coefficients' order is
// another in fields, so details come out otherwise; areas of one colour don't.
func fieldCoded(t testing.TB, stream []byte) []byte {
	t.Helper()
	var out []byte
	field := 0
	for _, nal := range bytes.Split(stream, []byte{0, 0, 1})[1:] {
		nal = bytes.TrimRight(nal, "\x00")
		switch r := (&bitReader{b: unescaped(nal[1:])}); nal[0] & 0x1f {
		case 7:
			nal = append(nal[:1:1], escaped(fieldsSPS(t, r))...)
		case 5:
			kind := nal[0]
			if field%2 == 1 {
				kind = kind&^0x1f | 1
			}
			nal = append([]byte{kind}, escaped(fieldSlice(r, field))...)
			field++
		case 6:
			continue // it tells how x264 was called
		}
		out = append(append(out, 0, 0, 0, 1), nal...)
	}
	require.Positive(t, field)
	require.Zero(t, field%2)
	return out
}

// framesThenFields are pictures of whole frames in front of field-coded ones, both of the same
// width and made under the same options, as of a film between two interlaced broadcasts.
func framesThenFields(t testing.TB, frames, fields []byte) []byte {
	t.Helper()
	fields = fieldCoded(t, fields)
	var out []byte
	for _, nal := range bytes.Split(fields, []byte{0, 0, 0, 1})[1:] {
		if kind := nal[0] & 0x1f; kind != 7 && kind != 8 {
			break
		}
		out = append(append(out, 0, 0, 0, 1), nal...)
	}
	n := 0
	for _, nal := range bytes.Split(frames, []byte{0, 0, 1})[1:] {
		nal = bytes.TrimRight(nal, "\x00")
		if nal[0]&0x1f != 5 {
			continue // they have the fields' parameters
		}
		out = append(append(out, 0, 0, 0, 1, nal[0]), escaped(frameSlice(&bitReader{b: unescaped(nal[1:])}, n))...)
		n++
	}
	require.Positive(t, n)
	require.Zero(t, n%2, "the first field's idr_pic_id must be another")
	return append(out, fields...)
}

// fieldsSPS says that there are fields. The height is counted in pairs of macroblocks then.
func fieldsSPS(t testing.TB, r *bitReader) []byte {
	var w bitWriter
	profile := r.read(8)
	require.Contains(t, []uint64{66, 77}, profile, "profiles with more have more in front")
	w.write(77, 8)
	w.write(r.read(16)&0xff, 16) // no constraints, the level
	w.exp(r.exp())
	w.exp(r.exp()) // log2_max_frame_num
	order := r.exp()
	require.EqualValues(t, 2, order, "pictures are shown in their order")
	w.exp(order)
	w.exp(r.exp())
	w.write(r.read(1), 1)
	w.exp(r.exp())
	w.exp(r.exp())
	require.EqualValues(t, 1, r.read(1), "frame_mbs_only_flag")
	w.write(0, 2) // it isn't set, and macroblocks of a frame aren't either
	r.read(1)
	w.write(1, 1) // direct_8x8_inference_flag
	w.rest(r)
	return w.b
}

// sliceStart copies a slice's header up to frame_num.
func sliceStart(r *bitReader) *bitWriter {
	w := &bitWriter{}
	w.exp(r.exp()) // first_mb_in_slice
	w.exp(r.exp())
	w.exp(r.exp())
	w.write(r.read(4), 4) // frame_num
	return w
}

func fieldSlice(r *bitReader, field int) []byte {
	w := sliceStart(r)
	w.write(1, 1) // field_pic_flag
	w.write(uint64(field%2), 1)
	r.exp() // idr_pic_id
	marking := r.read(2)
	if field%2 == 0 {
		w.exp(uint64(field / 2 % 2))
		w.write(marking, 2)
	} else {
		w.write(0, 1)
	}
	w.rest(r)
	return w.b
}

// frameSlice says that there could be fields, and aren't.
func frameSlice(r *bitReader, frame int) []byte {
	w := sliceStart(r)
	w.write(0, 1) // field_pic_flag
	r.exp()
	w.exp(uint64(frame % 2)) // idr_pic_id
	w.rest(r)
	return w.b
}

// A source whose fields come after more frames than are looked at first: a copy of it that is
// indexed as a whole has each of its frames once, and its chunks are encoded at once.
func TestFieldsAfterFrames(t *testing.T) {
	t.Parallel()
	pictures := func(name, what string) []byte {
		return readFile(t, makeFile(t, name, append([]string{"-f", "lavfi", "-i", what}, separate...)...))
	}
	coded := filepath.Join(t.TempDir(), "mixed.h264")
	stream := framesThenFields(t, pictures("frames.h264", "color=red:s=320x192:r=25:d=4"), pictures("fields.h264", "color=blue:s=320x96:r=50:d=4"))
	require.NoError(t, os.WriteFile(coded, stream, 0o600))
	for name, sound := range map[string]string{"mixed.ts": "mp2", "matroska.ts": "dts"} {
		t.Run(name, func(t *testing.T) {
			file := makeFile(t, name, "-framerate", "50", "-i", coded, "-f", "lavfi", "-i", "sine=d=8", "-c:v", "copy", "-c:a", sound, "-strict", "-2",
				"-bsf:v", `setts=ts=if(lt(N\,100)\,N*3600\,180000+N*1800)`)
			b := newBench(t, file, func(o *Options) { divided(o); oneRung(o) })
			p := b.encode(t)
			require.EqualValues(t, 200, p.Frames)
			require.InDelta(t, 8000, p.DurationMS, 1)
			require.Equal(t, catalog.PlanWhole, p.State)
			require.EqualValues(t, 200, decoded(t, b.joined(t, "v0", p.Tracks[0].Renditions[0].ID)))
		})
	}
}

func unescaped(b []byte) []byte { return bytes.ReplaceAll(b, []byte{0, 0, 3}, []byte{0, 0}) }

func escaped(b []byte) (out []byte) {
	zeros := 0
	for _, c := range b {
		if zeros >= 2 && c <= 3 {
			out, zeros = append(out, 3), 0
		}
		out = append(out, c)
		if zeros++; c != 0 {
			zeros = 0
		}
	}
	return out
}

type bitReader struct {
	b  []byte
	at int
}

func (r *bitReader) read(n int) (v uint64) {
	for range n {
		v = v<<1 | uint64(r.b[r.at/8]>>(7-r.at%8)&1)
		r.at++
	}
	return v
}

func (r *bitReader) exp() uint64 {
	n := 0
	for r.read(1) == 0 {
		n++
	}
	return 1<<n - 1 + r.read(n)
}

type bitWriter struct {
	b  []byte
	at int
}

func (w *bitWriter) write(v uint64, n int) {
	for i := n - 1; i >= 0; i-- {
		if w.at%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.at/8] |= byte(v>>i&1) << (7 - w.at%8)
		w.at++
	}
}

func (w *bitWriter) exp(v uint64) {
	n := 0
	for (v+1)>>(n+1) > 0 {
		n++
	}
	w.write(v+1, 2*n+1)
}

// rest copies what is left, up to the bit that ends it.
func (w *bitWriter) rest(r *bitReader) {
	end := len(r.b)*8 - 1
	for r.b[end/8]>>(7-end%8)&1 == 0 {
		end--
	}
	for r.at%8 > 0 && r.at <= end {
		w.write(r.read(1), 1)
	}
	for ; r.at+8 <= end; r.at += 8 {
		w.octet(r.b[r.at/8])
	}
	for r.at <= end {
		w.write(r.read(1), 1)
	}
}

// octet writes eight bits at once: there are millions of them.
func (w *bitWriter) octet(v byte) {
	shift := w.at % 8
	if shift == 0 {
		w.b = append(w.b, v)
	} else {
		w.b[w.at/8] |= v >> shift
		w.b = append(w.b, v<<(8-shift))
	}
	w.at += 8
}
