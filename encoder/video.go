package encoder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/fmp4"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
)

// extraNice is added for rungs that come later: they get what the rungs viewers
// may be watching leave over.
const extraNice = 10

// outputOffset moves a chunk's first frame away from 0, in seconds: the muxer
// would shift negative decode times, and with them all others.
const outputOffset = 10

// errHead: decoding began too late for the chunk's first frames.
var errHead = errors.New("the chunk's first frame is missing")

// video encodes one chunk of a video track in all its rungs.
func (e *Encoder) video(ctx context.Context, t Task) error {
	p, err := e.runPlan(ctx, t)
	if err != nil {
		return err
	}
	job := videoJob{e: e, t: t, plan: p}
	if job.track, err = trackOf(p, t.Track, &job.spec); err != nil {
		return err
	}
	var pc catalog.PlanChunk
	if err := json.Unmarshal(t.Spec, &pc); err != nil {
		return fmt.Errorf("task %s: %w", t.ID, err)
	}
	if err := json.Unmarshal(pc.Encoder, &job.chunk); err != nil {
		return fmt.Errorf("task %s: %w", t.ID, err)
	}
	job.start, job.end, job.frames = pc.Start, pc.End, pc.Frames
	var run plan.Run
	if err := json.Unmarshal(p.Encoder, &run); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if job.in, err = e.open(ctx, t, run); err != nil {
		return err
	}
	defer job.in.Close()
	return job.run(ctx)
}

// videoJob is one attempt of a chunk.
type videoJob struct {
	e     *Encoder
	t     Task
	plan  catalog.Plan
	track catalog.PlanTrack
	spec  plan.VideoTrack
	chunk plan.Chunk
	in    *input
	// start and end on the run's timeline.
	start, end, frames int64
}

// rungResult is what one rung of a chunk became.
type rungResult struct {
	init     fmp4.Init
	segments []hls.Segment
	pts      []int64
}

func (j *videoJob) run(ctx context.Context) error {
	began := time.Now()
	var results []rungResult
	var err error
	for i, seek := range j.chunk.Seeks {
		results, err = j.encode(ctx, seek, i == len(j.chunk.Seeks)-1)
		if !errors.Is(err, errHead) {
			break
		}
		j.e.log.Info("seek landed behind the chunk, starting earlier", "task", j.t.ID, "seek_us", seek)
	}
	if err != nil {
		return j.in.blame(err)
	}
	if err := j.verify(results); err != nil {
		return err
	}
	rec := j.e.record(j.t, j.plan, j.track, j.t.Chunk)
	rec.Start, rec.Last = j.start, j.chunk.Last
	codecs := map[string]string{}
	for i, r := range j.spec.Rungs {
		rec.Renditions[r.ID] = hls.RenditionSegments{Init: results[i].init.Name, Segments: results[i].segments}
		codecs[r.ID] = results[i].init.Codecs
	}
	renditions, err := describe(j.track, codecs)
	if err != nil {
		return err
	}
	if err := j.t.CommitChunk(ctx, catalog.ChunkCommit{Record: rec, Renditions: renditions, Frames: j.frames}); err != nil {
		return err
	}
	seconds := float64(j.end-j.start) / float64(j.track.Timescale)
	j.e.observe(j.spec.PixelRate*seconds, time.Since(began), seconds)
	return nil
}

