package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
)

// Bytes are part of a source, from the beginning of one of its units to another's.
type Bytes struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Growth is how far the plan of a source has come that tells its frames only as they
// arrive. It is part of the plan, so any worker can go on.
type Growth struct {
	Layout probe.Layout `json:"layout"`
	// Video is what the source's beginning said of its picture.
	Video probe.Video `json:"video"`
	// Ahead is by how much the picture's times are ahead of the upload's, in its time base.
	Ahead int64 `json:"ahead,omitempty"`
	// Next is the unit whose frames are the next to be read.
	Next int64 `json:"next"`
	// PTS are the frames of no chunk so far of every track, in the order of decoding; the first
	// one to be shown begins a segment, the one at position Segment.
	PTS     []int64 `json:"pts"`
	Segment int     `json:"segment"`
	// Keys are keyframes decoding can begin at, from the last before PTS on.
	Keys []Key `json:"keys"`
	// Frames is how many there were, the ones in PTS included; Last the one shown last,
	// Lasts for how long.
	Frames int64 `json:"frames"`
	Last   int64 `json:"last"`
	Lasts  int64 `json:"lasts"`
	// Marks are some keyframes of all of the source.
	Marks []Key `json:"marks"`
	// Pace is the predicted speed of each track.
	Pace []float64 `json:"pace"`
}

// Key is a keyframe and the unit it is in.
type Key struct {
	PTS  int64 `json:"pts"`
	Unit int64 `json:"unit"`
	// Inside says that the unit has frames before it.
	Inside bool `json:"inside,omitempty"`
}

// ErrChanged: the source isn't what its beginning promised.
var ErrChanged = errors.New("the source isn't what its beginning promised")

// ErrShort: too little of a source is there to plan any of it.
var ErrShort = errors.New("too little of the source is there")

// maxPending bounds the frames that wait for a chunk: two minutes of the fastest rate.
const maxPending = 30_000

// maxMarks bounds Growth.Marks; when there are more, every second one goes.
const maxMarks = 256

// Begin plans the beginning of a run from the first frames of its source. It takes the
// ordinary ladder: what a film's beginning takes says little of the rest. A source that is
// complete tells at once what else there is, and the plan can be offered.
func Begin(src probe.Source, complete bool, g Growth, frames []probe.Frame, p Profile, speed Speed) (catalog.Plan, error) {
	if err := p.Validate(); err != nil {
		return catalog.Plan{}, err
	}
	v := *src.Video
	g.Video = v
	if len(frames) == 0 || !frames[0].Key {
		return catalog.Plan{}, fmt.Errorf("%w: it doesn't begin with a keyframe", probe.ErrUnfit)
	}
	x := probe.Index{PTS: make([]int64, len(frames))}
	for i, f := range frames {
		x.PTS[i] = f.PTS
	}
	slices.Sort(x.PTS)
	zero := x.PTS[0]
	last := frames[slices.IndexFunc(frames, func(f probe.Frame) bool { return f.PTS == x.PTS[len(x.PTS)-1] })]
	x.End = last.PTS + max(last.Duration, 1)
	t := NewTimeline(v.TimeBase.Num, v.TimeBase.Den, zero)
	if t.At(x.End) < 2*int64(p.SegmentSeconds)*t.Scale {
		return catalog.Plan{}, ErrShort
	}
	rate, fps := frameRate(v, x, t, p.MaxFrameRate)
	if keepEvery(fps, p) != 1 {
		return catalog.Plan{}, fmt.Errorf("%w: some of its frames are left out", probe.ErrUnfit)
	}
	w, h := v.Display()
	all := Ladder(w, h, rate.Float(), p.Rungs)
	split := slower(all, decodeRate(v, fps), fps, speed)
	out := catalog.Plan{Target: p.SegmentSeconds, State: catalog.PlanGrowing}
	for n, rungs := range [][]Rung{all[split:], all[:split]} {
		if len(rungs) == 0 {
			continue
		}
		pt, tr := videoTrack(n, rungs, v, false, 1, fps, rate, t, p)
		pace := 2.0
		if n == 0 {
			pace = speed.Pixels / tr.PixelRate / keepsPace
		}
		g.Pace = append(g.Pace, pace)
		var err error
		if pt.Encoder, err = json.Marshal(tr); err != nil {
			return catalog.Plan{}, err
		}
		out.Tracks = append(out.Tracks, pt)
	}
	run := Run{Profile: p.Name, Params: p, FFmpeg: src.FFmpeg, Growth: &g}
	if p.PerTitle.Enabled {
		run.PerTitle = &PerTitleRun{Complexity: Complexity{Missing: "the run began before the source was there"}}
	}
	var err error
	if complete {
		out.State, out.DurationMS = catalog.PlanOffered, src.Duration.Milliseconds()
		others, err := otherTracks(src, g.sound(t), p, 0, 0)
		if err != nil {
			return catalog.Plan{}, err
		}
		out.Tracks = append(out.Tracks, others...)
	}
	if out.Encoder, err = json.Marshal(run); err != nil {
		return catalog.Plan{}, err
	}
	return Extend(out, frames, g.Next, nil)
}

