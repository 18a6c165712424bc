package ffmpeg

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/meridian-video/meridian/internal/hls"
)

// Demuxers a source may use. Playlists and scripts (hls, dash, concat, image
// sequences) are not among them.
const Demuxers = "mov,mp4,matroska,webm,mpegts,mpeg,mpegvideo,flv,avi,asf,ogg,wav,mp3,flac,aac,mxf"

// Protocols a child may read through.
const Protocols = "http,tcp"

// MaxSide is the longest side of a picture, in pixels, that a decoder takes;
// wherever in a stream it appears, and whatever the header said.
const MaxSide = 8192

// input are the options of every input: where it may read, how it seeks.
func input(url string) []string {
	return []string{"-protocol_whitelist", Protocols, "-format_whitelist", Demuxers, "-max_pixels", strconv.Itoa(MaxSide * MaxSide),
		"-rw_timeout", "30000000", "-i", url}
}

// common are the options every ffmpeg gets.
func common() []string {
	return []string{"-hide_banner", "-nostdin", "-nostats", "-loglevel", "error", "-y",
		"-progress", ProgressPath, "-stats_period", "0.5"}
}

// Rung is one output of a video chunk.
type Rung struct {
	Width, Height int
	// MaxRate and BufferSize in bit/s cap the rate; Level is H.264's, times ten.
	MaxRate, BufferSize int64
	Level               int
}

// Video is one chunk encoded in several rungs from one decode.
type Video struct {
	URL string
	// Stream is the source stream's index.
	Stream int
	// Decoder threads; 0 lets ffmpeg choose.
	DecodeThreads int
	// TimeBase of the source. Frames with Start <= pts < End are encoded.
	TimeBase   hls.Rational
	Start, End int64
	// SeekMicros is where the demuxer is asked to seek: at or before Start.
	// Negative means the file's beginning.
	SeekMicros int64
	// Offset, in source time base units, is the pts given to a frame at Start.
	Offset int64
	// Timescale of the output; a multiple of the source's.
	Timescale int64
	// Keep one frame in Every (1: all); the one at Start is kept.
	Every int
	// Gap is the least from one frame to the next that is kept, in the source's time base;
	// 0 keeps all.
	Gap int64
	// DropRepeats leaves out frames that repeat the time of the one before.
	DropRepeats bool
	// Rotate in degrees clockwise: 0, 90, 180, 270.
	Rotate      int
	Deinterlace bool
	// ToneMap converts HDR to SDR; Untagged takes the source's colours for BT.2020.
	ToneMap, Untagged bool
	// Keyframes in seconds of output time, after the first frame.
	Keyframes []float64
	Rungs     []Rung
	// Preset, CRF and Threads of x264, the same over a run.
	Preset  string
	CRF     int
	Threads int
}

// Args returns ffmpeg's arguments; rung i goes to OutputPath(i).
func (v Video) Args() []string {
	a := common()
	a = append(a, "-copyts", "-seek_timestamp", "1", "-noaccurate_seek", "-noautorotate")
	if v.DecodeThreads > 0 {
		a = append(a, "-threads", strconv.Itoa(v.DecodeThreads))
	}
	if v.SeekMicros >= 0 {
		a = append(a, "-ss", seconds(v.SeekMicros))
	}
	a = append(a, input(v.URL)...)
	a = append(a, "-filter_complex", v.filter())
	keys := make([]string, len(v.Keyframes))
	for i, t := range v.Keyframes {
		keys[i] = strconv.FormatFloat(t, 'f', 6, 64)
	}
	for i, r := range v.Rungs {
		a = append(a, "-map", fmt.Sprintf("[o%d]", i), "-map_metadata", "-1", "-map_chapters", "-1",
			"-fps_mode", "passthrough", "-enc_time_base", fmt.Sprintf("1:%d", v.Timescale),
			"-c:v", "libx264", "-preset", v.Preset, "-crf", strconv.Itoa(v.CRF),
			"-maxrate", strconv.FormatInt(r.MaxRate, 10), "-bufsize", strconv.FormatInt(r.BufferSize, 10),
			"-profile:v", "high", "-level:v", fmt.Sprintf("%d.%d", r.Level/10, r.Level%10),
			"-threads", strconv.Itoa(v.Threads), "-sc_threshold", "0", "-g", "1000000")
		if len(keys) > 0 {
			a = append(a, "-force_key_frames", strings.Join(keys, ","))
		}
		a = append(a, "-fflags", "+bitexact", "-video_track_timescale", strconv.FormatInt(v.Timescale, 10),
			"-avoid_negative_ts", "disabled", "-use_editlist", "0",
			"-movflags", "+frag_keyframe+empty_moov+default_base_moof+frag_discont", "-flush_packets", "1",
			"-f", "mp4", OutputPath(i))
	}
	return a
}

