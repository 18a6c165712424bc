package hls

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MediaInfo is what a media playlist says.
type MediaInfo struct {
	Target int
	Ended  bool
	// IFrames: it is an I-frame playlist.
	IFrames bool
	// Head are the tags of the playlist as a whole, in their order; without EXT-X-START,
	// which counts for those who begin while it grows.
	Head     []string
	Segments []MediaSegment
}

// MediaSegment is one segment of a media playlist.
type MediaSegment struct {
	URI string
	// Map is the URI of the initialisation segment in force.
	Map string
	// Discontinuity: it doesn't follow on the one before.
	Discontinuity bool
	// Duration in seconds.
	Duration float64
	// Offset and Length of the byte range in the resource; Length 0 is all of it.
	Offset, Length int64
}

// Duration is the sum of the segments' durations, in seconds.
func (m MediaInfo) Duration() float64 {
	var d float64
	for _, s := range m.Segments {
		d += s.Duration
	}
	return d
}

// MasterInfo is what a multivariant playlist says.
type MasterInfo struct {
	Variants []Variant
	// Audio renditions, of all groups.
	Audio []AudioRendition
	// Text renditions, of all groups.
	Text []AudioRendition
	// IFrames are the I-frame playlists.
	IFrames []IFrameStream
	// SteeringURI and InitialPathway are empty without content steering.
	SteeringURI, InitialPathway string
}

// Variant is one EXT-X-STREAM-INF with its URI.
type Variant struct {
	URI, Pathway, AudioGroup, TextGroup, Codecs, Resolution string
	Bandwidth, AverageBandwidth                             int64
	FrameRate                                               float64
}

// IFrameStream is one EXT-X-I-FRAME-STREAM-INF.
type IFrameStream struct {
	URI, Pathway, Codecs, Resolution string
	Bandwidth                        int64
}

// AudioRendition is one EXT-X-MEDIA of sound or text.
type AudioRendition struct{ Group, Name, Language, URI string }

