package encoder

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/testenv"
)

// strange is a source whose frames carry their number as ten black and white
// boxes and whose sound beeps at every full second, so that order, loss and
// synchrony can be read back from whatever became of it.
type strange struct {
	name string
	// size "WxH" of the picture, 320x180 by default; rate in frames per second;
	// length in seconds, 5 by default.
	size, rate string
	length     float64
	// vf and af follow the pattern, args are the encoder's, then those of a
	// second, copying pass; IN in them is the first pass's file.
	vf, af     string
	args, then []string
	// width, height, frameRate and frames expected; a zero one isn't looked at.
	width, height int
	frameRate     hls.Rational
	frames        int64
	// upright brings a decoded output's boxes back to the top left of 320 × 180.
	upright string
	// reference makes of the source, by an independent ffmpeg, what the output
	// should look like.
	reference string
	languages []string
	silent    bool
	// fields is H.264 whose fields are coded each for itself; vf divides pictures, of 25 frames per
	// second, and args are of the sound.
	fields bool
	// often rows run always, the others in long tests only.
	often bool
}

var x264 = []string{"-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "43", "-pix_fmt", "yuv420p", "-c:a", "aac"}

// openGOP has three frames before each keyframe but the first that need what follows and what
// comes before.
var openGOP = []string{"-x264-params", "open-gop=1:keyint=28:min-keyint=28:scenecut=0:bframes=3:b-adapt=0"}

func with(base []string, more ...string) []string { return append(base[:len(base):len(base)], more...) }

var strangeFiles = []strange{
	{name: "23976.mp4", rate: "24000/1001", args: x264, frames: 120, frameRate: hls.Rational{Num: 24000, Den: 1001}},
	{name: "2997.mp4", rate: "30000/1001", args: x264, frames: 150, frameRate: hls.Rational{Num: 30000, Den: 1001}},
	{name: "5994.mp4", rate: "60000/1001", args: x264, frames: 300, frameRate: hls.Rational{Num: 60000, Den: 1001}},
	{name: "5994.mkv", rate: "60000/1001", args: x264, frames: 300},
	{name: "variable.mp4", rate: "30", vf: "select='not(mod(floor(n/7),3))+not(mod(n,4))'", args: with(x264, "-fps_mode", "vfr"), frames: 77, frameRate: hls.Rational{Num: 30, Den: 1}},
	{name: "variable.mkv", rate: "30", vf: "select='not(mod(floor(n/7),3))+not(mod(n,4))'", args: with(x264, "-fps_mode", "vfr"), frames: 77, frameRate: hls.Rational{Num: 30, Den: 1}},
	// A cut that doesn't begin with a keyframe: an edit list hides what comes before.
	{name: "edit-list.mp4", rate: "25", length: 6, args: x264, then: []string{"-ss", "2.2", "-i", "IN", "-c", "copy"}, often: true},
	{name: "edit-list.mov", rate: "30000/1001", length: 6, args: x264, then: []string{"-ss", "3.01", "-i", "IN", "-c", "copy"}},
	{name: "open-gop.mp4", rate: "25", args: with(x264, "-x264-params", "open-gop=1"), frames: 125},
	// Behind the keyframe it begins with come three frames that are shown before it, and need what
	// was cut off. Matroska, which knows no times below zero, gives them the keyframe's.
	{name: "cut.mkv", rate: "25", length: 6, args: with(x264, openGOP...), then: []string{"-ss", "2", "-i", "IN", "-c", "copy"}},
	{name: "cut-silent.mkv", rate: "25", length: 6, silent: true, args: with(x264, openGOP...), then: []string{"-ss", "2", "-i", "IN", "-an", "-c", "copy"}},
	{name: "negative.mp4", rate: "25", args: with(x264, "-use_editlist", "0", "-avoid_negative_ts", "disabled"), frames: 125},
	// Times run over the 33 bits of MPEG-2 in the middle.
	{name: "wrapping.ts", rate: "25", args: with(x264, "-output_ts_offset", "95440", "-muxdelay", "0"), frames: 125},
	{name: "late-start.ts", rate: "25", args: with(x264, "-muxdelay", "3"), frames: 125},
	{name: "fragmented.mp4", rate: "25", args: with(x264, "-movflags", "+frag_keyframe+empty_moov+default_base_moof"), frames: 125},
	{name: "live.mkv", rate: "25", args: with(x264, "-live", "1"), frames: 125},
	// Sound that begins late, early and not at all for a while.
	{name: "late-sound.mp4", rate: "25", args: x264, then: []string{"-i", "IN", "-itsoffset", "0.73", "-i", "IN", "-map", "0:v", "-map", "1:a", "-c", "copy"}, frames: 125},
	{name: "early-sound.mkv", rate: "25", args: x264, then: []string{"-itsoffset", "0.41", "-i", "IN", "-i", "IN", "-map", "0:v", "-map", "1:a", "-c", "copy"}, frames: 125},
	{name: "gap.mkv", rate: "25", af: "aselect='not(between(t,1.6,2.7))'", args: x264, frames: 125, often: true},
	{name: "gap.mp4", rate: "25", af: "aselect='not(between(t,1.6,2.7))'", args: x264, frames: 125},
	{name: "short-sound.mp4", rate: "25", af: "atrim=end=2.5", args: x264, frames: 125},
	{name: "long-sound.mp4", rate: "25", vf: "trim=end=3", args: x264, frames: 75},
	// Pictures that stand on their side, in shapes and sizes of all kinds.
	{name: "rotated.mp4", rate: "25", args: x264, then: []string{"-i", "IN", "-c", "copy", "-metadata:s:v", "rotate=90"}, frames: 125, width: 180, height: 320, upright: "transpose=clock"},
	{name: "rotated-270.mp4", rate: "25", args: x264, then: []string{"-i", "IN", "-c", "copy", "-metadata:s:v", "rotate=270"}, frames: 125, width: 180, height: 320, upright: "transpose=cclock"},
	{name: "portrait.mp4", rate: "25", size: "180x320", args: x264, frames: 125, width: 180, height: 320},
	{name: "odd.mkv", rate: "25", size: "321x241", args: with(x264, "-pix_fmt", "yuv444p"), frames: 125, width: 320, height: 240},
	{name: "wide-pixels.mp4", rate: "25", size: "240x180", vf: "setsar=4/3", args: x264, frames: 125, width: 320, height: 180, reference: "scale=320:180"},
	// Fields, bit depths, light.
	{name: "interlaced.mp4", rate: "50", vf: "tinterlace=interleave_top,setfield=tff", args: with(x264, "-flags", "+ildct+ilme"), frames: 125, reference: "yadif=mode=send_frame"},
	{name: "interlaced.ts", rate: "60000/1001", vf: "tinterlace=interleave_top,setfield=tff", args: []string{"-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-b:v", "4M", "-g", "15", "-bf", "2", "-c:a", "mp2"}, then: []string{"-ss", "1.1", "-i", "IN", "-c", "copy"}, reference: "yadif=mode=send_frame"},
	{name: "ten-bit-422.mov", rate: "25", args: with(x264, "-pix_fmt", "yuv422p10le"), frames: 125},
	{name: "prores.mov", rate: "24000/1001", args: []string{"-c:v", "prores_ks", "-c:a", "pcm_s16le"}, frames: 120},
	{name: "pq.mp4", rate: "25", length: 4, args: []string{"-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc",
		"-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc", "-c:a", "aac"}, frames: 100, reference: toneMapped},
	{name: "pq-untagged.mp4", rate: "25", length: 4, args: with(x264, "-pix_fmt", "yuv420p10le", "-color_trc", "smpte2084"), frames: 100, reference: "setparams=color_primaries=bt2020:colorspace=bt2020nc," + toneMapped, often: true},
	{name: "hlg.mkv", rate: "30000/1001", length: 4, args: with(x264, "-pix_fmt", "yuv420p10le", "-color_primaries", "bt2020", "-color_trc", "arib-std-b67", "-colorspace", "bt2020nc"), reference: toneMapped},
	// Several languages.
	{name: "languages.mkv", rate: "25", args: with(x264, "-map", "0:v", "-map", "1:a", "-map", "1:a", "-map", "1:a", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu", "-metadata:s:a:2", "language=zho"),
		frames: 125, languages: []string{"en", "de", "zh"}},
	{name: "languages.mp4", rate: "25", args: with(x264, "-map", "0:v", "-map", "1:a", "-map", "1:a", "-metadata:s:a:0", "language=fra", "-metadata:s:a:1", "language=jpn"),
		frames: 125, languages: []string{"fr", "ja"}},
	{name: "vp9.webm", rate: "25", args: []string{"-c:v", "libvpx-vp9", "-cpu-used", "8", "-deadline", "realtime", "-c:a", "libopus"}, frames: 125},
	// MP3 of which nothing tells the encoder's delay.
	{name: "mpeg4.avi", rate: "25", args: []string{"-c:v", "mpeg4", "-bf", "2", "-q:v", "3", "-c:a", "mp3"}, frames: 125, often: true},
	{name: "flv1.flv", rate: "25", args: []string{"-c:v", "flv1", "-q:v", "3", "-c:a", "mp3", "-ar", "44100"}, frames: 125},
	{name: "mpeg2.mxf", rate: "25", args: []string{"-c:v", "mpeg2video", "-q:v", "3", "-bf", "2", "-c:a", "pcm_s16le"}, frames: 125},
	// What is said in the middle is heard; rates and channels of all kinds.
	{name: "surround.mkv", rate: "25", af: "pan=5.1|FC=c0", args: with(x264, "-c:a", "ac3"), frames: 125},
	{name: "mono-8000.mov", rate: "25", af: "aresample=8000", args: with(x264, "-c:a", "pcm_mulaw"), frames: 125},
	{name: "96000.mkv", rate: "25", af: "aresample=96000,aformat=channel_layouts=7.1", args: with(x264, "-c:a", "flac"), frames: 125},
	{name: "mute.mp4", rate: "25", args: with(x264, "-an"), frames: 125, silent: true},
}

const toneMapped = "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p"

const (
	boxes = 10
	box   = 16
)

// source makes the file.
func (s strange) source(t testing.TB) string {
	size, length := s.size, s.length
	if size == "" {
		size = "320x180"
	}
	if length == 0 {
		length = 5
	}
	high := box
	if s.fields {
		high *= 2 // whole macroblocks of a field
	}
	vf := fmt.Sprintf("testsrc2=s=%s:r=%s:d=%v,drawbox=x=0:y=0:w=%d:h=%d:color=black:t=fill", size, s.rate, length, boxes*box, high)
	for bit := range boxes {
		vf += fmt.Sprintf(",drawbox=x=%d:y=0:w=%d:h=%d:color=white:t=fill:enable='mod(floor(n/%d)\\,2)'", bit*box, box, high, 1<<bit)
	}
	if s.vf != "" {
		vf += "," + s.vf
	}
	af := fmt.Sprintf("aevalsrc='if(lt(mod(t\\,1)\\,0.05)\\,0.5*sin(2*PI*1000*t)\\,0)':s=48000:d=%v", length)
	if s.af != "" {
		af += "," + s.af
	}
	if s.fields {
		coded := filepath.Join(t.TempDir(), "fields.h264")
		require.NoError(t, os.WriteFile(coded, fieldCoded(t, readFile(t, makeFile(t, "pictures.h264", append([]string{"-f", "lavfi", "-i", vf}, separate...)...))), 0o600))
		return makeFile(t, s.name, append([]string{"-framerate", "50", "-i", coded, "-f", "lavfi", "-i", af, "-c:v", "copy", "-bsf:v", "setts=ts=N*90000/50"}, s.args...)...)
	}
	name := s.name
	if s.then != nil {
		name = "first.mp4"
	}
	file := makeFile(t, name, append([]string{"-f", "lavfi", "-i", vf, "-f", "lavfi", "-i", af}, s.args...)...)
	if s.then == nil {
		return file
	}
	var then []string
	for _, a := range s.then {
		then = append(then, strings.Replace(a, "IN", file, 1))
	}
	return makeFile(t, s.name, then...)
}

// shown is one frame or beep: its number and its time in seconds.
type shown struct {
	n  int
	at float64
}

// told are values that a filter of ffmpeg's tells of each frame in its log.
func told(log, filter string, names ...string) (values [][]string) {
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "Parsed_"+filter+"_") {
			continue
		}
		var of []string
		for _, name := range names {
			if _, rest, ok := strings.Cut(line, " "+name+":"); ok {
				of = append(of, strings.Fields(rest)[0])
			}
		}
		if len(of) == len(names) {
			values = append(values, of)
		}
	}
	return values
}

