package fmp4

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/Eyevinn/mp4ff/mp4"
)

// Segment is one media segment, times in the track's timescale.
type Segment struct {
	Start, Duration int64
	Frames          int
	Data            []byte
	// PTS of every frame in presentation order; nil for audio.
	PTS []int64
	// Key is how many of Data's bytes, from its beginning, hold all that is needed
	// to show the first frame, a keyframe; 0 for audio.
	Key int
}

// VideoSegmenter makes one segment of each fragment of a chunk. It holds one
// fragment back, because a segment lasts until the next one's first frame.
type VideoSegmenter struct {
	// Start and End of the chunk on the run's timeline. The first frame is
	// shown from Start even when the source lost the frame that should be there.
	Start, End int64
	// Offset is subtracted from the presentation times ffmpeg wrote.
	Offset int64
	// Sequence is the position of the chunk's first segment in the rendition.
	Sequence int

	held  []Sample
	first int64
	n     int
}

// Add takes the next fragment's samples in decode order and returns the segment
// that is now complete, if any.
func (v *VideoSegmenter) Add(samples []Sample) (*Segment, error) {
	if len(samples) == 0 || !samples[0].Sync {
		return nil, fmt.Errorf("%w: fragment does not start with a keyframe", ErrMalformed)
	}
	samples = slices.Clone(samples)
	first := samples[0].PTS - v.Offset
	for i := range samples {
		samples[i].PTS -= v.Offset
		first = min(first, samples[i].PTS)
	}
	if first != samples[0].PTS {
		return nil, fmt.Errorf("%w: frame before its keyframe", ErrMalformed)
	}
	if first < v.Start || first >= v.End {
		return nil, fmt.Errorf("%w: frame at %d outside the chunk %d to %d", ErrMalformed, first, v.Start, v.End)
	}
	if v.held == nil {
		samples[0].PTS, first = v.Start, v.Start
	}
	done, err := v.flush(first)
	v.held, v.first = samples, first
	return done, err
}

// Close returns the last segment.
func (v *VideoSegmenter) Close() (*Segment, error) {
	s, err := v.flush(v.End)
	if err == nil && s == nil {
		err = fmt.Errorf("%w: no frames", ErrMalformed)
	}
	return s, err
}

func (v *VideoSegmenter) flush(end int64) (*Segment, error) {
	if v.held == nil {
		return nil, nil
	}
	pts := make([]int64, len(v.held))
	for i, s := range v.held {
		pts[i] = s.PTS
	}
	slices.Sort(pts)
	if pts[0] != v.first || pts[len(pts)-1] >= end {
		return nil, fmt.Errorf("%w: frames %d to %d in a segment %d to %d", ErrMalformed, pts[0], pts[len(pts)-1], v.first, end)
	}
	frag, err := mp4.CreateFragment(uint32(v.Sequence+v.n+1), 1)
	if err != nil {
		return nil, fmt.Errorf("fragment: %w", err)
	}
	frag.EncOptimize = mp4.OptimizeTrun
	for i, s := range v.held {
		next := end
		if i+1 < len(pts) {
			next = pts[i+1]
		}
		if next <= pts[i] {
			return nil, fmt.Errorf("%w: two frames at %d", ErrMalformed, pts[i])
		}
		// Non-sync samples depend on others (sample_depends_on 1), sync ones don't.
		flags := uint32(0x01010000)
		if s.Sync {
			flags = mp4.SyncSampleFlags
		}
		frag.AddFullSample(mp4.FullSample{
			Sample: mp4.Sample{Flags: flags, Dur: uint32(next - pts[i]), Size: uint32(len(s.Data)),
				CompositionTimeOffset: int32(s.PTS - pts[i])},
			DecodeTime: uint64(pts[i]), Data: s.Data,
		})
	}
	var b bytes.Buffer
	if err := frag.Encode(&b); err != nil {
		return nil, fmt.Errorf("fragment: %w", err)
	}
	out := &Segment{Start: v.first, Duration: end - v.first, Frames: len(pts), Data: b.Bytes(), PTS: pts, Key: b.Len()}
	for _, s := range v.held[1:] {
		out.Key -= len(s.Data)
	}
	v.held = nil
	v.n++
	return out, nil
}
