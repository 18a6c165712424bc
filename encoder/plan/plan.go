package plan

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
)

// Run is the encoder's part of a plan, the same for all tasks.
type Run struct {
	// Parts of the remuxed source; empty when tasks read the upload itself. In a run that
	// grows they hold the picture only.
	Parts   []Part `json:"parts,omitempty"`
	Profile string `json:"profile"`
	// Params is the whole profile, FFmpeg the build that was there, for people who
	// ask how a run was made.
	Params Profile `json:"params"`
	FFmpeg string  `json:"ffmpeg,omitempty"`
	// PerTitle is how the ladder came about; nil where the profile's was taken.
	PerTitle *PerTitleRun `json:"per_title,omitempty"`
	// Seekable says that audio tasks may seek in the source.
	Seekable bool `json:"seekable"`
	// Growth is of a run that was begun before its source told all its frames.
	Growth *Growth `json:"growth,omitempty"`
}

// Part is one object of a remuxed source.
type Part struct {
	Key  string `json:"key"`
	Size int64  `json:"size"`
	// SHA256 is of a part that more may follow: who begins anew must come to the same.
	SHA256 string `json:"sha256,omitempty"`
}

// Sound is where sound is read: the upload itself, where a remux holds the picture only.
func (r Run) Sound() Run {
	if r.Growth != nil {
		r.Parts = nil
	}
	return r
}

// VideoTrack is the encoder's part of a video track.
type VideoTrack struct {
	Stream   int      `json:"stream"`
	Timeline Timeline `json:"timeline"`
	Every    int      `json:"every"`
	Repeats  bool     `json:"repeats,omitempty"`
	// Gap is the least from one frame to the next that is kept; 0 keeps all.
	Gap         int64  `json:"gap,omitempty"`
	Rotate      int    `json:"rotate,omitempty"`
	Deinterlace bool   `json:"deinterlace,omitempty"`
	ToneMap     bool   `json:"tone_map,omitempty"`
	Untagged    bool   `json:"untagged,omitempty"`
	Preset      string `json:"preset"`
	CRF         int    `json:"crf"`
	Threads     int    `json:"threads"`
	Rungs       []Rung `json:"rungs"`
	// Copy publishes the source's frames as they are, in the only rung; the
	// other fields are for a source that turns out not to be what it seemed.
	Copy bool `json:"copy,omitempty"`
	// SourcePixels is the size of a picture to decode.
	SourcePixels int64 `json:"source_pixels,omitempty"`
	// PixelRate is what the track costs: pixels encoded per second of video.
	PixelRate float64 `json:"pixel_rate"`
}

// Chunk is the encoder's part of a video chunk. Times are the source's.
type Chunk struct {
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// Seeks are source keyframes at or before Start in microseconds, nearest
	// first: the second is for demuxers that land too late. -1 is the beginning.
	Seeks []int64 `json:"seeks"`
	// Keyframes are where segments after the first start: a source time between
	// two frames, doubled to stay whole. Boundary is where the first one starts,
	// for a process that began with an earlier chunk; 0 in the first chunk.
	Keyframes []int64 `json:"keyframes,omitempty"`
	Boundary  int64   `json:"boundary,omitempty"`
	// Hash of the presentation times expected, see FramesHash.
	Hash string `json:"hash"`
	// Segment is the position of the chunk's first segment.
	Segment int  `json:"segment"`
	Last    bool `json:"last,omitempty"`
	// Bytes is where the chunk is read instead of seeking, in a run that has grown.
	Bytes *Bytes `json:"bytes,omitempty"`
}

