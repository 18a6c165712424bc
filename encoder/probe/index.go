package probe

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
)

// Index is the exact timeline of a video stream, in its own time base.
type Index struct {
	// PTS of every frame, ascending and distinct.
	PTS []int64
	// Sizes are the frames' bytes in the file, in the order of PTS; nil when they
	// aren't known.
	Sizes []int32
	// Keys are the presentation times decoding can start at, ascending.
	Keys []int64
	// End is the time after the last frame.
	End int64
	// Closed says that no frame shown before a keyframe is decoded after it, nor
	// the other way round: decoding can start at every one, and nothing is lost.
	Closed bool
	// Repeats says that some frames have another's time; one of each is kept.
	Repeats bool
	// reach is nil unless the file was arriving when it was indexed.
	reach *reach
}

// maxFrames bounds an index: twelve hours at 200 frames per second.
const maxFrames = 9_000_000

// File reads a source at an offset.
type File interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Size() int64
}

// Index reads the frame index of s's video. ErrRemux means that the container
// turned out to need a remux. Of a file that is arriving only sample tables are read.
func (p Prober) Index(ctx context.Context, url string, f File, s Source) (Index, error) {
	x, err := p.index(ctx, url, f, s)
	if err != nil || len(x.Keys) == 0 || x.PTS[0] >= x.Keys[0] {
		return x, err
	}
	if arriving(f) {
		return Index{}, errNoTables
	}
	first, _, err := p.firstShown(ctx, url, *s.Video)
	x.begin(min(first, x.Keys[0]))
	return x, err
}

// begin leaves out what is before a time.
func (x *Index) begin(at int64) {
	n, _ := slices.BinarySearch(x.PTS, at)
	x.PTS = x.PTS[n:]
	if x.Sizes != nil {
		x.Sizes = x.Sizes[n:]
	}
}

// firstShown is when the first frame is shown that can be decoded: a file that was cut may begin
// with a keyframe before which frames are shown that come after it, and need others before it.
// frames is how many the first ffmpeg.FirstPackets packets have.
func (p Prober) firstShown(ctx context.Context, url string, v Video) (first int64, frames int, err error) {
	proc, err := ffmpeg.Start(ctx, ffmpeg.Command{Name: "ffprobe", Args: ffmpeg.FirstArgs(url, v.Stream), Outputs: 1, Limits: p.Process})
	if err != nil {
		return 0, 0, err
	}
	first = math.MinInt64 // unknown, which leaves nothing out
	rerr := readPackets(proc.Output(0), func(l indexLine) error {
		frames++
		if l.timed && first == math.MinInt64 {
			first = l.pts
		}
		return nil
	})
	if rerr != nil {
		proc.Kill(rerr)
	}
	if err := proc.Wait(); err != nil && rerr == nil {
		return 0, 0, classify(err)
	}
	return first, frames, rerr
}

// FirstMicros is when the first of the video's frames that can be decoded is shown, in
// microseconds of the container's own time; 0 when they have no times.
func (p Prober) FirstMicros(ctx context.Context, url string, v Video) (int64, error) {
	first, key := v.begins()
	if first < key {
		shown, _, err := p.firstShown(ctx, url, v)
		if err != nil {
			return 0, err
		}
		first = max(first, min(shown, key))
	}
	return int64(float64(first) * float64(v.TimeBase.Num) / float64(v.TimeBase.Den) * 1e6), nil
}

func (p Prober) index(ctx context.Context, url string, f File, s Source) (Index, error) {
	x, err := Index{}, errNoTables
	if strings.Contains(s.Format, "mp4") {
		x, err = readMP4(ctx, f, *s.Video)
		if err != nil && !errors.Is(err, errNoTables) {
			return x, err
		}
	}
	if err != nil && arriving(f) {
		return Index{}, errNoTables
	}
	if strings.Contains(s.Format, "matroska") {
		if ok, err := hasCues(ctx, f); err != nil || !ok {
			return Index{}, errors.Join(err, fmt.Errorf("%w: matroska without cues", ErrRemux))
		}
	}
	halves, last, herr := p.halves(ctx, url, f, s)
	if herr != nil || err == nil && !halves {
		return x, herr
	}
	x, err = p.packets(ctx, url, *s.Video, halves)
	if err == nil && halves {
		end := x.PTS[len(x.PTS)-1]
		x.End = end + cmp.Or(last, 2*(x.End-end)) // it was told of a field
	}
	return x, err
}

// halves says whether packets of an interlaced picture are fields, of which two make a frame,
// as ffmpeg divides those of MPEG-TS; and how long the last frame is then shown, 0 if that
// isn't known. Of a copy all packets are looked at, of other files the first ones.
func (p Prober) halves(ctx context.Context, url string, f File, s Source) (halves bool, last int64, err error) {
	v := *s.Video
	if v.Codec != "h264" || arriving(f) {
		return false, 0, nil
	}
	if s.Copied {
		halves, last, err = p.fields(ctx, url, v)
		var child *ffmpeg.Error
		if err == nil || ctx.Err() != nil || errors.As(err, &child) && child.Reason != ffmpeg.ReasonExit {
			return halves, last, err
		}
		// It can't be copied once more, though it may be decoded.
	}
	if !v.Interlaced {
		return false, 0, nil
	}
	_, frames, err := p.firstShown(ctx, url, v)
	return frames > 0 && 3*frames < 2*ffmpeg.FirstPackets, 0, err
}