// Extend plans what more frames allow; they follow those the plan knows, and the next
// ones will be in the unit at next. With whole, which describes the complete source,
// they are the last, and the plan is complete.
//
// ErrChanged means that what was fixed at the beginning is wrong.
func Extend(p catalog.Plan, frames []probe.Frame, next int64, whole *probe.Source) (catalog.Plan, error) {
	var run Run
	if err := json.Unmarshal(p.Encoder, &run); err != nil {
		return p, err
	}
	g := run.Growth
	if g == nil || len(p.Tracks) == 0 {
		return p, errors.New("the plan isn't one that grows")
	}
	p.Tracks = slices.Clone(p.Tracks)
	var spec VideoTrack
	if err := json.Unmarshal(p.Tracks[0].Encoder, &spec); err != nil {
		return p, err
	}
	t := spec.Timeline
	for _, tr := range p.Tracks {
		for _, f := range frames {
			if n := len(tr.Chunks); n > 0 && t.At(f.PTS) < tr.Chunks[n-1].End {
				return p, fmt.Errorf("%w: a frame belongs to what is planned already", ErrChanged)
			}
		}
	}
	if err := g.add(frames, t); err != nil {
		return p, err
	}
	g.Next = next
	end := g.Last + g.Lasts
	// Frames before the last keyframe are all known: what is shown before it comes
	// right after it at the latest.
	horizon := end
	if whole == nil {
		horizon = math.MinInt64
		for _, k := range g.Keys {
			horizon = max(horizon, k.PTS)
		}
	}
	pts := slices.Clone(g.PTS)
	slices.Sort(pts)
	if err := g.check(pts, t, run.Params, whole == nil); err != nil {
		return p, err
	}
	promised := p.Tracks[0].Renditions[0].FrameRate.Float()
	if most := min(fastest(pts, t), float64(run.Params.MaxFrameRate)); promised != g.Video.FrameRate.Float() && most > 1.02*promised {
		return p, fmt.Errorf("%w: it shows %.3f frames per second, not at most %.3f", ErrChanged, most, promised)
	}
	starts := segmentStarts(pts, t, run.Params.SegmentSeconds)
	known := len(starts)
	if whole == nil {
		known = 0
		for known+1 < len(starts) && pts[starts[known+1]] <= horizon {
			known++
		}
	}
	least := math.MaxInt
	for i := range p.Tracks {
		if p.Tracks[i].Kind != hls.Video {
			continue
		}
		done, err := g.extend(&p.Tracks[i], i, pts, starts, known, end, whole != nil, t, run.Params.MaxChunk)
		if err != nil {
			return p, err
		}
		least = min(least, done)
	}
	g.forget(pts, starts, least)
	if whole != nil {
		if err := g.finish(&p, &run, *whole, pts, t, end); err != nil {
			return p, err
		}
	}
	var err error
	p.Encoder, err = json.Marshal(run)
	return p, err
}

// add takes frames over.
func (g *Growth) add(frames []probe.Frame, t Timeline) error {
	for i, f := range frames {
		if f.PTS < t.Zero || f.PTS-t.Zero > math.MaxInt64/(4*t.Num*(t.Scale/t.Den)) {
			return fmt.Errorf("%w: a frame is shown before its first", ErrChanged)
		}
		if g.Frames == 0 || f.PTS > g.Last {
			g.Last, g.Lasts = f.PTS, max(f.Duration, 1)
		}
		if f.Key {
			k := Key{f.PTS, f.Unit, i > 0 && frames[i-1].Unit == f.Unit}
			g.Keys = append(g.Keys, k)
			if g.Marks = append(g.Marks, k); len(g.Marks) > maxMarks {
				n := 0
				for i := 0; i < len(g.Marks); i += 2 {
					g.Marks[n] = g.Marks[i]
					n++
				}
				g.Marks = g.Marks[:n]
			}
		}
		g.PTS = append(g.PTS, f.PTS)
		g.Frames++
	}
	return nil
}

