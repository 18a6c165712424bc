package encoder

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/sleep"
)

// Pace of a progressive remux. Copied as fast as it can be, the film's rest takes the processors
// and disks from its beginning, which is watched. So it is copied as fast as is of use to
// anybody: paceFilm times as fast as it plays after the first unpaced of it, or pacePerSecond
// where it has few bytes.
const (
	unpaced       = time.Minute
	paceFilm      = 20
	pacePerSecond = 4 << 20
	// maxPause is well within what ffmpeg and its connection wait for.
	maxPause = 10 * time.Second
)

// Sizes of a progressive remux. What is no larger than one part is remuxed before it is planned.
const (
	// firstPart is of its first object; each next one has twice as many bytes, up to remuxPart.
	firstPart = 2 << 20
	// maxUnplanned is how much may be remuxed before there is anything to plan.
	maxUnplanned = 2 * remuxPart
)

// wholeCodecs are of pictures that are remuxed before they are planned: packets of some are
// no frames, and others look otherwise in another container.
var wholeCodecs = []string{"vp8", "rawvideo"}

// errWhole: a source can't be planned while it is remuxed.
var errWhole = errors.New("the source must be remuxed before it is planned")

// progressive says whether a source that needs a remux is planned while that goes on. Nobody
// waits for a later run's beginning, and what went wrong so is judged as a whole.
func (e *Encoder) progressive(t Task, in *input, src probe.Source) bool {
	return t.Run == 1 && t.Failures == 0 && in.Size() > e.wholeRemux && !slices.Contains(wholeCodecs, src.Video.Codec)
}

// remuxer copies the picture of a complete source into fragments, stores them part by part,
// and makes the run's plan grow over them while the copy goes on. Sound and text are read
// from the upload.
type remuxer struct {
	e       *Encoder
	t       Task
	in      *input
	proc    *ffmpeg.Process
	profile plan.Profile
	// src is the source, its picture as the remux shows it.
	src    probe.Source
	layout probe.Layout
	// plan is what is committed, nil before its beginning; stored are its parts, which an
	// earlier attempt may have made.
	plan   *catalog.Plan
	stored []plan.Part
	// n is the part that comes next, end where it begins.
	n   int
	end int64
	// next is where the first unit begins that the plan doesn't know; frames are those from
	// there on, pieces the parts that hold them and aren't stored yet.
	next   int64
	frames []probe.Frame
	pieces []piece
	// paced is where the copy was when its pace began to count.
	paced mark
}

// mark says where a copy is, and when.
type mark struct {
	at    time.Time
	known time.Duration // of the picture
	bytes int64         // of the copy
}

// piece of a remux, which becomes one part.
type piece struct {
	// file has no name any more.
	file *os.File
	size int64
	sum  [sha256.Size]byte
	// frames that lie in it; end is where it ends in the remux, last that nothing follows.
	frames []probe.Frame
	end    int64
	last   bool
}

// remuxing plans a source while it is remuxed. have is the plan that an earlier attempt
// came to, and run what it says of the run; without one it is nil, and run has the profile
// only. errWhole says that nothing is committed or stored.
func (e *Encoder) remuxing(ctx context.Context, t Task, in *input, src probe.Source, run plan.Run, have *catalog.Plan) error {
	r := &remuxer{e: e, t: t, in: in, src: src, profile: run.Params, plan: have, stored: run.Parts}
	if have != nil {
		if run.Growth == nil {
			return errors.New("the plan isn't one that grows")
		}
		r.next = run.Growth.Next
	}
	e.log.Info("remuxing source while it is planned", "asset", t.Asset, "run", t.RunName(), "reason", src.NeedsRemux, "planned", len(r.stored))
	began := time.Now()
	defer func() { e.metrics.stage("remux", time.Since(began)) }()
	limits := e.opt.Child
	limits.Wall = remuxWall(in.Size())
	if have != nil {
		limits.Nice = e.niceAhead()
	}
	copying, cctx := errgroup.WithContext(ctx)
	var err error
	r.proc, err = ffmpeg.Start(cctx, ffmpeg.Command{Name: "ffmpeg", Outputs: 1, Limits: limits,
		Args: ffmpeg.Fragments{URL: in.url, Stream: src.Video.Stream, Codec: src.Video.Codec}.Args()})
	if err != nil {
		return err
	}
	pieces := make(chan piece)
	copying.Go(func() error {
		defer close(pieces)
		return r.copy(cctx, pieces)
	})
	copying.Go(func() error {
		defer r.drop()
		for p := range pieces {
			if err := r.add(cctx, p); err != nil {
				return err
			}
			if err := r.pace(cctx); err != nil {
				return err
			}
		}
		return nil
	})
	err = copying.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case in.Err() != nil:
		return in.Err()
	}
	return err
}