// filter selects the chunk's frames, prepares them once and scales them per rung.
func (v Video) filter() string {
	steps := []string{fmt.Sprintf("trim=start_pts=%d:end_pts=%d", v.Start, v.End)}
	if v.DropRepeats {
		steps = append(steps, `select='isnan(prev_selected_pts)+gt(pts\,prev_selected_pts)'`)
	}
	if v.Deinterlace {
		// yadif halves the time base; give it back.
		steps = append(steps, "yadif=mode=send_frame:deint=interlaced",
			fmt.Sprintf("settb=%d/%d", v.TimeBase.Num, v.TimeBase.Den))
	}
	if v.Every > 1 {
		steps = append(steps, fmt.Sprintf(`select='not(mod(n\,%d))'`, v.Every))
	}
	if v.Gap > 0 {
		steps = append(steps, fmt.Sprintf(`select='isnan(prev_selected_pts)+gte(pts-prev_selected_pts\,%d)'`, v.Gap))
	}
	steps = append(steps, fmt.Sprintf("setpts=PTS-%d", v.Start-v.Offset))
	switch v.Rotate {
	case 90:
		steps = append(steps, "transpose=clock")
	case 180:
		steps = append(steps, "hflip", "vflip")
	case 270:
		steps = append(steps, "transpose=cclock")
	}
	steps = append(steps, toneMap(v.ToneMap, v.Untagged)...)
	var b strings.Builder
	fmt.Fprintf(&b, "[0:%d]%s", v.Stream, strings.Join(steps, ","))
	// Each rung is scaled from the next higher one: half the work of scaling each
	// from the source, at equal quality for the bits (SSIM within 0.001).
	for i, r := range v.Rungs {
		fmt.Fprintf(&b, ",scale=%d:%d:flags=bicubic,format=yuv420p,setsar=1", r.Width, r.Height)
		if i < len(v.Rungs)-1 {
			fmt.Fprintf(&b, ",split=2[o%d][s%d];[s%d]null", i, i, i)
		} else {
			fmt.Fprintf(&b, "[o%d]", i)
		}
	}
	return b.String()
}

// toneMap are the steps from HDR to SDR; none when it isn't wanted.
func toneMap(wanted, untagged bool) []string {
	var steps []string
	if wanted && untagged {
		steps = append(steps, "setparams=color_primaries=bt2020:colorspace=bt2020nc")
	}
	if wanted {
		steps = append(steps, "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p")
	}
	return steps
}

// Audio is one audio track, encoded from From to its end as ADTS.
type Audio struct {
	URL    string
	Stream int
	// Zero is the source time that is 0 on the run's timeline.
	Zero       int64
	ZeroBase   hls.Rational
	SampleRate int
	Bitrate    int64
	// From is the first sample wanted, in output samples on the run's timeline.
	// The encoder's own priming frame comes before it.
	From int64
	// PadTo is the track's length: a shorter one is extended with silence, a
	// longer one cut; in output samples, 0 for the source's own.
	PadTo int64
	// Endless adds silence until nobody reads on.
	Endless bool
	// Seek lets the demuxer seek; else the track is decoded from its beginning.
	Seek bool
	// GainDB changes the level; Limit keeps what comes out at -1 dBTP.
	GainDB float64
	Limit  bool
}

// seekBack is how long before From decoding starts, so that decoders and the
// resampler have settled.
const seekBack = 500_000

// Args returns ffmpeg's arguments; the stream goes to OutputPath(0).
func (t Audio) Args() []string {
	a := common()
	a = append(a, "-copyts", "-seek_timestamp", "1", "-noaccurate_seek", "-vn", "-sn", "-dn")
	if t.From > 0 && t.Seek {
		zero := t.Zero * t.ZeroBase.Num * 1_000_000 / t.ZeroBase.Den
		a = append(a, "-ss", seconds(max(0, zero+t.From*1_000_000/int64(t.SampleRate)-seekBack)))
	}
	a = append(a, input(t.URL)...)
	f := t.filter()
	if t.GainDB != 0 {
		f += fmt.Sprintf(",volume=%.2fdB", t.GainDB)
	}
	if t.Limit {
		// Four times the rate shows the peaks between samples (ITU-R BS.1770-4, annex 2).
		f += fmt.Sprintf(",aresample=%d,alimiter=limit=0.891:level=0:latency=1,aresample=%d,aformat=sample_fmts=fltp", 4*t.SampleRate, t.SampleRate)
	}
	if n := t.PadTo - t.From; n > 0 {
		f += fmt.Sprintf(",apad=whole_len=%d,atrim=end_sample=%d", n, n)
	}
	if t.Endless {
		f += ",apad"
	}
	return append(a, "-map", fmt.Sprintf("0:%d", t.Stream), "-map_metadata", "-1", "-af", f,
		"-c:a", "aac", "-b:a", strconv.FormatInt(t.Bitrate, 10), "-fflags", "+bitexact", "-flush_packets", "1",
		"-f", "adts", OutputPath(0))
}

// filter brings the sound onto the run's timeline, at the level it has.
func (t Audio) filter() string {
	return fmt.Sprintf("asetpts=round(PTS-%d*%d/%d/TB),aresample=%d:async=1:min_hard_comp=0.02:first_pts=%d,aformat=sample_fmts=fltp:sample_rates=%d:channel_layouts=stereo",
		t.Zero, t.ZeroBase.Num, t.ZeroBase.Den, t.SampleRate, t.From, t.SampleRate)
}

// Remux copies the first video and all audio streams into a file with an index.
type Remux struct {
	URL string
	// Video is -1 when there is none.
	Video int
	Audio []int
	// Codec of the video stream decides about bitstream repair.
	Codec string
	// Format is "mp4" or "matroska".
	Format string
	// Path, in the command's Dir.
	Path string
}

// Args returns ffmpeg's arguments.
func (r Remux) Args() []string {
	a := append(common(), "-fflags", "+genpts+discardcorrupt")
	a = append(a, input(r.URL)...)
	if r.Video >= 0 {
		a = append(a, "-map", fmt.Sprintf("0:%d", r.Video))
	}
	for _, s := range r.Audio {
		a = append(a, "-map", fmt.Sprintf("0:%d", s))
	}
	a = append(a, "-c", "copy", "-map_chapters", "-1")
	a = append(a, repair(r.Codec)...)
	return append(a, "-max_muxing_queue_size", "4096", "-f", r.Format, r.Path)
}

func seconds(micros int64) string {
	return fmt.Sprintf("%d.%06d", micros/1_000_000, micros%1_000_000)
}
