package ffmpeg

import "fmt"

// MaxSubtitles bounds what one track of subtitles may be, as WebVTT in bytes:
// a long film has some hundred KiB.
const MaxSubtitles = 16 << 20

// Subtitles returns the arguments that write a stream of text as WebVTT, with
// the source's times, to OutputPath(0).
func Subtitles(url string, stream int) []string {
	a := append(common(), "-copyts", "-vn", "-an", "-dn")
	a = append(a, input(url)...)
	return append(a, "-map", fmt.Sprintf("0:%d", stream), "-map_metadata", "-1", "-map_chapters", "-1", "-c:s", "webvtt",
		"-fflags", "+bitexact", "-flush_packets", "1", "-f", "webvtt", OutputPath(0))
}
