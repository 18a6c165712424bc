package encoder

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/text/language"

	"github.com/meridian-video/meridian/encoder/ffmpeg"
	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
)

// plan probes a source and commits the run's plan.
func (e *Encoder) plan(ctx context.Context, t Task) error {
	in, err := e.open(ctx, t, plan.Run{})
	if err != nil {
		return err
	}
	defer in.Close()
	release, err := e.hold(ctx, probeMemory)
	if err != nil {
		return err
	}
	defer release()
	if t.Attempt > 1 {
		p, err := t.Plan(ctx)
		if err == nil {
			return e.grow(ctx, t, in, p)
		}
		if !errors.Is(err, catalog.ErrNotFound) {
			return err
		}
	}
	early := in.Readable() < in.Size()
	if early {
		l, needs, ok, err := probe.ReadLayout(ctx, in)
		switch {
		case err != nil:
			return in.blame(err)
		case ok:
			return e.begin(ctx, t, in, l)
		case needs > 0:
			return t.Await(ctx, in.Needed(needs))
		}
		needs, ok, err = probe.Head(ctx, in)
		if err != nil {
			return in.blame(err)
		}
		if !ok {
			needs = in.Size()
		}
		if needs = in.Needed(needs); needs > in.Readable() {
			return t.Await(ctx, needs)
		}
	}
	profile, x, err := e.look(ctx, t, in)
	if errors.Is(err, probe.ErrRemux) && !early && e.progressive(t, in, x.source) {
		rerr := e.remuxing(ctx, t, in, x.source, plan.Run{Params: profile}, nil)
		if !errors.Is(rerr, errWhole) {
			return in.blame(rerr)
		}
		e.log.Info("not planned while it is remuxed", "asset", t.Asset, "run", t.RunName(), "reason", rerr)
	}
	p, err := e.makePlan(ctx, t, in, profile, x, err)
	if early && err != nil && in.Err() == nil && ctx.Err() == nil {
		e.log.Info("not planned yet", "asset", t.Asset, "run", t.RunName(), "readable", in.Readable(), "reason", err)
		if in.Missing() != nil {
			return t.Await(ctx, in.Needed(2*in.Readable()))
		}
		// Whatever it is, it is decided when all is there.
		return t.Await(ctx, in.Size())
	}
	if err != nil {
		return in.blame(err)
	}
	if err := in.Err(); err != nil {
		return err
	}
	return t.CommitPlan(ctx, p)
}

// look examines the upload, for the profile the run asks for.
func (e *Encoder) look(ctx context.Context, t Task, in *input) (p plan.Profile, x examined, err error) {
	if p, err = e.profile(ctx, t); err == nil {
		x, err = e.examine(ctx, t, in.served, in, p, nil)
	}
	return p, x, err
}

// makePlan makes the plan of a source that was looked at, with that result.
func (e *Encoder) makePlan(ctx context.Context, t Task, in *input, profile plan.Profile, x examined, err error) (catalog.Plan, error) {
	src := x.source
	var parts []plan.Part
	if errors.Is(err, probe.ErrRemux) && in.Readable() == in.Size() {
		e.log.Info("remuxing source", "asset", t.Asset, "run", t.RunName(), "reason", err)
		began := time.Now()
		x, parts, err = e.remux(ctx, t, in, src, profile)
		src = x.source
		e.metrics.stage("remux", time.Since(began))
	}
	if err == nil && x.index == nil && in.Readable() < in.Size() {
		err = errors.New("there is no picture whose index is in front")
	}
	if err != nil {
		return catalog.Plan{}, err
	}
	if src.Duration > 0 {
		src.BitRate = int64(float64(in.Size()) * 8 / src.Duration.Seconds())
	}
	p, err := plan.Make(src, x.index, x.complexity, profile, e.currentSpeed())
	if err != nil {
		return catalog.Plan{}, err
	}
	if err := e.tooLong(p); err != nil {
		return catalog.Plan{}, err
	}
	for i := range p.Tracks {
		tr := &p.Tracks[i]
		tr.Needs = in.Needed(tr.Needs)
		for k := range tr.Chunks {
			tr.Chunks[k].Needs = in.Needed(tr.Chunks[k].Needs)
		}
	}
	if len(parts) > 0 {
		var run plan.Run
		if err := json.Unmarshal(p.Encoder, &run); err != nil {
			return catalog.Plan{}, err
		}
		run.Parts = parts
		if p.Encoder, err = json.Marshal(run); err != nil {
			return catalog.Plan{}, err
		}
	}
	return p, nil
}

