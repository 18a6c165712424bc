package ffmpeg

import (
	"fmt"
	"strconv"
)

// jpeg are the options of JPEG pictures written one after another to OutputPath(i).
func jpeg(i int) []string {
	return []string{"-fps_mode", "passthrough", "-c:v", "mjpeg", "-q:v", "4", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact",
		"-f", "image2pipe", OutputPath(i)}
}

// pictureColours is how scale is told that pictures have BT.601's colours, which
// can't say otherwise (JFIF 1.02; RFC 9649, section 2.5).
const pictureColours = "out_color_matrix=bt601"

// Sprites scales every frame of a file and tiles them.
type Sprites struct {
	URL string
	// Width and Height of one tile, Columns and Rows of a sprite.
	Width, Height, Columns, Rows int
}

// Args returns ffmpeg's arguments.
func (s Sprites) Args() []string {
	a := append(common(), input(s.URL)...)
	f := fmt.Sprintf("scale=%d:%d:flags=bicubic:%s:out_range=full,setsar=1,format=yuvj420p,tile=%dx%d", s.Width, s.Height, pictureColours, s.Columns, s.Rows)
	return append(append(a, "-an", "-vf", f), jpeg(0)...)
}

// Preview makes an endless animation of the moments of a film.
type Preview struct {
	URL string
	// Width and Height in pixels, Rate in frames per second, Frames in all, at least
	// two; Quality of WebP, 0 to 100.
	Width, Height, Rate, Frames, Quality int
	// Slot and Length in the film's time base: moment i begins at i times Slot, and
	// Length of it is shown.
	Slot, Length int64
}

// Args returns ffmpeg's arguments; the file goes to OutputPath(0).
func (p Preview) Args() []string {
	a := append(append(common(), "-copyts"), input(p.URL)...)
	f := fmt.Sprintf(`select='lt(mod(pts\,%d)\,%d)',setpts='mod(PTS\,%d)+floor(PTS/%d)*%d',fps=%d:start_time=0:eof_action=pass,tpad=stop=-1:stop_mode=clone,scale=%d:%d:flags=bicubic:%s:out_range=limited,setsar=1,format=yuv420p`,
		p.Slot, p.Length, p.Slot, p.Slot, p.Length, p.Rate, p.Width, p.Height, pictureColours)
	return append(a, "-an", "-vf", f, "-frames:v", strconv.Itoa(p.Frames), "-fps_mode", "passthrough", "-c:v", "libwebp_anim", "-compression_level", "4", "-quality", strconv.Itoa(p.Quality),
		"-loop", "0", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", "webp", OutputPath(0))
}

// Poster returns the arguments that show the first frame of v, prepared as v
// says, in the size of each rung; rung i goes to OutputPath(i).
func Poster(v Video) []string {
	a := append(common(), "-copyts", "-seek_timestamp", "1", "-noaccurate_seek", "-noautorotate")
	if v.SeekMicros >= 0 {
		a = append(a, "-ss", seconds(v.SeekMicros))
	}
	a = append(a, input(v.URL)...)
	graph := v.filter()
	for i := range v.Rungs {
		graph += fmt.Sprintf(";[o%d]scale=%s:out_range=full,format=yuvj420p[p%d]", i, pictureColours, i)
	}
	a = append(a, "-filter_complex", graph)
	for i := range v.Rungs {
		a = append(append(a, "-map", fmt.Sprintf("[p%d]", i), "-frames:v", "1"), jpeg(i)...)
	}
	return a
}
