package encoder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/encoder/source"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
)

// ladderNice is added niceness: what a new video's first viewer waits for goes
// before what comes after it. Rungs that nobody waits for, of class extra, run
// in the background: beside the ladder even a niced child would cost it a
// quarter of its speed, and the viewer catches up.
const ladderNice = 7

func (e *Encoder) ladderNice() int { return min(e.opt.Child.Nice+ladderNice, 19) }

// tailFrames from its end a task lets the next one begin.
const tailFrames = 60

// outputOffset moves a chunk's first frame away from 0, in seconds: the muxer
// would shift negative decode times, and with them all others.
const outputOffset = 10

// errHead: decoding began too late for the chunk's first frames.
var errHead = errors.New("the chunk's first frame is missing")

// video encodes consecutive chunks of a video track in all its rungs, with one
// process, and commits each when it is complete.
func (e *Encoder) video(ctx context.Context, t Task) error {
	p, err := e.runPlan(ctx, t)
	if err != nil {
		return err
	}
	job := videoJob{e: e, t: t, plan: p}
	if job.track, err = trackOf(p, t.Track, &job.spec); err != nil {
		return err
	}
	if err := job.list(ctx); err != nil {
		return err
	}
	if len(job.chunks) == 0 {
		return t.Finish(ctx)
	}
	if err := json.Unmarshal(p.Encoder, &job.run); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if job.in, err = e.open(ctx, t, job.run); err != nil {
		return err
	}
	defer job.in.Close()
	err = job.do(ctx)
	var missing *source.MissingError
	if errors.As(err, &missing) {
		// What is left of it is begun once more, not many times.
		return &source.MissingError{Bytes: max(missing.Bytes, job.needs)}
	}
	return err
}

// videoJob is one attempt of a task.
type videoJob struct {
	e     *Encoder
	t     Task
	plan  catalog.Plan
	track catalog.PlanTrack
	spec  plan.VideoTrack
	run   plan.Run
	in    *input
	// chunks are those left to do, frames how many the committed ones had; needs is
	// how much of the source all want.
	chunks []*chunk
	frames int64
	needs  int64
	// proc is the one that encodes them.
	proc *ffmpeg.Process
}

// chunk is one chunk under way. Times are the run's.
type chunk struct {
	plan.Chunk
	n                  int
	start, end, frames int64
	rungs              []rungResult
	// open is how many rungs are not complete.
	open   atomic.Int32
	stores stores
}

// rungResult is what one rung of a chunk became.
type rungResult struct {
	init     fmp4.Init
	segments []hls.Segment
	pts      []int64
}

// list finds the task's chunks, without those an earlier attempt committed.
func (j *videoJob) list(ctx context.Context) error {
	if j.t.Chunk < 0 || j.t.Chunk >= len(j.track.Chunks) {
		return fmt.Errorf("task %s: the plan has %d chunks", j.t.ID, len(j.track.Chunks))
	}
	for n := j.t.Chunk; n < len(j.track.Chunks) && (n == j.t.Chunk || j.track.Chunks[n].Joined); n++ {
		pc := j.track.Chunks[n]
		c := &chunk{n: n, start: pc.Start, end: pc.End, frames: pc.Frames, rungs: make([]rungResult, len(j.spec.Rungs))}
		c.open.Store(int32(len(j.spec.Rungs)))
		if err := json.Unmarshal(pc.Encoder, &c.Chunk); err != nil {
			return fmt.Errorf("task %s: %w", j.t.ID, err)
		}
		j.chunks = append(j.chunks, c)
		j.needs = max(j.needs, pc.Needs)
	}
	if j.t.Attempt == 1 {
		return nil
	}
	done, err := j.t.CommittedChunks(ctx)
	if err != nil {
		return err
	}
	for _, r := range done {
		if len(j.chunks) > 0 && r.Chunk == j.chunks[0].n {
			j.frames += j.chunks[0].frames
			j.chunks = j.chunks[1:]
		}
	}
	return nil
}

