package fleet

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/sleep"
)

// tracks of a session.
const (
	video = iota
	audio
)

// session is one video watched, from opening to its end.
type session struct {
	v      *viewer
	opened time.Time
	// master's URL, after redirects; base of relative ones.
	master *url.URL
	tracks int
	// playlists by URL; those that have ended are kept.
	playlists map[string]hls.MediaInfo
	inits     [2]string
	ended     [2]bool
	rung      int
	edge      string // that served last
	// from is where to begin, as a share of the video but its last leastLeft
	// seconds; done once begun.
	from  float64
	begun bool

	// factor of timeouts, failures in a row everywhere, and whether this request is
	// a retry already.
	factor, rounds int
	retried        bool

	// mu guards what steering changes.
	mu    sync.Mutex
	paths *pathways
	abort context.CancelCauseFunc // of the request under way
	moved chan struct{}           // has one when the pathway was changed
}

func (s *session) run(ctx context.Context) {
	m, steering, err := s.open(ctx)
	if err != nil {
		return
	}
	s.paths, s.playlists, s.moved = newPathways(m), map[string]hls.MediaInfo{}, make(chan struct{}, 1)
	s.tracks = 1
	if len(s.paths.audio) > 0 {
		s.tracks = 2
	}
	s.v.mu.Lock()
	s.v.buf = NewBuffer(s.tracks, time.Now())
	s.v.now.region = ""
	s.v.mu.Unlock()
	sctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if steering != nil && !s.v.fleet.cfg.Broken.NoSteering {
		wg.Go(func() { s.steer(sctx, *steering) })
	}
	s.play(ctx)
	cancel()
	wg.Wait()
}

// open loads the master playlist, from one router after the other, until there
// is one or patience ends.
func (s *session) open(ctx context.Context) (hls.MasterInfo, *Manifest, error) {
	for n := 0; ; n++ {
		m, steering, err := s.openOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return m, steering, err
		}
		if finalAnswer(err) {
			s.v.note(Event{Kind: Refused, Text: brief(err)})
		}
		if time.Since(s.opened) > s.v.fleet.cfg.Patience || finalAnswer(err) {
			s.failedOpen()
			return m, nil, err
		}
		if err := sleep.For(ctx, ladder[min(n, len(ladder)-1)]); err != nil {
			return m, nil, err
		}
	}
}

func (s *session) failedOpen() {
	s.v.note(Event{Kind: FailedOpen, Seconds: time.Since(s.opened).Seconds()})
}

func (s *session) openOnce(ctx context.Context) (hls.MasterInfo, *Manifest, error) {
	var errs []error
	own := s.v.master()
	urls := s.v.ring.candidates(own, time.Now())
	if s.v.way == DNS {
		// The name first, then the routers the page knows.
		rest := s.v.ring.candidates(s.v.ring.bases[0]+own[strings.Index(own, "/v/-/"):], time.Now())
		urls = append(urls, rest...)
	}
	for _, u := range urls {
		g, err := s.get(ctx, u, mediaPolicy, true)
		if ctx.Err() != nil || finalAnswer(err) {
			return hls.MasterInfo{}, nil, errors.Join(ctx.Err(), err)
		}
		if err != nil {
			errs = append(errs, err)
			s.v.ring.fail(u, time.Now())
			continue
		}
		s.v.ring.answered(u)
		m, err := hls.CheckMaster(g.body)
		if err != nil || len(m.Variants) == 0 {
			s.v.note(Event{Kind: Corrupt, Region: s.v.fleet.whose(g.url.Hostname()), Text: g.url.Path})
			errs = append(errs, err)
			continue
		}
		s.master = g.url
		if m.SteeringURI == "" || s.v.way == Plain {
			return m, nil, nil
		}
		steering, err := s.firstManifest(ctx, m.SteeringURI)
		if err != nil {
			s.v.note(Event{Kind: Failed, Text: "steering: " + brief(err)})
			return m, nil, nil
		}
		return m, &steering, nil
	}
	return hls.MasterInfo{}, nil, errors.Join(errs...)
}

func (s *session) firstManifest(ctx context.Context, uri string) (Manifest, error) {
	if strings.HasPrefix(uri, "data:") {
		return inlineManifest(uri)
	}
	g, err := s.get(ctx, s.resolve(s.master, uri), steeringPolicy, true)
	if err != nil {
		return Manifest{}, err
	}
	return ParseManifest(g.body)
}

func (s *session) resolve(base *url.URL, ref string) string {
	u, err := base.Parse(ref)
	if err != nil {
		return ref
	}
	return u.String()
}

// get fetches and counts; what fails is noted.
func (s *session) get(ctx context.Context, u string, p policy, text bool) (got, error) {
	g, err := s.v.fetch.get(ctx, u, p.scaled(s.factor), text)
	s.v.fleet.bytes.Add(g.bytes)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errMoved) {
		host := ""
		if g.url != nil {
			host = s.v.fleet.whose(g.url.Hostname())
		}
		s.v.note(Event{Kind: Failed, Region: host, Text: brief(err)})
	}
	return g, err
}

// steer asks for steering manifests until ctx ends.
func (s *session) steer(ctx context.Context, m Manifest) {
	// Timeouts and connections of their own: it must not wait for media.
	for {
		s.mu.Lock()
		before := s.paths.current
		moved := s.paths.apply(m, time.Now())
		now := s.paths.current
		if moved && s.abort != nil {
			s.abort(errMoved)
		}
		s.mu.Unlock()
		if moved {
			s.v.note(Event{Kind: Moved, Edge: before, Text: now})
			select {
			case s.moved <- struct{}{}:
			default: // it hasn't looked since the last one
			}
		}
		if m.Reload == "" || sleep.For(ctx, m.TTL) != nil {
			return
		}
		s.v.mu.Lock()
		throughput := s.v.rate
		s.v.mu.Unlock()
		next, err := s.askSteering(ctx, reload(s.resolve(s.master, m.Reload), now, throughput))
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			if next.Reload == "" {
				next.Reload = m.Reload
			}
			m = next
		}
	}
}

func (s *session) askSteering(ctx context.Context, u string) (Manifest, error) {
	var errs []error
	for _, u := range s.v.ring.candidates(u, time.Now()) {
		g, err := s.v.fetch.get(ctx, u, steeringPolicy, true)
		if ctx.Err() != nil {
			return Manifest{}, ctx.Err()
		}
		var m Manifest
		if err == nil {
			m, err = ParseManifest(g.body)
		}
		if err == nil {
			s.v.ring.answered(u)
			return m, nil
		}
		s.v.ring.fail(u, time.Now())
		s.v.note(Event{Kind: Failed, Text: "steering: " + brief(err)})
		errs = append(errs, err)
	}
	return Manifest{}, errors.Join(errs...)
}
