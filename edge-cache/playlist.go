package edgecache

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
)

const (
	// pollInterval is how often a growing track's next record is asked for,
	// whatever the audience.
	pollInterval = time.Second
	// pollWait is how long a request waits for a running poll when there is
	// something to show already: about a round trip to the other regions.
	pollWait = 300 * time.Millisecond
	// pollTimeout bounds a whole poll, windowTimeout one round of questions to one
	// region: players give up on a playlist after 2.5 s, so a region that hangs
	// must leave time for the next.
	pollTimeout   = 20 * time.Second
	windowTimeout = 1500 * time.Millisecond
	// maxRecordBytes bounds one record, maxWindow the records asked for at once.
	maxRecordBytes = 8 << 20
	maxWindow      = 16
	// maxRuns and maxRunBytes bound what is kept, least recently asked first.
	maxRuns     = 4096
	maxRunBytes = 128 << 20
)

// composer makes media playlists from records.
type composer struct {
	store   *objects.Store
	log     *slog.Logger
	metrics *metrics

	ctx    context.Context
	cancel context.CancelFunc
	polls  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	runs   map[string]*list.Element
	recent list.List // of *runTracks, most recently asked first
	bytes  int64
}

func newComposer(store *objects.Store, log *slog.Logger, m *metrics) *composer {
	c := &composer{store: store, log: log, metrics: m, runs: map[string]*list.Element{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// close ends the polls that run.
func (c *composer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.polls.Wait()
}

// runTracks are the tracks of one run that were asked for.
type runTracks struct {
	key        string
	asset, run string
	place      objects.Placement
	bytes      int64 // under composer.mu

	mu         sync.Mutex
	tracks     map[string]*track
	renditions map[string]*track // where each was found
}

// playlist is a composed media playlist.
type playlist struct {
	body  []byte
	etag  string
	ended bool
	head  atomic.Pointer[fastpath.Head]
}

func makePlaylist(records []hls.Record, of target, prefix string) (*playlist, error) {
	write := hls.Media
	if of.object == hls.IFrameName {
		write = hls.IFrames
	}
	body, err := write(records, of.rendition, prefix)
	if errors.Is(err, hls.ErrNoKeyframes) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	return &playlist{body: body, etag: `"` + strconv.FormatUint(xxhash.Sum64(body), 16) + "-" + strconv.Itoa(len(body)) + `"`, ended: records[len(records)-1].Last}, nil
}

// Playlist returns the media or I-frame playlist that of names. prefix is put
// before every URI; without one the playlist is shared by all who ask.
func (c *composer) Playlist(ctx context.Context, of target, prefix string, p objects.Placement) (*playlist, error) {
	r := c.tracksOf(of.asset, of.run, p)
	t, records, err := c.find(ctx, r, of.rendition)
	if err != nil {
		return nil, err
	}
	if prefix != "" {
		return makePlaylist(records, of, prefix)
	}
	return t.compose(records, of)
}

// Known returns the shared playlist if it is composed and nothing new is due;
// run is "{asset}/{run}". It doesn't wait or keep the strings.
func (c *composer) Known(run, rendition string) *playlist {
	c.mu.Lock()
	el, ok := c.runs[run]
	if !ok {
		c.mu.Unlock()
		return nil
	}
	c.recent.MoveToFront(el)
	r := el.Value.(*runTracks)
	c.mu.Unlock()
	r.mu.Lock()
	t := r.renditions[rendition]
	r.mu.Unlock()
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended() && (t.polling || !time.Now().Before(t.next)) {
		return nil
	}
	if p := t.playlists[playlistOf{rendition, hls.MediaName}]; p != nil && p.records == len(t.records) {
		return p.playlist
	}
	return nil
}

// Next returns the path below the rendition of the segment after object (as in
// target.object), as far as the records known tell. It doesn't wait.
func (c *composer) Next(asset, run, rendition, object string) (string, bool) {
	var chunk, attempt, segment int
	if n, err := fmt.Sscanf(object, "%05d-%d/%05d.m4s", &chunk, &attempt, &segment); n != 3 || err != nil {
		return "", false
	}
	c.mu.Lock()
	el, ok := c.runs[asset+"/"+run]
	c.mu.Unlock()
	if !ok {
		return "", false
	}
	r := el.Value.(*runTracks)
	r.mu.Lock()
	t := r.renditions[rendition]
	r.mu.Unlock()
	if t == nil {
		return "", false
	}
	t.mu.Lock()
	records := t.records // elements never change
	t.mu.Unlock()
	if chunk >= len(records) || records[chunk].Attempt != attempt {
		return "", false
	}
	if segment+1 < len(records[chunk].Renditions[rendition].Segments) {
		return hls.SegmentPath(chunk, attempt, segment+1), true
	}
	if chunk+1 < len(records) && len(records[chunk+1].Renditions[rendition].Segments) > 0 {
		return hls.SegmentPath(chunk+1, records[chunk+1].Attempt, 0), true
	}
	return "", false
}

func (c *composer) tracksOf(asset, run string, p objects.Placement) *runTracks {
	key := asset + "/" + run
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.runs[key]; ok {
		c.recent.MoveToFront(el)
		return el.Value.(*runTracks)
	}
	r := &runTracks{key: key, asset: asset, run: run, place: p, tracks: map[string]*track{}, renditions: map[string]*track{}}
	c.runs[key] = c.recent.PushFront(r)
	c.trim()
	return r
}

// grew accounts for memory a run has taken.
func (c *composer) grew(r *runTracks, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.runs[r.key]; !ok || el.Value.(*runTracks) != r {
		return
	}
	r.bytes += bytes
	c.bytes += bytes
	c.trim()
}

func (c *composer) trim() {
	for c.recent.Len() > maxRuns || c.bytes > maxRunBytes && c.recent.Len() > 1 {
		r := c.recent.Remove(c.recent.Back()).(*runTracks)
		delete(c.runs, r.key)
		c.bytes -= r.bytes
	}
}

// candidates are the tracks that may hold a rendition: its name tells the kind,
// and for audio and text the track; which video track it is, the records say.
func candidates(rendition string) []string {
	if rendition[0] == 'v' {
		return []string{"v0", "v1", "vc"}
	}
	name, _, _ := strings.Cut(rendition, "-")
	if (name[0] != 'a' && name[0] != 't') || len(name) < 2 || len(name) > 3 || !digits(name[1:]) {
		return nil // no track has such a rendition, and asking would fill memory with its name
	}
	return []string{name}
}

// find returns the track of a rendition with the records it has so far.
func (c *composer) find(ctx context.Context, r *runTracks, rendition string) (*track, []hls.Record, error) {
	r.mu.Lock()
	t := r.renditions[rendition]
	if t != nil {
		r.mu.Unlock()
		records, err := t.load(ctx)
		return t, records, err
	}
	var tracks []*track
	for _, name := range candidates(rendition) {
		t, ok := r.tracks[name]
		if !ok {
			t = &track{c: c, r: r, name: name, changed: make(chan struct{})}
			r.tracks[name] = t
		}
		tracks = append(tracks, t)
	}
	r.mu.Unlock()

	type answer struct {
		t       *track
		records []hls.Record
		err     error
	}
	answers := make(chan answer, len(tracks))
	actx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, t := range tracks {
		go func() {
			records, err := t.load(actx)
			answers <- answer{t, records, err}
		}()
	}
	var errs []error
	for range tracks {
		a := <-answers
		if a.err != nil {
			if !errors.Is(a.err, objects.ErrNotFound) {
				errs = append(errs, a.err)
			}
			continue
		}
		if _, ok := a.records[0].Renditions[rendition]; ok {
			r.mu.Lock()
			r.renditions[rendition] = a.t
			r.mu.Unlock()
			return a.t, a.records, nil
		}
	}
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	return nil, nil, fmt.Errorf("rendition %s of %s: %w", rendition, r.key, objects.ErrNotFound)
}

// track is a track's records as far as they are known.
type track struct {
	c    *composer
	r    *runTracks
	name string

	mu        sync.Mutex
	records   []hls.Record // only ever longer; elements never change
	next      time.Time    // no poll before
	polling   bool
	changed   chan struct{} // closed when records grew or the poll ended
	err       error         // why the last poll knows of nothing
	playlists map[playlistOf]*composed
}

// playlistOf names a playlist of a track.
type playlistOf struct{ rendition, name string }

type composed struct {
	records int
	*playlist
}

func (t *track) ended() bool { return len(t.records) > 0 && t.records[len(t.records)-1].Last }

// load returns the records, polling if it is time to. Who knows nothing waits
// for what the poll finds, and then, as who knows something does, at most
// pollWait for more: the first answer for a finished video is the whole of it,
// also when the own region has only a part yet.
func (t *track) load(ctx context.Context) ([]hls.Record, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); !t.ended() && !t.polling && !now.Before(t.next) && t.c.start(t) {
		t.polling, t.next = true, now.Add(pollInterval)
	}
	known := len(t.records)
	for len(t.records) == 0 && t.polling {
		if err := t.await(ctx, nil); err != nil {
			return nil, err
		}
	}
	if len(t.records) == 0 {
		if t.err == nil {
			return nil, fmt.Errorf("track %s of %s: %w", t.name, t.r.key, objects.ErrUnavailable)
		}
		return nil, t.err
	}
	timer := time.NewTimer(pollWait)
	defer timer.Stop()
	for t.polling && !t.ended() && (known == 0 || len(t.records) == known) {
		if err := t.await(ctx, timer.C); errors.Is(err, errLate) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	return t.records, nil
}

var errLate = errors.New("no change in time")

// await waits for a change, giving up t.mu meanwhile.
func (t *track) await(ctx context.Context, late <-chan time.Time) error {
	changed := t.changed
	t.mu.Unlock()
	defer t.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-late:
		return errLate
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start runs a poll; false when the composer is closed.
func (c *composer) start(t *track) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.polls.Add(1)
	go func() {
		defer c.polls.Done()
		ctx, cancel := context.WithTimeout(c.ctx, pollTimeout)
		defer cancel()
		err := t.poll(ctx)
		t.mu.Lock()
		t.polling, t.err = false, err
		t.wake()
		known := len(t.records)
		t.mu.Unlock()
		if err != nil && !errors.Is(err, objects.ErrNotFound) && c.ctx.Err() == nil {
			c.log.Warn("records: showing those known", "asset", t.r.asset, "run", t.r.run, "track", t.name, "records", known, "err", err)
		}
	}()
	return true
}

// wake tells those who wait; t.mu is held.
func (t *track) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// poll asks the regions, nearest first, for the records after the known ones.
// Its error is why there is nothing new: objects.ErrNotFound when every region
// that answered says so. Records are shown once a region has given all it has,
// or no region goes on, never as a part that only a slow or dying region cut.
func (t *track) poll(ctx context.Context) error {
	t.c.metrics.polls.Inc()
	t.mu.Lock()
	from := len(t.records)
	t.mu.Unlock()
	var found []hls.Record
	var errs []error
	answered := false
	shown := 0
	show := func() {
		if shown < len(found) {
			t.extend(found[shown:])
			shown = len(found)
		}
	}
	for _, b := range t.c.store.Regions() {
		if !t.r.place.Allows(b.Region) {
			continue
		}
		more, err := t.walk(ctx, b, from+len(found))
		found = append(found, more...)
		ended := len(found) > 0 && found[len(found)-1].Last
		if err == nil {
			answered = true
			show()
		} else {
			errs = append(errs, err)
		}
		if ended {
			break
		}
	}
	show()
	switch {
	case len(found) > 0:
		return nil
	case answered:
		return fmt.Errorf("track %s of %s: %w", t.name, t.r.key, objects.ErrNotFound)
	default:
		return fmt.Errorf("track %s of %s: %w: %w", t.name, t.r.key, objects.ErrUnavailable, errors.Join(errs...))
	}
}

// walk returns the contiguous records one region has, in windows that double
// while it has them all: a long video is read quickly, a growing one costs one
// request. With an error come the records before it.
func (t *track) walk(ctx context.Context, b *objects.Bucket, from int) ([]hls.Record, error) {
	var found []hls.Record
	for window := 1; ; window = min(2*window, maxWindow) {
		got := make([]*hls.Record, window)
		wctx, cancel := context.WithTimeout(ctx, windowTimeout)
		g, gctx := errgroup.WithContext(wctx)
		at := from + len(found)
		for i := range window {
			g.Go(func() (err error) {
				got[i], err = t.read(gctx, b, at+i)
				return err
			})
		}
		err := g.Wait()
		cancel()
		n := 0
		for ; n < window && got[n] != nil; n++ {
			found = append(found, *got[n])
			if got[n].Last {
				return found, nil
			}
		}
		if err != nil || n < window {
			return found, err
		}
	}
}

// read returns one record of a region, nil when it has none.
func (t *track) read(ctx context.Context, b *objects.Bucket, chunk int) (*hls.Record, error) {
	raw, err := b.ReadAll(ctx, objects.RecordKey(t.r.asset, t.r.run, t.name, chunk), maxRecordBytes)
	if errors.Is(err, objects.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rec, err := hls.DecodeRecord(raw)
	if err != nil {
		return nil, err
	}
	if rec.Asset != t.r.asset || rec.Run != t.r.run || rec.Track != t.name || rec.Chunk != chunk {
		return nil, fmt.Errorf("record %s/%s/%s/%d: it says it is %s/%s/%s/%d", t.r.asset, t.r.run, t.name, chunk, rec.Asset, rec.Run, rec.Track, rec.Chunk)
	}
	for _, rs := range rec.Renditions {
		for s := range rs.Segments {
			rs.Segments[s].SHA256 = "" // not needed here, and most of a record's memory
		}
	}
	return &rec, nil
}

// extend shows more records. Only one poll runs at a time, so they follow on.
func (t *track) extend(recs []hls.Record) {
	var bytes int64
	for _, r := range recs {
		for _, rs := range r.Renditions {
			// A segment here and its lines in two playlists.
			bytes += 256 + int64(len(rs.Segments))*(40+64+96)
		}
	}
	t.mu.Lock()
	t.records = append(t.records, recs...)
	t.wake()
	t.mu.Unlock()
	t.c.grew(t.r, bytes)
}

// compose returns the shared playlist for these records, made once. One made
// meanwhile from more records is returned instead: nobody is shown less.
func (t *track) compose(records []hls.Record, of target) (*playlist, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := playlistOf{of.rendition, of.object}
	if p := t.playlists[key]; p != nil && p.records >= len(records) {
		return p.playlist, nil
	}
	p, err := makePlaylist(records, of, "")
	if err != nil {
		return nil, err
	}
	if t.playlists == nil {
		t.playlists = map[playlistOf]*composed{}
	}
	t.playlists[key] = &composed{len(records), p}
	return p, nil
}
