package encoder

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/vtt"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

// subtitlesIdle is how long a file may be read without a single cue.
const subtitlesIdle = 10 * time.Minute

// text publishes one track of subtitles as WebVTT, all at once. A track that
// can't be read is published without cues: a video is complete without them.
func (e *Encoder) text(ctx context.Context, t Task) error {
	p, err := e.runPlan(ctx, t)
	if err != nil {
		return err
	}
	var spec plan.TextTrack
	track, err := trackOf(p, t.Track, &spec)
	if err != nil {
		return err
	}
	if len(track.Renditions) != 1 {
		return fmt.Errorf("track %s: want one rendition, the plan has %d", t.Track, len(track.Renditions))
	}
	// The upload itself, also where the picture is read from a remux.
	in, err := e.open(ctx, t, plan.Run{})
	if err != nil {
		return err
	}
	defer in.Close()
	cues, err := e.cues(ctx, t, in, spec)
	if err != nil {
		return err
	}
	length := time.Duration(spec.SegmentSeconds) * time.Second
	total := plan.Duration(p)
	id, rec := track.Renditions[0].ID, e.record(t, p, track, 0)
	rec.Last, rec.Target = true, spec.SegmentSeconds
	pub := e.publisher(ctx, t)
	var stored stores
	var segments []hls.Segment
	bits := int64(0)
	for n, b := range vtt.Cut(cues, time.Duration(spec.ZeroMicros)*time.Microsecond, total, length) {
		body := objects.Bytes(b)
		pub.put(objects.SegmentKey(t.Asset, t.RunName(), id, hls.TextPath(0, t.Attempt, n)), body, &stored, nil)
		lasts := min(length, total-time.Duration(n)*length)
		segments = append(segments, hls.Segment{Duration: max(1, lasts.Milliseconds()), Bytes: body.Size, SHA256: hex.EncodeToString(body.SHA256[:])})
		bits = max(bits, 8*body.Size)
	}
	if err := pub.wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	rec.Renditions[id] = hls.RenditionSegments{Segments: segments}
	r := track.Renditions[0]
	r.Bandwidth = max(1, bits/int64(spec.SegmentSeconds))
	return t.CommitChunk(ctx, catalog.ChunkCommit{Record: rec, Renditions: []hls.Rendition{r}})
}

func (e *Encoder) cues(ctx context.Context, t Task, in *input, spec plan.TextTrack) ([]vtt.Cue, error) {
	release, err := e.hold(ctx, soundMemory)
	if err != nil {
		return nil, err
	}
	defer release()
	limits := e.opt.Child
	limits.Background = true
	limits.Idle = subtitlesIdle
	limits.Wall = remuxWall(in.Size())
	out, err := ffmpeg.Run(ctx, ffmpeg.Command{Name: "ffmpeg", Args: ffmpeg.Subtitles(in.url, spec.Stream), Limits: limits}, ffmpeg.MaxSubtitles)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case in.Err() != nil:
		return nil, in.Err()
	}
	var cues []vtt.Cue
	if err == nil {
		cues, err = vtt.Parse(out)
	}
	var child *ffmpeg.Error
	if errors.As(err, &child) && child.Reason == ffmpeg.ReasonStart || err != nil && !t.again() {
		return nil, err // the worker may be at fault
	}
	if err != nil {
		e.log.Warn("subtitles can't be read, the track is empty", "task", t.ID, "asset", t.Asset, "error", err)
	}
	return cues, nil
}