// CheckMedia parses a media playlist and returns every rule of RFC 8216bis it
// breaks, of those that apply to what this platform publishes: fragmented MP4
// on demand or growing as an EVENT.
func CheckMedia(b []byte) (MediaInfo, error) {
	var m MediaInfo
	c := checker{kind: "media playlist"}
	duration, mapURI, sequence, discontinuity := -1.0, "", false, false
	version, vod, ranges := int64(1), false, false
	offset, length := int64(0), int64(0)
	for _, line := range c.lines(b) {
		tag, value, _ := strings.Cut(line, ":")
		if slices.Contains(headTags, tag) {
			// RFC 8216bis 4.4.3.
			if slices.ContainsFunc(m.Head, func(l string) bool { t, _, _ := strings.Cut(l, ":"); return t == tag }) {
				c.bad("%s twice", tag)
			}
			m.Head = append(m.Head, line)
		}
		switch {
		case m.Ended:
			c.bad("%q after EXT-X-ENDLIST", line)
		case tag == "#EXT-X-VERSION":
			version = c.number(line, value)
		case tag == "#EXT-X-START":
			if _, err := strconv.ParseFloat(c.attributes(line, value)["TIME-OFFSET"], 64); err != nil {
				c.bad("%q: want a TIME-OFFSET", line)
			}
		case tag == "#EXT-X-TARGETDURATION":
			m.Target = int(c.number(line, value))
		case tag == "#EXT-X-MEDIA-SEQUENCE":
			sequence = true
			if _, err := strconv.ParseUint(value, 10, 64); err != nil {
				c.bad("%q: want an integer of at least 0", line)
			}
			if len(m.Segments) > 0 {
				c.bad("EXT-X-MEDIA-SEQUENCE after the first segment")
			}
		case tag == "#EXT-X-MAP":
			mapURI = c.attributes(line, value)["URI"]
			if mapURI == "" {
				c.bad("%q: no URI", line)
			}
		case tag == "#EXTINF":
			s, _, ok := strings.Cut(value, ",")
			d, err := strconv.ParseFloat(s, 64)
			if !ok || err != nil || d <= 0 || math.IsInf(d, 0) || math.IsNaN(d) {
				c.bad("%q: want a positive duration and a comma", line)
				d = 0
			}
			duration = d
		case line == "#EXT-X-DISCONTINUITY":
			discontinuity = true
		case tag == "#EXT-X-BYTERANGE":
			ranges = true
			n, at, ok := strings.Cut(value, "@")
			if !ok {
				c.bad("%q: want length@offset", line)
			}
			length = c.number(line, n)
			var err error
			if offset, err = strconv.ParseInt(at, 10, 64); ok && (err != nil || offset < 0) {
				c.bad("%q: want an offset of at least 0", line)
			}
		case tag == "#EXT-X-PLAYLIST-TYPE":
			if vod = value == "VOD"; !vod && value != "EVENT" {
				c.bad("%q: want EVENT or VOD", line)
			}
		case line == "#EXT-X-I-FRAMES-ONLY":
			m.IFrames = true
		case line == "#EXT-X-ENDLIST":
			m.Ended = true
		case tag == "#EXT-X-STREAM-INF" || tag == "#EXT-X-MEDIA" || tag == "#EXT-X-I-FRAME-STREAM-INF":
			c.bad("%q belongs in a multivariant playlist", line)
		case !strings.HasPrefix(line, "#"):
			switch {
			case duration < 0:
				c.bad("segment %q without EXTINF", line)
			case mapURI == "" && !IsText(line):
				c.bad("segment %q without EXT-X-MAP", line)
			case int(math.Round(duration)) > m.Target:
				c.bad("segment %q: %.3f s, longer than the target duration %d", line, duration, m.Target)
			}
			m.Segments = append(m.Segments, MediaSegment{URI: line, Map: mapURI, Discontinuity: discontinuity, Duration: duration, Offset: offset, Length: length})
			duration, offset, length, discontinuity = -1, 0, 0, false
		}
	}
	if m.Target < 1 {
		c.bad("no EXT-X-TARGETDURATION")
	}
	if len(m.Segments) == 0 {
		c.bad("no segments")
	}
	if !sequence {
		c.bad("no EXT-X-MEDIA-SEQUENCE")
	}
	if vod && !m.Ended {
		c.bad("a VOD playlist without EXT-X-ENDLIST")
	}
	// RFC 8216bis 8: what the tags need.
	switch {
	case version < 6 && mapURI != "" && !m.IFrames:
		c.bad("EXT-X-VERSION %d: EXT-X-MAP needs 6", version)
	case version < 5 && mapURI != "":
		c.bad("EXT-X-VERSION %d: EXT-X-MAP needs 5", version)
	case version < 4 && (m.IFrames || ranges):
		c.bad("EXT-X-VERSION %d: byte ranges and I-frame playlists need 4", version)
	}
	if !slices.Contains(m.Head, "#EXT-X-INDEPENDENT-SEGMENTS") {
		c.bad("no EXT-X-INDEPENDENT-SEGMENTS")
	}
	return m, errors.Join(c.errs...)
}

// headTags say something of a media playlist as a whole.
var headTags = []string{"#EXT-X-VERSION", "#EXT-X-TARGETDURATION", "#EXT-X-MEDIA-SEQUENCE", "#EXT-X-DISCONTINUITY-SEQUENCE",
	"#EXT-X-PLAYLIST-TYPE", "#EXT-X-INDEPENDENT-SEGMENTS", "#EXT-X-I-FRAMES-ONLY"}

// IsText reports whether a segment's URI is one of WebVTT.
func IsText(uri string) bool {
	uri, _, _ = strings.Cut(uri, "?")
	return strings.HasSuffix(uri, textExt)
}