// numbers reads the frames' numbers back.
func numbers(t testing.TB, path, upright, size string) []shown {
	t.Helper()
	if size == "" {
		size = "320x180"
	}
	vf := "showinfo"
	if upright != "" {
		vf += "," + upright
	}
	vf += fmt.Sprintf(",scale=%s,crop=%d:%d:0:0,format=gray,scale=%d:1:flags=area", strings.Replace(size, "x", ":", 1), boxes*box, box, boxes)
	cmd := exec.CommandContext(t.Context(), "ffmpeg", "-nostdin", "-hide_banner", "-copyts", "-noautorotate", "-i", path, "-map", "0:v:0", "-vf", vf, "-fps_mode", "passthrough", "-f", "rawvideo", "-")
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	require.NoError(t, cmd.Run(), "%s", &log)
	times := told(log.String(), "showinfo", "pts_time")
	require.Len(t, times, out.Len()/boxes)
	var list []shown
	for i, m := range times {
		n := 0
		for bit, v := range out.Bytes()[i*boxes : (i+1)*boxes] {
			if v >= 128 {
				n |= 1 << bit
			}
		}
		list = append(list, shown{n, parseFloat(t, m[0])})
	}
	return list
}

// beeps finds where silence ends in a file's n-th sound track.
func beeps(t testing.TB, path string, n int) []float64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ffmpeg", "-nostdin", "-hide_banner", "-copyts", "-i", path, "-map", "0:a:"+strconv.Itoa(n), "-af", "ashowinfo", "-ac", "1", "-f", "s16le", "-")
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	require.NoError(t, cmd.Run(), "%s", &log)
	_, rate, ok := strings.Cut(log.String(), "Audio: ")
	require.True(t, ok, "%s", &log)
	m := regexp.MustCompile(`(\d+) Hz`).FindStringSubmatch(rate)
	require.NotNil(t, m, "%s", &log)
	hz := parseFloat(t, m[1])
	var found []float64
	pcm, last := out.Bytes(), math.Inf(-1)
	for _, m := range told(log.String(), "ashowinfo", "pts_time", "nb_samples") {
		at := parseFloat(t, m[0])
		samples, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		for i := range samples {
			if len(pcm) < 2 {
				break
			}
			v := int16(pcm[0]) | int16(pcm[1])<<8
			pcm = pcm[2:]
			if v > 2500 || v < -2500 {
				if now := at + float64(i)/hz; now-last > 0.3 {
					found = append(found, now)
					last = now
				} else {
					last = now
				}
			}
		}
	}
	return found
}

