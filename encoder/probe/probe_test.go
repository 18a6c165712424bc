package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/source"
	"github.com/meridian-video/meridian/internal/hls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type file struct{ b []byte }

func (f file) Size() int64 { return int64(len(f.b)) }
func (f file) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return bytes.NewReader(f.b).ReadAt(p, off)
}

func serve(t testing.TB, b []byte) (string, file) {
	t.Helper()
	s, err := source.Listen(context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	url, _ := s.Add(file{b})
	return url, file{b}
}

func prober() Prober {
	return Prober{Limits: DefaultLimits(), Process: ffmpeg.Limits{Wall: time.Minute, Idle: 30 * time.Second}}
}

func media(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "testdata", "media", name))
	require.NoError(t, err)
	return b
}

// TestTablesAgreeWithPackets: the fast index of MP4 is what ffmpeg would show.
func TestTablesAgreeWithPackets(t *testing.T) {
	for name, frames := range map[string]int{"bbb-1080p30.mp4": 300, "small-426x240-27s.mp4": 816, "bbb-rotated-180.mov": 49,
		"vp9-in-mp4.mp4": 24, "chaplin-mp3audio.mp4": 241, "bikes-noaudio.mp4": 250} {
		t.Run(name, func(t *testing.T) {
			url, f := serve(t, media(t, name))
			s, err := prober().Probe(t.Context(), url, f.Size())
			require.NoError(t, err)
			fast, err := readMP4(t.Context(), f, *s.Video)
			require.NoError(t, err)
			slow, err := prober().packets(t.Context(), url, *s.Video, false)
			require.NoError(t, err)
			require.Len(t, fast.PTS, frames)
			require.Equal(t, slow.PTS, fast.PTS)
			require.Len(t, fast.Sizes, frames)
			require.Equal(t, slow.Sizes, fast.Sizes)
			require.Equal(t, slow.Keys, fast.Keys)
			require.Equal(t, slow.End, fast.End)
		})
	}
}

func TestBrokenFiles(t *testing.T) {
	bbb := media(t, "bbb-1080p30.mp4")
	moov := bytes.Index(bbb, []byte("moov"))
	for name, c := range map[string]struct {
		data []byte
		want Code
	}{
		"empty":            {nil, CodeEmpty},
		"text":             {[]byte(strings.Repeat("this is not a video\n", 100)), CodeNotMedia},
		"one byte":         {[]byte("x"), CodeNotMedia},
		"cut before moov":  {bbb[:moov-100], CodeTruncated},
		"cut in the media": {bbb[:len(bbb)/2], CodeTruncated},
		"playlist":         {[]byte("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/passwd\n"), CodeNotMedia},
		"concat script":    {[]byte("ffconcat version 1.0\nfile /etc/passwd\n"), CodeNotMedia},
		"subtitles":        {[]byte("1\n00:00:00,000 --> 00:00:01,000\nHello\n"), CodeNotMedia},
		"png":              {[]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde"), CodeNotMedia},
		"zeros":            {make([]byte, 100_000), CodeNotMedia},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "cut in the media" && moov > len(bbb)/2 {
				t.Skip("moov is at the end")
			}
			url, f := serve(t, c.data)
			s, err := prober().Probe(t.Context(), url, f.Size())
			if err == nil && s.Video != nil {
				_, err = prober().Index(t.Context(), url, f, s)
			}
			var bad *InputError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, c.want, bad.Code, bad.Detail)
		})
	}
}