// check compares frames that wait, in order, with what was promised.
func (g *Growth) check(pts []int64, t Timeline, p Profile, more bool) error {
	target := p.SegmentSeconds
	if more && len(pts) > maxPending {
		return fmt.Errorf("%w: its keyframes are too far apart", ErrChanged)
	}
	// What ffmpeg makes of times that were before is far faster than any film; frames of bursts
	// are left out of what is planned as a whole.
	if rate := fastest(pts, t); rate > burstRate*float64(p.MaxFrameRate) {
		return fmt.Errorf("%w: its times begin anew, or it shows %.0f frames per second for a while", ErrChanged, rate)
	}
	step := int64(target) * t.Scale
	for i, at := range pts {
		if i > 0 && at == pts[i-1] {
			return fmt.Errorf("%w: frames have the same time", ErrChanged)
		}
		if i > 0 && t.At(at)-t.At(pts[i-1]) > maxGap*t.Scale {
			return fmt.Errorf("%w: its times jump", ErrChanged)
		}
	}
	if len(pts) > 0 && g.Segment > 0 {
		// The first one begins the segment that was left open.
		if at := t.At(pts[0]) / step; at != int64(g.Segment) {
			return fmt.Errorf("%w: a segment has no frame", ErrChanged)
		}
	}
	starts := segmentStarts(pts, t, target)
	for i, s := range starts {
		end := t.At(g.Last + g.Lasts)
		if i+1 < len(starts) {
			end = t.At(pts[starts[i+1]])
		} else if more {
			break
		}
		if 2*(end-t.At(pts[s]))+t.Scale >= 2*int64(target+1)*t.Scale {
			return fmt.Errorf("%w: a segment is longer than %d s", ErrChanged, target)
		}
		if t.At(pts[s])/step != int64(g.Segment+i) {
			return fmt.Errorf("%w: a segment has no frame", ErrChanged)
		}
	}
	return nil
}

// extend adds chunks to a track. pts are the frames that wait, in order, starts where
// their segments begin, the first known of which are complete. It returns how many of
// these the track has.
func (g *Growth) extend(tr *catalog.PlanTrack, n int, pts []int64, starts []int, known int, end int64, last bool, t Timeline, longest int) (int, error) {
	planned := 0
	for _, c := range tr.Chunks {
		planned += c.Segments
	}
	at := planned - g.Segment
	if at < 0 || n >= len(g.Pace) {
		return 0, errors.New("the plan's growth doesn't fit its chunks")
	}
	for at < known {
		// The chunks of one task: the first of those that a viewer waits for stays alone.
		var lengths []int
		total := 0
		for at+total < known {
			length := chunkLength(g.Segment+at+total, longest, g.Pace[n])
			if at+total+length > known {
				if !last {
					break
				}
				length = known - at - total
			}
			if len(lengths) > 0 && total+length > longest {
				break
			}
			lengths = append(lengths, length)
			if total += length; len(tr.Chunks) == 0 && n == 0 {
				break
			}
		}
		alone := len(tr.Chunks) == 0 && n == 0 && total > 0
		if !last && !alone && 2*total < longest || total == 0 {
			break // it will be longer
		}
		for i, length := range lengths {
			pc, err := g.chunk(pts, starts, at, length, end, last, t)
			if err != nil {
				return 0, err
			}
			pc.Joined = i > 0
			tr.Chunks = append(tr.Chunks, pc)
			at += length
		}
	}
	return at, nil
}

func (g *Growth) chunk(pts []int64, starts []int, segment, n int, end int64, last bool, t Timeline) (catalog.PlanChunk, error) {
	to := end
	if segment+n < len(starts) {
		to = pts[starts[segment+n]]
	}
	pc, c := chunkOf(pts, starts, segment, n, to, t)
	c.Segment, c.Last, c.Seeks = g.Segment+segment, last && segment+n == len(starts), []int64{-1}
	c.Bytes = &Bytes{From: -1, To: g.Next}
	// Frames shown before a keyframe may come after it, but before the next one; which they may
	// share a unit with.
	after, shared := 0, int64(-1)
	for _, k := range g.Keys {
		if k.PTS <= c.Start {
			c.Bytes.From = k.Unit
		}
		if k.PTS < to {
			continue
		}
		if after++; after == 2 && k.Inside {
			shared = k.Unit
		}
		if after >= 2 && k.Unit > shared {
			c.Bytes.To = k.Unit
			break
		}
	}
	if c.Bytes.From < 0 || c.Bytes.To <= c.Bytes.From {
		return pc, fmt.Errorf("%w: no keyframe comes before a chunk", ErrChanged)
	}
	var err error
	pc.Encoder, err = json.Marshal(c)
	return pc, err
}

// forget leaves out what all tracks have in chunks.
func (g *Growth) forget(pts []int64, starts []int, segments int) {
	if segments >= len(starts) {
		g.PTS, g.Keys = nil, nil
		g.Segment += segments
		return
	}
	first := pts[starts[segments]]
	g.PTS = slices.DeleteFunc(g.PTS, func(p int64) bool { return p < first })
	g.Segment += segments
	from := 0
	for i, k := range g.Keys {
		if k.PTS <= first {
			from = i
		}
	}
	g.Keys = slices.Clone(g.Keys[from:])
}

