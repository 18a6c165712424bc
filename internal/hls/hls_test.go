package hls

import (
	"cmp"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

const asset = "abcdefghijklmnopqrstuvwxyz"

func record(chunk, segments int, last bool) Record {
	r := Record{V: 1, Asset: asset, Run: "r1", Track: "v0", Chunk: chunk, Attempt: 1, Start: int64(chunk) * 4000, Timescale: 1000,
		Target: 2, Last: last, Renditions: map[string]RenditionSegments{}}
	for _, id := range []string{"v1080", "v360"} {
		rs := RenditionSegments{Init: "init-0123abcd.mp4"}
		for i := range segments {
			rs.Segments = append(rs.Segments, Segment{Duration: 2000, Bytes: int64(1000 + i), SHA256: strings.Repeat("ab", 32)})
		}
		r.Renditions[id] = rs
	}
	return r
}

var renditions = []Rendition{
	{ID: "v1080", Track: "v0", Kind: Video, Codecs: "avc1.640028", Width: 1920, Height: 1080, FrameRate: Rational{30000, 1001}, Bandwidth: 6_000_000, AverageBandwidth: 3_100_000},
	{ID: "v360", Track: "v0", Kind: Video, Codecs: "avc1.64001e", Width: 640, Height: 360, FrameRate: Rational{30000, 1001}, Bandwidth: 900_000, AverageBandwidth: 500_000},
	{ID: "a0-aac128", Track: "a0", Kind: Audio, Codecs: "mp4a.40.2", Bandwidth: 140_000, AverageBandwidth: 128_000, Language: "en", Name: "English", Channels: 2, Default: true},
}

func TestRecordGolden(t *testing.T) {
	b, err := record(3, 2, true).Encode()
	require.NoError(t, err)
	golden(t, "record.json", b)
	r, err := DecodeRecord(b)
	require.NoError(t, err)
	require.Equal(t, record(3, 2, true), r)
	require.Equal(t, int64(16000), r.End())
}

func TestMediaGolden(t *testing.T) {
	growing, err := Media([]Record{record(0, 1, false), record(1, 2, false)}, "v360", "")
	require.NoError(t, err)
	golden(t, "media-growing.m3u8", growing)
	ended, err := Media([]Record{record(0, 1, false), record(1, 2, true)}, "v360", "http://router/v/-/"+asset+"/r1/v360/")
	require.NoError(t, err)
	golden(t, "media-ended-plain.m3u8", ended)

	words := record(0, 2, true)
	words.Track, words.Target = "t0", 30
	words.Renditions = map[string]RenditionSegments{"t0": {Segments: words.Renditions["v360"].Segments}}
	require.NoError(t, words.Validate())
	text, err := Media([]Record{words}, "t0", "")
	require.NoError(t, err)
	golden(t, "media-text.m3u8", text)
	_, err = CheckMedia(text)
	require.NoError(t, err)
	require.Equal(t, "00000-1/00001.vtt", words.SegmentPath("t0", 1))
	words.Track = "v0"
	require.Error(t, words.Validate(), "only text has no initialisation segment")

	for name, records := range map[string][]Record{
		"no records": nil, "dense": {record(1, 1, false)}, "marked last": {record(0, 1, true), record(1, 1, true)},
	} {
		_, err := Media(records, "v360", "")
		require.ErrorContains(t, err, name)
	}
	_, err = Media([]Record{record(0, 1, false)}, "v144", "")
	require.ErrorContains(t, err, `no rendition "v144"`)
}

func TestIFrameGolden(t *testing.T) {
	keyed := func(chunk, segments int, last bool) Record {
		r := record(chunk, segments, last)
		for _, rs := range r.Renditions {
			for i := range rs.Segments {
				rs.Segments[i].Key = int64(300 + i)
			}
		}
		require.NoError(t, r.Validate())
		return r
	}
	growing, err := IFrames([]Record{keyed(0, 1, false)}, "v360", "")
	require.NoError(t, err)
	golden(t, "iframes-growing.m3u8", growing)
	old, err := CheckMedia(growing)
	require.NoError(t, err)
	ended, err := IFrames([]Record{keyed(0, 1, false), keyed(1, 2, true)}, "v360", "http://router/v/-/"+asset+"/r1/v360/")
	require.NoError(t, err)
	golden(t, "iframes-ended-plain.m3u8", ended)
	relative, err := IFrames([]Record{keyed(0, 1, false), keyed(1, 2, true)}, "v360", "")
	require.NoError(t, err)
	now, err := CheckMedia(relative)
	require.NoError(t, err)
	require.True(t, now.IFrames)
	require.NoError(t, CheckGrown(old, now))
	require.Equal(t, MediaSegment{URI: "00001-1/00001.m4s", Map: "init-0123abcd.mp4", Duration: 2, Length: 301}, now.Segments[2])

	_, err = IFrames([]Record{keyed(0, 1, false), record(1, 2, true)}, "v360", "")
	require.ErrorIs(t, err, ErrNoKeyframes)
	long := keyed(0, 1, true)
	long.Renditions["v360"].Segments[0].Key = 1001
	require.ErrorContains(t, long.Validate(), "key 1001")

	measured := slices.Clone(renditions)
	measured[0].KeyBandwidth, measured[1].KeyBandwidth = 900_000, 150_000
	m, err := Master(measured)
	require.NoError(t, err)
	golden(t, "master-iframes.m3u8", m)
	e, err := Expand(m, []Pathway{{"eu-1", "http://a/"}, {"us-1", "http://b/"}}, Steering{TTL: 2, Priority: []string{"eu-1", "us-1"}})
	require.NoError(t, err)
	info, err := CheckMaster(e)
	require.NoError(t, err)
	require.Len(t, info.IFrames, 4)
	require.Equal(t, IFrameStream{URI: "http://b/v360/iframes.m3u8", Pathway: "us-1", Codecs: "avc1.64001e", Resolution: "640x360", Bandwidth: 150_000}, info.IFrames[2])
	plain := string(Plain(m, "http://r/", "?steering=0"))
	require.Contains(t, plain, `URI="http://r/v360/iframes.m3u8?steering=0"`)
}

func TestMasterGolden(t *testing.T) {
	m, err := Master(renditions)
	require.NoError(t, err)
	golden(t, "master.m3u8", m)
	audio, err := Master(renditions[2:])
	require.NoError(t, err)
	golden(t, "master-audio.m3u8", audio)
	text := []Rendition{{ID: "t0", Track: "t0", Kind: Text, Codecs: "wvtt", Bandwidth: 300, Language: "de", Name: "Deutsch"},
		{ID: "t1", Track: "t1", Kind: Text, Codecs: "wvtt", Bandwidth: 300, Language: "de", Name: "Schilder", Forced: true}}
	subtitled, err := Master(append(text, renditions...))
	require.NoError(t, err)
	golden(t, "master-text.m3u8", subtitled)
	steering := Steering{TTL: 2, ReloadURI: "http://127.2.0.1:8081/steer?a=" + asset + "&s=x&p=eu-1,us-1", Priority: []string{"eu-1", "us-1"}}
	for name, stored := range map[string][]byte{"expanded.m3u8": m, "expanded-text.m3u8": subtitled, "expanded-audio.m3u8": audio} {
		e, err := Expand(stored, []Pathway{{"eu-1", "http://127.1.0.1:8082/v/-/" + asset + "/r1/"}, {"us-1", "http://127.2.0.1:8082/v/-/" + asset + "/r1/"}}, steering)
		require.NoError(t, err)
		golden(t, name, e)
		_, err = CheckMaster(e)
		require.NoError(t, err)
	}
	golden(t, "plain.m3u8", Plain(m, "http://127.1.0.1:8081/v/-/"+asset+"/r1/", "?steering=0"))
	_, err = Master([]Rendition{{ID: "v1", Kind: Video, Codecs: "x\"y", Bandwidth: 1}})
	require.Error(t, err)
	_, err = Master(nil)
	require.Error(t, err)
}

func FuzzDecodeRecord(f *testing.F) {
	b, err := record(0, 1, true).Encode()
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		require.NoError(t, err)
		r2, err := DecodeRecord(again)
		require.NoError(t, err)
		require.Equal(t, r, r2)
		r.End()
		// What is composed of it can be read.
		for id, rs := range r.Renditions {
			playlist, err := Media([]Record{r}, id, "")
			if r.Chunk > 0 {
				require.Error(t, err)
				continue
			}
			require.NoError(t, err)
			info, _ := CheckMedia(playlist)
			require.Len(t, info.Segments, len(rs.Segments))
			require.Equal(t, r.Last, info.Ended)
		}
	})
}

