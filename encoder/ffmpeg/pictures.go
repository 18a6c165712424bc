package ffmpeg

import "fmt"

// jpeg are the options of JPEG pictures written one after another to OutputPath(0).
func jpeg() []string {
	return []string{"-fps_mode", "passthrough", "-c:v", "mjpeg", "-q:v", "4", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact",
		"-f", "image2pipe", OutputPath(0)}
}

// Sprites scales every frame of a file and tiles them.
type Sprites struct {
	URL string
	// Width and Height of one tile, Columns and Rows of a sprite.
	Width, Height, Columns, Rows int
}

// Args returns ffmpeg's arguments.
func (s Sprites) Args() []string {
	a := append(common(), input(s.URL)...)
	f := fmt.Sprintf("scale=%d:%d:flags=bicubic:out_range=full,setsar=1,format=yuvj420p,tile=%dx%d", s.Width, s.Height, s.Columns, s.Rows)
	return append(append(a, "-an", "-vf", f), jpeg()...)
}

// Poster returns the arguments that show the first frame of v, prepared as v
// says, in the size of its only rung.
func Poster(v Video) []string {
	a := append(common(), "-copyts", "-seek_timestamp", "1", "-noaccurate_seek", "-noautorotate")
	if v.SeekMicros >= 0 {
		a = append(a, "-ss", seconds(v.SeekMicros))
	}
	a = append(a, input(v.URL)...)
	return append(append(a, "-filter_complex", v.filter()+";[o0]scale=out_range=full,format=yuvj420p[p]", "-map", "[p]", "-frames:v", "1"), jpeg()...)
}
