package encoder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/encoder/source"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/sleep"
)

// Frames dropped at the start of an encode: the encoder's own priming, and,
// after a take-over, pre-roll, so that the join is inaudible.
const (
	primingFrames = 1
	prerollFrames = 3
)

// audio encodes one audio track from where its committed chunks end, and
// commits chunk after chunk.
func (e *Encoder) audio(ctx context.Context, t Task) error {
	p, err := e.runPlan(ctx, t)
	if err != nil {
		return err
	}
	j := audioJob{e: e, t: t, plan: p}
	if j.track, err = trackOf(p, t.Track, &j.spec); err != nil {
		return err
	}
	if len(j.track.Renditions) != 1 {
		return fmt.Errorf("track %s: want one rendition, the plan has %d", t.Track, len(j.track.Renditions))
	}
	done, err := t.CommittedChunks(ctx)
	if err != nil {
		return err
	}
	for _, r := range done {
		j.segment += segmentCount(r)
		j.chunk = r.Chunk + 1
		if r.Last {
			return t.Finish(ctx)
		}
	}
	if err := json.Unmarshal(p.Encoder, &j.run); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if j.in, err = e.open(ctx, t, j.run.Sound()); err != nil {
		return err
	}
	defer j.in.Close()
	if err := j.encode(ctx); err != nil {
		return j.in.blame(err)
	}
	return nil
}

type audioJob struct {
	e     *Encoder
	t     Task
	plan  catalog.Plan
	track catalog.PlanTrack
	spec  plan.AudioTrack
	run   plan.Run
	in    *input
	// chunk and segment are the next to be committed.
	chunk, segment int
	// pending are the segments of the open chunk, pub their PUTs.
	pending []hls.Segment
	pub     *publisher
	stores  stores
	init    fmp4.Init
	// ahead is called once, when the track has aheadSegments.
	ahead func() error
	// until is how many frames the track has as far as the picture is known, while the plan
	// grows; ends says that it ends there.
	until int64
	ends  bool
}

const (
	// aheadSegments of sound are so far ahead of the picture that the rest of the
	// track leaves the processors to it: at full speed it would take one of them for
	// a second of every minute, just when viewers have least in hand.
	aheadSegments = 7
	// aheadNice is added niceness then, more than the ladder's: beside ten busy
	// threads it leaves a track some three times as fast as it plays.
	aheadNice = 11
	// soundLead is how much less nice than a picture a track's beginning is: its one
	// thread would wait its turn among ten, and without sound nothing is playable.
	soundLead = 5
)

// soundLimits are those of a track that isn't ahead yet.
func (e *Encoder) soundLimits() ffmpeg.Limits {
	l := e.opt.Child
	l.Nice = max(0, l.Nice-soundLead)
	return l
}

func (j *audioJob) grid() fmp4.AudioGrid {
	return fmp4.AudioGrid{SampleRate: plan.SampleRate, Seconds: j.spec.SegmentSeconds}
}

func (j *audioJob) encode(ctx context.Context) error {
	var err error
	if j.init, err = fmp4.AudioInit(plan.SampleRate, language3(j.spec.Language)); err != nil {
		return err
	}
	from, drop := j.grid().FirstFrame(j.segment), primingFrames
	if from > 0 {
		from -= prerollFrames
		drop += prerollFrames
	}
	release, err := j.e.hold(ctx, soundMemory)
	if err != nil {
		return err
	}
	defer release()
	gain, err := j.e.gain(ctx, j.t, j.in, j.spec, plan.Duration(j.plan), j.run)
	if err != nil {
		return err
	}
	sound := soundOf(j.in, j.spec, from)
	sound.From, sound.Seek, sound.GainDB, sound.Limit = from*fmp4.FrameSamples, j.run.Seekable, gain.dB, gain.limit
	if j.plan.State.Grows() {
		sound.Endless = true
		if err := j.know(j.plan); err != nil {
			return err
		}
	}
	limits := j.e.soundLimits()
	limits.Wall = wall(plan.Duration(j.plan), 1)
	if sound.Endless {
		limits.Wall += remuxWall(j.in.Size())
	}
	proc, err := ffmpeg.Start(ctx, ffmpeg.Command{Name: "ffmpeg", Outputs: 1, Limits: limits, Args: sound.Args()})
	if err != nil {
		return err
	}
	j.ahead = func() error { return proc.Yield(j.e.niceAhead()) }
	rerr := j.read(ctx, proc.Output(0), drop)
	switch {
	case rerr != nil:
		proc.Kill(rerr)
	case sound.Endless:
		proc.Kill(errEnough)
	}
	perr := proc.Wait()
	if sound.Endless && errors.Is(perr, errEnough) {
		perr = nil
	}
	if j.pub != nil {
		// A chunk that will not be committed: its PUTs must not outlive the task.
		rerr = errors.Join(rerr, j.pub.wait())
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case rerr != nil:
		return rerr
	case perr != nil:
		return perr
	}
	return j.commit(ctx, true)
}

