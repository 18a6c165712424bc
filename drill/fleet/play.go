package fleet

import (
	"context"
	"errors"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	// slack is what two renditions' segments may differ by, in seconds.
	slack = 0.05
	// lookAgain bounds how long a player sleeps without looking at its buffer.
	lookAgain = time.Second
	// leastLeft is what is left, in seconds, for one who begins in the middle.
	leastLeft = 15
)

// play fetches until the video has been seen or ctx ends.
func (s *session) play(ctx context.Context) {
	for ctx.Err() == nil {
		track, wait, done := s.next(time.Now())
		if done {
			s.v.note(Event{Kind: Ended})
			return
		}
		if track < 0 {
			s.rest(ctx, wait)
			continue
		}
		if !s.started() && time.Since(s.opened) > s.v.fleet.cfg.Patience {
			s.failedOpen()
			return
		}
		if s.v.restless && time.Since(s.opened) > restlessAfter && s.started() {
			return
		}
		err := s.load(ctx, track)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !s.recover(ctx, err) {
			return
		}
	}
}

// next says which track to fetch of, or how long to wait.
func (s *session) next(now time.Time) (track int, wait time.Duration, done bool) {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	b := s.v.buf
	b.Advance(now)
	if b.Done() {
		return -1, 0, true
	}
	track = -1
	for t := range s.tracks {
		if !s.ended[t] && (track < 0 || b.End(t) < b.End(track)) {
			track = t
		}
	}
	if track < 0 { // all is here; the rest is watching
		return -1, lookAgain, false
	}
	if over := b.End(track) - b.Position() - s.v.buffer; over > 0 {
		return -1, time.Duration(over * float64(time.Second)), false
	}
	return track, 0, false
}

func (s *session) started() bool {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	return s.v.buf.Started()
}

// rest waits until something is to be fetched, or the pathway changes.
func (s *session) rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(min(max(d, 10*time.Millisecond), lookAgain))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-s.moved:
	case <-t.C:
	}
}

// load fetches the next segment of a track, and what it needs first.
func (s *session) load(ctx context.Context, track int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	s.abort = cancel
	uri := s.rendition(track)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.abort = nil
		s.mu.Unlock()
	}()
	listURL := s.resolve(s.master, uri)
	list, base, err := s.playlist(ctx, listURL)
	if err != nil {
		return err
	}
	s.v.mu.Lock()
	if !s.begun {
		s.begun = true
		s.v.buf.Seek(s.from * max(0, list.Duration()-leastLeft))
	}
	end := s.v.buf.End(track)
	s.v.mu.Unlock()
	at, segment := 0.0, -1
	for i, x := range list.Segments {
		if at+x.Duration > end+slack {
			segment = i
			break
		}
		at += x.Duration
	}
	if segment < 0 {
		return s.atEnd(ctx, track, list)
	}
	x := list.Segments[segment]
	if init := s.resolve(base, x.Map); x.Map != "" && init != s.inits[track] {
		if _, err := s.media(ctx, init); err != nil {
			return err
		}
		s.inits[track] = init
	}
	g, err := s.media(ctx, s.resolve(base, x.URI))
	if err != nil {
		return err
	}
	s.brought(track, at+x.Duration, g)
	return nil
}

// rendition is the URI of a track's playlist, at the current pathway. mu is held.
func (s *session) rendition(track int) string {
	variants := s.paths.variants[s.paths.current]
	if track == video {
		rates := make([]int64, len(variants))
		for i, v := range variants {
			rates[i] = v.Bandwidth
		}
		s.rung = s.v.est.Rung(rates, min(s.rung, len(rates)-1))
	}
	v := variants[min(s.rung, len(variants)-1)]
	if track == video {
		return v.URI
	}
	list := s.paths.audio[v.AudioGroup]
	if len(list) == 0 {
		return v.URI
	}
	return list[0].URI
}

// playlist returns a media playlist and what its URIs are relative to.
func (s *session) playlist(ctx context.Context, u string) (hls.MediaInfo, *url.URL, error) {
	base, err := url.Parse(u)
	if err != nil {
		return hls.MediaInfo{}, nil, err
	}
	if list, ok := s.playlists[u]; ok && list.Ended {
		return list, base, nil
	}
	g, err := s.routed(ctx, u, true)
	if err != nil {
		return hls.MediaInfo{}, nil, err
	}
	list, err := hls.CheckMedia(g.body)
	if err != nil {
		s.v.note(Event{Kind: Corrupt, Region: s.v.fleet.whose(g.url.Hostname()), Text: g.url.Path})
		return list, nil, err
	}
	if old, ok := s.playlists[u]; ok {
		if err := hls.CheckGrown(old, list); err != nil {
			s.v.note(Event{Kind: Corrupt, Region: s.v.fleet.whose(g.url.Hostname()), Text: g.url.Path})
			return list, nil, err
		}
	}
	s.playlists[u] = list
	return list, base, nil
}