// TestHostileFiles: what would cost without end is refused at the door, with a
// reason and within a second or so.
func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	run := func(name string, args ...string) []byte {
		path := filepath.Join(dir, name)
		out, err := exec.CommandContext(t.Context(), "ffmpeg", append(append([]string{"-v", "error", "-nostdin"}, args...), path)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return b
	}
	// A motion JPEG whose headers all claim another size.
	claim := func(side uint16) []byte {
		b := run(strconv.Itoa(int(side))+".avi", "-f", "lavfi", "-i", "testsrc2=s=320x180:d=0.2", "-c:v", "mjpeg")
		size := func(o binary.AppendByteOrder, h, w uint16) []byte { return o.AppendUint16(o.AppendUint16(nil, h), w) }
		b = bytes.ReplaceAll(b, size(binary.BigEndian, 180, 320), size(binary.BigEndian, side, side))
		wide := func(w, h uint32) []byte {
			return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, w), h)
		}
		return bytes.ReplaceAll(b, wide(320, 180), wide(uint32(side), uint32(side)))
	}
	many := []string{"-f", "lavfi", "-i", "anullsrc=d=0.05"}
	for range 100 {
		many = append(many, "-map", "0:0")
	}
	for name, c := range map[string]struct {
		data []byte
		want []Code
	}{
		"30,000 × 30,000": {claim(30_000), []Code{CodeDimensions, CodeDamaged}},
		"16,000 × 16,000": {claim(16_000), []Code{CodeDimensions, CodeDamaged}},
		"2 × 2":           {run("tiny.mp4", "-f", "lavfi", "-i", "testsrc2=s=16x16:r=1:d=100,crop=2:2", "-c:v", "mpeg4"), []Code{CodeTooSmall}},
		"100 streams":     {run("many.mkv", append(many, "-c:a", "pcm_s16le")...), []Code{CodeStreams}},
		"dash":            {[]byte(`<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><BaseURL>http://10.0.0.1/</BaseURL></Period></MPD>`), []Code{CodeNotMedia}},
		"sdp":             {[]byte("v=0\nc=IN IP4 10.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"), []Code{CodeNotMedia}},
		"asx":             {[]byte(`<asx version="3.0"><entry><ref href="http://10.0.0.1/"/></entry></asx>`), []Code{CodeNotMedia}},
		"webm of zeros":   {append([]byte("\x1a\x45\xdf\xa3\x01\x00\x00\x00\x00\x00\x00\x1f\x42\x82\x84webm"), make([]byte, 1<<20)...), []Code{CodeNotMedia, CodeNoStreams, CodeTruncated}},
	} {
		t.Run(name, func(t *testing.T) {
			url, f := serve(t, c.data)
			_, err := prober().Probe(t.Context(), url, f.Size())
			var bad *InputError
			require.ErrorAs(t, err, &bad)
			require.Contains(t, c.want, bad.Code, bad.Detail)
		})
	}
}

func TestAwayIsNotBadInput(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := prober().Probe(ctx, "http://127.0.0.1:1/x", 1)
	require.Error(t, err)
	var bad *InputError
	require.NotErrorAs(t, err, &bad)
}

func streams(s ...string) []byte {
	return fmt.Appendf(nil, `{"streams":[%s],"format":{"format_name":"mov,mp4,m4a,3gp,3g2,mj2","duration":"10.5","start_time":"0.02"}}`, strings.Join(s, ","))
}