// AudioTrack is the encoder's part of an audio track.
type AudioTrack struct {
	Stream int `json:"stream"`
	// Zero/Num/Den: the source time that is 0, in a time base of Num/Den.
	Zero int64 `json:"zero"`
	Num  int64 `json:"num"`
	Den  int64 `json:"den"`
	// PadTo is where the video ends, and the track with it; in samples. It is 0 until a
	// plan that grows is complete.
	PadTo int64 `json:"pad_to,omitempty"`
	// Mixed says that more channels are mixed into two, which may add up.
	Mixed   bool  `json:"mixed,omitempty"`
	Bitrate int64 `json:"bitrate"`
	// Loudness to bring the track to, in LUFS; 0 leaves it as it is.
	Loudness float64 `json:"loudness,omitempty"`
	// LoudnessMeasure is as in Profile; empty means LoudnessSampled.
	LoudnessMeasure string `json:"loudness_measure,omitempty"`
	Language        string `json:"language"`
	SegmentSeconds  int    `json:"segment_seconds"`
	MaxChunk        int    `json:"max_chunk"`
}

// TextTrack is the encoder's part of a track of subtitles.
type TextTrack struct {
	Stream int `json:"stream"`
	// ZeroMicros is the source time that is 0.
	ZeroMicros     int64 `json:"zero_micros"`
	SegmentSeconds int   `json:"segment_seconds"`
}

// Text has few bytes: its segments are long, and its tracks at most maxTextTracks.
const (
	textSegmentSeconds = 30
	maxTextTracks      = 32
)

// Speed predicts how fast a worker is.
type Speed struct {
	// Pixels encoded per second by the whole worker.
	Pixels float64
}

// decodeCost is what decoding a pixel costs, in pixels encoded.
const decodeCost = 0.25

// keepsPace is the predicted speed, in seconds of video per second, that a
// track must reach to be part of v0. The margin is for what the prediction
// can't know: other videos, and viewers whose players share the machine. Chunks
// are sized as if all of it were needed.
const keepsPace = 1.5

// shortSeconds is how long a film may be whose first chunk is no task of its own: to
// start another process, and to decode its way to where it begins, would cost a tenth
// of the encode. Those who wait for a slot don't wait longer for it, see
// [catalog.First]. But x264 looks ahead and works at several pictures at once, so that
// the first chunk waits for some twenty pictures of the next, on two processors for up
// to a second. Slower than shortPace, in seconds of video per second, nobody is made to.
const (
	shortSeconds = 12
	shortPace    = 3
)

// soundUntil is how much of a track must be there before it is begun, when its file
// is arriving: what its loudness is sampled from, so that it is the same as ever. The
// task then goes on to the end without a join.
func soundUntil(p catalog.Plan, profile Profile) time.Duration {
	length := Duration(p)
	switch {
	case profile.LoudnessMeasure == LoudnessWhole || length <= LoudnessShort:
		return math.MaxInt64
	}
	return length*(LoudnessWindows-1)/LoudnessWindows + LoudnessWindow + soundAhead
}

// soundAhead is some sound beyond what is wanted.
const soundAhead = 4 * time.Second

// How loudness is sampled: all of a short track, windows spread evenly over a
// long one. Both take less than a second; opening a film of hours takes as long as
// hearing a window of it, so they are few.
const (
	LoudnessShort   = 90 * time.Second
	LoudnessWindow  = 12 * time.Second
	LoudnessWindows = 5
)

// maxGap is the longest time without a frame.
const maxGap = 60

// Make plans a run. index is nil for sources without video. The complexity counts
// only where the profile asks for per-title encoding.
func Make(src probe.Source, index *probe.Index, c Complexity, p Profile, speed Speed) (catalog.Plan, error) {
	if err := p.Validate(); err != nil {
		return catalog.Plan{}, err
	}
	out := catalog.Plan{Target: p.SegmentSeconds}
	zero := AudioTrack{Zero: src.StartMicros, Num: 1, Den: 1_000_000}
	run := Run{Profile: p.Name, Params: p, FFmpeg: src.FFmpeg, Seekable: true}
	if src.Video != nil {
		tracks, predictions, err := video(src, *index, c, p, speed, &out)
		if err != nil {
			return catalog.Plan{}, err
		}
		out.Tracks = tracks
		if p.PerTitle.Enabled {
			run.PerTitle = &PerTitleRun{Complexity: c, Rungs: predictions}
		}
		zero.Zero, zero.Num, zero.Den = index.PTS[0], src.Video.TimeBase.Num, src.Video.TimeBase.Den
		zero.PadTo = out.DurationMS * SampleRate / 1000
	} else {
		out.DurationMS = src.Duration.Milliseconds()
		// Headers of audio files tell little about where a seek lands.
		run.Seekable = false
	}
	soundNeeds, textNeeds := int64(0), int64(0)
	if index != nil {
		soundNeeds = index.NeedsOthers(soundUntil(out, p))
		if len(src.Text) > 0 {
			textNeeds = index.NeedsOthers(math.MaxInt64)
		}
	}
	others, err := otherTracks(src, zero, p, soundNeeds, textNeeds)
	if err != nil {
		return catalog.Plan{}, err
	}
	out.Tracks = append(out.Tracks, others...)
	out.Encoder, err = json.Marshal(run)
	return out, err
}