// encode runs ffmpeg once, decoding from seek.
func (j *videoJob) encode(ctx context.Context, seek int64, final bool) ([]rungResult, error) {
	tl := j.spec.Timeline
	offset := (outputOffset*tl.Den + tl.Num - 1) / tl.Num // in source time base units
	scaled := offset * tl.Num * (tl.Scale / tl.Den)
	v := ffmpeg.Video{
		URL: j.in.url, Stream: j.spec.Stream, TimeBase: hls.Rational{Num: tl.Num, Den: tl.Den},
		Start: j.chunk.Start, End: j.chunk.End, SeekMicros: seek, Offset: offset, Timescale: tl.Scale,
		Every: j.spec.Every, DropRepeats: j.spec.Repeats, Rotate: j.spec.Rotate,
		Deinterlace: j.spec.Deinterlace, ToneMap: j.spec.ToneMap,
		Preset: j.spec.Preset, CRF: j.spec.CRF, Threads: j.spec.Threads,
	}
	for _, k := range j.chunk.Keyframes {
		// k is twice a source time.
		v.Keyframes = append(v.Keyframes, (float64(k)/2-float64(j.chunk.Start)+float64(offset))*float64(tl.Num)/float64(tl.Den))
	}
	for _, r := range j.spec.Rungs {
		v.Rungs = append(v.Rungs, ffmpeg.Rung{Width: r.Width, Height: r.Height, MaxRate: r.MaxRate, BufferSize: r.BufferSize, Level: r.Level})
	}
	limits := j.e.opt.Child
	if j.t.Class == catalog.Extra {
		limits.Nice = min(limits.Nice+extraNice, 19)
	}
	length := time.Duration(float64(j.end-j.start) / float64(tl.Scale) * float64(time.Second))
	limits.Wall = wall(length, 60)
	proc, err := ffmpeg.Start(ctx, ffmpeg.Command{Name: "ffmpeg", Args: v.Args(), Outputs: len(v.Rungs), Limits: limits,
		OnProgress: func(p ffmpeg.Progress) { j.t.Progress(min(p.Frames, j.frames)) }})
	if err != nil {
		return nil, err
	}
	pub := j.e.publisher(ctx, j.t)
	results := make([]rungResult, len(v.Rungs))
	var readers errgroup.Group
	for i, r := range j.spec.Rungs {
		readers.Go(func() error {
			seg := &fmp4.VideoSegmenter{Start: j.start, End: j.end, Offset: scaled - j.start, Sequence: j.chunk.Segment}
			err := j.read(pub, proc.Output(i), seg, r, final, &results[i])
			if err != nil {
				err = fmt.Errorf("rung %s: %w", r.ID, err)
				proc.Kill(err)
			}
			return err
		})
	}
	rerr := readers.Wait()
	perr := proc.Wait()
	uerr := pub.wait()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case uerr != nil:
		return nil, uerr
	case perr != nil && (rerr == nil || isTruncated(rerr)):
		return nil, perr
	case rerr != nil:
		return nil, rerr
	}
	return results, nil
}

// isTruncated reports whether a reader failed only because its writer ended.
func isTruncated(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// read turns one rung's stream into published segments.
func (j *videoJob) read(pub *publisher, out io.Reader, seg *fmp4.VideoSegmenter, rung plan.Rung, final bool, res *rungResult) error {
	r := fmp4.NewReader(out)
	moov, err := r.Moov()
	if err != nil {
		return err
	}
	if res.init, err = fmp4.VideoInit(moov, uint32(j.track.Timescale)); err != nil {
		return err
	}
	if res.init.Width != rung.Width || res.init.Height != rung.Height {
		return fmt.Errorf("encoded %d × %d, planned %d × %d", res.init.Width, res.init.Height, rung.Width, rung.Height)
	}
	keep := func(s *fmp4.Segment) {
		if s != nil {
			res.segments = append(res.segments, pub.segment(rung.ID, j.t.Chunk, len(res.segments), s))
			res.pts = append(res.pts, s.PTS...)
		}
	}
	for first := true; ; first = false {
		samples, err := r.Next()
		if errors.Is(err, io.EOF) && !first {
			break
		}
		if err != nil {
			return err
		}
		// Before anything is stored: every rung sees the same frames, so all stop here.
		if first && !final && len(samples) > 0 && samples[0].PTS-seg.Offset != j.start {
			return errHead
		}
		if first {
			pub.init(rung.ID, res.init)
		}
		s, err := seg.Add(samples)
		if err != nil {
			return err
		}
		keep(s)
	}
	s, err := seg.Close()
	if err != nil {
		return err
	}
	keep(s)
	return nil
}

// verify compares what came out with the chunk's slice of the frame index.
func (j *videoJob) verify(results []rungResult) error {
	for i, r := range results {
		if err := j.in.Err(); err != nil {
			// ffmpeg takes a broken connection for the end of the file.
			return err
		}
		if plan.FramesHash(r.pts) == j.chunk.Hash {
			continue
		}
		err := fmt.Errorf("chunk %s has %d frames in rung %s, the source's index %d", j.t.ID, len(r.pts), j.spec.Rungs[i].ID, j.frames)
		switch {
		case len(r.pts) == 0:
			return &probe.InputError{Code: probe.CodeDamaged, Detail: "a part of the video can't be decoded"}
		case j.t.Failures == 0 || int64(len(r.pts)) > j.frames:
			return err
		case len(r.pts) != len(results[0].pts):
			return err
		case i == 0:
			// Seen twice, so the source is damaged here. Show what there is; the
			// timeline is the same.
			j.e.log.Warn("source is damaged, frames are missing", "task", j.t.ID, "asset", j.t.Asset, "missing", j.frames-int64(len(r.pts)))
		}
	}
	return nil
}

// observe learns this worker's speed from a finished chunk.
func (e *Encoder) observe(pixels float64, took time.Duration, seconds float64) {
	e.metrics.encoded(seconds, took)
	// Short chunks mostly measure starting a process.
	if seconds < 4 || took <= 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.speed.Pixels = 0.7*e.speed.Pixels + 0.3*pixels/took.Seconds()
}

func (e *Encoder) currentSpeed() plan.Speed {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.speed
}
