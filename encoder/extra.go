package encoder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// Sizes of extras.
const (
	// Sprites hold spriteColumns × spriteRows pictures, at most maxThumbs in all:
	// longer videos have them farther apart.
	spriteColumns, spriteRows = 10, 10
	maxThumbs                 = 400
	thumbLong                 = 160
	// maxExtra bounds what one ffmpeg may write, maxSegmentRead one segment read back.
	maxExtra       = 64 << 20
	maxSegmentRead = 64 << 20
	extraWall      = 5 * time.Minute
)

// posterHeights are the 16:9 boxes posters fit into.
var posterHeights = []int{720, 360}

// extra makes a complete run's posters, storyboard and preview. Pictures come from the
// keyframes the run has published anyway, so it costs next to no decoding; only
// the poster is taken from the source, for its quality.
func (e *Encoder) extra(ctx context.Context, t Task) error {
	p, err := e.runPlan(ctx, t)
	if err != nil {
		return err
	}
	j := extraJob{e: e, t: t, plan: p}
	if j.track, err = trackOf(p, t.Track, &j.spec); err != nil {
		return err
	}
	if j.records, err = t.CommittedChunks(ctx); err != nil {
		return err
	}
	if len(j.records) == 0 {
		return fmt.Errorf("task %s: track %s has no chunks", t.ID, t.Track)
	}
	release, err := e.hold(ctx, extraMemory)
	if err != nil {
		return err
	}
	defer release()
	pub := e.publisher(ctx, t)
	err = j.make(pub)
	if err = errors.Join(pub.wait(), err); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return t.CommitExtras(ctx, j.out)
}

type extraJob struct {
	e       *Encoder
	t       Task
	plan    catalog.Plan
	track   catalog.PlanTrack
	spec    plan.VideoTrack
	records []hls.Record
	out     hls.Extras
	stores  stores
}

func (j *extraJob) make(pub *publisher) error {
	j.out = hls.Extras{V: hls.ExtrasVersion, Asset: j.t.Asset, Run: j.t.RunName()}
	if err := j.storyboard(pub); err != nil {
		return fmt.Errorf("storyboard: %w", err)
	}
	if err := j.posters(pub); err != nil {
		return fmt.Errorf("posters: %w", err)
	}
	if err := j.preview(pub); err != nil {
		return fmt.Errorf("preview: %w", err)
	}
	return nil
}

// name is an extra's file name, fenced by the attempt.
func (j *extraJob) name(name string) string { return fmt.Sprintf("%s-%d", name, j.t.Attempt) }

func (j *extraJob) put(pub *publisher, name string, b []byte) {
	pub.put(objects.ExtraKey(j.t.Asset, j.t.RunName(), name, j.t.Attempt), objects.Bytes(b), &j.stores, nil)
}

// segmentAt is one published segment.
type segmentAt struct {
	record *hls.Record
	n      int
	// start and duration in the track's timescale.
	start, duration int64
}

func (j *extraJob) segments(rendition string) []segmentAt {
	var out []segmentAt
	for i := range j.records {
		r := &j.records[i]
		at := r.Start
		for n, s := range r.Renditions[rendition].Segments {
			out = append(out, segmentAt{r, n, at, s.Duration})
			at += s.Duration
		}
	}
	return out
}

