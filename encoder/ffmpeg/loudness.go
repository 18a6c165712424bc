package ffmpeg

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// Loudness measures the programme loudness of an audio track (EBU R 128) over
// windows of it.
type Loudness struct {
	Stream int
	// Windows last Length each; 0 measures all of the track.
	Windows []LoudnessWindow
	Length  time.Duration
}

// LoudnessWindow is where a window is to be read, and its first source time; a
// negative one is the beginning, whatever its time.
type LoudnessWindow struct {
	URL   string
	Start time.Duration
}

// Args returns ffmpeg's arguments; ParseLoudness understands what comes out of OutputPath(0).
func (l Loudness) Args() []string {
	a := append(common(), "-copyts", "-seek_timestamp", "1")
	var chains, joined strings.Builder
	n := len(l.Windows)
	for i, w := range l.Windows {
		if l.Length > 0 {
			if w.Start >= 0 {
				a = append(a, "-ss", seconds(w.Start.Microseconds()))
			}
			a = append(a, "-t", seconds(l.Length.Microseconds()))
		}
		a = append(a, "-vn", "-sn", "-dn")
		a = append(a, input(w.URL)...)
		fmt.Fprintf(&chains, "[%d:%d]asetpts=N/SR/TB,aresample=48000,aformat=sample_fmts=fltp:channel_layouts=stereo[w%d];", i, l.Stream, i)
		fmt.Fprintf(&joined, "[w%d]", i)
	}
	f := fmt.Sprintf("%s%sconcat=n=%d:v=0:a=1,ebur128=metadata=1:framelog=verbose,ametadata=mode=print:key=lavfi.r128.I:file=%s[o]",
		chains.String(), joined.String(), n, strings.ReplaceAll(OutputPath(0), ":", `\\:`))
	return append(a, "-filter_complex", f, "-map", "[o]", "-f", "null", "-")
}

// LoudnessArgs returns the arguments that measure all of what Args encodes from
// the track's beginning, before gain: loudness and true peak. ParseLoudness
// understands what comes out of OutputPath(0).
func (t Audio) LoudnessArgs() []string {
	t.From = 0
	a := append(common(), "-copyts", "-vn", "-sn", "-dn")
	a = append(a, input(t.URL)...)
	f := t.filter()
	if t.PadTo > 0 {
		f += fmt.Sprintf(",atrim=end_sample=%d", t.PadTo)
	}
	f += ",ebur128=metadata=1:peak=true:framelog=verbose,ametadata=mode=print:file=" + strings.ReplaceAll(OutputPath(0), ":", `\\:`)
	return append(a, "-map", fmt.Sprintf("0:%d", t.Stream), "-af", f, "-f", "null", "-")
}

// ErrNoLoudness: there was nothing to measure.
var ErrNoLoudness = errors.New("no loudness was measured")

// Level is how loud a track is.
type Level struct {
	// Integrated loudness in LUFS (ITU-R BS.1770-4); silence is -70.
	Integrated float64
	// Peak is the highest true peak in dBTP: -Inf without sound, +Inf when it
	// wasn't measured and may be anything.
	Peak float64
}

// ParseLoudness reads a measurement to its end. It writes ten times for a second
// of sound; the last values are those of all of it.
func ParseLoudness(r io.Reader) (Level, error) {
	integrated, peak := math.NaN(), math.NaN()
	s := bufio.NewScanner(r)
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), "=")
		into := &integrated
		switch key {
		case "lavfi.r128.I":
		case "lavfi.r128.true_peak":
			into = &peak
		default:
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			return Level{}, fmt.Errorf("loudness: %w", err)
		}
		*into = f
	}
	if err := s.Err(); err != nil {
		return Level{}, fmt.Errorf("loudness: %w", err)
	}
	if math.IsNaN(integrated) || integrated > 30 {
		return Level{}, ErrNoLoudness
	}
	out := Level{Integrated: max(integrated, -70), Peak: 20 * math.Log10(peak)}
	if math.IsNaN(out.Peak) {
		out.Peak = math.Inf(1)
	}
	return out, nil
}
