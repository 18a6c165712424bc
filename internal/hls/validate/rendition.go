package validate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
)

// tolerance of durations in playlists, in seconds: they are rounded there.
const tolerance = 0.001

// rendition is one media playlist and how far it has been read.
type rendition struct {
	// uri as its master names it.
	uri string
	url *url.URL
	// first is the playlist if it was read already.
	first []byte
	// segments says whether they are to be read.
	segments bool

	info hls.MediaInfo
	// gone: it couldn't be read. grew: it hadn't ended when its master was read.
	gone  bool
	grew  bool
	track fmp4.Track
	// init is the initialisation segment in force, at mapURI.
	init   []byte
	mapURI string
	// read is how many segments were; at is where the last ended, in the track's
	// timescale, known once one was read.
	read  int
	at    int64
	known bool
	sizes []hls.SegmentSize
	// gap is the shortest time from one frame to the next, in seconds, 0 until there is
	// one; busiest the most frames per second of a segment of the usual length.
	gap, busiest float64
}

// rateIs checks a FRAME-RATE, which is the highest there is (RFC 8216bis 4.4.6.2): not less
// than a segment has on the average, nor more than between any two frames.
func (r *rendition) rateIs(announced float64, uri string) error {
	const about = 0.01
	switch {
	case r.track.Width == 0 || r.gap == 0:
		return nil
	case announced == 0 && r.busiest > 30*(1+about):
		return fmt.Errorf("variant %s: no FRAME-RATE, but it has %.3f frames per second", uri, r.busiest)
	case announced == 0:
		return nil
	case announced < r.busiest*(1-about) || announced > (1+about)/r.gap:
		return fmt.Errorf("variant %s: FRAME-RATE %.3f, but a segment has %.3f and two frames follow each other at %.3f", uri, announced, r.busiest, 1/r.gap)
	}
	return nil
}

// frames notes when a segment's frames are shown, in the track's timescale, of which it
// is as long as that.
func (r *rendition) frames(pts []int64, length int64, target int) {
	slices.Sort(pts)
	scale := float64(r.track.Timescale)
	for i := 1; i < len(pts); i++ {
		if gap := float64(pts[i]-pts[i-1]) / scale; gap > 0 && (r.gap == 0 || gap < r.gap) {
			r.gap = gap
		}
	}
	if seconds := float64(length) / scale; 2*seconds >= float64(target) {
		// One frame more or less is where a segment happens to begin.
		r.busiest = max(r.busiest, float64(len(pts)-1)/seconds)
	}
}

// rates are the peak and average of what was read, in bit/s. A master that is made
// before all segments are shall say what a representative period takes (RFC 8216bis
// 4.4.6.2). A last segment that is shorter than the others isn't one: all a buffer
// held may come in it.
func (r *rendition) rates() (peak, average int64) {
	peak, average = hls.Rates(r.sizes, r.info.Target)
	if n := len(r.sizes) - 1; r.grew && n > 0 && r.sizes[n].Seconds < r.sizes[n-1].Seconds {
		peak, _ = hls.Rates(r.sizes[:n], r.info.Target)
	}
	return peak, average
}