const plain = `"index":0,"codec_type":"video","codec_name":"h264","width":1920,"height":1080,"time_base":"1/15360","r_frame_rate":"30/1"`

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		in    []byte
		code  Code
		check func(t *testing.T, s Source)
	}{
		"plain": {in: streams("{" + plain + "}"), check: func(t *testing.T, s Source) {
			require.Equal(t, 10500*time.Millisecond, s.Duration)
			require.Equal(t, hls.Rational{Num: 1, Den: 15360}, s.Video.TimeBase)
			require.Empty(t, s.NeedsRemux)
		}},
		"portrait phone": {in: streams("{" + plain + `,"side_data_list":[{"side_data_type":"Display Matrix","rotation":-90}]}`), check: func(t *testing.T, s Source) {
			require.Equal(t, 90, s.Video.Rotate)
			w, h := s.Video.Display()
			require.Equal(t, [2]int{1080, 1920}, [2]int{w, h})
		}},
		"rotated the other way": {in: streams("{" + plain + `,"side_data_list":[{"rotation":90}]}`), check: func(t *testing.T, s Source) {
			require.Equal(t, 270, s.Video.Rotate)
		}},
		"old rotate tag": {in: streams("{" + plain + `,"tags":{"rotate":"180"}}`), check: func(t *testing.T, s Source) {
			require.Equal(t, 180, s.Video.Rotate)
		}},
		"anamorphic": {in: streams(`{"index":0,"codec_type":"video","codec_name":"mpeg2video","width":720,"height":576,"time_base":"1/90000","r_frame_rate":"25/1","sample_aspect_ratio":"64:45","field_order":"tt"}`), check: func(t *testing.T, s Source) {
			w, h := s.Video.Display()
			require.Equal(t, [2]int{1024, 576}, [2]int{w, h})
			require.True(t, s.Video.Interlaced)
		}},
		"narrow pixels": {in: streams(`{"index":0,"codec_type":"video","codec_name":"h264","width":1000,"height":1000,"time_base":"1/90000","sample_aspect_ratio":"1:2"}`), check: func(t *testing.T, s Source) {
			w, h := s.Video.Display()
			require.Equal(t, [2]int{1000, 2000}, [2]int{w, h})
		}},
		"hdr": {in: streams("{" + plain + `,"color_transfer":"smpte2084"}`), check: func(t *testing.T, s Source) { require.True(t, s.Video.HDR) }},
		"cover picture is not video": {in: streams(`{"index":0,"codec_type":"video","codec_name":"mjpeg","width":500,"height":500,"time_base":"1/90000","disposition":{"attached_pic":1}}`,
			`{"index":1,"codec_type":"audio","codec_name":"mp3","channels":2}`), check: func(t *testing.T, s Source) { require.Nil(t, s.Video); require.Len(t, s.Audio, 1) }},
		"languages": {in: streams(`{"index":0,"codec_type":"audio","codec_name":"aac","channels":6,"tags":{"language":"ger","title":"Mit \"Kommentar\"\n"}}`,
			`{"index":1,"codec_type":"audio","codec_name":"opus","channels":1,"tags":{"LANGUAGE":"und"},"disposition":{"default":1}}`), check: func(t *testing.T, s Source) {
			require.Equal(t, []Audio{{0, "aac", 6, "de", "Mit Kommentar", false}, {1, "opus", 1, "", "", true}}, s.Audio)
		}},
		"subtitles only":      {in: streams(`{"index":0,"codec_type":"subtitle","codec_name":"subrip"}`), code: CodeNoStreams},
		"no streams":          {in: streams(), code: CodeNoStreams},
		"unknown codec":       {in: streams(`{"index":0,"codec_type":"video","codec_name":"fic","width":10,"height":10,"time_base":"1/1000"}`), code: CodeUnsupported},
		"huge":                {in: streams(`{"index":0,"codec_type":"video","codec_name":"h264","width":30000,"height":30000,"time_base":"1/1000"}`), code: CodeDimensions},
		"no size":             {in: streams(`{"index":0,"codec_type":"video","codec_name":"h264","time_base":"1/1000"}`), code: CodeDamaged},
		"no time base":        {in: streams(`{"index":0,"codec_type":"video","codec_name":"h264","width":10,"height":10}`), code: CodeDamaged},
		"a thousand streams":  {in: streams(strings.Repeat("{"+plain+"},", 999) + "{" + plain + "}"), code: CodeStreams},
		"longer than allowed": {in: []byte(`{"streams":[{` + plain + `}],"format":{"format_name":"mp4","duration":"90000"}}`), code: CodeDuration},
		// What is guessed to be too long needn't be.
		"mp3, no header":    {in: []byte(`{"streams":[{"index":0,"codec_type":"audio","codec_name":"mp3","channels":2}],"format":{"format_name":"mp3","start_time":"0.000000","duration":"90000"}}`), check: func(t *testing.T, s Source) { require.True(t, s.Guessed()) }},
		"mp3 that tells":    {in: []byte(`{"streams":[{"index":0,"codec_type":"audio","codec_name":"mp3","channels":2}],"format":{"format_name":"mp3","start_time":"0.025057","duration":"90000"}}`), code: CodeDuration},
		"mpeg-ts":           {in: []byte(`{"streams":[{` + plain + `}],"format":{"format_name":"mpegts","duration":"9"}}`), check: func(t *testing.T, s Source) { require.NotEmpty(t, s.NeedsRemux) }},
		"webm, no duration": {in: []byte(`{"streams":[{` + plain + `}],"format":{"format_name":"matroska,webm"}}`), check: func(t *testing.T, s Source) { require.NotEmpty(t, s.NeedsRemux) }},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse(c.in, DefaultLimits())
			if c.code != "" {
				var bad *InputError
				require.ErrorAs(t, err, &bad)
				require.Equal(t, c.code, bad.Code)
				return
			}
			require.NoError(t, err)
			c.check(t, s)
		})
	}
}