// storyboard joins the first frame of every n-th segment of the lowest rung into sprites.
func (j *extraJob) storyboard(pub *publisher) error {
	rung := j.spec.Rungs[len(j.spec.Rungs)-1]
	all := j.segments(rung.ID)
	step := (len(all) + maxThumbs - 1) / maxThumbs
	var thumbs []segmentAt
	for i := 0; i < len(all); i += step {
		thumbs = append(thumbs, all[i])
	}
	film, err := j.film(pub.ctx, rung.ID, thumbs, j.track.Timescale, func([]fmp4.Sample) int { return 1 })
	if err != nil {
		return err
	}
	w, h := fit(rung, thumbLong)
	url, remove := j.e.server.Add(memoryFile(film))
	defer remove()
	out, err := j.ffmpeg(pub.ctx, ffmpeg.Sprites{URL: url, Width: w, Height: h, Columns: spriteColumns, Rows: spriteRows}.Args(), 1)
	if err != nil {
		return err
	}
	sprites := splitJPEG(out[0])
	if want := (len(thumbs) + spriteColumns*spriteRows - 1) / (spriteColumns * spriteRows); len(sprites) != want {
		return fmt.Errorf("%d sprites, want %d for %d pictures", len(sprites), want, len(thumbs))
	}
	board := hls.Storyboard{VTT: j.name("storyboard.vtt"), Width: w, Height: h, Columns: spriteColumns, Rows: spriteRows, Pictures: len(thumbs)}
	for i, s := range sprites {
		name := fmt.Sprintf("storyboard-%05d.jpg", i)
		j.put(pub, name, s)
		board.Sprites = append(board.Sprites, j.name(name))
	}
	var vtt strings.Builder
	vtt.WriteString("WEBVTT\n")
	for i, s := range thumbs {
		end := j.records[len(j.records)-1].End()
		if i+1 < len(thumbs) {
			end = thumbs[i+1].start
		}
		cell := i % (spriteColumns * spriteRows)
		fmt.Fprintf(&vtt, "\n%s --> %s\n%s#xywh=%d,%d,%d,%d\n", clock(s.start, j.track.Timescale), clock(end, j.track.Timescale),
			board.Sprites[i/(spriteColumns*spriteRows)], cell%spriteColumns*w, cell/spriteColumns*h, w, h)
	}
	j.put(pub, "storyboard.vtt", []byte(vtt.String()))
	j.out.Storyboard = &board
	return nil
}

// fit is the size of a rung's picture whose longer side has long pixels.
func fit(r plan.Rung, long int) (w, h int) {
	if r.Width >= r.Height {
		return long, max(2, long*r.Height/r.Width&^1)
	}
	return max(2, long*r.Width/r.Height&^1), long
}

// clock is a WebVTT timestamp.
func clock(at, timescale int64) string {
	ms := at * 1000 / timescale
	return fmt.Sprintf("%02d:%02d:%02d.%03d", ms/3_600_000, ms/60_000%60, ms/1000%60, ms%1000)
}

// film joins the beginnings of segments, each in a slot of its own; first says how
// many of a segment's frames, in decode order, are taken.
func (j *extraJob) film(ctx context.Context, rendition string, segments []segmentAt, slot int64, first func([]fmp4.Sample) int) ([]byte, error) {
	var film bytes.Buffer
	for i, s := range segments {
		init, samples, err := j.samples(ctx, rendition, s)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			film.Write(init)
		}
		if err := join(&film, i, samples[:first(samples)], slot); err != nil {
			return nil, err
		}
	}
	return film.Bytes(), nil
}

// samples reads a segment's frames in decode order, and its init segment.
func (j *extraJob) samples(ctx context.Context, rendition string, s segmentAt) ([]byte, []fmp4.Sample, error) {
	init, err := j.read(ctx, objects.InitKey(j.t.Asset, j.t.RunName(), rendition, s.record.Renditions[rendition].Init))
	if err != nil {
		return nil, nil, err
	}
	data, err := j.read(ctx, objects.SegmentKey(j.t.Asset, j.t.RunName(), rendition, hls.SegmentPath(s.record.Chunk, s.record.Attempt, s.n)))
	if err != nil {
		return nil, nil, err
	}
	samples, err := fmp4.NewReader(io.MultiReader(bytes.NewReader(init), bytes.NewReader(data))).Next()
	return init, samples, err
}

// join adds frames that begin with a keyframe to a film, as its i-th part of a
// length that all of them have.
func join(film *bytes.Buffer, i int, frames []fmp4.Sample, length int64) error {
	start := int64(i) * length
	seg := fmp4.VideoSegmenter{Start: start, End: start + length, Offset: frames[0].PTS - start, Sequence: i}
	if _, err := seg.Add(frames); err != nil {
		return err
	}
	part, err := seg.Close()
	if err != nil {
		return err
	}
	film.Write(part.Data)
	return nil
}

func (j *extraJob) read(ctx context.Context, key string) ([]byte, error) {
	r, _, err := j.e.store.Get(ctx, key, 0, -1, j.t.Placement)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxSegmentRead+1))
	if err = errors.Join(err, r.Close()); err == nil && len(b) > maxSegmentRead {
		err = fmt.Errorf("%s is larger than %d bytes", key, maxSegmentRead)
	}
	return b, err
}