func (j *videoJob) do(ctx context.Context) error {
	seeks := j.chunks[0].Seeks
	for i, seek := range seeks {
		err := j.encode(ctx, seek, i == len(seeks)-1)
		if !errors.Is(err, errHead) {
			return j.in.blame(err)
		}
		j.e.log.Info("seek landed behind the chunk, starting earlier", "task", j.t.ID, "seek_us", seek)
	}
	return j.in.blame(errHead)
}

// command is the ffmpeg that decodes from seek; added is what it adds to the
// times of the run.
func (j *videoJob) command(seek int64) (c ffmpeg.Command, added int64) {
	if j.copying() {
		return j.copyCommand(seek)
	}
	tl := j.spec.Timeline
	head, last := j.chunks[0], j.chunks[len(j.chunks)-1]
	offset := (outputOffset*tl.Den + tl.Num - 1) / tl.Num // in source time base units
	v := ffmpeg.Video{
		URL: j.url(seek), Stream: j.spec.Stream, TimeBase: hls.Rational{Num: tl.Num, Den: tl.Den},
		Start: head.Start, End: last.End, SeekMicros: seek, Offset: offset, Timescale: tl.Scale,
		Every: j.spec.Every, Gap: j.spec.Gap, DropRepeats: j.spec.Repeats, Rotate: j.spec.Rotate,
		Deinterlace: j.spec.Deinterlace, ToneMap: j.spec.ToneMap, Untagged: j.spec.Untagged,
		Preset: j.spec.Preset, CRF: j.spec.CRF, Threads: j.spec.Threads,
	}
	keyframe := func(k int64) {
		// k is twice a source time.
		v.Keyframes = append(v.Keyframes, (float64(k)/2-float64(head.Start)+float64(offset))*float64(tl.Num)/float64(tl.Den))
	}
	for _, c := range j.chunks {
		if c != head {
			keyframe(c.Boundary)
		}
		for _, k := range c.Keyframes {
			keyframe(k)
		}
	}
	for _, r := range j.spec.Rungs {
		v.Rungs = append(v.Rungs, ffmpeg.Rung{Width: r.Width, Height: r.Height, MaxRate: r.MaxRate, BufferSize: r.BufferSize, Level: r.Level})
	}
	limits := j.e.opt.Child
	switch {
	case j.t.Class == catalog.Extra:
		limits.Background = true
	case head.n > 0:
		limits.Nice = j.e.ladderNice()
	}
	limits.Wall = wall(time.Duration(j.seconds()*float64(time.Second)), 60)
	frames, base := int64(0), j.frames
	for _, c := range j.chunks {
		frames += c.frames
	}
	return ffmpeg.Command{Name: "ffmpeg", Args: v.Args(), Outputs: len(v.Rungs), Limits: limits,
		OnProgress: func(p ffmpeg.Progress) {
			j.t.Progress(base + min(p.Frames, frames))
			// The next task starts and decodes its way while this one ends.
			if p.Frames >= frames-min(tailFrames, frames/8) {
				j.t.Draining()
			}
		}}, offset*tl.Num*(tl.Scale/tl.Den) - head.start
}

// url shows what the task needs when it decodes from seek.
func (j *videoJob) url(seek int64) string {
	first, last := j.chunks[0], j.chunks[len(j.chunks)-1]
	var bytes *plan.Bytes
	if first.Bytes != nil && last.Bytes != nil {
		bytes = &plan.Bytes{From: first.Bytes.From, To: last.Bytes.To}
	}
	to := last.End
	if last.Last {
		to = math.MaxInt64
	}
	return j.in.picture(j.run, j.spec, bytes, seek, to)
}

// seconds of video the task is about.
func (j *videoJob) seconds() float64 {
	return float64(j.chunks[len(j.chunks)-1].end-j.chunks[0].start) / float64(j.track.Timescale)
}