// tooLong refuses what lasts longer than is allowed.
func (e *Encoder) tooLong(p catalog.Plan) error {
	if limit := e.opt.Source.Duration; limit > 0 && plan.Duration(p) > limit {
		return &probe.InputError{Code: probe.CodeDuration,
			Detail: fmt.Sprintf("the file lasts %s, the limit is %s", plan.Duration(p).Round(time.Second), limit)}
	}
	return nil
}

// profile is the one the run asks for.
func (e *Encoder) profile(ctx context.Context, t Task) (plan.Profile, error) {
	name, err := t.Profile(ctx)
	if err != nil || name == e.opt.Profile.Name {
		return e.opt.Profile, err
	}
	p, ok := e.opt.Profiles[name]
	if !ok {
		return plan.Profile{}, &probe.InputError{Code: probe.CodeProfile,
			Detail: fmt.Sprintf("there is no encoding profile %q here: ask for one of %v, or for none", name, e.opt.Profiles.Names(e.opt.Profile.Name))}
	}
	return p, nil
}

// examined is what is known of a file. index is nil for sources without video.
type examined struct {
	source     probe.Source
	index      *probe.Index
	complexity plan.Complexity
}

// examine probes, indexes and measures a file. probe.ErrRemux comes with the source
// as far as it is known. copied is nil, or what the file is a copy of, which may have lost that
// it is interlaced.
func (e *Encoder) examine(ctx context.Context, t Task, s *served, f probe.File, p plan.Profile, copied *probe.Video) (examined, error) {
	began := time.Now()
	src, err := e.prober.Probe(ctx, s.part(), f.Size())
	e.metrics.stage("probe", time.Since(began))
	if err != nil {
		return examined{}, err
	}
	src.Copied = copied != nil
	x := examined{source: src}
	if src.NeedsRemux != "" {
		return x, fmt.Errorf("%w: %s", probe.ErrRemux, src.NeedsRemux)
	}
	if src.Video == nil {
		if src.Duration == 0 || src.Guessed() {
			x.source.Duration, err = e.prober.AudioDuration(ctx, s.url, src.Audio[0].Stream)
		}
		return x, err
	}
	src.Video.Interlaced = src.Video.Interlaced || copied != nil && copied.Interlaced
	began = time.Now()
	index, err := e.prober.Index(ctx, s.url, f, src)
	e.metrics.stage("index", time.Since(began))
	if err != nil {
		return x, err
	}
	x.index = &index
	x.complexity, err = e.complexity(ctx, t, s, src, index, p)
	return x, err
}

// mp4Codecs can be copied into MP4; everything else goes into Matroska.
var mp4Codecs = []string{"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video", "vp9", "av1", "mjpeg",
	"aac", "mp3", "mp2", "ac3", "eac3", "opus", "flac", "alac"}

// remuxPart is the size of a remux's objects.
const remuxPart = 64 << 20

// remuxWall is the longest a source may take that is read once.
func remuxWall(size int64) time.Duration {
	return 2*time.Minute + time.Duration(size/(1<<20))*time.Second
}

