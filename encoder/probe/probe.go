package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/language"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/internal/hls"
)

// maxProbe bounds ffprobe's answer.
const maxProbe = 4 << 20

// Prober runs ffprobe.
type Prober struct {
	Limits  Limits
	Process ffmpeg.Limits
}

// Probe describes the source at url (a worker's loopback URL) of size bytes.
func (p Prober) Probe(ctx context.Context, url string, size int64) (Source, error) {
	if size == 0 {
		return Source{}, bad(CodeEmpty, "the file is empty")
	}
	out, err := ffmpeg.Run(ctx, ffmpeg.Command{Name: "ffprobe", Args: ffmpeg.ProbeArgs(url), Limits: p.Process}, maxProbe)
	if err != nil {
		return Source{}, classify(err)
	}
	return Parse(out, p.Limits)
}

// classify tells a broken file from a broken worker by what ffprobe said.
func classify(err error) error {
	if errors.Is(err, ffmpeg.ErrTooMuch) {
		return bad(CodeStreams, "the file has more streams than can be described")
	}
	var fe *ffmpeg.Error
	// ffmpeg takes no more than so many, whatever memory there is.
	if errors.As(err, &fe) && strings.Contains(fe.Log, "exceeds max_streams") {
		return bad(CodeStreams, "the file has more than 1000 streams")
	}
	if !errors.As(err, &fe) || fe.Reason != ffmpeg.ReasonExit {
		return fmt.Errorf("probe: %w", err)
	}
	switch {
	case strings.Contains(fe.Log, "moov atom not found"), strings.Contains(fe.Log, "End of file"):
		return bad(CodeTruncated, "the file ends before its index: it was cut off or is still being written")
	case strings.Contains(fe.Log, "Invalid data found"), strings.Contains(fe.Log, "not on whitelist"):
		return bad(CodeNotMedia, "the file is not a video or audio file of a supported kind")
	}
	return fmt.Errorf("probe: %w", err)
}

// The parts of ffprobe's JSON we read.
type report struct {
	Streams []stream `json:"streams"`
	Packets []packet `json:"packets"`
	Program struct {
		Version string `json:"version"`
	} `json:"program_version"`
	Format struct {
		Name     string `json:"format_name"`
		Duration string `json:"duration"`
		Start    string `json:"start_time"`
	} `json:"format"`
}

type stream struct {
	Index       int    `json:"index"`
	ID          string `json:"id"`
	Type        string `json:"codec_type"`
	Codec       string `json:"codec_name"`
	Width       int    `json:"width"`
	Height      int    `json:"height"`
	SAR         string `json:"sample_aspect_ratio"`
	TimeBase    string `json:"time_base"`
	Rate        string `json:"r_frame_rate"`
	Average     string `json:"avg_frame_rate"`
	FieldOrder  string `json:"field_order"`
	Pixels      string `json:"pix_fmt"`
	Profile     string `json:"profile"`
	Transfer    string `json:"color_transfer"`
	Primaries   string `json:"color_primaries"`
	Matrix      string `json:"color_space"`
	Channels    int    `json:"channels"`
	Disposition struct {
		AttachedPic int `json:"attached_pic"`
		Default     int `json:"default"`
		Forced      int `json:"forced"`
	} `json:"disposition"`
	Tags     map[string]string `json:"tags"`
	SideData []struct {
		Type     string   `json:"side_data_type"`
		Rotation *float64 `json:"rotation"`
	} `json:"side_data_list"`
}

type packet struct {
	Stream int    `json:"stream_index"`
	PTS    *int64 `json:"pts"`
	Flags  string `json:"flags"`
}

// Parse turns ffprobe's JSON into a Source and refuses what can't be encoded.
func Parse(b []byte, limits Limits) (Source, error) {
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return Source{}, fmt.Errorf("probe: ffprobe's answer: %w", err)
	}
	if limits.Streams > 0 && len(r.Streams) > limits.Streams {
		return Source{}, bad(CodeStreams, "the file has %d streams, the limit is %d", len(r.Streams), limits.Streams)
	}
	s := Source{Format: r.Format.Name, FFmpeg: clean(r.Program.Version)}
	if d, err := strconv.ParseFloat(r.Format.Duration, 64); err == nil && d > 0 && d < 1e8 {
		s.Duration = time.Duration(d * float64(time.Second))
	}
	if d, err := strconv.ParseFloat(r.Format.Start, 64); err == nil && math.Abs(d) < 1e8 {
		s.StartMicros = int64(math.Round(d * 1e6))
	}
	if limits.Duration > 0 && s.Duration > limits.Duration && !s.Guessed() {
		return Source{}, bad(CodeDuration, "the file lasts %s, the limit is %s", s.Duration.Round(time.Second), limits.Duration)
	}
	var unsupported []string
	for _, st := range r.Streams {
		switch {
		case st.Type == "video" && st.Disposition.AttachedPic == 0 && s.Video == nil:
			if !slices.Contains(videoCodecs, st.Codec) {
				unsupported = append(unsupported, st.Codec)
				continue
			}
			v, err := parseVideo(st, limits)
			if err != nil {
				return Source{}, err
			}
			for _, p := range r.Packets {
				if p.Stream == st.Index {
					v.first = append(v.first, p)
				}
			}
			s.Video = &v
		case st.Type == "audio":
			if st.Channels < 1 || !audioCodec(st.Codec) {
				unsupported = append(unsupported, st.Codec)
				continue
			}
			s.Audio = append(s.Audio, Audio{Stream: st.Index, Codec: st.Codec, Channels: st.Channels,
				Language: bcp47(tag(st.Tags, "language")), Title: clean(tag(st.Tags, "title")), Default: st.Disposition.Default == 1})
		case st.Type == "subtitle" && slices.Contains(textCodecs, st.Codec):
			s.Text = append(s.Text, Text{Stream: st.Index, Language: bcp47(tag(st.Tags, "language")), Title: clean(tag(st.Tags, "title")), Forced: st.Disposition.Forced == 1})
		}
	}
	if s.Video == nil && len(s.Audio) == 0 {
		if len(unsupported) > 0 {
			return Source{}, bad(CodeUnsupported, "the file's codecs are not supported: %s", strings.Join(unsupported, ", "))
		}
		return Source{}, bad(CodeNoStreams, "the file has no video or audio")
	}
	s.NeedsRemux = needsRemux(s)
	return s, nil
}