// encode runs ffmpeg once, decoding from seek, and commits the chunks.
func (j *videoJob) encode(ctx context.Context, seek int64, final bool) error {
	need := videoMemory(j.spec)
	if j.copying() {
		need = copyMemory
	}
	release, err := j.e.hold(ctx, need)
	if err != nil {
		return err
	}
	defer release()
	began := time.Now()
	pub := j.e.publisher(ctx, j.t)
	cmd, offset := j.command(seek)
	// What can't be stored needn't be encoded: a failed PUT ends the child.
	proc, err := ffmpeg.Start(pub.ctx, cmd)
	if err != nil {
		return errors.Join(err, pub.wait())
	}
	j.proc = proc
	// Chunks become complete in order, for every rung completes them in order.
	complete := make(chan *chunk, len(j.chunks))
	var readers, committer errgroup.Group
	for i := range j.spec.Rungs {
		readers.Go(func() error {
			err := j.read(pub, proc.Output(i), i, offset, final, complete)
			if err != nil {
				err = fmt.Errorf("rung %s: %w", j.spec.Rungs[i].ID, err)
				if !isTruncated(err) {
					proc.Kill(err) // else it ends by itself, and says why
				}
			}
			return err
		})
	}
	last := j.chunks[len(j.chunks)-1]
	committer.Go(func() error {
		for c := range complete {
			if c == last {
				break // only ffmpeg's good end tells that nothing follows
			}
			if !c.stores.wait() {
				break // the publisher has the reason
			}
			err := j.commit(ctx, c, true)
			if err == nil && c.n == 0 && j.t.Class == catalog.First {
				// Nobody waits for the rest: it leaves its slot and the processors to
				// other films' beginnings, as a task of class Ladder would.
				j.t.Draining()
				err = proc.Yield(j.e.ladderNice())
			}
			if err != nil {
				proc.Kill(err)
				return err
			}
		}
		return nil
	})
	rerr := readers.Wait()
	perr := proc.Wait()
	encoded := time.Now()
	j.t.Draining()
	close(complete)
	cerr := committer.Wait()
	uerr := pub.wait()
	j.e.metrics.stage("store", time.Since(encoded))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case uerr != nil:
		return uerr
	case cerr != nil:
		return cerr
	case perr != nil && (rerr == nil || isTruncated(rerr)):
		return perr
	case rerr != nil:
		return rerr
	}
	seconds := j.seconds()
	if err := j.commit(ctx, last, false); err != nil {
		return err
	}
	if !j.copying() {
		j.e.metrics.encoded(seconds, encoded.Sub(began))
		// A child in the background is as slow as others let it.
		if j.t.Class != catalog.Extra {
			j.e.observe(j.spec.PixelRate*seconds, proc.CPU(), seconds)
		}
	}
	return nil
}

// commit makes a complete and stored chunk count.
func (j *videoJob) commit(ctx context.Context, c *chunk, more bool) error {
	if err := j.verify(c); err != nil {
		return err
	}
	rec := j.e.record(j.t, j.plan, j.track, c.n)
	rec.Start, rec.Last = c.start, c.Last
	codecs := map[string]string{}
	for i, r := range j.spec.Rungs {
		rec.Renditions[r.ID] = hls.RenditionSegments{Init: c.rungs[i].init.Name, Segments: c.rungs[i].segments}
		codecs[r.ID] = c.rungs[i].init.Codecs
	}
	renditions, err := describe(j.track, codecs)
	if err != nil {
		return err
	}
	began := time.Now()
	defer func() { j.e.metrics.stage("commit", time.Since(began)) }()
	j.frames += c.frames
	return j.t.CommitChunk(ctx, catalog.ChunkCommit{Record: rec, Renditions: renditions, Frames: j.frames, More: more})
}

