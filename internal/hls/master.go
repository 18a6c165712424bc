package hls

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kind of a rendition.
type Kind string

// The kinds of renditions.
const (
	Video Kind = "video"
	Audio Kind = "audio"
	Text  Kind = "text"
)

// Rational is Num/Den, such as a frame rate of 30000/1001. The zero value means unknown.
type Rational struct {
	Num int64 `json:"num"`
	Den int64 `json:"den"`
}

// Float returns the value, 0 when unknown.
func (r Rational) Float() float64 {
	if r.Den == 0 {
		return 0
	}
	return float64(r.Num) / float64(r.Den)
}

// Rendition describes one rendition for the master playlist.
type Rendition struct {
	// ID is "v1080", "a0-aac128": also the directory of its playlist.
	ID    string `json:"id"`
	Track string `json:"track"`
	Kind  Kind   `json:"kind"`
	// Codecs is an RFC 6381 string: "avc1.640028", "mp4a.40.2".
	Codecs string `json:"codecs"`
	// Width, Height in pixels and FrameRate; video only.
	Width     int      `json:"width,omitempty"`
	Height    int      `json:"height,omitempty"`
	FrameRate Rational `json:"frame_rate,omitzero"`
	// Bandwidth is the peak bit rate: the encoder's cap (VBV) until measured. Bits per second.
	Bandwidth int64 `json:"bandwidth"`
	// AverageBandwidth is measured; 0 until then. Bits per second.
	AverageBandwidth int64 `json:"average_bandwidth,omitempty"`
	// KeyBandwidth is the peak bit rate of the keyframes alone, measured; 0 until
	// then, and where there is no I-frame playlist. Bits per second.
	KeyBandwidth int64 `json:"key_bandwidth,omitempty"`
	// Language is a BCP 47 tag, empty when unknown. Name is shown to people. Audio and text only.
	Language string `json:"language,omitempty"`
	Name     string `json:"name,omitempty"`
	Channels int    `json:"channels,omitempty"`
	Default  bool   `json:"default,omitempty"`
	// Forced text is for those who understand the sound: signs, other languages.
	Forced bool `json:"forced,omitempty"`
}

const (
	audioGroup = "aud"
	textGroup  = "sub"
	iframeTag  = "#EXT-X-I-FRAME-STREAM-INF:"
)

// Master composes the stored master playlist with URIs relative to the run:
// "{rendition}/index.m3u8". Variants are listed lowest bandwidth first, because
// players start with the first. Without video the audio renditions are variants,
// and there is no text.
func Master(renditions []Rendition) ([]byte, error) {
	var video, audio, text []Rendition
	for _, r := range renditions {
		switch r.Kind {
		case Video:
			video = append(video, r)
		case Audio:
			audio = append(audio, r)
		case Text:
			text = append(text, r)
		}
		if words := r.Name + r.Language + r.Codecs; !ValidName(r.ID) || r.Codecs == "" || r.Bandwidth <= 0 || !utf8.ValidString(words) ||
			strings.ContainsFunc(words, func(c rune) bool { return c == '"' || unicode.IsControl(c) }) {
			return nil, fmt.Errorf("master playlist: rendition %+v: want a valid id, codecs, bandwidth, and no quotes or control characters", r)
		}
	}
	if len(video)+len(audio) == 0 {
		return nil, fmt.Errorf("master playlist: no video or audio rendition")
	}
	byBandwidth := func(a, b Rendition) int {
		return cmp.Or(cmp.Compare(a.Bandwidth, b.Bandwidth), cmp.Compare(a.ID, b.ID))
	}
	slices.SortStableFunc(video, byBandwidth)

	var b bytes.Buffer
	b.WriteString("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n")
	if len(video) == 0 {
		slices.SortStableFunc(audio, byBandwidth)
		for _, a := range audio {
			writeVariant(&b, a, nil, nil)
		}
		return b.Bytes(), nil
	}
	for i, a := range audio {
		fmt.Fprintf(&b, `#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="%s",NAME="%s"`, audioGroup, cmp.Or(a.Name, a.ID))
		if a.Language != "" {
			fmt.Fprintf(&b, `,LANGUAGE="%s"`, a.Language)
		}
		if a.Default {
			b.WriteString(",DEFAULT=YES")
		}
		b.WriteString(",AUTOSELECT=" + autoselect(audio, i))
		if a.Channels > 0 {
			fmt.Fprintf(&b, `,CHANNELS="%d"`, a.Channels)
		}
		fmt.Fprintf(&b, `,URI="%s/%s"`+"\n", a.ID, MediaName)
	}
	for i, t := range text {
		fmt.Fprintf(&b, `#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="%s",NAME="%s"`, textGroup, cmp.Or(t.Name, t.ID))
		if t.Language != "" {
			fmt.Fprintf(&b, `,LANGUAGE="%s"`, t.Language)
		}
		b.WriteString(",DEFAULT=NO,AUTOSELECT=" + autoselect(text, i))
		if t.Forced {
			b.WriteString(",FORCED=YES")
		}
		fmt.Fprintf(&b, `,URI="%s/%s"`+"\n", t.ID, MediaName)
	}
	for _, v := range video {
		writeVariant(&b, v, audio, text)
	}
	for _, v := range video {
		if v.KeyBandwidth > 0 {
			fmt.Fprintf(&b, iframeTag+`BANDWIDTH=%d,CODECS="%s",RESOLUTION=%dx%d,URI="%s/%s"`+"\n",
				v.KeyBandwidth, v.Codecs, v.Width, v.Height, v.ID, IFrameName)
		}
	}
	return b.Bytes(), nil
}