// advance reads the playlist, again if it was, and the segments it has gained.
// The error is ctx's only.
func (c *check) advance(ctx context.Context, r *rendition) error {
	b := r.first
	r.first = nil
	if b == nil {
		var err error
		if b, err = c.playlist(ctx, r.url); err != nil {
			c.bad(r.url, err)
			r.gone = true
			return ctx.Err()
		}
	}
	r.gone = false
	info, err := hls.CheckMedia(b)
	c.bad(r.url, err)
	if r.info.Target > 0 {
		c.bad(r.url, hls.CheckGrown(r.info, info))
	}
	r.info = info
	r.grew = r.grew || !info.Ended
	if !r.segments {
		return nil
	}
	for ; r.read < len(info.Segments); r.read++ {
		s := info.Segments[r.read]
		u, err := r.url.Parse(s.URI)
		if err != nil {
			c.bad(r.url, err)
			continue
		}
		if err := c.segment(ctx, r, s, u); err != nil {
			c.bad(u, err)
			r.known = false
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// text reads one segment of WebVTT.
func (c *check) text(ctx context.Context, u *url.URL) error {
	data, _, err := c.open.Open(ctx, u)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.segments++
	c.mu.Unlock()
	head, _, _ := bytes.Cut(data, []byte("\n\n"))
	switch lines := strings.Split(string(head), "\n"); {
	case !strings.HasPrefix(lines[0], "WEBVTT"):
		return errors.New("doesn't begin with WEBVTT")
	case len(lines) < 2 || !strings.HasPrefix(lines[1], "X-TIMESTAMP-MAP="):
		// RFC 8216bis 3.1.4.
		return errors.New("has no X-TIMESTAMP-MAP")
	}
	return nil
}

// segment reads one segment after its initialisation segment.
func (c *check) segment(ctx context.Context, r *rendition, s hls.MediaSegment, u *url.URL) error {
	if hls.IsText(s.URI) {
		return c.text(ctx, u)
	}
	if s.Map != r.mapURI {
		at, err := r.url.Parse(s.Map)
		if err != nil {
			return err
		}
		if r.init, _, err = c.open.Open(ctx, at); err != nil {
			return fmt.Errorf("%s: %w", s.Map, err)
		}
		c.bad(at, fmp4.CheckHeader(r.init))
		if r.mapURI != "" {
			c.badf(r.url, "another initialisation segment, %s, within a rendition", s.Map)
		}
		r.mapURI = s.Map
	}
	data, _, err := c.open.Open(ctx, u)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.segments++
	c.mu.Unlock()
	r.sizes = append(r.sizes, hls.SegmentSize{Seconds: s.Duration, Bytes: int64(len(data))})
	c.bad(u, fmp4.CheckSegment(data))
	reader := fmp4.NewReader(io.MultiReader(bytes.NewReader(r.init), bytes.NewReader(data)))
	moov, err := reader.Moov()
	if err != nil {
		return fmt.Errorf("%s: %w", s.Map, err)
	}
	if r.track, err = fmp4.Describe(moov); err != nil {
		return fmt.Errorf("%s: %w", s.Map, err)
	}
	start, end, frames := int64(0), int64(0), 0
	earliest, latest := int64(0), int64(0)
	var shown []int64
	for {
		samples, err := reader.Next()
		if errors.Is(err, io.EOF) && frames > 0 {
			break
		}
		if err != nil {
			return err
		}
		if frames == 0 {
			start, end = samples[0].DTS, samples[0].DTS
			earliest, latest = samples[0].PTS, samples[0].PTS
			if at := bytes.Index(data, samples[0].Data); at >= 0 {
				c.mu.Lock()
				c.keys[u.String()] = int64(at + len(samples[0].Data))
				c.mu.Unlock()
			}
			if !samples[0].Sync {
				return errors.New("doesn't begin with a keyframe, though segments are said to be independent")
			}
		}
		if samples[0].DTS != end {
			return fmt.Errorf("a fragment begins at %d, the one before it ends at %d", samples[0].DTS, end)
		}
		for _, x := range samples {
			end = x.DTS + x.Duration
			earliest, latest = min(earliest, x.PTS), max(latest, x.PTS)
			if r.track.Width > 0 {
				shown = append(shown, x.PTS)
			}
		}
		frames += len(samples)
	}
	if r.known && start != r.at {
		return fmt.Errorf("begins at %d, the one before it ends at %d (timescale %d)", start, r.at, r.track.Timescale)
	}
	r.at, r.known = end, true
	r.frames(shown, end-start, r.info.Target)
	if d := float64(end-start) / float64(r.track.Timescale); diff(d, s.Duration) > tolerance {
		return fmt.Errorf("lasts %.6f s, EXTINF says %.6f", d, s.Duration)
	}
	if earliest < start || latest >= end {
		return fmt.Errorf("shows frames from %d to %d, outside its time %d to %d", earliest, latest, start, end)
	}
	return nil
}
