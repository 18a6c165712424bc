package hls

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckAcceptsWhatIsComposed(t *testing.T) {
	growing, err := Media([]Record{record(0, 1, false)}, "v360", "")
	require.NoError(t, err)
	old, err := CheckMedia(growing)
	require.NoError(t, err)
	ended, err := Media([]Record{record(0, 1, false), record(1, 2, true)}, "v360", "")
	require.NoError(t, err)
	now, err := CheckMedia(ended)
	require.NoError(t, err)
	require.InDelta(t, 6.0, now.Duration(), 1e-9)
	require.True(t, now.Ended)
	require.NoError(t, CheckGrown(old, now))
	require.Error(t, CheckGrown(now, old))

	m, err := Master(renditions)
	require.NoError(t, err)
	e, err := Expand(m, []Pathway{{"eu-1", "http://a/"}, {"us-1", "http://b/"}}, Steering{TTL: 2, Priority: []string{"eu-1", "us-1"}})
	require.NoError(t, err)
	info, err := CheckMaster(e)
	require.NoError(t, err)
	require.Len(t, info.Variants, 4)
	require.Len(t, info.Audio, 2)
	require.Equal(t, "eu-1", info.InitialPathway)
	require.Equal(t, Variant{URI: "http://a/v360/index.m3u8", Pathway: "eu-1", AudioGroup: "aud-eu-1", Codecs: "avc1.64001e,mp4a.40.2",
		Resolution: "640x360", Bandwidth: 1_040_000, AverageBandwidth: 628_000, FrameRate: 29.97}, info.Variants[0])
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	const head = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-MAP:URI=\"i\"\n"
	for want, playlist := range map[string]string{
		"EXTM3U":                "#EXTINF:2,\na\n",
		"without EXTINF":        head + "a\n",
		"without EXT-X-MAP":     "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2,\na\n",
		"longer than":           head + "#EXTINF:2.6,\na\n",
		"after EXT-X-ENDLIST":   head + "#EXTINF:2,\na\n#EXT-X-ENDLIST\n#EXTINF:2,\n",
		"positive duration":     head + "#EXTINF:nan,\na\n",
		"no segments":           head,
		"no EXT-X-TARGETDURATI": "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-MAP:URI=\"i\"\n#EXTINF:0.1,\na\n",
		"length@offset":         head + "#EXTINF:2,\n#EXT-X-BYTERANGE:5\na\n",
		"offset of at least 0":  head + "#EXTINF:2,\n#EXT-X-BYTERANGE:5@-1\na\n",
		"integer of at least 0": strings.Replace(head, "SEQUENCE:0", "SEQUENCE:-1", 1) + "#EXTINF:2,\na\n",
		"TARGETDURATION twice":  head + "#EXTINF:2,\na\n#EXT-X-TARGETDURATION:2\n",
		"want EVENT or VOD":     head + "#EXT-X-PLAYLIST-TYPE:LIVE\n#EXTINF:2,\na\n",
		"want a TIME-OFFSET":    head + "#EXT-X-START:PRECISE=YES\n#EXTINF:2,\na\n",
		"without EXT-X-ENDLIST": head + "#EXT-X-PLAYLIST-TYPE:VOD\n#EXTINF:2,\na\n",
		"EXT-X-MAP needs 6":     strings.Replace(head, "VERSION:7", "VERSION:5", 1) + "#EXTINF:2,\na\n",
		"EXT-X-MAP needs 5":     strings.Replace(head, "VERSION:7", "VERSION:4", 1) + "#EXT-X-I-FRAMES-ONLY\n#EXTINF:2,\n#EXT-X-BYTERANGE:5@0\na\n",
		"playlists need 4":      "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2,\n#EXT-X-BYTERANGE:5@0\na.vtt\n",
		"no EXT-X-INDEPENDENT":  strings.Replace(head, "#EXT-X-INDEPENDENT-SEGMENTS\n", "", 1) + "#EXTINF:2,\na\n",
		"UTF-8":                 head + "#\xff\n#EXTINF:2,\na\n",
		"byte order mark":       "\ufeff" + head + "#EXTINF:2,\na\n",
		"control characters":    head + "#EXTINF:2,\na\tb\n",
		"no EXT-X-MEDIA-SEQUEN": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MAP:URI=\"i\"\n#EXTINF:2,\na\n",
	} {
		_, err := CheckMedia([]byte(playlist))
		require.ErrorContains(t, err, want)
	}
	variant := func(attrs string) string { return "#EXT-X-STREAM-INF:CODECS=\"c\"," + attrs + "\nu\n" }
	audio := func(group, name string) string {
		return "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"" + group + "\",NAME=\"" + name + "\"\n"
	}
	for want, playlist := range map[string]string{
		"no variants":            "",
		"no CODECS":              "#EXT-X-STREAM-INF:BANDWIDTH=1\nu\n",
		"positive integer":       variant("BANDWIDTH=x"),
		"lower bandwidth after":  variant("BANDWIDTH=2") + variant("BANDWIDTH=1"),
		"no audio group":         variant("BANDWIDTH=1,AUDIO=\"a\""),
		"shared by pathways":     audio("a", "n") + variant("BANDWIDTH=1,AUDIO=\"a\",PATHWAY-ID=\"x\"") + variant("BANDWIDTH=1,AUDIO=\"a\",PATHWAY-ID=\"y\""),
		"other names":            audio("a", "n") + audio("b", "m") + variant("BANDWIDTH=1,AUDIO=\"a\",PATHWAY-ID=\"x\"") + variant("BANDWIDTH=1,AUDIO=\"b\",PATHWAY-ID=\"y\""),
		"quote isn't closed":     variant("BANDWIDTH=1,AUDIO=\"a"),
		"without a URI after it": "#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS=\"c\"\n",
		"URI and CODECS":         "#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,CODECS=\"c\"\n" + variant("BANDWIDTH=1"),
		"isn't for I-frame":      "#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,CODECS=\"c\",URI=\"u\",AUDIO=\"a\"\n" + variant("BANDWIDTH=1"),
		"twice":                  variant("BANDWIDTH=1,BANDWIDTH=1"),
		"STEERING twice":         strings.Repeat("#EXT-X-CONTENT-STEERING:SERVER-URI=\"s\"\n", 2) + variant("BANDWIDTH=1"),
		"width x height":         variant("BANDWIDTH=1,RESOLUTION=640"),
		"FRAME-RATE":             variant("BANDWIDTH=1,FRAME-RATE=inf"),
		"want TYPE":              "#EXT-X-MEDIA:TYPE=SOUND,GROUP-ID=\"a\",NAME=\"n\"\n" + variant("BANDWIDTH=1"),
		"want YES or NO":         "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"n\",DEFAULT=1\n" + variant("BANDWIDTH=1"),
		"FORCED is for":          "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"n\",FORCED=NO\n" + variant("BANDWIDTH=1"),
		"must be selectable":     "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"n\",DEFAULT=YES,AUTOSELECT=NO\n" + variant("BANDWIDTH=1"),
		"more than one":          "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"n\",DEFAULT=YES\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"m\",DEFAULT=YES\n" + variant("BANDWIDTH=1"),
		"don't differ": "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"n\",LANGUAGE=\"en\",AUTOSELECT=YES\n" +
			"#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"m\",LANGUAGE=\"en\",AUTOSELECT=YES\n" + variant("BANDWIDTH=1"),
	} {
		_, err := CheckMaster([]byte("#EXTM3U\n" + playlist))
		require.ErrorContains(t, err, want)
	}
}