// autoselect says whether a player may choose the i-th of a group by itself: one of each
// language, for those of a group must differ (RFC 8216bis 4.4.6.1.1). It is the default one,
// or the first.
func autoselect(group []Rendition, i int) string {
	r := group[i]
	for k, x := range group {
		if x.Language == r.Language && x.Forced == r.Forced && !r.Default && (k < i || x.Default) {
			return "NO"
		}
	}
	return "YES"
}

// writeVariant adds the audio group's highest rates to the variant's, as RFC
// 8216bis 4.4.6.2 asks of any playable combination.
func writeVariant(b *bytes.Buffer, v Rendition, audio, text []Rendition) {
	peak, avg, codecs := v.Bandwidth, v.AverageBandwidth, []string{v.Codecs}
	var audioPeak, audioAvg int64
	for _, a := range audio {
		audioPeak, audioAvg = max(audioPeak, a.Bandwidth), max(audioAvg, a.AverageBandwidth)
		if !slices.Contains(codecs, a.Codecs) {
			codecs = append(codecs, a.Codecs)
		}
	}
	fmt.Fprintf(b, "#EXT-X-STREAM-INF:BANDWIDTH=%d", peak+audioPeak)
	if avg > 0 {
		fmt.Fprintf(b, ",AVERAGE-BANDWIDTH=%d", avg+audioAvg)
	}
	fmt.Fprintf(b, `,CODECS="%s"`, strings.Join(codecs, ","))
	if v.Kind == Video {
		fmt.Fprintf(b, ",RESOLUTION=%dx%d", v.Width, v.Height)
		if f := v.FrameRate.Float(); f > 0 {
			fmt.Fprintf(b, ",FRAME-RATE=%s", strconv.FormatFloat(math.Round(f*1000)/1000, 'f', 3, 64))
		}
	}
	if len(audio) > 0 {
		fmt.Fprintf(b, `,AUDIO="%s"`, audioGroup)
	}
	if len(text) > 0 {
		fmt.Fprintf(b, `,SUBTITLES="%s"`, textGroup)
	}
	fmt.Fprintf(b, "\n%s/%s\n", v.ID, MediaName)
}

// Pathway is one edge offered to a session.
type Pathway struct {
	// ID is the edge's name.
	ID string
	// Base is the absolute URL of the run at that edge, with a trailing slash:
	// "http://127.1.0.1:8082/v/-/{asset}/r1/".
	Base string
}

// Expand turns a stored master into the one a session gets: every variant once
// per pathway with absolute URIs, each pathway with an audio group of its own
// whose NAME and LANGUAGE stay the same (a shared group stalls players when a
// region dies), the first pathway first.
func Expand(stored []byte, pathways []Pathway, steering Steering) ([]byte, error) {
	if len(pathways) == 0 {
		return nil, fmt.Errorf("expand master: no pathways")
	}
	uri, err := steering.DataURI()
	if err != nil {
		return nil, err
	}
	var head, out bytes.Buffer
	for i, p := range pathways {
		for line := range strings.Lines(string(stored)) {
			line = strings.TrimSuffix(line, "\n")
			switch {
			case strings.HasPrefix(line, "#EXT-X-MEDIA:"):
				for _, group := range []string{audioGroup, textGroup} {
					line = strings.Replace(line, `GROUP-ID="`+group+`"`, `GROUP-ID="`+group+"-"+p.ID+`"`, 1)
				}
				line = strings.Replace(line, `URI="`, `URI="`+p.Base, 1)
			case strings.HasPrefix(line, "#EXT-X-STREAM-INF:"):
				line = strings.Replace(line, `AUDIO="`+audioGroup+`"`, `AUDIO="`+audioGroup+"-"+p.ID+`"`, 1)
				line = strings.Replace(line, `SUBTITLES="`+textGroup+`"`, `SUBTITLES="`+textGroup+"-"+p.ID+`"`, 1)
				line += `,PATHWAY-ID="` + p.ID + `"`
			case strings.HasPrefix(line, iframeTag):
				line = strings.Replace(line, `URI="`, `URI="`+p.Base, 1) + `,PATHWAY-ID="` + p.ID + `"`
			case strings.HasPrefix(line, "#"):
				if i == 0 {
					head.WriteString(line + "\n")
				}
				continue
			case line != "":
				line = p.Base + line
			}
			out.WriteString(line + "\n")
		}
	}
	fmt.Fprintf(&head, `#EXT-X-CONTENT-STEERING:SERVER-URI="%s",PATHWAY-ID="%s"`+"\n", uri, pathways[0].ID)
	head.Write(out.Bytes())
	return head.Bytes(), nil
}

// Plain turns a stored master into the form for players that know no steering:
// one set of variants whose URIs lie under base (at a router, with a trailing
// slash) and carry query ("?steering=0"), so that every request can be
// redirected to a living edge.
func Plain(stored []byte, base, query string) []byte {
	var out bytes.Buffer
	for line := range strings.Lines(string(stored)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "#EXT-X-MEDIA:"), strings.HasPrefix(line, iframeTag):
			if before, uri, ok := strings.Cut(line, `URI="`); ok {
				uri, after, _ := strings.Cut(uri, `"`)
				line = before + `URI="` + base + uri + query + `"` + after
			}
		case !strings.HasPrefix(line, "#") && line != "":
			line = base + line + query
		}
		out.WriteString(line + "\n")
	}
	return out.Bytes()
}