// errFrames ends a copy that can't have fields.
var errFrames = errors.New("all packets are frames")

// fields says whether any packet is the second field of a frame, and how long the frame that
// is shown last takes, with both of its fields.
func (p Prober) fields(ctx context.Context, url string, v Video) (some bool, last int64, err error) {
	proc, err := ffmpeg.Start(ctx, ffmpeg.Command{Name: "ffmpeg", Outputs: 1, Limits: p.Process,
		Args: ffmpeg.Fragments{URL: url, Stream: v.Stream, Codec: v.Codec}.Args()})
	if err != nil {
		return false, 0, err
	}
	some, last, err = readFields(fmp4.NewReader(proc.Output(0)), v.TimeBase)
	if err != nil {
		proc.Kill(err)
	}
	werr := cmp.Or(proc.Wait(), proc.Lacked())
	if errors.Is(err, errFrames) {
		return false, 0, nil
	}
	return some, last, cmp.Or(err, werr)
}

func readFields(r *fmp4.Reader, base hls.Rational) (some bool, last int64, err error) {
	moov, err := r.Moov()
	if err != nil {
		return false, 0, err
	}
	fields := fmp4.NewFields(moov)
	if fields == nil {
		return false, 0, errFrames
	}
	var frame, latest fmp4.Sample
	for {
		samples, err := r.Next()
		if errors.Is(err, io.EOF) {
			scale := float64(base.Den) / float64(base.Num) / float64(moov.Trak.Mdia.Mdhd.Timescale)
			return some, int64(math.Round(float64(latest.Duration) * scale)), nil
		}
		if err != nil {
			return false, 0, err
		}
		for _, s := range samples {
			if fields.Second(s.Data) {
				some = true
				frame.Duration += max(frame.Duration, s.Duration) // nothing tells how long the last one lasts
			} else {
				frame = fmp4.Sample{PTS: s.PTS, Duration: s.Duration}
			}
			if frame.PTS >= latest.PTS {
				latest = frame
			}
		}
	}
}

// ErrRemux asks for a remux before the source is indexed.
var ErrRemux = errors.New("container needs a remux")

// packets builds the index from the stream's packets, or from its decoded
// frames where packets are not frames.
func (p Prober) packets(ctx context.Context, url string, v Video, halves bool) (Index, error) {
	// VP8 stores invisible reference frames as packets of their own.
	decode := halves || v.Codec == "vp8"
	proc, err := ffmpeg.Start(ctx, ffmpeg.Command{Name: "ffprobe", Args: ffmpeg.IndexArgs(url, v.Stream, decode), Outputs: 1, Limits: p.Process})
	if err != nil {
		return Index{}, err
	}
	x, perr := parseIndex(proc.Output(0), v)
	if perr != nil {
		proc.Kill(perr)
	}
	if err := cmp.Or(proc.Wait(), proc.Lacked()); err != nil && perr == nil {
		return Index{}, classify(err)
	}
	return x, perr
}

// AudioDuration is where the last packet of an audio stream ends, for files
// whose header doesn't say.
func (p Prober) AudioDuration(ctx context.Context, url string, stream int) (time.Duration, error) {
	proc, err := ffmpeg.Start(ctx, ffmpeg.Command{Name: "ffprobe", Args: ffmpeg.AudioEndArgs(url, stream), Outputs: 1, Limits: p.Process})
	if err != nil {
		return 0, err
	}
	var end time.Duration
	s := bufio.NewScanner(proc.Output(0))
	for s.Scan() {
		var start, length float64
		for field := range strings.SplitSeq(strings.TrimSpace(s.Text()), "|") {
			name, value, _ := strings.Cut(field, "=")
			v, err := strconv.ParseFloat(value, 64)
			switch {
			case err != nil || math.Abs(v) > 1e8:
			case name == "pts_time":
				start = v
			case name == "duration_time":
				length = v
			}
		}
		end = max(end, time.Duration((start+length)*float64(time.Second)))
	}
	rerr := s.Err()
	if rerr != nil {
		proc.Kill(rerr)
	}
	if err := proc.Wait(); err != nil {
		return 0, errors.Join(rerr, classify(err))
	}
	if end <= 0 {
		return 0, bad(CodeDamaged, "the audio stream has no packets")
	}
	return end, rerr
}

// indexLine is what a line of IndexArgs' output tells of a packet or frame.
type indexLine struct {
	pts, duration int64
	size          int32
	// pos is where it is in the file, -1 if that isn't told.
	pos int64
	// timed says that pts is one.
	timed, key, discard bool
}

