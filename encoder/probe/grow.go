package probe

import (
	"context"
	"fmt"
	"slices"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
)

// Frame is one picture of a stream, as its container tells.
type Frame struct {
	PTS, Duration int64
	Size          int32
	Key           bool
	// Unit is where the unit begins that it is in.
	Unit int64
}

// ErrUnfit: the frames of a stream can't be told piece by piece.
var ErrUnfit = fmt.Errorf("the frames of the stream can't be told as they come")

// growingCodecs have a frame in every packet.
var growingCodecs = []string{"h264", "hevc", "vp9", "av1"}

// Fit says whether the frames of s's video can be told as they come.
func (s Source) Fit() bool {
	return s.Video != nil && slices.Contains(growingCodecs, s.Video.Codec) && !s.Video.Interlaced
}

// Frames are those of the units from one of them, that begins at from, to the one that
// begins at next; which is the last before end with a keyframe, or end itself when
// that is the file's. url shows l.Pieces(from, end).
func (p Prober) Frames(ctx context.Context, url string, f File, l Layout, from, end int64, v Video) (frames []Frame, next int64, err error) {
	starts, complete, err := l.Units(ctx, f, from, end)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	last := end >= f.Size()
	proc, err := ffmpeg.Start(ctx, ffmpeg.Command{Name: "ffprobe", Args: ffmpeg.IndexArgs(url, v.Stream, false), Outputs: 1, Limits: p.Process})
	if err != nil {
		return nil, 0, err
	}
	shift := l.Shift(from)
	next = from
	missing := 0
	perr := readPackets(proc.Output(0), func(k indexLine) error {
		at := k.pos - shift
		if l.Kind != TransportStream {
			i, found := slices.BinarySearch(starts, at)
			if !found {
				i--
			}
			if i < 0 {
				missing++
				return nil
			}
			at = starts[i]
		}
		if k.pos < 0 || !k.timed || k.discard || at < from {
			missing++
			return nil
		}
		if len(frames) >= maxFrames {
			return bad(CodeDuration, "the video has more than %d frames", maxFrames)
		}
		if k.key {
			next = max(next, at)
		}
		frames = append(frames, Frame{PTS: k.pts, Duration: k.duration, Size: k.size, Key: k.key, Unit: at})
		return nil
	})
	if perr != nil {
		proc.Kill(perr)
	}
	if err := proc.Wait(); err != nil && perr == nil {
		return nil, 0, classify(err)
	}
	switch {
	case perr != nil:
		return nil, 0, perr
	case missing > 0:
		return nil, 0, fmt.Errorf("%w: %d of its packets have no time or place", ErrUnfit, missing)
	case last:
		return frames, end, nil
	case next > complete:
		return nil, 0, fmt.Errorf("%w: a keyframe lies behind all units", ErrUnfit)
	}
	for i, fr := range frames {
		if fr.Unit >= next {
			frames = frames[:i]
			break
		}
	}
	return frames, next, nil
}

// Shown leaves out those of a file's first frames, in the order of decoding, that nobody can
// decode. url shows the file's beginning at least.
func (p Prober) Shown(ctx context.Context, url string, v Video, frames []Frame) ([]Frame, error) {
	if len(frames) == 0 || !slices.ContainsFunc(frames, func(f Frame) bool { return f.PTS < frames[0].PTS }) {
		return frames, nil
	}
	first, _, err := p.firstShown(ctx, url, v)
	if err != nil {
		return nil, err
	}
	first = min(first, frames[0].PTS)
	return slices.DeleteFunc(slices.Clone(frames), func(f Frame) bool { return f.PTS < first }), nil
}
