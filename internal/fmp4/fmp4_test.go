package fmp4

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/Eyevinn/mp4ff/mp4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// group is one closed group of pictures in decode order: I, then P and B.
func group(start, step int64, n int) []Sample {
	var out []Sample
	order := []int{0}
	for i := 1; i < n; i += 2 {
		if i+1 < n {
			order = append(order, i+1)
		}
		order = append(order, i)
	}
	for _, i := range order {
		out = append(out, Sample{PTS: start + int64(i)*step, Sync: i == 0, Data: []byte{byte(i), 1, 2}})
	}
	return out
}

// decode reads a segment back as a player would.
func decode(t testing.TB, s *Segment) []mp4.FullSample {
	t.Helper()
	f, err := mp4.DecodeFile(bytes.NewReader(s.Data))
	require.NoError(t, err)
	require.Len(t, f.Segments, 1)
	require.Len(t, f.Segments[0].Fragments, 1)
	frag := f.Segments[0].Fragments[0]
	samples, err := frag.GetFullSamples(&mp4.TrexBox{TrackID: 1})
	require.NoError(t, err)
	return samples
}

func TestVideoSegmentsJoin(t *testing.T) {
	const offset = 100_000
	v := &VideoSegmenter{Start: 5000, End: 5000 + 7*100, Offset: offset - 5000, Sequence: 3}
	s, err := v.Add(group(offset, 100, 4))
	require.NoError(t, err)
	require.Nil(t, s, "a segment lasts until the next one's first frame")
	first, err := v.Add(group(offset+400, 100, 3))
	require.NoError(t, err)
	last, err := v.Close()
	require.NoError(t, err)

	require.Equal(t, []int64{5000, 5100, 5200, 5300}, first.PTS)
	require.Equal(t, int64(400), first.Duration)
	require.Equal(t, []int64{5400, 5500, 5600}, last.PTS)
	require.Equal(t, int64(300), last.Duration)

	at := uint64(5000)
	for _, s := range []*Segment{first, last} {
		require.True(t, bytes.HasSuffix(s.Data[:s.Key], decode(t, s)[0].Data))
		require.Less(t, s.Key, len(s.Data))
		for i, sample := range decode(t, s) {
			require.Equal(t, at, sample.DecodeTime)
			require.Equal(t, i == 0, sample.Flags&mp4.NonSyncSampleFlags == 0)
			at += uint64(sample.Dur)
		}
	}
	require.EqualValues(t, 5700, at)
}

func TestVideoSegmentVariableRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(t, "frames")
		pts := []int64{0}
		for range n {
			pts = append(pts, pts[len(pts)-1]+rapid.Int64Range(1, 5000).Draw(t, "gap"))
		}
		// Any order that starts with the keyframe is a decode order to the segmenter.
		order := rapid.Permutation(pts[1:n]).Draw(t, "order")
		samples := []Sample{{PTS: 0, Sync: true, Data: []byte{1}}}
		for _, p := range order {
			samples = append(samples, Sample{PTS: p, Data: []byte{2}})
		}
		v := &VideoSegmenter{End: pts[n]}
		_, err := v.Add(samples)
		require.NoError(t, err)
		s, err := v.Close()
		require.NoError(t, err)
		require.Equal(t, pts[:n], s.PTS)
		require.Equal(t, pts[n], s.Duration)
	})
}

func TestVideoSegmentRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		v       VideoSegmenter
		samples []Sample
	}{
		"no keyframe":          {VideoSegmenter{End: 1000}, group(0, 100, 3)[1:]},
		"frame before chunk":   {VideoSegmenter{Start: 50, End: 1000}, group(0, 100, 3)},
		"frame after chunk":    {VideoSegmenter{End: 100}, group(200, 100, 3)},
		"frame past the end":   {VideoSegmenter{End: 150}, group(0, 100, 3)},
		"two frames at once":   {VideoSegmenter{End: 1000}, append(group(0, 100, 3), Sample{PTS: 100, Data: []byte{1}})},
		"frame before its key": {VideoSegmenter{End: 1000}, append(group(100, 100, 3), Sample{PTS: 0, Data: []byte{1}})},
		"nothing":              {VideoSegmenter{End: 1000}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.v.Add(c.samples)
			if err == nil {
				_, err = c.v.Close()
			}
			require.ErrorIs(t, err, ErrMalformed)
		})
	}
}