// soundOf is a track at the level it has, to be read from a frame on.
func soundOf(in *input, spec plan.AudioTrack, from int64) ffmpeg.Audio {
	span := probe.Everything(spec.Stream)
	if from > 0 {
		zero := time.Duration(max(0, float64(spec.Zero*spec.Num)/float64(spec.Den)) * float64(time.Second))
		span.From = in.movie.Around(spec.Stream, zero+time.Duration(from*fmp4.FrameSamples)*time.Second/plan.SampleRate-time.Second, 0).From
	}
	return ffmpeg.Audio{URL: in.part(span), Stream: spec.Stream, Zero: spec.Zero, ZeroBase: hls.Rational{Num: spec.Num, Den: spec.Den},
		SampleRate: plan.SampleRate, Bitrate: spec.Bitrate, PadTo: spec.PadTo}
}

// niceAhead is the niceness of what is far ahead of those who watch.
func (e *Encoder) niceAhead() int { return min(e.opt.Child.Nice+aheadNice, 19) }

// errEnough ends a process that would go on with silence.
var errEnough = errors.New("the track is complete")

// Waits of sound for a picture that becomes known more slowly than sound is encoded.
const (
	pictureAsk = 500 * time.Millisecond
	// pictureWaits is how long one frame waits. Then the task is given back, and another
	// attempt goes on.
	pictureWaits = time.Minute
)

// know notes how much of the picture is known.
func (j *audioJob) know(p catalog.Plan) error {
	if j.ends = !p.State.Grows(); j.ends {
		samples := p.DurationMS * plan.SampleRate / 1000
		j.until = (samples + fmp4.FrameSamples - 1) / fmp4.FrameSamples
		return nil
	}
	known, err := plan.Known(p)
	j.until = known.Milliseconds() * plan.SampleRate / 1000 / fmp4.FrameSamples
	return err
}

// goesOn says whether frame n belongs to the track: not where the picture has ended. It
// waits until that is known.
func (j *audioJob) goesOn(ctx context.Context, n int64) (bool, error) {
	if !j.plan.State.Grows() {
		return true, nil // the process ends by itself
	}
	for began := time.Now(); n >= j.until && !j.ends; {
		j.t.Draining() // the plan may need the slot
		if time.Since(began) > pictureWaits {
			return false, &source.MissingError{Bytes: j.in.Size()}
		}
		if sleep.For(ctx, pictureAsk) != nil {
			return false, context.Cause(ctx)
		}
		p, err := j.t.Plan(ctx)
		if err == nil {
			err = j.know(p)
		}
		if err != nil {
			return false, err
		}
	}
	return n < j.until, nil
}

// read commits every chunk but the last, which waits for ffmpeg's good end.
func (j *audioJob) read(ctx context.Context, out io.Reader, drop int) error {
	frames := fmp4.NewADTSReader(out, plan.SampleRate)
	seg := fmp4.NewAudioSegmenter(j.grid(), j.segment)
	for n := j.grid().FirstFrame(j.segment); ; {
		if drop == 0 {
			more, err := j.goesOn(ctx, n)
			if err != nil {
				return err
			}
			if !more {
				break
			}
			n++
		}
		frame, err := frames.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if drop > 0 {
			drop--
			continue
		}
		// Only now is it known that the full chunk isn't the last.
		if len(j.pending) >= j.chunkLength() {
			if err := j.commit(ctx, false); err != nil {
				return err
			}
			if j.ahead != nil && j.segment >= aheadSegments {
				if err := j.ahead(); err != nil {
					return err
				}
				j.ahead = nil
			}
		}
		s, err := seg.Add(frame)
		if err != nil {
			return err
		}
		j.add(ctx, s)
	}
	s, err := seg.Close()
	if err != nil {
		return err
	}
	j.add(ctx, s)
	return nil
}

// chunkLength grows with the position: early parts at once, late ones in bulk.
func (j *audioJob) chunkLength() int { return min(1<<min(j.chunk, 16), j.spec.MaxChunk) }

func (j *audioJob) add(ctx context.Context, s *fmp4.Segment) {
	if s == nil {
		return
	}
	id := j.track.Renditions[0].ID
	if j.pub == nil {
		j.pub = j.e.publisher(ctx, j.t)
		j.pub.init(id, j.init, &j.stores)
	}
	j.pending = append(j.pending, j.pub.segment(id, j.chunk, len(j.pending), s, &j.stores))
}

func (j *audioJob) commit(ctx context.Context, last bool) error {
	if len(j.pending) == 0 {
		return fmt.Errorf("track %s: no audio could be decoded after segment %d", j.t.Track, j.segment)
	}
	// ffmpeg goes on with silence when it can't read on.
	if err := errors.Join(j.in.Err(), j.in.Missing()); err != nil {
		return err
	}
	if j.pub != nil {
		err := j.pub.wait()
		j.pub = nil
		if err != nil {
			return err
		}
	}
	id := j.track.Renditions[0].ID
	rec := j.e.record(j.t, j.plan, j.track, j.chunk)
	rec.Start = j.grid().FirstFrame(j.segment) * fmp4.FrameSamples
	rec.Last = last
	rec.Renditions[id] = hls.RenditionSegments{Init: j.init.Name, Segments: j.pending}
	renditions, err := describe(j.track, map[string]string{id: j.init.Codecs})
	if err != nil {
		return err
	}
	if err := j.t.CommitChunk(ctx, catalog.ChunkCommit{Record: rec, Renditions: renditions}); err != nil {
		return err
	}
	j.segment += len(j.pending)
	j.chunk++
	j.pending = nil
	return nil
}