// undivided encodes the first track anew by one process and joins it.
func undivided(t testing.TB, b *bench, track string) []byte {
	t.Helper()
	chunks := b.board.plan.Tracks[0].Chunks
	for i := range chunks {
		chunks[i].Joined = i > 0
	}
	b.mu.Lock()
	clear(b.plans)
	b.mu.Unlock()
	b.board.chunks[track] = nil
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	require.NoError(t, b.Handle(ctx, b.task(catalog.KindVideo, track, 0, 2)))
	return b.joined(t, track, b.board.plan.Tracks[0].Renditions[0].ID)
}

// TestStrangeSources: every frame once, in order, at its time; sound in time with
// it; as good as one undivided encode; clean by the validator.
func TestStrangeSources(t *testing.T) {
	t.Parallel()
	for _, s := range strangeFiles {
		t.Run(s.name, func(t *testing.T) {
			if !s.often {
				testenv.Long(t)
			}
			file := s.source(t)
			b := newBench(t, file, func(o *Options) {
				divided(o)
				o.Profile.Rungs, o.Profile.Loudness = []int{360}, 0
				// Under a cap each of x264's threads reckons with what the others have written so
				// far, which is never the same twice: two encodes of "pq-untagged.mp4" by two
				// threads differ by up to 0.0035. One thread writes the same bytes every time.
				o.Profile.Threads = 1
			})
			p := b.encode(t)
			video := p.Tracks[0]
			require.Equal(t, hls.Video, video.Kind)
			r := video.Renditions[0]
			if s.frameRate.Num > 0 {
				require.Equal(t, s.frameRate, r.FrameRate)
			}
			if s.width > 0 {
				require.Equal(t, [2]int{s.width, s.height}, [2]int{r.Width, r.Height})
			}
			path := checkFilm(t, s, b, p, file)
			whole := filepath.Join(t.TempDir(), "whole.mp4")
			require.NoError(t, os.WriteFile(whole, undivided(t, b, "v0"), 0o600))
			checkQuality(t, s, file, path, whole, r)
		})
	}
}

