package ffmpeg

import "strconv"

// ProbeArgs are ffprobe's arguments to describe the file at url, its first
// packets included.
func ProbeArgs(url string) []string {
	a := []string{"-hide_banner", "-loglevel", "error", "-analyzeduration", "20000000", "-probesize", "20000000"}
	return append(append(a, input(url)...), "-show_program_version", "-show_format", "-show_streams", "-show_packets",
		"-read_intervals", "%+#96",
		"-show_entries", "packet=stream_index,pts,flags", "-of", "json", "-o", OutputPath(0))
}

// IndexArgs are ffprobe's arguments to list "pts=…|duration=…|size=…|pos=…|flags=…" of every
// packet of a stream, or of every decoded frame.
func IndexArgs(url string, stream int, decode bool) []string {
	a := append([]string{"-hide_banner", "-loglevel", "error"}, input(url)...)
	what := "packet=pts,duration,size,pos,flags"
	if decode {
		what = "frame=pts,pkt_duration,pkt_size,key_frame"
	}
	return append(a, "-select_streams", strconv.Itoa(stream), "-show_entries", what, "-of", "compact=p=0:nk=0", "-o", OutputPath(0))
}

// FirstPackets is how many packets FirstArgs are about.
const FirstPackets = 64

// FirstArgs are as those of IndexArgs for decoded frames, of a stream's first packets.
func FirstArgs(url string, stream int) []string {
	return append(IndexArgs(url, stream, true), "-read_intervals", "%+#"+strconv.Itoa(FirstPackets))
}

// AudioEndArgs are ffprobe's arguments to list when a stream's packets start
// and how long they last.
func AudioEndArgs(url string, stream int) []string {
	a := append([]string{"-hide_banner", "-loglevel", "error"}, input(url)...)
	return append(a, "-select_streams", strconv.Itoa(stream), "-show_entries", "packet=pts_time,duration_time",
		"-of", "compact=p=0:nk=0", "-o", OutputPath(0))
}