// copy cuts what ffmpeg writes into pieces, the last one only after its good end. At most
// one waits while another is filled.
func (r *remuxer) copy(ctx context.Context, out chan<- piece) error {
	s := spool{dir: r.e.opt.Scratch}
	err := r.cut(ctx, fmp4.NewReader(io.TeeReader(r.proc.Output(0), &s)), &s, out)
	if err != nil && !isTruncated(err) {
		r.proc.Kill(err)
	}
	// On a full disk ffmpeg's end may be good, and the file short.
	perr := cmp.Or(r.proc.Wait(), r.proc.Lacked())
	switch {
	case r.in.Err() != nil:
		// ffmpeg takes a broken connection for the end of the file.
		err = r.in.Err()
	case perr != nil && (err == nil || isTruncated(err)):
		err = copyFailed(ctx, r.t, perr)
	}
	if err != nil {
		return errors.Join(err, s.close())
	}
	return s.send(ctx, out, true)
}

// cut reads fragments to their end and sends pieces of them. Where they end depends on the
// source alone, so another attempt cuts them at the same places.
func (r *remuxer) cut(ctx context.Context, from *fmp4.Reader, s *spool, out chan<- piece) error {
	moov, err := from.Moov()
	if err != nil {
		return err
	}
	r.shows(int64(moov.Trak.Mdia.Mdhd.Timescale), s.end)
	fields, unit := fmp4.NewFields(moov), s.end
	for n := 0; ; {
		begins := s.end
		samples, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for i, f := range samples {
			if fields.Second(f.Data) {
				if last := len(s.frames) - 1; last >= 0 {
					s.frames[last].Duration += f.Duration
				}
				continue
			}
			if i == 0 {
				unit = begins // where a frame is divided, no unit begins
			}
			// Where every frame is a keyframe, a fragment has several: chunks are read from
			// the beginning of one, to that of another.
			s.frames = append(s.frames, probe.Frame{PTS: f.PTS, Duration: f.Duration, Size: int32(len(f.Data)), Key: f.Sync && i == 0, Unit: unit})
		}
		if s.size < min(r.e.firstRemux<<min(n, 16), remuxPart) {
			continue
		}
		if err := s.send(ctx, out, false); err != nil {
			return err
		}
		n++
	}
}

// shows notes how the remux shows the picture.
func (r *remuxer) shows(timescale, head int64) {
	v := *r.src.Video
	v.Stream, v.TimeBase = 0, hls.Rational{Num: 1, Den: timescale}
	r.src.Video = &v
	r.layout = probe.Layout{Kind: probe.Fragmented, Head: head}
}

// spool holds the piece that is being written.
type spool struct {
	dir    string
	file   *os.File
	hash   hash.Hash
	size   int64
	frames []probe.Frame
	// end is where the piece ends, so far, in the remux.
	end int64
}

func (s *spool) Write(b []byte) (int, error) {
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "remux-")
		if err == nil {
			err = os.Remove(f.Name()) // it leaves with the process
		}
		if err != nil {
			return 0, fmt.Errorf("remux: %w", err)
		}
		s.file, s.hash, s.size = f, sha256.New(), 0
	}
	n, err := s.file.Write(b)
	_, _ = s.hash.Write(b[:n]) // never fails
	s.size += int64(n)
	s.end += int64(n)
	return n, err
}

// send gives the piece away.
func (s *spool) send(ctx context.Context, out chan<- piece, last bool) error {
	p := piece{frames: s.frames, end: s.end, last: last}
	if s.file != nil {
		p.file, p.size, p.sum = s.file, s.size, [sha256.Size]byte(s.hash.Sum(nil))
	}
	select {
	case out <- p:
		s.file, s.frames, s.size = nil, nil, 0
		return nil
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), s.close())
	}
}

func (s *spool) close() error {
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}

// drop closes what hasn't been stored.
func (r *remuxer) drop() {
	for _, p := range r.pieces {
		if err := p.file.Close(); err != nil {
			r.e.log.Warn("scratch file not closed", "error", err)
		}
	}
	r.pieces = nil
}