// posters shows the frame that has most to show among the first of each chunk:
// the one whose keyframe is largest. Black, blurred and faded ones are small.
func (j *extraJob) posters(pub *publisher) error {
	rung := j.spec.Rungs[len(j.spec.Rungs)-1]
	end := j.records[len(j.records)-1].End()
	best := -1
	size := 0
	for i, r := range j.records {
		if best >= 0 && r.Start > end/2 {
			break
		}
		_, samples, err := j.samples(pub.ctx, rung.ID, segmentAt{record: &r})
		if err != nil {
			return err
		}
		if len(samples[0].Data) > size {
			best, size = i, len(samples[0].Data)
		}
	}
	at := j.records[best]
	var c plan.Chunk
	if at.Chunk >= len(j.track.Chunks) {
		return fmt.Errorf("chunk %d isn't in the plan", at.Chunk)
	}
	if err := json.Unmarshal(j.track.Chunks[at.Chunk].Encoder, &c); err != nil {
		return err
	}
	var run plan.Run
	if err := json.Unmarshal(j.plan.Encoder, &run); err != nil {
		return err
	}
	in, err := j.e.open(pub.ctx, j.t, run)
	if err != nil {
		return err
	}
	defer in.Close()
	v := ffmpeg.Video{Stream: j.spec.Stream, TimeBase: hls.Rational{Num: j.spec.Timeline.Num, Den: j.spec.Timeline.Den},
		Start: c.Start, End: c.Start + 1, Every: 1, Rotate: j.spec.Rotate, Deinterlace: j.spec.Deinterlace, ToneMap: j.spec.ToneMap, Untagged: j.spec.Untagged}
	sizes := posterSizes(j.plan)
	for _, p := range sizes {
		v.Rungs = append(v.Rungs, ffmpeg.Rung{Width: p.Width, Height: p.Height})
	}
	pictures := make([][]byte, len(sizes))
	for _, seek := range c.Seeks {
		v.SeekMicros = seek
		v.URL = in.picture(run, j.spec, c.Bytes, seek, v.End)
		if pictures, err = j.ffmpeg(pub.ctx, ffmpeg.Poster(v), len(sizes)); err != nil {
			return in.blame(err)
		}
		if len(pictures[0]) > 0 {
			break
		}
	}
	for i, p := range sizes {
		if len(pictures[i]) == 0 {
			return in.blame(errors.New("the frame can't be decoded"))
		}
		name := fmt.Sprintf("poster-%d.jpg", posterHeights[i])
		j.put(pub, name, pictures[i])
		p.Path, p.Time = j.name(name), float64(at.Start)/float64(j.track.Timescale)
		j.out.Posters = append(j.out.Posters, p)
	}
	return nil
}

// posterSizes fits the picture into each poster's box, never larger than the largest rung,
// whether that is of the track with the pictures or comes later.
func posterSizes(p catalog.Plan) []hls.Poster {
	var top hls.Rendition
	for _, tr := range p.Tracks {
		for _, r := range tr.Renditions {
			if tr.Kind == hls.Video && r.Width*r.Height > top.Width*top.Height {
				top = r
			}
		}
	}
	var out []hls.Poster
	for _, h := range posterHeights {
		short, long := min(top.Width, top.Height), max(top.Width, top.Height)
		scale := min(1, float64(h)/float64(short), float64(h)*16/9/float64(long))
		out = append(out, hls.Poster{Width: max(2, int(float64(top.Width)*scale)&^1), Height: max(2, int(float64(top.Height)*scale)&^1)})
	}
	return out
}

func (j *extraJob) ffmpeg(ctx context.Context, args []string, outputs int) ([][]byte, error) {
	limits := j.e.opt.Child
	limits.Background, limits.Wall = true, extraWall
	return ffmpeg.RunAll(ctx, ffmpeg.Command{Name: "ffmpeg", Args: args, Outputs: outputs, Limits: limits}, maxExtra)
}

// splitJPEG separates pictures written one after another. Within a picture's
// data 0xFF is always followed by 0 or a restart marker (ITU-T T.81, B.1.1.5).
func splitJPEG(b []byte) [][]byte {
	var out [][]byte
	for len(b) > 0 {
		i := bytes.Index(b, []byte{0xff, 0xd9, 0xff, 0xd8})
		if i < 0 {
			return append(out, b)
		}
		out, b = append(out, b[:i+2]), b[i+2:]
	}
	return out
}

// memoryFile is a file in memory for the loopback server.
type memoryFile []byte

// Size is its length.
func (m memoryFile) Size() int64 { return int64(len(m)) }

// ReadAt copies from it.
func (m memoryFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, off)
}