// FuzzMaster: whatever tracks are called, the playlists that name them keep the rules.
func FuzzMaster(f *testing.F) {
	f.Add("English", "en", "Deutsch", "de", "mp4a.40.2", int64(128_000), true)
	f.Add("a\"b", "x,y=z", "", "", "c\n", int64(1), false)
	f.Fuzz(func(t *testing.T, name, language, other, otherLanguage, codecs string, bandwidth int64, def bool) {
		if cmp.Or(name, "a0") == cmp.Or(other, "a1") {
			return // a plan's differ
		}
		list := []Rendition{renditions[1],
			{ID: "a0", Track: "a0", Kind: Audio, Codecs: codecs, Bandwidth: bandwidth % (1 << 40), Language: language, Name: name, Default: def},
			{ID: "a1", Track: "a1", Kind: Audio, Codecs: codecs, Bandwidth: 1, Language: otherLanguage, Name: other, Default: !def},
			{ID: "t0", Track: "t0", Kind: Text, Codecs: "wvtt", Bandwidth: 1, Language: language, Name: name, Forced: def}}
		m, err := Master(list)
		if err != nil {
			return
		}
		_, err = CheckMaster(m)
		require.NoError(t, err, "%s", m)
		e, err := Expand(m, []Pathway{{"eu-1", "http://a/"}, {"us-1", "http://b/"}}, Steering{TTL: 2, Priority: []string{"eu-1", "us-1"}})
		require.NoError(t, err)
		_, err = CheckMaster(e)
		require.NoError(t, err, "%s", e)
		_, err = CheckMaster(Plain(m, "http://r/", "?steering=0"))
		require.NoError(t, err)
	})
}