// Tracks alike in language are told apart by those who watch, not by players.
func TestOneOfEachLanguageIsSelected(t *testing.T) {
	track := func(id string, kind Kind, language string, def, forced bool) Rendition {
		return Rendition{ID: id, Track: id, Kind: kind, Codecs: "c", Bandwidth: 1, Language: language, Name: id, Default: def, Forced: forced}
	}
	m, err := Master([]Rendition{renditions[1],
		track("a0", Audio, "en", false, false), track("a1", Audio, "en", true, false), track("a2", Audio, "de", false, false), track("a3", Audio, "de", false, false),
		track("a4", Audio, "", false, false), track("a5", Audio, "", false, false),
		track("t0", Text, "en", false, false), track("t1", Text, "en", false, true), track("t2", Text, "en", false, false)})
	require.NoError(t, err)
	_, err = CheckMaster(m)
	require.NoError(t, err, "%s", m)
	for id, selected := range map[string]bool{"a0": false, "a1": true, "a2": true, "a3": false, "a4": true, "a5": false, "t0": true, "t1": true, "t2": false} {
		_, line, _ := strings.Cut(string(m), `NAME="`+id+`"`)
		line, _, _ = strings.Cut(line, "\n")
		require.Equal(t, selected, strings.Contains(line, "AUTOSELECT=YES"), "%s: %s", id, line)
	}
}

// What a reload shows only appends, to an EVENT playlist that begins as it began.
func TestCheckGrown(t *testing.T) {
	const old = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-START:TIME-OFFSET=0\n#EXT-X-MAP:URI=\"i\"\n#EXTINF:2,\na\n#EXTINF:2,\nb\n"
	parse := func(s string) MediaInfo {
		m, err := CheckMedia([]byte(s))
		require.NoError(t, err, s)
		return m
	}
	first := parse(old)
	for now, want := range map[string]string{
		old:                      "",
		old + "#EXTINF:2,\nc\n":  "",
		old + "#EXT-X-ENDLIST\n": "",
		strings.Replace(old, "#EXT-X-START:TIME-OFFSET=0\n", "", 1):                     "",
		strings.Replace(old, "SEQUENCE:0", "SEQUENCE:1", 1):                             "head changed",
		strings.Replace(old, "DURATION:2", "DURATION:3", 1):                             "head changed",
		strings.Replace(old, "EVENT", "VOD", 1) + "#EXT-X-ENDLIST\n":                    "head changed",
		strings.Replace(old, "#EXTINF:2,\nb\n", "", 1):                                  "from 2 segments",
		strings.Replace(old, "#EXTINF:2,\na\n", "", 1) + "#EXTINF:2,\nc\n":              "segment 0 changed",
		strings.Replace(old, "#EXTINF:2,\nb", "#EXTINF:1.9,\nb", 1):                     "segment 1 changed",
		strings.Replace(old, "#EXTINF:2,\nb", "#EXT-X-MAP:URI=\"j\"\n#EXTINF:2,\nb", 1): "segment 1 changed",
		strings.Replace(old, "#EXTINF:2,\nb", "#EXT-X-DISCONTINUITY\n#EXTINF:2,\nb", 1): "segment 1 changed",
	} {
		err := CheckGrown(first, parse(now))
		if want == "" {
			require.NoError(t, err, now)
			continue
		}
		require.ErrorContains(t, err, want, now)
	}
	ended := parse(old + "#EXT-X-ENDLIST\n")
	require.ErrorContains(t, CheckGrown(ended, first), "ended")
	require.ErrorContains(t, CheckGrown(ended, parse(old+"#EXTINF:2,\nc\n#EXT-X-ENDLIST\n")), "ended")
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS=\"c\"\nu\n"))
	f.Add([]byte(strings.Repeat("#EXTINF:2,\na\n", 3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, _ := CheckMedia(b)
		_ = CheckGrown(m, m)
		_, _ = CheckMaster(b)
	})
}