// CheckGrown returns an error unless now is what a reload of the playlist old
// may show: the same head, media sequence number and target duration included,
// the same segments, perhaps more, and once ended nothing more (RFC 8216bis 6.2.1
// and 4.4.3.5).
func CheckGrown(old, now MediaInfo) error {
	if !slices.Equal(now.Head, old.Head) {
		return fmt.Errorf("head changed from %q to %q", old.Head, now.Head)
	}
	if len(now.Segments) < len(old.Segments) || old.Ended && (!now.Ended || len(now.Segments) > len(old.Segments)) {
		return fmt.Errorf("playlist went from %d segments (ended: %v) to %d (ended: %v)", len(old.Segments), old.Ended, len(now.Segments), now.Ended)
	}
	for i, s := range old.Segments {
		if now.Segments[i] != s {
			return fmt.Errorf("segment %d changed from %+v to %+v", i, s, now.Segments[i])
		}
	}
	return nil
}

// CheckMaster parses a multivariant playlist and returns every rule it breaks:
// of RFC 8216bis, and of what players were measured to need (the same audio
// names in every pathway, an audio group of each pathway's own, the lowest
// variant of each pathway first).
func CheckMaster(b []byte) (MasterInfo, error) {
	var m MasterInfo
	c := checker{kind: "multivariant playlist"}
	var pending *Variant
	selected := map[string]bool{}
	for _, line := range c.lines(b) {
		tag, value, _ := strings.Cut(line, ":")
		switch {
		case tag == "#EXT-X-STREAM-INF":
			a := c.attributes(line, value)
			pending = &Variant{Pathway: a["PATHWAY-ID"], AudioGroup: a["AUDIO"], TextGroup: a["SUBTITLES"], Codecs: a["CODECS"], Resolution: a["RESOLUTION"], Bandwidth: c.number(line, a["BANDWIDTH"])}
			if s, ok := a["AVERAGE-BANDWIDTH"]; ok {
				pending.AverageBandwidth = c.number(line, s)
			}
			if s, ok := a["FRAME-RATE"]; ok {
				f, err := strconv.ParseFloat(s, 64)
				if err != nil || f <= 0 || math.IsInf(f, 0) || math.IsNaN(f) {
					c.bad("%q: FRAME-RATE", line)
					f = 0
				}
				pending.FrameRate = f
			}
			c.resolution(line, pending.Resolution)
			if pending.Codecs == "" {
				c.bad("%q: no CODECS", line)
			}
			if pending.AverageBandwidth > pending.Bandwidth {
				c.bad("%q: AVERAGE-BANDWIDTH above BANDWIDTH", line)
			}
		case tag == "#EXT-X-I-FRAME-STREAM-INF":
			a := c.attributes(line, value)
			c.resolution(line, a["RESOLUTION"])
			m.IFrames = append(m.IFrames, IFrameStream{a["URI"], a["PATHWAY-ID"], a["CODECS"], a["RESOLUTION"], c.number(line, a["BANDWIDTH"])})
			if a["URI"] == "" || a["CODECS"] == "" {
				c.bad("%q: want URI and CODECS", line)
			}
			// RFC 8216bis 4.4.6.3.
			for _, name := range []string{"FRAME-RATE", "AUDIO", "SUBTITLES", "CLOSED-CAPTIONS"} {
				if _, ok := a[name]; ok {
					c.bad("%q: %s isn't for I-frame playlists", line, name)
				}
			}
		case tag == "#EXT-X-MEDIA":
			a := c.attributes(line, value)
			r := AudioRendition{Group: a["GROUP-ID"], Name: a["NAME"], Language: a["LANGUAGE"], URI: a["URI"]}
			switch a["TYPE"] {
			case "AUDIO":
				c.distinct(m.Audio, r)
				m.Audio = append(m.Audio, r)
			case "SUBTITLES":
				if r.URI == "" {
					c.bad("%q: no URI", line)
				}
				c.distinct(m.Text, r)
				m.Text = append(m.Text, r)
			}
			if a["GROUP-ID"] == "" || a["NAME"] == "" {
				c.bad("%q: want GROUP-ID and NAME", line)
			}
			c.selection(line, a, selected)
		case tag == "#EXT-X-CONTENT-STEERING":
			if m.SteeringURI != "" {
				c.bad("EXT-X-CONTENT-STEERING twice")
			}
			a := c.attributes(line, value)
			m.SteeringURI, m.InitialPathway = a["SERVER-URI"], a["PATHWAY-ID"]
			if m.SteeringURI == "" {
				c.bad("%q: no SERVER-URI", line)
			}
		case tag == "#EXTINF":
			c.bad("%q belongs in a media playlist", line)
		case !strings.HasPrefix(line, "#"):
			if pending == nil {
				c.bad("URI %q without EXT-X-STREAM-INF", line)
				continue
			}
			pending.URI = line
			m.Variants = append(m.Variants, *pending)
			pending = nil
		}
	}
	if pending != nil {
		c.bad("EXT-X-STREAM-INF without a URI after it")
	}
	if len(m.Variants) == 0 {
		c.bad("no variants")
	}
	c.checkPathways(m)
	return m, errors.Join(c.errs...)
}