// finish completes a plan whose picture is planned: what a plan of the complete source
// would find wrong, or would do otherwise, is found here.
func (g *Growth) finish(p *catalog.Plan, run *Run, whole probe.Source, pts []int64, t Timeline, end int64) error {
	v := whole.Video
	if v == nil || v.Stream != g.Video.Stream || v.Codec != g.Video.Codec || v.Width != g.Video.Width || v.Height != g.Video.Height || v.SAR != g.Video.SAR ||
		v.Rotate != g.Video.Rotate || v.TimeBase != g.Video.TimeBase || v.Interlaced != g.Video.Interlaced || v.HDR != g.Video.HDR || v.Pixels != g.Video.Pixels {
		return fmt.Errorf("%w: its picture is another", ErrChanged)
	}
	length := float64(t.At(end)) / float64(t.Scale)
	promised := p.Tracks[0].Renditions[0].FrameRate.Float()
	if fps := float64(g.Frames) / length; promised == g.Video.FrameRate.Float() && math.Abs(fps/promised-1) > 0.02 {
		return fmt.Errorf("%w: it has %.3f frames per second, not %.3f", ErrChanged, fps, promised)
	}
	if rest := whole.Duration.Seconds() - length; rest > maxGap {
		return &probe.InputError{Code: probe.CodeDamaged, Detail: fmt.Sprintf("the picture ends %.0f s before the sound", rest)}
	}
	offered := p.State == catalog.PlanOffered
	p.State = catalog.PlanGrown
	p.Frames, p.DurationMS = g.Frames, int64(math.Round(length*1000))
	zero := g.sound(t)
	zero.PadTo = p.DurationMS * SampleRate / 1000
	if offered {
		return endSound(p, zero.PadTo)
	}
	others, err := otherTracks(whole, zero, run.Params, 0, 0)
	p.Tracks = append(p.Tracks, others...)
	return err
}

// sound is where the run's time begins, in the upload's.
func (g *Growth) sound(t Timeline) AudioTrack {
	return AudioTrack{Zero: t.Zero - g.Ahead, Num: t.Num, Den: t.Den}
}

// endSound tells the tracks of sound where the picture ends.
func endSound(p *catalog.Plan, samples int64) error {
	for i := range p.Tracks {
		tr := &p.Tracks[i]
		if tr.Kind != hls.Audio {
			continue
		}
		var spec AudioTrack
		if err := json.Unmarshal(tr.Encoder, &spec); err != nil {
			return err
		}
		spec.PadTo = samples
		var err error
		if tr.Encoder, err = json.Marshal(spec); err != nil {
			return err
		}
	}
	return nil
}

// AddParts adds what more there is of a remux.
func AddParts(p catalog.Plan, parts ...Part) (catalog.Plan, error) {
	var run Run
	if err := json.Unmarshal(p.Encoder, &run); err != nil {
		return p, err
	}
	run.Parts = append(run.Parts, parts...)
	var err error
	p.Encoder, err = json.Marshal(run)
	return p, err
}

// Known is how long a picture that grows is at least.
func Known(p catalog.Plan) (time.Duration, error) {
	var run Run
	var spec VideoTrack
	if err := errors.Join(json.Unmarshal(p.Encoder, &run), json.Unmarshal(p.Tracks[0].Encoder, &spec)); err != nil || run.Growth == nil {
		return 0, errors.Join(err, errors.New("the plan isn't one that grows"))
	}
	return time.Duration(float64(spec.Timeline.At(run.Growth.Last)) / float64(spec.Timeline.Scale) * float64(time.Second)), nil
}

// Sampled are the marks nearest before n moments spread evenly over a source of a
// length, and where the bytes of a window of it from each on end.
func (g *Growth) Sampled(t Timeline, length, window time.Duration, n int) (out []Bytes) {
	for i := range n {
		at := t.Zero + int64((length-window).Seconds()*float64(i)/float64(n)*float64(t.Den)/float64(t.Num))
		from := 0
		for k, m := range g.Marks {
			if m.PTS <= at {
				from = k
			}
		}
		if from >= len(g.Marks) {
			return out
		}
		b := Bytes{From: g.Marks[from].Unit, To: g.Next}
		until := g.Marks[from].PTS + int64((window+soundAhead).Seconds()*float64(t.Den)/float64(t.Num))
		for _, m := range g.Marks[from:] {
			if m.PTS >= until {
				b.To = m.Unit
				break
			}
		}
		if len(out) == 0 || out[len(out)-1].From < b.From {
			out = append(out, b)
		}
	}
	return out
}
