package hls

// SegmentSize is what a segment weighs.
type SegmentSize struct {
	Seconds float64
	Bytes   int64
}

// Rates returns the peak and average bit rate of segments in order, in bit/s, 0
// without any. The peak is taken, as RFC 8216bis 4.4.6.2 defines it, over every
// run of segments that lasts between half and one and a half target durations.
func Rates(segments []SegmentSize, target int) (peak, average int64) {
	var seconds, bits float64
	for _, s := range segments {
		seconds, bits = seconds+s.Seconds, bits+float64(s.Bytes)*8
	}
	if seconds == 0 {
		return 0, 0
	}
	highest := bits / seconds
	low, high := float64(target)/2, float64(target)*1.5
	for i := range segments {
		var length, size float64
		for _, s := range segments[i:] {
			length, size = length+s.Seconds, size+float64(s.Bytes)*8
			if length > high {
				break
			}
			if length >= low {
				highest = max(highest, size/length)
			}
		}
	}
	return int64(highest + 0.5), int64(bits/seconds + 0.5)
}