// add takes a piece over: compares it with what an earlier attempt stored, or stores it and
// plans its frames.
func (r *remuxer) add(ctx context.Context, p piece) error {
	for _, f := range p.frames {
		if f.Unit >= r.next {
			r.frames = append(r.frames, f)
		}
	}
	if p.file != nil {
		r.pieces = append(r.pieces, p)
	}
	if r.end == 0 && r.plan == nil && p.file != nil {
		if err := r.shown(ctx, p); err != nil {
			return err
		}
	}
	r.end = p.end
	if r.n < len(r.stored) {
		defer r.drop()
		if s := r.stored[r.n]; p.last || p.size != s.Size || hex.EncodeToString(p.sum[:]) != s.SHA256 {
			return &probe.InputError{Code: probe.CodeChanged, Detail: plan.ErrChanged.Error() + ": its remux came out otherwise"}
		}
		r.n++
		return nil
	}
	return r.grow(ctx, p.last)
}

// shown leaves out frames that can't be decoded. The first piece has them, if there are any.
func (r *remuxer) shown(ctx context.Context, p piece) (err error) {
	s := r.e.serve(localFile{p.file, p.size})
	defer s.hide()
	r.frames, err = r.e.prober.Shown(ctx, s.url, *r.src.Video, r.frames)
	return err
}

// grow plans the frames that are known and commits that.
func (r *remuxer) grow(ctx context.Context, last bool) error {
	next := r.next
	for _, f := range r.frames {
		if f.Key {
			next = max(next, f.Unit)
		}
	}
	if last {
		next = r.end
	}
	known := 0
	for known < len(r.frames) && r.frames[known].Unit < next {
		known++
	}
	p, err := r.planned(r.frames[:known], next, last)
	switch {
	case errors.Is(err, plan.ErrShort) && !last && r.end < maxUnplanned:
		return nil // more will do
	case err != nil && r.plan == nil:
		return fmt.Errorf("%w: %w", errWhole, err)
	case errors.Is(err, plan.ErrChanged):
		return &probe.InputError{Code: probe.CodeChanged, Detail: err.Error()}
	case err != nil:
		return err
	}
	parts, err := r.store(ctx)
	if err != nil {
		return err
	}
	if p, err = plan.AddParts(p, parts...); err != nil {
		return err
	}
	r.next, r.frames = next, slices.Clone(r.frames[known:])
	if last {
		if err := r.e.tooLong(p); err != nil {
			return err
		}
		return r.t.CommitPlan(ctx, p)
	}
	began := r.plan != nil
	if err := r.t.GrowPlan(ctx, p, 0); err != nil {
		return err
	}
	r.plan = &p
	if began {
		return nil
	}
	// The rest leaves the slot and the processors to the film's beginning.
	r.t.Draining()
	return r.proc.Yield(r.e.niceAhead())
}

// pace waits where the copy is further than its pace.
func (r *remuxer) pace(ctx context.Context) error {
	if r.plan == nil || r.n < len(r.stored) {
		return nil
	}
	known, err := plan.Known(*r.plan)
	if err != nil {
		return err
	}
	if r.paced.at.IsZero() {
		r.paced = mark{at: time.Now(), known: known, bytes: r.end}
		return nil
	}
	since := time.Since(r.paced.at)
	film := (known-r.paced.known-unpaced)/paceFilm - since
	bytes := time.Duration(float64(r.end-r.paced.bytes)/pacePerSecond*float64(time.Second)) - since
	return sleep.For(ctx, min(film, bytes, maxPause))
}

// planned is the plan with more frames.
func (r *remuxer) planned(frames []probe.Frame, next int64, last bool) (catalog.Plan, error) {
	switch {
	case r.plan == nil && (last || len(frames) == 0):
		return catalog.Plan{}, plan.ErrShort // there is none before the second keyframe
	case r.plan == nil:
		g := plan.Growth{Layout: r.layout, Next: next, Ahead: ffmpeg.FragmentsAhead * r.src.Video.TimeBase.Den}
		return plan.Begin(r.src, true, g, frames, r.profile, r.e.currentSpeed())
	case last:
		return plan.Extend(*r.plan, frames, next, &r.src)
	}
	return plan.Extend(*r.plan, frames, next, nil)
}

// store stores the pieces there are.
func (r *remuxer) store(ctx context.Context) (parts []plan.Part, err error) {
	defer r.drop()
	for _, p := range r.pieces {
		key := objects.RemuxKey(r.t.Asset, r.t.RunName(), r.n, r.t.Attempt)
		if err := r.e.put(ctx, key, objects.Body{R: p.file, Size: p.size, SHA256: p.sum}, r.t.Placement); err != nil {
			return nil, err
		}
		parts = append(parts, plan.Part{Key: key, Size: p.size, SHA256: hex.EncodeToString(p.sum[:])})
		r.n++
	}
	return parts, nil
}
