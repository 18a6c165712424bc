package ffmpeg

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Loudness measures the programme loudness of an audio track (EBU R 128) over
// windows of it.
type Loudness struct {
	URL    string
	Stream int
	// Windows begin at these source times, in microseconds, and last Length
	// each; none measures all of the track.
	Windows []int64
	Length  time.Duration
}

// Args returns ffmpeg's arguments; Parse understands what comes out of OutputPath(0).
func (l Loudness) Args() []string {
	a := append(common(), "-copyts", "-seek_timestamp", "1")
	var chains, joined strings.Builder
	n := max(1, len(l.Windows))
	for i := range n {
		if len(l.Windows) > 0 {
			a = append(a, "-ss", seconds(l.Windows[i]), "-t", seconds(l.Length.Microseconds()))
		}
		a = append(a, "-vn", "-sn", "-dn")
		a = append(a, input(l.URL)...)
		fmt.Fprintf(&chains, "[%d:%d]asetpts=N/SR/TB,aresample=48000,aformat=sample_fmts=fltp:channel_layouts=stereo[w%d];", i, l.Stream, i)
		fmt.Fprintf(&joined, "[w%d]", i)
	}
	f := fmt.Sprintf("%s%sconcat=n=%d:v=0:a=1,ebur128=metadata=1:framelog=verbose,ametadata=mode=print:key=lavfi.r128.I:file=%s[o]",
		chains.String(), joined.String(), n, strings.ReplaceAll(OutputPath(0), ":", `\\:`))
	return append(a, "-filter_complex", f, "-map", "[o]", "-f", "null", "-")
}

// ErrNoLoudness: there was nothing to measure.
var ErrNoLoudness = errors.New("no loudness was measured")

// MaxLoudnessOutput bounds what a measurement writes: ten lines for a second of
// sound.
const MaxLoudnessOutput = 32 << 20

// ParseLoudness returns the integrated loudness in LUFS that a measurement wrote
// last; silence is -70.
func ParseLoudness(b []byte) (float64, error) {
	last := math.NaN()
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		if v, ok := strings.CutPrefix(s.Text(), "lavfi.r128.I="); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				return 0, fmt.Errorf("loudness: %w", err)
			}
			last = f
		}
	}
	if err := s.Err(); err != nil {
		return 0, fmt.Errorf("loudness: %w", err)
	}
	if math.IsNaN(last) || last > 30 {
		return 0, ErrNoLoudness
	}
	return max(last, -70), nil
}
