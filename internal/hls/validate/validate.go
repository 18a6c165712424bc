package validate

import (
	"cmp"
	"context"
	"fmt"
	"mime"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/hls"
)

// Opener reads the whole of what a URL leads to. The content type is empty where
// there is none, as for files.
type Opener interface {
	Open(ctx context.Context, u *url.URL) (body []byte, contentType string, err error)
}

// Options of a check. The zero value reads everything once.
type Options struct {
	// Playlists leaves segments unread.
	Playlists bool
	// Follow reads growing playlists again until they have ended.
	Follow bool
	// Every is the pause before growing playlists are read again; 0 for half a target
	// duration, as players do.
	Every time.Duration
}

// Problem is a rule that is broken.
type Problem struct {
	// URL of the playlist or segment.
	URL, What string
}

func (p Problem) String() string { return p.URL + ": " + p.What }

// Report is what a check found.
type Report struct {
	// Playlists and Segments are how many were read.
	Playlists, Segments int
	// Duration of the longest rendition in seconds; Ended unless one still grows.
	Duration float64
	Ended    bool
	// Problems, each once, in the order of the renditions.
	Problems []Problem
}

// renditionsAtOnce bounds memory: each holds one segment.
const renditionsAtOnce = 4

// Check reads the multivariant or media playlist at u and everything under it.
// Of several pathways the first one's segments are read, of the others the playlists.
func Check(ctx context.Context, open Opener, u *url.URL, opt Options) (Report, error) {
	c := &check{open: open, opt: opt, keys: map[string]int64{}}
	b, err := c.playlist(ctx, u)
	if err != nil {
		return Report{}, fmt.Errorf("%s: %w", u, err)
	}
	var all []*rendition
	if strings.Contains(string(b), "#EXT-X-STREAM-INF") {
		master, err := hls.CheckMaster(b)
		c.bad(u, err)
		all = c.list(u, master)
		err = c.read(ctx, all)
		c.compare(u, master, all)
		return c.report(all), err
	}
	all = []*rendition{{url: u, first: b, segments: !opt.Playlists}}
	err = c.read(ctx, all)
	return c.report(all), err
}

type check struct {
	open Opener
	opt  Options

	mu                  sync.Mutex
	playlists, segments int
	problems            []Problem
	// keys are the lengths of segments up to the end of their first frame, by URL.
	keys map[string]int64
}

// bad notes err, one problem for each error joined in it; nil is none.
func (c *check) bad(u *url.URL, err error) {
	if err == nil {
		return
	}
	errs := []error{err}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		errs = j.Unwrap()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, err := range errs {
		if p := (Problem{u.Redacted(), err.Error()}); !slices.Contains(c.problems, p) {
			c.problems = append(c.problems, p)
		}
	}
}

func (c *check) badf(u *url.URL, format string, a ...any) { c.bad(u, fmt.Errorf(format, a...)) }

func (c *check) report(all []*rendition) Report {
	r := Report{Playlists: c.playlists, Segments: c.segments, Problems: c.problems, Ended: true}
	for _, x := range all {
		r.Duration = max(r.Duration, x.info.Duration())
		r.Ended = r.Ended && x.info.Ended
	}
	return r
}

// playlist reads a playlist and checks what holds for its bytes.
func (c *check) playlist(ctx context.Context, u *url.URL) ([]byte, error) {
	b, contentType, err := c.open.Open(ctx, u)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.playlists++
	c.mu.Unlock()
	if contentType != "" {
		// RFC 8216bis 4.
		if t, _, err := mime.ParseMediaType(contentType); err != nil || t != hls.ContentType && t != "audio/mpegurl" {
			c.badf(u, "content type %q: want %s", contentType, hls.ContentType)
		}
	}
	return b, nil
}

// list makes the renditions a master names.
func (c *check) list(base *url.URL, m hls.MasterInfo) []*rendition {
	var out []*rendition
	add := func(uri string, segments bool) {
		u, err := base.Parse(uri)
		if err != nil {
			c.badf(base, "URI %q: %w", uri, err)
			return
		}
		if !slices.ContainsFunc(out, func(r *rendition) bool { return r.uri == uri }) {
			out = append(out, &rendition{uri: uri, url: u, segments: segments && !c.opt.Playlists})
		}
	}
	for _, v := range m.Variants {
		add(v.URI, v.Pathway == m.Variants[0].Pathway)
	}
	for _, a := range m.Audio {
		if a.URI != "" {
			add(a.URI, len(m.Variants) > 0 && a.Group == m.Variants[0].AudioGroup)
		}
	}
	for _, i := range m.IFrames {
		add(i.URI, false) // the segments are those of a variant
	}
	for _, t := range m.Text {
		add(t.URI, len(m.Variants) > 0 && t.Group == m.Variants[0].TextGroup)
	}
	return out
}