// readPackets reads lines of key=value fields: pts, duration or pkt_duration, size or
// pkt_size, pos, and flags (of packets) or key_frame (of frames).
func readPackets(r io.Reader, add func(indexLine) error) error {
	s := bufio.NewScanner(r)
	for s.Scan() {
		if s.Text() == "" {
			continue
		}
		l := indexLine{pos: -1}
		for field := range strings.SplitSeq(strings.TrimSpace(s.Text()), "|") {
			name, value, _ := strings.Cut(field, "=")
			switch name {
			case "pts":
				if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= -maxTime && n <= maxTime {
					l.pts, l.timed = n, true
				}
			case "duration", "pkt_duration":
				if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 && n < maxTime {
					l.duration = n
				}
			case "size", "pkt_size":
				if n, err := strconv.ParseInt(value, 10, 32); err == nil && n > 0 {
					l.size = int32(n)
				}
			case "pos":
				if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 && n < maxTime {
					l.pos = n
				}
			case "flags":
				l.key, l.discard = strings.Contains(value, "K"), strings.Contains(value, "D")
			case "key_frame":
				l.key = value == "1"
			}
		}
		if err := add(l); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("frame index: %w", err)
	}
	return nil
}

func parseIndex(r io.Reader, v Video) (Index, error) {
	var b indexBuilder
	missing := 0
	err := readPackets(r, func(l indexLine) error {
		switch {
		case l.discard:
			return nil
		case !l.timed:
			missing++
			return nil
		}
		return b.add(l.pts, l.duration, l.size, l.key)
	})
	if err != nil {
		return Index{}, err
	}
	if missing > 0 && missing*10 > len(b.pts) {
		return Index{}, fmt.Errorf("%w: %d frames without a time", ErrRemux, missing)
	}
	return b.index(v)
}

// maxTime keeps sums of times far from overflow.
const maxTime = 1 << 50

type indexBuilder struct {
	pts, keys []int64
	// sizes are those of pts; unsized says that some aren't known.
	sizes   []int32
	unsized bool
	// open: see Index.Closed.
	open     bool
	last     int64
	duration int64
}

func (b *indexBuilder) add(pts, duration int64, size int32, key bool) error {
	if len(b.pts) >= maxFrames {
		return bad(CodeDuration, "the video has more than %d frames", maxFrames)
	}
	switch n := len(b.keys); {
	case n == 0 && !key, key && len(b.pts) > 0 && pts <= b.last, !key && n > 0 && pts < b.keys[n-1]:
		b.open = true
	}
	if len(b.pts) == 0 || pts >= b.last {
		b.last, b.duration = pts, duration
	}
	b.pts = append(b.pts, pts)
	b.sizes = append(b.sizes, size)
	b.unsized = b.unsized || size <= 0
	if key {
		b.keys = append(b.keys, pts)
	}
	return nil
}

func (b *indexBuilder) index(v Video) (Index, error) {
	if len(b.pts) == 0 {
		return Index{}, bad(CodeDamaged, "the video stream has no frames")
	}
	n := len(b.pts)
	pts, sizes := inOrder(b.pts, b.sizes)
	slices.Sort(b.keys)
	x := Index{PTS: pts, Sizes: sizes, Keys: slices.Compact(b.keys), Closed: !b.open}
	x.Repeats = len(x.PTS) != n
	if b.unsized {
		x.Sizes = nil
	}
	duration := b.duration
	if duration <= 0 {
		duration = 1
		if r := v.FrameRate; r.Num > 0 {
			duration = max(1, r.Den*v.TimeBase.Den/(r.Num*v.TimeBase.Num))
		}
		if m := len(x.PTS); m > 1 {
			duration = x.PTS[m-1] - x.PTS[m-2]
		}
	}
	x.End = x.PTS[len(x.PTS)-1] + duration
	return x, nil
}

// inOrder sorts frames by time; of those with the same time one is left.
func inOrder(pts []int64, sizes []int32) ([]int64, []int32) {
	if !slices.IsSorted(pts) {
		sort.Sort(byTime{pts, sizes})
	}
	n := 0
	for i := range pts {
		if i > 0 && pts[i] == pts[n-1] {
			continue
		}
		pts[n], sizes[n] = pts[i], sizes[i]
		n++
	}
	return pts[:n], sizes[:n]
}

// byTime sorts both lists alike, in place: an index of hours is large.
type byTime struct {
	pts   []int64
	sizes []int32
}

func (b byTime) Len() int           { return len(b.pts) }
func (b byTime) Less(i, j int) bool { return b.pts[i] < b.pts[j] }
func (b byTime) Swap(i, j int) {
	b.pts[i], b.pts[j] = b.pts[j], b.pts[i]
	b.sizes[i], b.sizes[j] = b.sizes[j], b.sizes[i]
}

// hasCues looks for the cues' id in a Matroska file's beginning, where the seek
// head names it.
func hasCues(ctx context.Context, f File) (bool, error) {
	b := make([]byte, min(f.Size(), 64<<10))
	if _, err := f.ReadAt(ctx, b, 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return bytes.Contains(b, []byte{0x1c, 0x53, 0xbb, 0x6b}), nil
}
