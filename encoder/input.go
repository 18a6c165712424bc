package encoder

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/meridian-video/meridian/encoder/plan"
	"github.com/meridian-video/meridian/encoder/probe"
	"github.com/meridian-video/meridian/encoder/source"
	"github.com/meridian-video/meridian/internal/catalog"
)

// served is a file that children can read.
type served struct {
	server *source.Server
	file   source.Reader
	// url shows all of it.
	url string
	// movie is nil where no part can be shown.
	movie *probe.Movie

	mu      sync.Mutex
	removes []func()
}

func (e *Encoder) serve(f source.Reader) *served {
	s := &served{server: e.server, file: f}
	s.url = s.add(f)
	return s
}

func (s *served) add(f source.Reader) string {
	url, remove := s.server.Add(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removes = append(s.removes, remove)
	return url
}

// part is where the file can be read with no more than the spans, and the beginning,
// in its index; what a process has to read before it can begin.
func (s *served) part(spans ...probe.Span) string {
	if s.movie == nil {
		return s.url
	}
	head := s.movie.Clip(spans...)
	if head == nil {
		return s.url
	}
	return s.add(source.NewView(s.file, source.Piece{Bytes: head}, source.Piece{Size: s.file.Size()}))
}

// stretch is where some bytes of a file can be read that is read as it comes.
func (s *served) stretch(l probe.Layout, from, to int64) string {
	return s.add(source.NewView(s.file, l.Pieces(from, to)...))
}

// picture is where frames shown before to, in the source's time base, can be decoded
// from seek on; in a run that has grown from bytes instead.
func (s *served) picture(run plan.Run, spec plan.VideoTrack, bytes *plan.Bytes, seek, to int64) string {
	if bytes != nil && run.Growth != nil {
		return s.stretch(run.Growth.Layout, bytes.From, bytes.To)
	}
	span := probe.Span{Stream: spec.Stream, From: math.MinInt64, To: to}
	if seek >= 0 {
		span.From = spec.Timeline.PTS(seek)
	}
	return s.part(span)
}

// hide ends it all.
func (s *served) hide() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, remove := range s.removes {
		remove()
	}
	s.removes = nil
}

// input is a source opened for ffmpeg.
type input struct {
	*source.File
	*served
}

func (i *input) Close() {
	i.hide()
	i.File.Close()
}

// open makes the source a run's tasks read readable at a URL: the upload, or
// its remux.
func (e *Encoder) open(ctx context.Context, t Task, run plan.Run) (*input, error) {
	f, err := e.file(ctx, t, run)
	if err != nil {
		return nil, err
	}
	in := &input{File: f, served: e.serve(f)}
	key := t.Asset
	if len(run.Parts) > 0 {
		key = run.Parts[0].Key
	}
	if in.movie, err = e.movies.get(ctx, key, f); err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}

func (e *Encoder) file(ctx context.Context, t Task, run plan.Run) (*source.File, error) {
	var parts []source.Part
	for _, p := range run.Parts {
		parts = append(parts, source.Part{Key: p.Key, Size: p.Size})
	}
	fetch := fetcher{e.store, t.Placement}
	if len(parts) > 0 {
		return source.Open(ctx, fetch, parts), nil
	}
	src, err := t.Source(ctx)
	if err != nil {
		return nil, err
	}
	if src.Complete {
		return source.Open(ctx, fetch, partsOf(src)), nil
	}
	if src.Size < 0 {
		return nil, fmt.Errorf("source of %s is not complete", t.Asset)
	}
	g := source.Growth{Size: src.Size, Patience: e.partPatience, Parts: func(ctx context.Context) ([]source.Part, error) {
		src, err := t.Source(ctx)
		return partsOf(src), err
	}}
	switch t.Kind {
	case catalog.KindPlan:
		g.Patience = planPatience
	case catalog.KindAudio:
		g.Waits = soundWaits // it reads to the end
	}
	return source.OpenGrowing(ctx, fetch, partsOf(src), g), nil
}

// How long reads wait for bytes of a source that have not arrived. A task that wanted
// them is then given back.
const (
	// partPatience is less than ffmpeg waits.
	partPatience = 25 * time.Second
	// planPatience is longer than looking at what is there takes.
	planPatience = 5 * time.Second
	// soundWaits is how long an audio task waits in all. What it gives back another
	// one goes on with, and joins.
	soundWaits = 2 * time.Minute
)

func partsOf(src catalog.Source) []source.Part {
	parts := make([]source.Part, len(src.Parts))
	for i, p := range src.Parts {
		parts[i] = source.Part{Key: src.Key(p), Size: p.Size}
	}
	return parts
}

// blame returns the failure to fetch the source, if there was one, instead of
// what it made of the child; or that bytes were missing, if anything failed.
func (i *input) blame(err error) error {
	if ferr := i.Err(); ferr != nil {
		return ferr
	}
	if err != nil {
		if m := i.Missing(); m != nil {
			return m
		}
	}
	return err
}

// movies keeps the headers of the files a worker is busy with: all tasks of a run
// want the same one.
type movies struct {
	mu sync.Mutex
	// held are the newest last.
	held []*heldMovie
}

type heldMovie struct {
	key   string
	ready chan struct{}
	movie *probe.Movie
	err   error
}

// Bounds of movies.
const (
	maxMovies     = 8
	maxMovieBytes = 256 << 20
)

// get reads f's header, unless it is known by its key. Whoever asks meanwhile waits.
func (m *movies) get(ctx context.Context, key string, f *source.File) (*probe.Movie, error) {
	if f.Readable() < f.Size() {
		// What isn't in front may come much later.
		needs, ok, err := probe.Head(ctx, f)
		if err != nil || !ok || needs > f.Readable() {
			return nil, err
		}
	}
	m.mu.Lock()
	i := slices.IndexFunc(m.held, func(h *heldMovie) bool { return h.key == key })
	if i >= 0 {
		h := m.held[i]
		m.held = append(slices.Delete(m.held, i, i+1), h)
		m.mu.Unlock()
		select {
		case <-h.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if h.err == nil {
			return h.movie, nil
		}
		return probe.ReadMovie(ctx, f) // the other one may have been cancelled
	}
	h := &heldMovie{key: key, ready: make(chan struct{})}
	m.held = append(m.held, h)
	m.mu.Unlock()
	h.movie, h.err = probe.ReadMovie(ctx, f)
	close(h.ready)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trim(h)
	return h.movie, h.err
}

// trim forgets a failure, and the oldest while there is too much.
func (m *movies) trim(latest *heldMovie) {
	if latest.err != nil {
		m.held = slices.DeleteFunc(m.held, func(h *heldMovie) bool { return h == latest })
	}
	bytes, keep := int64(0), 0
	for _, h := range slices.Backward(m.held) {
		select {
		case <-h.ready:
			bytes += h.movie.Bytes()
		default:
		}
		if keep == maxMovies || bytes > maxMovieBytes {
			break
		}
		keep++
	}
	m.held = slices.Delete(m.held, 0, len(m.held)-keep)
}