func (c *checker) checkPathways(m MasterInfo) {
	names, pathwayOf, last := map[string]string{}, map[string]string{}, map[string]int64{}
	for _, a := range m.Audio {
		names[a.Group] += a.Name + "/" + a.Language + "\n"
	}
	for _, t := range m.Text {
		names[t.Group] += t.Name + "/" + t.Language + "\n"
	}
	for _, v := range m.Variants {
		if v.TextGroup != "" {
			if _, ok := names[v.TextGroup]; !ok {
				c.bad("variant %q: no subtitles group %q", v.URI, v.TextGroup)
			}
			if p, ok := pathwayOf[v.TextGroup]; ok && p != v.Pathway {
				c.bad("subtitles group %q is shared by pathways %q and %q", v.TextGroup, p, v.Pathway)
			}
			pathwayOf[v.TextGroup] = v.Pathway
		}
		if v.TextGroup == "" != (m.Variants[0].TextGroup == "") || names[v.TextGroup] != names[m.Variants[0].TextGroup] {
			c.bad("variant %q: other subtitles than %q", v.URI, m.Variants[0].URI)
		}
		if v.Bandwidth < last[v.Pathway] {
			c.bad("variant %q: a lower bandwidth after a higher one in pathway %q", v.URI, v.Pathway)
		}
		last[v.Pathway] = v.Bandwidth
		if v.AudioGroup == "" {
			continue
		}
		if _, ok := names[v.AudioGroup]; !ok {
			c.bad("variant %q: no audio group %q", v.URI, v.AudioGroup)
		}
		if p, ok := pathwayOf[v.AudioGroup]; ok && p != v.Pathway {
			c.bad("audio group %q is shared by pathways %q and %q", v.AudioGroup, p, v.Pathway)
		}
		pathwayOf[v.AudioGroup] = v.Pathway
		if names[v.AudioGroup] != names[m.Variants[0].AudioGroup] {
			c.bad("audio group %q has other names than %q", v.AudioGroup, m.Variants[0].AudioGroup)
		}
	}
	if m.InitialPathway != "" {
		if _, ok := last[m.InitialPathway]; !ok {
			c.bad("initial pathway %q has no variants", m.InitialPathway)
		}
	}
}

// resolution checks a RESOLUTION, if there is one (RFC 8216bis 4.2).
func (c *checker) resolution(line, s string) {
	if s == "" {
		return
	}
	w, h, ok := strings.Cut(s, "x")
	for _, n := range []string{w, h} {
		if v, err := strconv.ParseUint(n, 10, 31); !ok || err != nil || v == 0 {
			c.bad("%q: RESOLUTION: want width x height", line)
			return
		}
	}
}

