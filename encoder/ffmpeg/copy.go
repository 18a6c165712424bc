package ffmpeg

import "strconv"

// Copy publishes a video stream as it is: one fragment for each keyframe, every
// time later by OutputOffset.
type Copy struct {
	URL    string
	Stream int
	// SeekMicros is a keyframe's time; negative means the file's beginning.
	SeekMicros int64
	// Timescale of the output; a multiple of the source's.
	Timescale int64
	// Frames is how many are copied, 0 for all.
	Frames int64
}

// CopyOffset is added to a copied stream's times, in seconds: the muxer would
// shift negative decode times, and with them all others.
const CopyOffset = 10

// Args returns ffmpeg's arguments; the stream goes to OutputPath(0).
func (c Copy) Args() []string {
	a := append(common(), "-copyts", "-seek_timestamp", "1", "-noaccurate_seek")
	if c.SeekMicros >= 0 {
		a = append(a, "-ss", seconds(c.SeekMicros))
	}
	a = append(a, input(c.URL)...)
	a = append(a, "-map", "0:"+strconv.Itoa(c.Stream), "-map_metadata", "-1", "-map_chapters", "-1", "-c", "copy")
	if c.Frames > 0 {
		a = append(a, "-frames:v", strconv.FormatInt(c.Frames, 10))
	}
	return append(a,
		"-fflags", "+bitexact", "-video_track_timescale", strconv.FormatInt(c.Timescale, 10), "-output_ts_offset", strconv.Itoa(CopyOffset),
		"-avoid_negative_ts", "disabled", "-use_editlist", "0",
		"-movflags", "+frag_keyframe+empty_moov+default_base_moof+frag_discont", "-flush_packets", "1", "-f", "mp4", OutputPath(0))
}