func TestAudioGrid(t *testing.T) {
	g := AudioGrid{SampleRate: 48000, Seconds: 2}
	for i := range 2000 {
		at := float64(g.FirstFrame(i)) * FrameSamples / 48000
		require.InDelta(t, float64(2*i), at, FrameSamples/48000.0/2+1e-9, "segment %d", i)
	}
}

func adts(n, payload int) []byte {
	var b bytes.Buffer
	for i := range n {
		size := payload + 7
		b.Write([]byte{0xff, 0xf1, 1<<6 | 3<<2, 2<<6 | byte(size>>11), byte(size >> 3), byte(size<<5) | 0x1f, 0xfc})
		b.Write(bytes.Repeat([]byte{byte(i)}, payload))
	}
	return b.Bytes()
}

func TestAudioSegments(t *testing.T) {
	r := NewADTSReader(bytes.NewReader(adts(200, 100)), 48000)
	seg := NewAudioSegmenter(AudioGrid{SampleRate: 48000, Seconds: 2}, 5)
	var got []*Segment
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		s, err := seg.Add(f)
		require.NoError(t, err)
		if s != nil {
			got = append(got, s)
		}
	}
	last, err := seg.Close()
	require.NoError(t, err)
	got = append(got, last)
	frames := 0
	at := (AudioGrid{SampleRate: 48000, Seconds: 2}).FirstFrame(5) * FrameSamples
	for _, s := range got {
		require.Equal(t, at, s.Start)
		samples := decode(t, s)
		require.EqualValues(t, at, samples[0].DecodeTime)
		require.Len(t, samples, s.Frames)
		require.Equal(t, byte(frames), samples[0].Data[0])
		frames += s.Frames
		at += s.Duration
	}
	require.Equal(t, 200, frames)
}

func TestADTSRefusals(t *testing.T) {
	good := adts(2, 10)
	change := func(i int, b byte) []byte {
		out := bytes.Clone(good)
		out[i] = b
		return out
	}
	for name, b := range map[string][]byte{
		"no sync":        change(0, 0),
		"other rate":     change(2, 1<<6|4<<2),
		"mono":           change(3, 1<<6),
		"cut in header":  good[:5],
		"cut in frame":   good[:12],
		"size too small": change(4, 0),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewADTSReader(bytes.NewReader(b), 48000).Next()
			require.ErrorIs(t, err, ErrADTS)
		})
	}
}

func TestInitIsStable(t *testing.T) {
	a, err := AudioInit(48000, "eng")
	require.NoError(t, err)
	b, err := AudioInit(48000, "eng")
	require.NoError(t, err)
	require.Equal(t, a, b)
	require.Equal(t, "mp4a.40.2", a.Codecs)
	require.Regexp(t, `^init-[0-9a-f]{8}\.mp4$`, a.Name)
	other, err := AudioInit(48000, "deu")
	require.NoError(t, err)
	require.NotEqual(t, a.Name, other.Name)
}

// stream is a small fragmented file, for the reader and its fuzzing.
func stream(t testing.TB) []byte {
	init, err := AudioInit(48000, "und")
	require.NoError(t, err)
	v := &VideoSegmenter{End: 1200}
	_, err = v.Add(group(0, 100, 5))
	require.NoError(t, err)
	a, err := v.Add(group(500, 100, 7))
	require.NoError(t, err)
	b, err := v.Close()
	require.NoError(t, err)
	return append(append(bytes.Clone(init.Data), a.Data...), b.Data...)
}

// timed is group as it is read back.
func timed(start, step int64, n int) []Sample {
	out := group(start, step, n)
	for i := range out {
		out[i].DTS, out[i].Duration = start+int64(i)*step, step
	}
	return out
}