func TestParseIndex(t *testing.T) {
	v := Video{TimeBase: hls.Rational{Num: 1, Den: 1000}, FrameRate: hls.Rational{Num: 25, Den: 1}}
	x, err := parseIndex(strings.NewReader("pts=80|duration=40|flags=K_\npts=0|duration=40|flags=KD\npts=160|duration=N/A|flags=__\n\npts=120|duration=40|flags=__|\npts=120|duration=40|flags=__\n"), v)
	require.NoError(t, err)
	require.Equal(t, Index{PTS: []int64{80, 120, 160}, Keys: []int64{80}, End: 200, Closed: true, Repeats: true}, x)

	x, err = parseIndex(strings.NewReader("key_frame=1|pts=0|pkt_duration=40\nkey_frame=0|pts=40|pkt_duration=40\n"), v)
	require.NoError(t, err)
	require.Equal(t, Index{PTS: []int64{0, 40}, Keys: []int64{0}, End: 80, Closed: true}, x)

	x, err = parseIndex(strings.NewReader("pts=80|duration=40|size=7|flags=__\npts=0|duration=40|size=900|flags=K_\npts=80|duration=40|size=7|flags=__\npts=40|duration=40|size=8|flags=__\n"), v)
	require.NoError(t, err)
	require.Equal(t, []int64{0, 40, 80}, x.PTS)
	require.Equal(t, []int32{900, 8, 7}, x.Sizes)

	x, err = parseIndex(strings.NewReader("pkt_size=90|key_frame=1|pts=0|pkt_duration=40\npkt_size=N/A|key_frame=0|pts=40|pkt_duration=40\n"), v)
	require.NoError(t, err)
	require.Nil(t, x.Sizes)

	// A frame shown before its keyframe, one of the group before shown after it.
	for _, open := range []string{"pts=0|flags=K_\npts=80|flags=K_\npts=40|flags=__\n", "pts=0|flags=K_\npts=80|flags=__\npts=40|flags=K_\n", "pts=0|flags=__\npts=40|flags=K_\n"} {
		x, err = parseIndex(strings.NewReader(open), v)
		require.NoError(t, err)
		require.False(t, x.Closed, open)
	}

	_, err = parseIndex(strings.NewReader("pts=N/A|duration=1|flags=K_\npts=N/A|duration=1|flags=K_\n"), v)
	require.ErrorIs(t, err, ErrRemux)

	_, err = parseIndex(strings.NewReader(""), v)
	var bad *InputError
	require.ErrorAs(t, err, &bad)
}