func parseVideo(st stream, limits Limits) (Video, error) {
	v := Video{Stream: st.Index, Codec: st.Codec, Pixels: st.Pixels, Profile: st.Profile, Width: st.Width, Height: st.Height,
		SAR: ratio(st.SAR, ":"), TimeBase: ratio(st.TimeBase, "/"), FrameRate: ratio(st.Rate, "/")}
	if id, err := strconv.ParseInt(st.ID, 0, 32); err == nil {
		v.TrackID = int(id)
	}
	if v.FrameRate.Num == 0 || v.FrameRate.Float() > 1000 {
		v.FrameRate = ratio(st.Average, "/")
	}
	if v.Width < 1 || v.Height < 1 {
		return Video{}, bad(CodeDamaged, "the video stream has no picture size")
	}
	// A far-fetched pixel shape is a damaged header; squares are the better guess.
	if f := v.SAR.Float(); f < 1.0/8 || f > 8 {
		v.SAR = hls.Rational{Num: 1, Den: 1}
	}
	if w, h := v.Display(); limits.Side > 0 && max(w, h, v.Width, v.Height) > limits.Side {
		return Video{}, bad(CodeDimensions, "the picture is %d × %d, the limit is %d on a side", v.Width, v.Height, limits.Side)
	}
	if v.TimeBase.Num < 1 || v.TimeBase.Den < 1 || v.TimeBase.Den > math.MaxInt32 || v.TimeBase.Num > math.MaxInt32 {
		return Video{}, bad(CodeDamaged, "the video stream's time base %q is not usable", st.TimeBase)
	}
	if min(v.Width, v.Height) < limits.MinSide {
		return Video{}, bad(CodeTooSmall, "the picture is %d × %d, it must have %d on each side", v.Width, v.Height, limits.MinSide)
	}
	rotation := 0.0
	if t, err := strconv.ParseFloat(tag(st.Tags, "rotate"), 64); err == nil {
		rotation = -t
	}
	for _, sd := range st.SideData {
		if sd.Rotation != nil {
			rotation = *sd.Rotation
		}
	}
	if math.Abs(rotation) <= 3600 {
		quarters := int(math.Round(-rotation/90)) % 4
		v.Rotate = (quarters + 4) % 4 * 90
	}
	switch st.FieldOrder {
	case "tt", "bb", "tb", "bt":
		v.Interlaced = true
	}
	v.HDR = st.Transfer == "smpte2084" || st.Transfer == "arib-std-b67"
	v.Untagged = v.HDR && (!tagged(st.Primaries) || !tagged(st.Matrix)) && strings.HasPrefix(st.Pixels, "yuv")
	return v, nil
}

// tagged reports whether a colour description says anything.
func tagged(s string) bool { return s != "" && s != "unknown" && s != "reserved" && s != "unspecified" }

// needsRemux says why chunks can't be cut from the container itself, as far as
// the header tells; Index finds the rest.
func needsRemux(s Source) string {
	if s.Video == nil {
		return ""
	}
	switch {
	case strings.Contains(s.Format, "mp4"):
		return ""
	case strings.Contains(s.Format, "matroska"):
		if s.Duration == 0 {
			return "matroska without duration"
		}
		return ""
	}
	return s.Format + " has no index of frames"
}

var videoCodecs = []string{"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mpeg1video", "h263", "flv1",
	"msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "wmv3", "vc1", "prores", "dnxhd", "mjpeg", "theora", "dvvideo", "ffv1", "rawvideo", "vp6f", "svq3"}

var textCodecs = []string{"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"}

func audioCodec(name string) bool {
	return strings.HasPrefix(name, "pcm_") || strings.HasPrefix(name, "adpcm_") || slices.Contains([]string{
		"aac", "mp3", "mp2", "ac3", "eac3", "opus", "vorbis", "flac", "alac", "dts", "truehd", "wmav1", "wmav2", "wmapro",
		"amr_nb", "amr_wb", "nellymoser", "speex", "mp1"}, name)
}

func tag(tags map[string]string, key string) string {
	for k, v := range tags {
		if strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}

// clean makes a title safe for playlists and screens.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == '"' || r == 0x7f || r == '\uFFFD' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if r := []rune(s); len(r) > 80 {
		s = string(r[:80])
	}
	return strings.TrimSpace(s)
}

// bcp47 turns a container's language ("eng", "deu") into the shortest tag.
func bcp47(s string) string {
	t, err := language.Parse(s)
	if err != nil || t == language.Und {
		return ""
	}
	return t.String()
}

func ratio(s, sep string) hls.Rational {
	a, b, ok := strings.Cut(s, sep)
	num, err1 := strconv.ParseInt(a, 10, 64)
	den, err2 := strconv.ParseInt(b, 10, 64)
	if !ok || err1 != nil || err2 != nil || num <= 0 || den <= 0 {
		return hls.Rational{}
	}
	return hls.Rational{Num: num, Den: den}
}