// isTruncated reports whether a reader failed only because its writer ended.
func isTruncated(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// read turns one rung's stream into published segments, chunk after chunk.
// offset is what ffmpeg added to the times of the run.
func (j *videoJob) read(pub *publisher, out io.Reader, rung int, offset int64, final bool, complete chan<- *chunk) error {
	began := time.Now()
	r := fmp4.NewReader(out)
	moov, err := r.Moov()
	if err != nil {
		return err
	}
	if rung == 0 {
		j.e.metrics.stage("start", time.Since(began))
		began = time.Now()
		defer func() { j.e.metrics.stage("encode", time.Since(began)) }()
	}
	init, err := fmp4.VideoInit(moov, uint32(j.track.Timescale))
	if err != nil {
		return err
	}
	planned := j.spec.Rungs[rung]
	if init.Width != planned.Width || init.Height != planned.Height {
		return fmt.Errorf("encoded %d × %d, planned %d × %d", init.Width, init.Height, planned.Width, planned.Height)
	}
	at := 0
	c := j.chunks[at]
	segmenter := func() *fmp4.VideoSegmenter {
		c.rungs[rung].init = init
		return &fmp4.VideoSegmenter{Start: c.start, End: c.end, Offset: offset, Sequence: c.Segment}
	}
	seg := segmenter()
	keep := func(s *fmp4.Segment) {
		if s != nil {
			res := &c.rungs[rung]
			res.segments = append(res.segments, pub.segment(planned.ID, c.n, len(res.segments), s, &c.stores))
			res.pts = append(res.pts, s.PTS...)
		}
	}
	end := func() error {
		s, err := seg.Close()
		if err != nil {
			return err
		}
		keep(s)
		if c.open.Add(-1) == 0 {
			complete <- c // has room for all
		}
		return nil
	}
	segments := j.grouped(r, offset)
	for first := true; ; first = false {
		samples, err := segments.Next()
		if errors.Is(err, io.EOF) && !first {
			break
		}
		if err != nil {
			return err
		}
		// Before anything is stored: every rung sees the same frames, so all stop here.
		if first && !final && len(samples) > 0 && samples[0].PTS-offset != c.start {
			return errHead
		}
		if first {
			pub.init(planned.ID, init, &c.stores)
		}
		for at < len(j.chunks)-1 && len(samples) > 0 && samples[0].PTS-offset >= c.end {
			if err := end(); err != nil {
				return err
			}
			at++
			c = j.chunks[at]
			seg = segmenter()
		}
		s, err := seg.Add(samples)
		if err != nil {
			return err
		}
		keep(s)
	}
	if at < len(j.chunks)-1 {
		return fmt.Errorf("the video ends in chunk %d: %w", c.n, io.ErrUnexpectedEOF)
	}
	return end()
}

// verify compares what came out with the chunk's slice of the frame index.
func (j *videoJob) verify(c *chunk) error {
	for i, r := range c.rungs {
		if err := j.in.Err(); err != nil {
			// ffmpeg takes a broken connection for the end of the file.
			return err
		}
		if plan.FramesHash(r.pts) == c.Hash {
			continue
		}
		if err := errors.Join(j.in.Missing(), j.proc.Lacked()); err != nil {
			return err
		}
		err := fmt.Errorf("chunk %d of task %s has %d frames in rung %s, the source's index %d, or at other times", c.n, j.t.ID, len(r.pts), j.spec.Rungs[i].ID, c.frames)
		switch {
		case len(r.pts) == 0:
			return &probe.InputError{Code: probe.CodeDamaged, Detail: "a part of the video can't be decoded"}
		case !j.t.again() || int64(len(r.pts)) > c.frames:
			return err
		case j.run.Growth != nil:
			// Another run, of all of the source, may know better.
			return &probe.InputError{Code: probe.CodeDamaged, Detail: err.Error()}
		case len(r.pts) != len(c.rungs[0].pts):
			return err
		case i == 0:
			// Seen twice, so the source is damaged here. Show what there is; the
			// timeline is the same.
			j.e.log.Warn("source is damaged, frames are missing", "task", j.t.ID, "chunk", c.n, "asset", j.t.Asset, "missing", c.frames-int64(len(r.pts)))
		}
	}
	return nil
}
