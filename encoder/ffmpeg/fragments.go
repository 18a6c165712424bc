package ffmpeg

import "strconv"

// Fragments copies a video stream into fragments, each with a keyframe in front unless it
// would become too long, every time later by FragmentsAhead. The same build makes the same
// bytes of the same file. QuickTime has a name for every codec there is, MP4 has not.
type Fragments struct {
	URL    string
	Stream int
	// Codec decides about bitstream repair.
	Codec string
}

// FragmentsAhead is added to the times, in seconds: frames are decoded before the source's
// time begins, and a fragment can't.
const FragmentsAhead = 10

// Bounds of a fragment: what has a keyframe in every frame needn't have a fragment for
// each, and what has none for an hour must not be held in memory.
const (
	fragmentMicros = 500_000
	fragmentBytes  = 16 << 20
)

// Args returns ffmpeg's arguments; the stream goes to OutputPath(0).
func (f Fragments) Args() []string {
	a := append(common(), "-fflags", "+genpts+discardcorrupt", "-copyts")
	a = append(a, input(f.URL)...)
	a = append(a, "-map", "0:"+strconv.Itoa(f.Stream), "-map_metadata", "-1", "-map_chapters", "-1", "-c", "copy")
	a = append(a, repair(f.Codec)...)
	return append(a, "-fflags", "+bitexact", "-output_ts_offset", strconv.Itoa(FragmentsAhead), "-avoid_negative_ts", "disabled", "-use_editlist", "0",
		"-movflags", "+frag_keyframe+empty_moov+default_base_moof+frag_discont",
		"-min_frag_duration", strconv.Itoa(fragmentMicros), "-frag_size", strconv.Itoa(fragmentBytes), "-f", "mov", OutputPath(0))
}

// repair undoes what a container needed.
func repair(codec string) []string {
	if codec == "mpeg4" {
		return []string{"-bsf:v", "mpeg4_unpack_bframes"}
	}
	return nil
}
