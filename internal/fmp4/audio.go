package fmp4

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/Eyevinn/mp4ff/mp4"
)

// FrameSamples is the length of one AAC frame.
const FrameSamples = 1024

// ErrADTS is audio that is not an ADTS stream of the expected kind.
var ErrADTS = errors.New("malformed ADTS stream")

// ADTSReader reads AAC-LC stereo frames from a pipe.
type ADTSReader struct {
	r io.Reader
	// rateIndex is the expected sampling_frequency_index.
	rateIndex int
}

var adtsRates = []int{96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}

// NewADTSReader expects frames of the given sample rate.
func NewADTSReader(r io.Reader, sampleRate int) *ADTSReader {
	a := &ADTSReader{r: r, rateIndex: -1}
	for i, v := range adtsRates {
		if v == sampleRate {
			a.rateIndex = i
		}
	}
	return a
}

// Next returns the next frame without its header, io.EOF after the last.
func (a *ADTSReader) Next() ([]byte, error) {
	var h [9]byte
	if _, err := io.ReadFull(a.r, h[:7]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: cut off in a header", ErrADTS)
		}
		return nil, err
	}
	size := int(h[3]&3)<<11 | int(h[4])<<3 | int(h[5])>>5
	channels := int(h[2]&1)<<2 | int(h[3])>>6
	switch {
	case h[0] != 0xff || h[1]&0xf6 != 0xf0:
		return nil, fmt.Errorf("%w: no sync word", ErrADTS)
	case h[2]>>6 != 1 || int(h[2]>>2&0xf) != a.rateIndex || channels != 2 || h[6]&3 != 0:
		return nil, fmt.Errorf("%w: not AAC-LC stereo at the expected rate", ErrADTS)
	}
	header := 7
	if h[1]&1 == 0 {
		header = 9
		if _, err := io.ReadFull(a.r, h[7:]); err != nil {
			return nil, fmt.Errorf("%w: cut off in a header", ErrADTS)
		}
	}
	if size <= header {
		return nil, fmt.Errorf("%w: frame of %d bytes", ErrADTS, size)
	}
	frame := make([]byte, size-header)
	if _, err := io.ReadFull(a.r, frame); err != nil {
		return nil, fmt.Errorf("%w: cut off in a frame", ErrADTS)
	}
	return frame, nil
}

// AudioGrid places segments on the grid of AAC frames: segment i starts at the
// frame nearest to i × Seconds.
type AudioGrid struct {
	SampleRate int
	// Seconds is the nominal segment length.
	Seconds int
}

// FirstFrame is the frame segment i starts with.
func (g AudioGrid) FirstFrame(i int) int64 {
	samples := int64(i) * int64(g.Seconds) * int64(g.SampleRate)
	return (samples + FrameSamples/2) / FrameSamples
}

// AudioSegmenter makes segments of consecutive AAC frames.
type AudioSegmenter struct {
	grid    AudioGrid
	segment int
	frames  [][]byte
	bytes   int
}

// maxAudioSegment bounds what a segment may hold (two seconds at 768 kbit/s and more).
const maxAudioSegment = 16 << 20

// NewAudioSegmenter starts at the first frame of the given segment.
func NewAudioSegmenter(grid AudioGrid, segment int) *AudioSegmenter {
	return &AudioSegmenter{grid: grid, segment: segment}
}

// Add takes the next frame and returns the segment it completes, if any.
func (a *AudioSegmenter) Add(frame []byte) (*Segment, error) {
	a.frames = append(a.frames, frame)
	a.bytes += len(frame)
	if a.bytes > maxAudioSegment {
		return nil, fmt.Errorf("%w: segment of more than %d bytes", ErrADTS, maxAudioSegment)
	}
	if int64(len(a.frames)) < a.grid.FirstFrame(a.segment+1)-a.grid.FirstFrame(a.segment) {
		return nil, nil
	}
	return a.flush()
}

// Close returns the last, shorter segment; nil when the one before it ended the stream.
func (a *AudioSegmenter) Close() (*Segment, error) {
	if len(a.frames) == 0 {
		return nil, nil
	}
	return a.flush()
}

func (a *AudioSegmenter) flush() (*Segment, error) {
	frag, err := mp4.CreateFragment(uint32(a.segment+1), 1)
	if err != nil {
		return nil, fmt.Errorf("fragment: %w", err)
	}
	frag.EncOptimize = mp4.OptimizeTrun
	start := a.grid.FirstFrame(a.segment) * FrameSamples
	for i, f := range a.frames {
		frag.AddFullSample(mp4.FullSample{
			Sample:     mp4.Sample{Flags: mp4.SyncSampleFlags, Dur: FrameSamples, Size: uint32(len(f))},
			DecodeTime: uint64(start) + uint64(i)*FrameSamples, Data: f,
		})
	}
	var b bytes.Buffer
	if err := frag.Encode(&b); err != nil {
		return nil, fmt.Errorf("fragment: %w", err)
	}
	out := &Segment{Start: start, Duration: int64(len(a.frames)) * FrameSamples, Frames: len(a.frames), Data: b.Bytes()}
	a.frames, a.bytes = nil, 0
	a.segment++
	return out, nil
}
