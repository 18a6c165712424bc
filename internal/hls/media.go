package hls

import (
	"errors"
	"fmt"
	"strconv"
)

// ContentType is the media type of playlists.
const ContentType = "application/vnd.apple.mpegurl"

// The names of a rendition's playlists: of its segments, and of its keyframes.
const (
	MediaName  = "index.m3u8"
	IFrameName = "iframes.m3u8"
)

// ErrNoKeyframes is a rendition whose records don't say where its keyframes are.
var ErrNoKeyframes = errors.New("where its keyframes are isn't known")

// Media composes the media playlist of a rendition from its track's contiguous
// records, chunk 0 first. prefix is put before every URI: empty for URIs
// relative to the playlist, or an absolute base with a trailing slash.
//
// While the last record isn't marked last the playlist grows: EVENT, with
// EXT-X-START at 0 so that players begin at the beginning. Once ended it gains
// EXT-X-ENDLIST and loses EXT-X-START. Text has segments of its own length,
// which RFC 8216bis 6.2.4 allows where the type is VOD; it comes all at once.
func Media(records []Record, rendition, prefix string) ([]byte, error) {
	return media(records, rendition, prefix, false)
}

// IFrames composes the I-frame playlist (RFC 8216bis 4.4.3.6) of a video
// rendition: the keyframe at the beginning of every segment, as a byte range of
// it, shown until the next. The rest is as in Media.
func IFrames(records []Record, rendition, prefix string) ([]byte, error) {
	return media(records, rendition, prefix, true)
}

func media(records []Record, rendition, prefix string, keyframes bool) ([]byte, error) {
	if len(records) == 0 {
		return nil, fmt.Errorf("media playlist %s: no records", rendition)
	}
	first, ended := records[0], records[len(records)-1].Last
	b := make([]byte, 0, 256+64*len(records)*len(first.Renditions[rendition].Segments))
	b = append(b, "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:"...)
	b = strconv.AppendInt(b, int64(first.Target), 10)
	kind := "EVENT"
	if ended && isText(first.Track) {
		kind = "VOD"
	}
	b = append(b, "\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:"+kind+"\n#EXT-X-INDEPENDENT-SEGMENTS\n"...)
	if keyframes {
		b = append(b, "#EXT-X-I-FRAMES-ONLY\n"...)
	}
	if !ended {
		b = append(b, "#EXT-X-START:TIME-OFFSET=0,PRECISE=YES\n"...)
	}
	init := ""
	for i, r := range records {
		rs, ok := r.Renditions[rendition]
		switch {
		case !ok:
			return nil, fmt.Errorf("media playlist: record %s/%d has no rendition %q", r.Track, r.Chunk, rendition)
		case r.Chunk != i || r.Track != first.Track || r.Run != first.Run:
			return nil, fmt.Errorf("media playlist %s: record %s/%s/%d at position %d: records must be dense and of one track", rendition, r.Run, r.Track, r.Chunk, i)
		case r.Last && i != len(records)-1:
			return nil, fmt.Errorf("media playlist %s: record %d is marked last, %d follow", rendition, i, len(records)-1-i)
		}
		if rs.Init != init {
			init = rs.Init
			b = append(b, `#EXT-X-MAP:URI="`...)
			b = append(b, prefix...)
			b = append(b, init...)
			b = append(b, "\"\n"...)
		}
		for s, seg := range rs.Segments {
			b = append(b, "#EXTINF:"...)
			b = strconv.AppendFloat(b, float64(seg.Duration)/float64(r.Timescale), 'f', 6, 64)
			b = append(b, ",\n"...)
			if keyframes {
				if seg.Key == 0 {
					return nil, fmt.Errorf("playlist of keyframes %s: record %d: %w", rendition, r.Chunk, ErrNoKeyframes)
				}
				b = append(b, "#EXT-X-BYTERANGE:"...)
				b = strconv.AppendInt(b, seg.Key, 10)
				b = append(b, "@0\n"...)
			}
			b = append(b, prefix...)
			b = appendSegmentPath(b, r.Chunk, r.Attempt, s, rs.ext())
			b = append(b, '\n')
		}
	}
	if ended {
		b = append(b, "#EXT-X-ENDLIST\n"...)
	}
	return b, nil
}

// Names of segments end in one of these.
const (
	mediaExt = ".m4s"
	textExt  = ".vtt"
)

func appendSegmentPath(b []byte, chunk, attempt, segment int, ext string) []byte {
	return fmt.Appendf(b, "%05d-%d/%05d%s", chunk, attempt, segment, ext)
}

// SegmentPath is the path below its rendition of a segment of picture or sound:
// "00003-1/00000.m4s".
func SegmentPath(chunk, attempt, segment int) string {
	return string(appendSegmentPath(nil, chunk, attempt, segment, mediaExt))
}

// TextPath is the path below its rendition of a segment of text: "00000-1/00003.vtt".
func TextPath(chunk, attempt, segment int) string {
	return string(appendSegmentPath(nil, chunk, attempt, segment, textExt))
}