// checkFilm compares what a bench has encoded with its source: every frame once, in order and
// at its time, sound in time with it. The joined picture is at the returned path.
func checkFilm(t testing.TB, s strange, b *bench, p catalog.Plan, file string) (joined string) {
	t.Helper()
	want := numbers(t, file, "", s.size)
	require.NotEmpty(t, want)
	if s.frames > 0 {
		require.Len(t, want, int(s.frames), "the source isn't what the test means it to be")
	}
	joined = filepath.Join(t.TempDir(), "joined.mp4")
	require.NoError(t, os.WriteFile(joined, b.joined(t, "v0", p.Tracks[0].Renditions[0].ID), 0o600))
	got := numbers(t, joined, s.upright, s.size)
	require.Equal(t, numbersOf(want), numbersOf(got))
	for i := range want {
		require.InDelta(t, want[i].at-want[0].at, got[i].at-got[0].at, 0.0011, "time of frame %d", i)
	}
	checkSync(t, s, b, p, file, want[0].at)
	for _, tr := range p.Tracks {
		checkRecords(t, b, tr.ID)
	}
	return joined
}

func numbersOf(list []shown) []int {
	out := make([]int, len(list))
	for i, s := range list {
		out[i] = s.n
	}
	return out
}

// checkSync compares beeps with those of the source, whose picture begins at zero.
func checkSync(t testing.TB, s strange, b *bench, p catalog.Plan, file string, zero float64) {
	t.Helper()
	audio := p.Tracks[1:]
	switch {
	case s.silent:
		require.Empty(t, audio)
		return
	case s.languages != nil:
		var got []string
		for _, tr := range audio {
			got = append(got, tr.Renditions[0].Language)
		}
		require.Equal(t, s.languages, got)
	default:
		require.Len(t, audio, 1)
	}
	for n, tr := range audio {
		path := filepath.Join(t.TempDir(), "sound.mp4")
		data := b.joined(t, tr.ID, tr.Renditions[0].ID)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		got := beeps(t, path, 0)
		var want []float64
		for _, at := range beeps(t, file, n) {
			// What begins before the picture is cut, and its rest isn't a beginning; so
			// is what comes after it.
			if at -= zero; at > 0.06 && at < plan.Duration(p).Seconds() {
				want = append(want, at)
			}
		}
		if len(got) > 0 && (len(want) == 0 || got[0] < want[0]-0.1) {
			require.Less(t, got[0], 0.06, "a beep where the source has none")
			got = got[1:]
		}
		require.Len(t, got, len(want), "source %v, output %v", want, got)
		for i := range want {
			require.InDelta(t, want[i], got[i], 0.012, "beep %d of track %d", i, n)
		}
		length := float64(len(packets(t, data))) * 1024 / plan.SampleRate
		require.GreaterOrEqual(t, length, plan.Duration(p).Seconds()-0.022, "sound ends before the picture")
	}
}

// checkQuality compares the joined chunks with an undivided encode, each against
// what an independent ffmpeg makes of the source.
func checkQuality(t testing.TB, s strange, file, joined, whole string, r hls.Rendition) {
	t.Helper()
	vf := fmt.Sprintf("scale=%d:%d:flags=bicubic,format=yuv420p,setsar=1", r.Width, r.Height)
	if s.reference != "" {
		vf = s.reference + "," + vf
	}
	ref := makeFile(t, "reference.mkv", "-i", file, "-map", "0:v:0", "-vf", vf, "-fps_mode", "passthrough", "-c:v", "ffv1")
	one, two := ssim(t, whole, ref), ssim(t, joined, ref)
	require.Greater(t, one, 0.93)
	// They may be better: each chunk begins with a full buffer.
	require.GreaterOrEqual(t, two, one-0.001, "SSIM of one encode and of joined chunks")
}