// read checks renditions, and goes on while they grow if asked to.
func (c *check) read(ctx context.Context, all []*rendition) error {
	for {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(renditionsAtOnce)
		for _, r := range all {
			if !r.info.Ended {
				g.Go(func() error { return c.advance(gctx, r) })
			}
		}
		if err := g.Wait(); err != nil {
			return err
		}
		pause := time.Duration(0)
		for _, r := range all {
			if !r.info.Ended && !r.gone {
				pause = max(pause, cmp.Or(c.opt.Every, time.Duration(max(1, r.info.Target))*time.Second/2))
			}
		}
		if !c.opt.Follow || pause == 0 {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// compare checks what a master says about its renditions, and these with each other.
func (c *check) compare(u *url.URL, m hls.MasterInfo, all []*rendition) {
	find := func(uri string) *rendition {
		for _, r := range all {
			if r.uri == uri {
				return r
			}
		}
		return nil
	}
	c.compareKeyframes(u, m, find)
	var first *rendition
	for _, v := range m.Variants {
		r := find(v.URI)
		if r == nil || len(r.info.Segments) == 0 {
			continue
		}
		codecs := strings.Split(v.Codecs, ",")
		peak, average := r.rates()
		if r.track.Codecs != "" && !slices.Contains(codecs, r.track.Codecs) {
			c.badf(u, "variant %s: CODECS %q, but it is %s", v.URI, v.Codecs, r.track.Codecs)
		}
		if r.track.Width > 0 && v.Resolution != fmt.Sprintf("%dx%d", r.track.Width, r.track.Height) {
			c.badf(u, "variant %s: RESOLUTION %q, but it is %dx%d", v.URI, v.Resolution, r.track.Width, r.track.Height)
		}
		c.bad(u, r.rateIs(v.FrameRate, v.URI))
		var audioPeak, audioAverage int64
		for _, a := range m.Audio {
			sound := find(a.URI)
			if sound == nil || a.Group != v.AudioGroup {
				continue
			}
			p, avg := sound.rates()
			audioPeak, audioAverage = max(audioPeak, p), max(audioAverage, avg)
			if sound.track.Codecs != "" && !slices.Contains(codecs, sound.track.Codecs) {
				c.badf(u, "variant %s: CODECS %q lacks its audio's %s", v.URI, v.Codecs, sound.track.Codecs)
			}
			if r.info.Ended && sound.info.Ended && diff(r.info.Duration(), sound.info.Duration()) > float64(r.info.Target) {
				c.badf(u, "variant %s lasts %.3f s, its audio %s %.3f s", v.URI, r.info.Duration(), a.URI, sound.info.Duration())
			}
		}
		// RFC 8216bis 4.4.6.2: the peak of any playable combination.
		// A thousandth is for the rounding of EXTINF.
		if float64(peak+audioPeak) > 1.001*float64(v.Bandwidth) {
			c.badf(u, "variant %s: BANDWIDTH %d, but its peak is %d", v.URI, v.Bandwidth, peak+audioPeak)
		}
		if v.AverageBandwidth > 0 && average > 0 && r.info.Ended && diff(float64(average+audioAverage), float64(v.AverageBandwidth)) > 0.1*float64(v.AverageBandwidth) {
			c.badf(u, "variant %s: AVERAGE-BANDWIDTH %d, but it is %d", v.URI, v.AverageBandwidth, average+audioAverage)
		}
		if first == nil {
			first = r
			continue
		}
		// RFC 8216bis 6.2.4: the same content at the same times. Ours are cut alike.
		for i := range min(len(first.info.Segments), len(r.info.Segments)) {
			if a, b := first.info.Segments[i].Duration, r.info.Segments[i].Duration; diff(a, b) > tolerance {
				c.badf(u, "segment %d lasts %.6f s in %s, %.6f s in %s", i, a, first.uri, b, r.uri)
				break
			}
		}
		if first.info.Target != r.info.Target {
			c.badf(u, "target duration %d in %s, %d in %s", first.info.Target, first.uri, r.info.Target, r.uri)
		}
	}
}

// compareKeyframes checks I-frame playlists against the segments that were read.
func (c *check) compareKeyframes(u *url.URL, m hls.MasterInfo, find func(uri string) *rendition) {
	for _, i := range m.IFrames {
		r := find(i.URI)
		if r == nil || len(r.info.Segments) == 0 {
			continue
		}
		if !r.info.IFrames {
			c.badf(r.url, "no EXT-X-I-FRAMES-ONLY, though the master says it is an I-frame playlist")
		}
		var sizes []hls.SegmentSize
		for _, s := range r.info.Segments {
			sizes = append(sizes, hls.SegmentSize{Seconds: s.Duration, Bytes: s.Length})
			at, err := r.url.Parse(s.URI)
			if err != nil {
				c.bad(r.url, err)
				continue
			}
			if key, ok := c.keys[at.String()]; ok && (s.Offset != 0 || s.Length != key) {
				c.badf(r.url, "%s: byte range %d@%d, but its first frame ends at %d", s.URI, s.Length, s.Offset, key)
			}
		}
		if peak, _ := hls.Rates(sizes, r.info.Target); float64(peak) > 1.001*float64(i.Bandwidth) {
			c.badf(u, "I-frame playlist %s: BANDWIDTH %d, but its peak is %d", i.URI, i.Bandwidth, peak)
		}
	}
}

func diff(a, b float64) float64 { return max(a-b, b-a) }
