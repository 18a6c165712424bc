package ffmpeg

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Tiles of a picture that Complexity cuts out: columns and rows of them, and the
// size of one in pixels, whole macroblocks.
const (
	tileColumns, tileRows = 3, 3
	tileWidth, tileHeight = 160, 96
)

// Size of Complexity's mosaic of tiles, in pixels. A picture it is cut from has
// at least a tile's width and height.
const (
	MosaicWidth, MosaicHeight = tileColumns * tileWidth, tileRows * tileHeight
	MinMosaicWidth            = tileWidth
	MinMosaicHeight           = tileHeight
)

// Complexity encodes some frames of a source twice at constant quality: the whole
// picture made small, and a mosaic of tiles in the size they have. The one tells
// what the picture takes in low rungs, the other what it takes in high ones:
// grain and sharp edges are gone from a small picture.
type Complexity struct {
	URL    string
	Stream int
	// Width and Height of the source's picture as coded.
	Width, Height int
	// SmallWidth and SmallHeight of the small picture, even.
	SmallWidth, SmallHeight int
	// Start is the time of a keyframe in the source's time base, SeekMicros where
	// the demuxer is asked to seek for it; negative means the file's beginning.
	Start, SeekMicros int64
	// Frames are encoded at most, one in Every of the source's.
	Frames, Every int
	// ToneMap and Untagged are as in Video.
	ToneMap, Untagged bool
	// Preset and CRF of x264.
	Preset string
	CRF    int
}

// Args returns ffmpeg's arguments; ParseComplexity understands what comes out of
// OutputPath(0). Everything is done by few threads: windows run side by side.
func (c Complexity) Args() []string {
	a := append(common(), "-filter_complex_threads", "1", "-copyts", "-seek_timestamp", "1", "-noaccurate_seek", "-noautorotate", "-threads", "1", "-an", "-sn", "-dn")
	if c.SeekMicros >= 0 {
		a = append(a, "-ss", seconds(c.SeekMicros))
	}
	a = append(a, input(c.URL)...)
	return append(a, "-filter_complex", c.filter(), "-map", "[small]", "-map", "[tiles]", "-fps_mode", "passthrough", "-frames:v", strconv.Itoa(c.Frames),
		"-c:v", "libx264", "-preset", c.Preset, "-crf", strconv.Itoa(c.CRF), "-threads", "1", "-sc_threshold", "0", "-g", "1000000", "-f", "framecrc", OutputPath(0))
}

func (c Complexity) filter() string {
	colours := "format=yuv420p"
	if steps := toneMap(c.ToneMap, c.Untagged); len(steps) > 0 {
		colours = strings.Join(steps, ",")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[0:%d]trim=start_pts=%d", c.Stream, c.Start)
	if c.Every > 1 {
		fmt.Fprintf(&b, `,select='not(mod(n\,%d))'`, c.Every)
	}
	n := tileColumns * tileRows
	fmt.Fprintf(&b, ",split=%d[whole]", n+1)
	for i := range n {
		fmt.Fprintf(&b, "[in%d]", i)
	}
	fmt.Fprintf(&b, ";[whole]scale=%d:%d:flags=bicubic,%s[small]", c.SmallWidth, c.SmallHeight, colours)
	var joined, layout []string
	// Before they are joined: xstack forgets what colours a picture has.
	for i := range n {
		column, row := i%tileColumns, i/tileColumns
		// Even, for 4:2:0 has a chroma sample for every second pixel.
		x, y := (c.Width-tileWidth)*(2*column+1)/(2*tileColumns)&^1, (c.Height-tileHeight)*(2*row+1)/(2*tileRows)&^1
		fmt.Fprintf(&b, ";[in%d]crop=%d:%d:%d:%d,%s[tile%d]", i, tileWidth, tileHeight, x, y, colours, i)
		joined = append(joined, fmt.Sprintf("[tile%d]", i))
		layout = append(layout, fmt.Sprintf("%d_%d", column*tileWidth, row*tileHeight))
	}
	fmt.Fprintf(&b, ";%sxstack=inputs=%d:layout=%s[tiles]", strings.Join(joined, ""), n, strings.Join(layout, "|"))
	return b.String()
}

// Encoded is what frames took, in bytes: the first one, a keyframe, and those
// after it.
type Encoded struct {
	Key, Rest int64
	// Frames is how many came after the first.
	Frames int
}

// ErrNoComplexity: there was nothing to measure.
var ErrNoComplexity = errors.New("no complexity was measured")

// ParseComplexity reads what both encodes took.
func ParseComplexity(r io.Reader) (small, tiles Encoded, err error) {
	var out [2]Encoded
	s := bufio.NewScanner(r)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		// Stream, dts, pts, duration, size and checksum.
		fields := strings.Split(line, ",")
		if len(fields) < 6 {
			return Encoded{}, Encoded{}, fmt.Errorf("complexity: %q: want six fields", line)
		}
		stream, err := strconv.Atoi(strings.TrimSpace(fields[0]))
		if err != nil || stream < 0 || stream >= len(out) {
			return Encoded{}, Encoded{}, fmt.Errorf("complexity: %q: want stream 0 or 1", line)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(fields[4]), 10, 32)
		if err != nil || size <= 0 {
			return Encoded{}, Encoded{}, fmt.Errorf("complexity: %q: want a size in bytes", line)
		}
		if e := &out[stream]; e.Key == 0 {
			e.Key = size
		} else {
			e.Rest += size
			e.Frames++
		}
	}
	if err := s.Err(); err != nil {
		return Encoded{}, Encoded{}, fmt.Errorf("complexity: %w", err)
	}
	// A keyframe alone tells nothing of what moves.
	if out[0].Frames == 0 || out[1].Frames == 0 {
		return Encoded{}, Encoded{}, ErrNoComplexity
	}
	return out[0], out[1], nil
}