// otherTracks are those of sound and, beside a picture, text. zero is what they have in common.
func otherTracks(src probe.Source, zero AudioTrack, p Profile, soundNeeds, textNeeds int64) ([]catalog.PlanTrack, error) {
	var out []catalog.PlanTrack
	taken := names{}
	for i, a := range src.Audio[:min(len(src.Audio), p.MaxAudioTracks)] {
		t, err := audio(i, a, src.Audio, zero, p, taken)
		if err != nil {
			return nil, err
		}
		t.Needs = soundNeeds
		out = append(out, t)
	}
	if src.Video == nil {
		return out, nil
	}
	textZero := src.TextZero
	if textZero == 0 {
		textZero = int64(float64(zero.Zero) * float64(zero.Num) / float64(zero.Den) * 1e6)
	}
	taken = names{}
	for i, s := range src.Text[:min(len(src.Text), maxTextTracks)] {
		t, err := text(i, s, textZero, taken, textNeeds)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// names makes names of a group's renditions differ (RFC 8216bis 4.4.6.1.1).
type names map[string]bool

func (n names) unique(name string) string {
	unique := name
	for i := 2; n[unique]; i++ {
		unique = name + " " + strconv.Itoa(i)
	}
	n[unique] = true
	return unique
}

func text(i int, s probe.Text, zero int64, taken names, needs int64) (catalog.PlanTrack, error) {
	name := s.Title
	if name == "" {
		name = "Subtitles"
		if s.Language != "" {
			name = s.Language
		}
	}
	id := "t" + strconv.Itoa(i)
	out := catalog.PlanTrack{ID: id, Kind: hls.Text, Late: true, Timescale: 1000, Needs: needs, Renditions: []hls.Rendition{{
		ID: id, Track: id, Kind: hls.Text, Codecs: "wvtt", Bandwidth: 1, Language: s.Language, Name: taken.unique(name), Forced: s.Forced}}}
	var err error
	out.Encoder, err = json.Marshal(TextTrack{Stream: s.Stream, ZeroMicros: zero, SegmentSeconds: textSegmentSeconds})
	return out, err
}

func video(src probe.Source, x probe.Index, c Complexity, p Profile, speed Speed, out *catalog.Plan) ([]catalog.PlanTrack, []Prediction, error) {
	v := *src.Video
	t := NewTimeline(v.TimeBase.Num, v.TimeBase.Den, x.PTS[0])
	end := t.At(x.End)
	length := float64(end) / float64(t.Scale)
	rate, fps := frameRate(v, x, t, p.MaxFrameRate)
	every := keepEvery(fps, p)
	pts := x.PTS
	if every > 1 {
		pts = make([]int64, 0, len(x.PTS)/every+1)
		for i := 0; i < len(x.PTS); i += every {
			pts = append(pts, x.PTS[i])
		}
		fps /= float64(every)
		rate = reduced(rate.Num, rate.Den*int64(every))
	}
	before := len(pts)
	pts, gap := spaced(pts, t, p.MaxFrameRate)
	fps *= float64(len(pts)) / float64(before)
	for i := range pts {
		next := x.End
		if i+1 < len(pts) {
			next = pts[i+1]
		}
		if t.At(next)-t.At(pts[i]) > maxGap*t.Scale {
			return nil, nil, &probe.InputError{Code: probe.CodeDamaged, Detail: fmt.Sprintf("the video shows no new frame for more than %d s", maxGap)}
		}
	}
	if rest := src.Duration.Seconds() - length; rest > maxGap {
		return nil, nil, &probe.InputError{Code: probe.CodeDamaged, Detail: fmt.Sprintf("the picture ends %.0f s before the sound", rest)}
	}
	starts := segmentStarts(pts, t, p.SegmentSeconds)
	for i := range starts {
		e := end
		if i+1 < len(starts) {
			e = t.At(pts[starts[i+1]])
		}
		out.Target = max(out.Target, int((2*(e-t.At(pts[starts[i]]))+t.Scale)/(2*t.Scale)))
	}
	out.Frames = int64(len(pts))
	out.DurationMS = int64(math.Round(length * 1000))

	w, h := v.Display()
	// Caps and levels must do where there are most frames.
	all := Ladder(w, h, rate.Float(), p.Rungs)
	var copied []Rung
	copying, fixed := p.Copy && len(all) > 1 && every == 1 && gap == 0 && copyable(src, x, pts, starts, all[0]), int64(0)
	if copying {
		fixed = src.BitRate
	}
	all, predictions := perTitle(all, fps, c, p, fixed)
	if copying {
		copied, all = all[:1], all[1:]
	}
	split := slower(all, decodeRate(v, fps), fps, speed)
	var tracks []catalog.PlanTrack
	for n, rungs := range [][]Rung{all[split:], all[:split], copied} {
		if len(rungs) == 0 {
			continue
		}
		isCopy := n == 2
		pt, tr := videoTrack(n, rungs, v, x.Repeats, every, fps, rate, t, p)
		tr.Gap = gap
		if isCopy {
			// What a source does within two seconds is known once they are copied.
			pt.Renditions[0].Bandwidth = max(rungs[0].Peak(), 3*src.BitRate)
		}
		pace := speed.Pixels / tr.PixelRate / keepsPace
		if n > 0 {
			pace = 2
		}
		lengths := chunkLengths(len(starts), p.MaxChunk, pace, func(segment int) int64 {
			at := pts[starts[segment]]
			i, found := slices.BinarySearch(x.Keys, at)
			switch {
			case found:
				return 0
			case i == 0:
				return at - x.PTS[0]
			}
			return at - x.Keys[i-1]
		})
		short := shortSeconds / p.SegmentSeconds
		if x.Arriving() || pace*keepsPace < shortPace {
			short = 0 // what is wanted first doesn't wait for the rest
		}
		joins := joined(lengths, p.MaxChunk, short, n == 0)
		if isCopy {
			// Copying is as fast as reading: one task does it all, but what is wanted first
			// needn't wait for the end of a source that is arriving.
			first := 0
			if x.Arriving() {
				first = 1
			}
			for i := range joins {
				joins[i] = i > first
			}
		}
		var err error
		if pt.Chunks, err = cut(pts, x, t, starts, lengths, joins); err != nil {
			return nil, nil, err
		}
		if pt.Encoder, err = json.Marshal(tr); err != nil {
			return nil, nil, err
		}
		tracks = append(tracks, pt)
	}
	return tracks, predictions, nil
}

// decodeRate is what decoding costs, in pixels encoded per second of video.
func decodeRate(v probe.Video, fps float64) float64 {
	return decodeCost * float64(v.Width*v.Height) * fps
}

// slower is how many of the highest rungs come later: the lowest that keep pace
// together are v0.
func slower(all []Rung, decode, fps float64, speed Speed) int {
	sum := decode
	for i := len(all) - 1; i >= 0; i-- {
		sum += float64(all[i].Width*all[i].Height) * fps
		if i < len(all)-1 && speed.Pixels/sum < keepsPace {
			return i + 1
		}
	}
	return 0
}

// videoTrack is the n-th track of a picture, without chunks: v0, v1 or vc.
func videoTrack(n int, rungs []Rung, v probe.Video, repeats bool, every int, fps float64, rate hls.Rational, t Timeline, p Profile) (catalog.PlanTrack, VideoTrack) {
	tr := VideoTrack{Stream: v.Stream, Timeline: t, Every: every, Repeats: repeats, Rotate: v.Rotate, SourcePixels: int64(v.Width) * int64(v.Height),
		Deinterlace: v.Interlaced, ToneMap: v.HDR, Untagged: v.Untagged, Preset: p.Preset, CRF: p.CRF, Threads: p.Threads,
		Copy: n == 2, Rungs: rungs, PixelRate: decodeRate(v, fps)}
	for _, r := range rungs {
		tr.PixelRate += float64(r.Width*r.Height) * fps
	}
	pt := catalog.PlanTrack{ID: "v" + strconv.Itoa(n), Kind: hls.Video, Late: n == 1, Timescale: t.Scale}
	if n == 2 {
		pt.ID = "vc"
	}
	for _, r := range rungs {
		pt.Renditions = append(pt.Renditions, hls.Rendition{ID: r.ID, Track: pt.ID, Kind: hls.Video, Codecs: r.Codecs(),
			Width: r.Width, Height: r.Height, FrameRate: rate, Bandwidth: r.Peak()})
	}
	return pt, tr
}

// keepEvery is of how many frames one is kept.
func keepEvery(fps float64, p Profile) int {
	return int(math.Ceil(fps / (float64(p.MaxFrameRate) + 0.5)))
}

// cut makes the chunks. pts are the frames kept, x all of the source.
func cut(pts []int64, x probe.Index, t Timeline, starts, lengths []int, joined []bool) ([]catalog.PlanChunk, error) {
	var out []catalog.PlanChunk
	var ends []int64
	for at, n := 0, 0; n < len(lengths); n++ {
		if at += lengths[n]; at < len(starts) {
			ends = append(ends, pts[starts[at]])
		} else {
			ends = append(ends, x.End)
		}
	}
	needs := x.Needs(ends)
	segment := 0
	for i, n := range lengths {
		pc, c := chunkOf(pts, starts, segment, n, ends[i], t)
		first := starts[segment]
		c.Segment, c.Last, c.Seeks = segment, segment+n == len(starts), seeks(x.Keys, pts[first], t)
		if first == 0 {
			c.Seeks = []int64{-1}
		}
		enc, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		pc.Joined, pc.Encoder = joined[i], enc
		if needs != nil {
			pc.Needs = needs[i]
		}
		out = append(out, pc)
		segment += n
	}
	return out, nil
}

// chunkOf is the chunk of n segments from one of them on, which ends at end.
func chunkOf(pts []int64, starts []int, segment, n int, end int64, t Timeline) (catalog.PlanChunk, Chunk) {
	first, last := starts[segment], len(pts)
	if segment+n < len(starts) {
		last = starts[segment+n]
	}
	c := Chunk{Start: pts[first], End: end}
	for _, s := range starts[segment+1 : segment+n] {
		c.Keyframes = append(c.Keyframes, pts[s-1]+pts[s])
	}
	if first > 0 {
		c.Boundary = pts[first-1] + pts[first]
	}
	expected := make([]int64, 0, last-first)
	for _, p := range pts[first:last] {
		expected = append(expected, t.At(p))
	}
	c.Hash = FramesHash(expected)
	return catalog.PlanChunk{Start: t.At(c.Start), End: t.At(c.End), Frames: int64(len(expected)), Segments: n}, c
}

// seeks returns where decoding may start for a frame at pts.
func seeks(keys []int64, pts int64, t Timeline) []int64 {
	i, found := slices.BinarySearch(keys, pts)
	if !found {
		i--
	}
	var out []int64
	for _, k := range []int{i, i - 2} {
		if k >= 0 && k < len(keys) && t.Micros(keys[k]) >= 0 {
			out = append(out, t.Micros(keys[k]))
		}
	}
	return append(out, -1)
}

// frameRate returns the rate to announce and the average one. What is announced is the
// highest (RFC 8216bis 4.4.6.2), but of frames that only jitter no more than limit.
func frameRate(v probe.Video, x probe.Index, t Timeline, limit int) (hls.Rational, float64) {
	length := float64(t.At(x.End)) / float64(t.Scale)
	avg := float64(len(x.PTS)) / length
	f := v.FrameRate.Float()
	if f > 0 && math.Abs(avg/f-1) < 0.01 {
		return v.FrameRate, f
	}
	most := max(avg, min(fastest(x.PTS, t), float64(limit)))
	if f > 0 && math.Abs(most/f-1) < 0.01 {
		return v.FrameRate, avg
	}
	return reduced(int64(math.Round(most*1000)), 1000), avg
}

// rateFrames is over how many frames a frame rate lasts that is one.
const rateFrames = 5

// fastest is the highest rate of rateFrames frames in a row, 0 if there are fewer.
func fastest(pts []int64, t Timeline) float64 {
	least := int64(math.MaxInt64)
	for i := rateFrames; i < len(pts); i++ {
		least = min(least, t.At(pts[i])-t.At(pts[i-rateFrames]))
	}
	return rateFrames * float64(t.Scale) / float64(max(least, 1))
}

// A burst is faster than the limit by so much; and times that containers round to
// milliseconds are nearer to each other than frames are.
const (
	burstRate = 1.2
	rounding  = 0.001
)

// spaced leaves out frames of bursts, which are faster than the limit though all frames
// together aren't: those that follow less than gap on one that is kept, in the source's time
// base. A gap of 0 is for sources without any.
func spaced(pts []int64, t Timeline, limit int) (kept []int64, gap int64) {
	if fastest(pts, t) <= burstRate*float64(limit) {
		return pts, 0
	}
	gap = int64((1/(float64(limit)+0.5) - rounding) * float64(t.Den) / float64(t.Num))
	if gap < 1 {
		return pts, 0
	}
	for _, p := range pts {
		if len(kept) == 0 || p-kept[len(kept)-1] >= gap {
			kept = append(kept, p)
		}
	}
	return kept, gap
}

func reduced(num, den int64) hls.Rational {
	a, b := num, den
	for b != 0 {
		a, b = b, a%b
	}
	a = max(a, 1)
	return hls.Rational{Num: num / a, Den: den / a}
}

func audio(i int, a probe.Audio, all []probe.Audio, base AudioTrack, p Profile, taken names) (catalog.PlanTrack, error) {
	t := base
	t.Stream, t.Bitrate, t.Language, t.SegmentSeconds, t.MaxChunk = a.Stream, p.AudioBitrate, a.Language, p.SegmentSeconds, p.MaxChunk
	t.Loudness, t.LoudnessMeasure, t.Mixed = p.Loudness, p.LoudnessMeasure, a.Channels > 2
	name := a.Title
	if name == "" {
		name = "Audio"
		if i > 0 {
			name += " " + strconv.Itoa(i+1)
		}
	}
	def := slices.IndexFunc(all[:min(len(all), p.MaxAudioTracks)], func(x probe.Audio) bool { return x.Default })
	id := "a" + strconv.Itoa(i)
	out := catalog.PlanTrack{ID: id, Kind: hls.Audio, Timescale: SampleRate, Renditions: []hls.Rendition{{
		ID: fmt.Sprintf("%s-aac%d", id, p.AudioBitrate/1000), Track: id, Kind: hls.Audio, Codecs: "mp4a.40.2",
		// A frame may exceed the average by a little; headers add some.
		Bandwidth: p.AudioBitrate * 5 / 4, Language: a.Language, Name: taken.unique(name), Channels: 2, Default: i == max(def, 0),
	}}}
	var err error
	out.Encoder, err = json.Marshal(t)
	return out, err
}

// Duration of the planned source.
func Duration(p catalog.Plan) time.Duration { return time.Duration(p.DurationMS) * time.Millisecond }