func FuzzParse(f *testing.F) {
	f.Add(streams("{" + plain + "}"))
	f.Add([]byte(`{"streams":[{"tags":{"rotate":"1e300"},"side_data_list":[{"rotation":-90.5}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b, DefaultLimits())
		if err != nil {
			return
		}
		if v := s.Video; v != nil {
			w, h := v.Display()
			if w < 1 || h < 1 || w > 8192 || h > 8192 || v.Rotate%90 != 0 || v.Rotate < 0 || v.Rotate > 270 {
				t.Fatalf("%+v displays as %d × %d", v, w, h)
			}
		}
		if _, err := json.Marshal(s); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte("pts=80|duration=40|flags=K_\npts=0|duration=40|flags=__\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := parseIndex(bytes.NewReader(b), Video{TimeBase: hls.Rational{Num: 1, Den: 1000}, FrameRate: hls.Rational{Num: 25, Den: 1}})
		if err != nil {
			return
		}
		for i := 1; i < len(x.PTS); i++ {
			if x.PTS[i] <= x.PTS[i-1] {
				t.Fatal("times don't ascend")
			}
		}
		if x.End <= x.PTS[len(x.PTS)-1] {
			t.Fatal("end before the last frame")
		}
	})
}

func FuzzMoov(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		v := Video{TrackID: 1, TimeBase: hls.Rational{Num: 1, Den: 12288}, FrameRate: hls.Rational{Num: 24, Den: 1}}
		zero := int64(0)
		v.first = []packet{{PTS: &zero}}
		_, _ = readMP4(t.Context(), file{b}, v)
		f := half{file{b}}
		_, _, _ = Head(t.Context(), f)
		x, err := readMP4(t.Context(), f, v)
		if err != nil || !x.Arriving() {
			return
		}
		last := int64(0)
		for _, n := range x.Needs(x.PTS[1:]) {
			if n < last || n > f.Size() {
				t.Fatalf("%d of %d bytes are needed, before %d", n, f.Size(), last)
			}
			last = n
		}
		if n := x.NeedsOthers(time.Second); n < 0 || n > f.Size() {
			t.Fatalf("%d of %d bytes are needed", n, f.Size())
		}
	})
}

// half is a file of which one half has arrived.
type half struct{ file }

func (h half) Readable() int64 { return h.Size() / 2 }

// An index tells how much of the file is wanted for what, and the head whether there
// is one in front.
func TestReach(t *testing.T) {
	path := filepath.Join(t.TempDir(), "front.mp4")
	source := filepath.Join("..", "..", "testdata", "media", "bbb-1080p30.mp4")
	out, err := exec.CommandContext(t.Context(), "ffmpeg", "-v", "error", "-nostdin", "-i", source, "-map", "0:v", "-map", "0:a", "-c", "copy", "-movflags", "+faststart", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	f := half{file{b}}
	needs, ok, err := Head(t.Context(), f)
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, bytes.Index(b, []byte("mdat"))-4, needs+8, "the index ends where a free box and the media begin")

	v := Video{TrackID: 1, TimeBase: hls.Rational{Num: 1, Den: 15360}, FrameRate: hls.Rational{Num: 30, Den: 1}}
	zero := int64(0)
	v.first = []packet{{PTS: &zero}}
	x, err := readMP4(t.Context(), f, v)
	require.NoError(t, err)
	require.True(t, x.Arriving())
	end := x.PTS[len(x.PTS)-1] + 1
	got := x.Needs([]int64{x.PTS[1], x.PTS[150], end})
	require.Less(t, got[0], got[1])
	require.Less(t, got[1], got[2])
	require.EqualValues(t, len(b), got[2])
	require.Greater(t, x.Until(), x.PTS[0])
	require.Less(t, x.Until(), end)
	require.LessOrEqual(t, x.Needs([]int64{x.Until()})[0], f.Readable(), "what counts as there is")
	require.Less(t, x.NeedsOthers(2*time.Second), x.NeedsOthers(8*time.Second))
	require.EqualValues(t, len(b), x.NeedsOthers(time.Hour))

	x, err = readMP4(t.Context(), file{b}, v)
	require.NoError(t, err)
	require.False(t, x.Arriving())
	require.Nil(t, x.Needs([]int64{end}))
	require.Zero(t, x.NeedsOthers(time.Hour))
}