// selection checks what players choose by (RFC 8216bis 4.4.6.1 and 4.4.6.1.1). chosen
// holds what each group has already.
func (c *checker) selection(line string, a map[string]string, chosen map[string]bool) {
	group := a["TYPE"] + " " + a["GROUP-ID"]
	once := func(what, rule string) {
		if chosen[group+what] {
			c.bad("group %q: %s", a["GROUP-ID"], rule)
		}
		chosen[group+what] = true
	}
	switch a["TYPE"] {
	case "AUDIO", "VIDEO", "SUBTITLES", "CLOSED-CAPTIONS":
	default:
		c.bad("%q: want TYPE AUDIO, VIDEO, SUBTITLES or CLOSED-CAPTIONS", line)
	}
	for _, name := range []string{"DEFAULT", "AUTOSELECT", "FORCED"} {
		if v, ok := a[name]; ok && v != "YES" && v != "NO" {
			c.bad("%q: %s: want YES or NO", line, name)
		}
	}
	if _, ok := a["FORCED"]; ok && a["TYPE"] != "SUBTITLES" {
		c.bad("%q: FORCED is for subtitles", line)
	}
	if a["DEFAULT"] == "YES" {
		once("default", "more than one rendition is the default")
		if a["AUTOSELECT"] == "NO" {
			c.bad("%q: the default one must be selectable", line)
		}
	}
	if a["AUTOSELECT"] == "YES" {
		once(fmt.Sprintf("%q %q %q %q", a["LANGUAGE"], a["ASSOC-LANGUAGE"], a["FORCED"], a["CHARACTERISTICS"]), "renditions that players select from don't differ")
	}
}

// distinct checks that names differ within a group (RFC 8216bis 4.4.6.1.1).
func (c *checker) distinct(list []AudioRendition, r AudioRendition) {
	for _, x := range list {
		if x.Group == r.Group && x.Name == r.Name {
			c.bad("group %q has two renditions named %q", r.Group, r.Name)
		}
	}
}

type checker struct {
	kind string
	errs []error
}

func (c *checker) bad(format string, a ...any) {
	c.errs = append(c.errs, fmt.Errorf(c.kind+": "+format, a...))
}

// lines returns the playlist's non-empty lines and checks what holds for every playlist.
func (c *checker) lines(b []byte) []string {
	var out []string
	// RFC 8216bis 4.1.
	if !utf8.Valid(b) || bytes.HasPrefix(b, []byte("\ufeff")) {
		c.bad("isn't UTF-8 without a byte order mark")
	}
	if bytes.ContainsFunc(b, func(r rune) bool { return (r < ' ' || r >= 0x7f && r < 0xa0) && r != '\n' && r != '\r' }) {
		c.bad("has control characters")
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		if line != "" {
			out = append(out, line)
		}
	}
	if len(out) == 0 || out[0] != "#EXTM3U" {
		c.bad("doesn't begin with #EXTM3U")
	}
	return out
}

func (c *checker) number(line, s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n <= 0 {
		c.bad("%q: want a positive integer", line)
	}
	return n
}

// attributes parses an attribute list (RFC 8216bis 4.2).
func (c *checker) attributes(line, s string) map[string]string {
	out := map[string]string{}
	for s != "" {
		name, rest, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			c.bad("%q: attribute without a value", line)
			return out
		}
		var value string
		if quoted, isQuoted := strings.CutPrefix(rest, `"`); isQuoted {
			value, rest, ok = strings.Cut(quoted, `"`)
			if !ok {
				c.bad("%q: quote isn't closed", line)
				return out
			}
			rest = strings.TrimPrefix(rest, ",")
		} else {
			value, rest, _ = strings.Cut(rest, ",")
		}
		if _, twice := out[name]; twice {
			c.bad("%q: attribute %s twice", line, name)
		}
		out[name] = value
		s = rest
	}
	return out
}