// remux copies the streams into a container with an index, stores it and
// examines it.
func (e *Encoder) remux(ctx context.Context, t Task, in *input, src probe.Source, p plan.Profile) (examined, []plan.Part, error) {
	fail := func(err error) (examined, []plan.Part, error) { return examined{}, nil, err }
	dir, err := os.MkdirTemp(e.opt.Scratch, "remux-")
	if err != nil {
		return fail(fmt.Errorf("remux: %w", err))
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			e.log.Warn("scratch directory not removed", "error", err)
		}
	}()
	r := ffmpeg.Remux{URL: in.url, Video: src.Video.Stream, Codec: src.Video.Codec, Format: "mp4", Path: "source"}
	codecs := []string{src.Video.Codec}
	for _, a := range src.Audio {
		r.Audio = append(r.Audio, a.Stream)
		codecs = append(codecs, a.Codec)
	}
	if slices.ContainsFunc(codecs, func(c string) bool { return !slices.Contains(mp4Codecs, c) }) {
		r.Format = "matroska"
	}
	limits := e.opt.Child
	limits.Wall = remuxWall(in.Size())
	proc, err := ffmpeg.Start(ctx, ffmpeg.Command{Name: "ffmpeg", Args: r.Args(), Dir: dir, Limits: limits})
	if err != nil {
		return fail(err)
	}
	// On a full disk ffmpeg's end may be good, and the file short.
	if err := cmp.Or(proc.Wait(), proc.Lacked()); err != nil {
		if in.Err() == nil {
			err = copyFailed(ctx, t, err)
		}
		return fail(err)
	}
	if err := in.Err(); err != nil {
		return fail(err)
	}
	f, err := os.Open(filepath.Join(dir, r.Path))
	if err != nil {
		return fail(fmt.Errorf("remux: %w", err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail(fmt.Errorf("remux: %w", err))
	}
	local := localFile{f, info.Size()}
	s := e.serve(local)
	defer s.hide()
	if s.movie, err = probe.ReadMovie(ctx, local); err != nil {
		return fail(err)
	}
	x, err := e.examine(ctx, t, s, local, p, src.Video)
	if err != nil {
		if errors.Is(err, probe.ErrRemux) {
			err = &probe.InputError{Code: probe.CodeDamaged, Detail: "the frames have no usable times"}
		}
		return fail(err)
	}
	out := &x.source
	if out.Video == nil {
		return fail(&probe.InputError{Code: probe.CodeDamaged, Detail: "no video frame could be read"})
	}
	// The copy has lost what only the original container says.
	for i := range out.Audio {
		if i < len(src.Audio) && out.Audio[i].Language == "" {
			out.Audio[i].Language, out.Audio[i].Title = src.Audio[i].Language, src.Audio[i].Title
		}
	}
	// Subtitles are read from the upload, in its time.
	if out.Text = src.Text; len(out.Text) > 0 {
		if out.TextZero, err = e.prober.FirstMicros(ctx, in.url, *src.Video); err != nil {
			return fail(err)
		}
	}
	parts, err := e.storeRemux(ctx, t, f, info.Size())
	return x, parts, err
}

// copyFailed says whose fault it is that a source couldn't be copied to its end, though all
// of it could be had.
func copyFailed(ctx context.Context, t Task, err error) error {
	var fe *ffmpeg.Error
	if errors.As(err, &fe) && fe.Reason == ffmpeg.ReasonExit && ctx.Err() == nil && t.again() {
		// Twice the same: the file is at fault.
		return &probe.InputError{Code: probe.CodeDamaged, Detail: "the file's streams can't be read to their end"}
	}
	return err
}

func (e *Encoder) storeRemux(ctx context.Context, t Task, f *os.File, size int64) ([]plan.Part, error) {
	var parts []plan.Part
	for n := 0; int64(n)*remuxPart < size; n++ {
		off := int64(n) * remuxPart
		section := io.NewSectionReader(f, off, min(remuxPart, size-off))
		h := sha256.New()
		if _, err := io.Copy(h, section); err != nil {
			return nil, fmt.Errorf("remux: %w", err)
		}
		body := objects.Body{R: section, Size: section.Size(), SHA256: [sha256.Size]byte(h.Sum(nil))}
		key := objects.RemuxKey(t.Asset, t.RunName(), n, t.Attempt)
		if err := e.put(ctx, key, body, t.Placement); err != nil {
			return nil, err
		}
		parts = append(parts, plan.Part{Key: key, Size: body.Size})
	}
	return parts, nil
}

type localFile struct {
	f    *os.File
	size int64
}

func (l localFile) Size() int64 { return l.size }

func (l localFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return l.f.ReadAt(p, off)
}

// language3 is the ISO 639-2 code MP4 wants for a BCP 47 tag.
func language3(tag string) string {
	base, err := language.ParseBase(first(tag, '-'))
	if err != nil {
		return "und"
	}
	if code := base.ISO3(); len(code) == 3 {
		return code
	}
	return "und"
}

func first(s string, sep byte) string {
	for i := range len(s) {
		if s[i] == sep {
			return s[:i]
		}
	}
	return s
}