// atEnd is when the playlist has nothing more: for good, or not yet.
func (s *session) atEnd(ctx context.Context, track int, list hls.MediaInfo) error {
	if !list.Ended {
		if sleep.For(ctx, time.Duration(max(list.Target, 1))*time.Second/2) != nil {
			return context.Cause(ctx)
		}
		return nil
	}
	s.ended[track] = true
	for t := range s.tracks {
		if !s.ended[t] {
			return nil
		}
	}
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	end := s.v.buf.End(video)
	for t := range s.tracks {
		end = min(end, s.v.buf.End(t))
	}
	s.v.buf.SetDuration(end)
	return nil
}

// media fetches a segment and compares it with what others were given.
func (s *session) media(ctx context.Context, u string) (got, error) {
	g, err := s.routed(ctx, u, false)
	if err != nil {
		return g, err
	}
	if !s.v.fleet.ledger.agrees(keyOf(g.url.Path), g) {
		s.v.note(Event{Kind: Corrupt, Region: s.v.fleet.whose(g.url.Hostname()), Text: g.url.Path})
		return g, errors.New("other bytes than before")
	}
	return g, nil
}

// keyOf is a path without its token: "/v/{t}/{asset}/…" is the same object for all.
func keyOf(p string) string {
	parts := strings.SplitN(p, "/", 4)
	if len(parts) < 4 {
		return path.Clean(p)
	}
	return parts[3]
}

// routed fetches from where u says or, in the plain form, from a router that
// hasn't failed lately.
func (s *session) routed(ctx context.Context, u string, text bool) (got, error) {
	try := s.v.ring.candidates(u, time.Now())[0]
	g, err := s.get(ctx, try, mediaPolicy, text)
	if s.v.ring.base(try) != "" && ctx.Err() == nil {
		if err != nil && !finalAnswer(err) {
			s.v.ring.fail(try, time.Now())
		} else {
			s.v.ring.answered(try)
		}
	}
	return g, err
}

// brought puts a segment into the buffer.
func (s *session) brought(track int, end float64, g got) {
	now := time.Now()
	s.factor, s.rounds, s.retried = 1, 0, false
	s.mu.Lock()
	s.paths.served()
	s.mu.Unlock()
	s.v.est.Add(g.bytes, g.took)
	s.v.mu.Lock()
	b := s.v.buf
	was := b.Started()
	stall := b.Append(track, end, now)
	first := !was && b.Started()
	s.v.rate = s.v.est.Rate()
	s.v.mu.Unlock()
	s.v.stalled(stall)
	s.v.served(g.url.Hostname(), &s.edge)
	if first {
		s.v.note(Event{Kind: Started, Seconds: now.Sub(s.opened).Seconds(), Region: s.v.fleet.whose(g.url.Hostname())})
	}
}

// recover decides what to do about a failed request, and reports whether the
// session goes on. A timeout isn't retried, any other failure once; then the
// pathway is left, and with none left everything is tried again, more patiently.
func (s *session) recover(ctx context.Context, err error) bool {
	if errors.Is(err, errMoved) {
		s.retried = false
		return true
	}
	if finalAnswer(err) {
		s.v.note(Event{Kind: Refused, Text: brief(err)})
		if !s.started() {
			s.failedOpen()
		}
		return false
	}
	if !errors.Is(err, errTimeout) && !s.retried {
		s.retried = true
		return sleep.For(ctx, retryDelay) == nil
	}
	s.retried = false
	s.mu.Lock()
	before := s.paths.current
	left := s.v.fleet.cfg.Broken.NoFailover || s.v.way != Plain && s.paths.fail(time.Now())
	now := s.paths.current
	s.mu.Unlock()
	if left {
		if before != now {
			s.v.note(Event{Kind: Moved, Edge: before, Text: now})
		}
		return true
	}
	pause := ladder[min(s.rounds, len(ladder)-1)]
	s.rounds++
	s.factor = min(maxFactor, s.factor*2)
	s.mu.Lock()
	s.paths.forgive()
	s.mu.Unlock()
	return sleep.For(ctx, pause) == nil
}