func TestReader(t *testing.T) {
	r := NewReader(bytes.NewReader(stream(t)))
	first, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, timed(0, 100, 5), first)
	second, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, timed(500, 100, 7), second)
	_, err = r.Next()
	require.ErrorIs(t, err, io.EOF)
}

func TestReaderCutOff(t *testing.T) {
	whole := stream(t)
	for n := range whole {
		r := NewReader(bytes.NewReader(whole[:n]))
		count := 0
		for {
			s, err := r.Next()
			if err != nil {
				break
			}
			count += len(s)
		}
		require.Less(t, count, 12)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(stream(f))
	f.Add([]byte("\x00\x00\x00\x08moof\x00\x00\x00\x08mdat"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		if moov, err := r.Moov(); err == nil {
			_, _ = VideoInit(moov, 1000)
		}
		for {
			samples, err := r.Next()
			if err != nil {
				return
			}
			v := &VideoSegmenter{End: 1 << 40}
			if _, err := v.Add(samples); err == nil {
				_, _ = v.Close()
			}
		}
	})
}

func FuzzADTS(f *testing.F) {
	f.Add(adts(3, 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewADTSReader(bytes.NewReader(b), 48000)
		seg := NewAudioSegmenter(AudioGrid{SampleRate: 48000, Seconds: 2}, 0)
		for {
			frame, err := r.Next()
			if err != nil {
				break
			}
			if _, err := seg.Add(frame); err != nil {
				return
			}
		}
		_, _ = seg.Close()
	})
}

func TestDescribe(t *testing.T) {
	r := NewReader(bytes.NewReader(stream(t)))
	moov, err := r.Moov()
	require.NoError(t, err)
	track, err := Describe(moov)
	require.NoError(t, err)
	require.Equal(t, Track{Timescale: 48000, Codecs: "mp4a.40.2"}, track)
	_, err = Describe(&mp4.MoovBox{})
	require.ErrorIs(t, err, ErrMalformed)
}

func TestBrands(t *testing.T) {
	init, err := AudioInit(48000, "und")
	require.NoError(t, err)
	require.NoError(t, CheckHeader(init.Data))
	whole, err := mp4.DecodeFile(bytes.NewReader(init.Data))
	require.NoError(t, err)
	require.Equal(t, "cmfc", whole.Ftyp.MajorBrand())
	require.Equal(t, []string{"dash", "iso6", "cmfc"}, whole.Ftyp.CompatibleBrands())
	s := &VideoSegmenter{End: 500}
	_, err = s.Add(group(0, 100, 5))
	require.NoError(t, err)
	segment, err := s.Close()
	require.NoError(t, err)
	require.NoError(t, CheckSegment(segment.Data))

	kind := func(name string, brands ...string) []byte {
		b := append([]byte{0, 0, 0, byte(16 + 4*len(brands))}, name+"iso6\x00\x00\x00\x00"...)
		for _, brand := range brands {
			b = append(b, brand...)
		}
		return b
	}
	rest := init.Data[len(kind("ftyp", "dash", "iso6", "cmfc")):]
	for name, b := range map[string][]byte{
		"another kind":        append(kind("ftyp", "iso6", "dash"), rest...),
		"major brand only":    append(kind("ftyp"), rest...),
		"no type":             rest,
		"a segment's type":    append(kind("styp", "cmfc"), rest...),
		"cut off in the type": init.Data[:20],
		"empty":               nil,
	} {
		require.ErrorIs(t, CheckHeader(b), ErrMalformed, name)
	}
	require.NoError(t, CheckHeader(append(kind("ftyp", "iso6", "cmf2"), rest...)))
	for name, b := range map[string][]byte{
		"of DASH":         append(kind("styp", "msdh", "msix"), segment.Data...),
		"in the middle":   append(bytes.Clone(segment.Data), kind("styp", "cmfs")...),
		"a header within": append(bytes.Clone(segment.Data), init.Data...),
		"empty":           nil,
	} {
		require.ErrorIs(t, CheckSegment(b), ErrMalformed, name)
	}
	require.NoError(t, CheckSegment(append(kind("styp", "msdh", "cmfs"), segment.Data...)))
}
