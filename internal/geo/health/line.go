package health

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/meridian-video/meridian/internal/geo"
)

const (
	// cutWithin is how close together all other regions must have fallen silent for a
	// router to doubt its own line: what ends several regions seldom ends them at once.
	// A target that fails now and then takes longer to be given up.
	cutWithin = 5 * time.Second
	// feelEvery is how often a doubted line is tried, feelAtOnce how many targets at a
	// time; more take turns.
	feelEvery  = 100 * time.Millisecond
	feelAtOnce = 16
	// foundWithin the first sign of life the other targets have theirs, or are lost.
	foundWithin = time.Second
	// doubtSlack is what an answer waits, besides a round trip to the farthest region,
	// for a line that is back to show it.
	doubtSlack = feelEvery + 100*time.Millisecond
)

// line is what a router thinks of its own way out. Where all other regions fell
// silent at once and no router is heard, either they are lost or this line is, and
// who asks this router waits until it shows. Targets that connect are then what
// they were before. If none does although somebody connected to this router, whose
// packets went both ways, the others are lost. The zero value trusts the line.
type line struct {
	// doubt is there while it isn't trusted, stop ends the attempts; over is to be
	// closed once the snapshot without it is published.
	doubt *geo.Doubt
	over  chan struct{}
	stop  func()
	// contact is the last time a doubted line showed life, reached when somebody
	// first connected to this router over it.
	contact, reached time.Time
	// trusted is set when the others were found lost, until one is heard again.
	trusted bool
}

// silent reports whether nothing at all is heard from a target that answered
// before: what a cut line looks like, and neither a refusal nor a broken answer.
func (t *tracker) silent() bool { return t.down && t.mute && !t.lostAt.IsZero() }

// silenced reports whether all other regions, two at least, fell silent together.
func (m *Monitor) silenced(st *state) bool {
	var first, last time.Time
	regions := map[string]bool{}
	for i, t := range m.targets {
		if t.Region == m.opt.Region {
			continue
		}
		tr := &st.trackers[i]
		if !tr.silent() {
			return false
		}
		regions[t.Region] = true
		if first.IsZero() || tr.lostAt.Before(first) {
			first = tr.lostAt
		}
		if tr.lostAt.After(last) {
			last = tr.lostAt
		}
	}
	return len(regions) >= 2 && last.Sub(first) <= cutWithin
}

// mind begins and ends the doubt of the own line, and reports whether it did. heard
// tells that another router's report is living.
func (m *Monitor) mind(ctx context.Context, st *state, heard bool, now time.Time) (changed bool) {
	l := &st.line
	if l.doubt == nil {
		silenced := !heard && m.silenced(st)
		l.trusted = l.trusted && silenced
		if !silenced || l.trusted || now.Sub(l.contact) < cutWithin {
			return false
		}
		l.over = make(chan struct{})
		l.doubt = &geo.Doubt{Over: l.over, Wait: m.opt.Farthest + doubtSlack}
		l.contact, l.reached = time.Time{}, time.Time{}
		feeling, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() { defer close(ended); m.feel(feeling) }()
		l.stop = func() { stop(); <-ended }
		m.metrics.doubt.Set(1)
		m.opt.Log.Warn("all other regions fell silent at once: perhaps it is the line of this one")
		return true
	}
	if l.contact.IsZero() && heard {
		l.contact = now
	}
	switch {
	case l.contact.IsZero() && (l.reached.IsZero() || now.Sub(l.reached) < l.doubt.Wait):
		return false
	case l.contact.IsZero():
		l.trusted = true
		m.opt.Log.Warn("viewers connect to this router, and it to no other region: this is the last one")
	default:
		for i, t := range m.targets {
			if t.Region != m.opt.Region && st.trackers[i].down && now.Sub(l.contact) < foundWithin {
				return false
			}
		}
		m.opt.Log.Info("other regions are heard again")
	}
	l.stop()
	l.doubt = nil
	m.metrics.doubt.Set(0)
	return true
}

// settle has those who wait go on, when the doubt is over and published.
func (l *line) settle() {
	if l.doubt == nil && l.over != nil {
		close(l.over)
		l.over = nil
	}
}

// Reached tells that somebody has connected to this router. It never waits.
func (m *Monitor) Reached() {
	if m.board.Load().Doubt == nil {
		return
	}
	select {
	case m.reached <- struct{}{}:
	default:
	}
}

// touch is what trying to connect to a target showed.
type touch struct {
	target  int
	refused bool // its host answers, nothing listens
}

// felt takes in a sign of life of a target while the own line is in doubt. One that
// connects, or answers, is what it was before.
func (st *state) felt(t touch, now time.Time) {
	l := &st.line
	if l.doubt == nil {
		return
	}
	if l.contact.IsZero() {
		l.contact = now
	}
	if !t.refused {
		st.trackers[t.target].restore()
	}
}

// feel connects to other regions' targets again and again until ctx ends.
func (m *Monitor) feel(ctx context.Context) {
	var others []int
	for i, t := range m.targets {
		if t.Region != m.opt.Region {
			others = append(others, i)
		}
	}
	tick := time.NewTicker(feelEvery)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for next := 0; ; {
		for range min(feelAtOnce, len(others)) {
			i := others[next]
			wg.Go(func() { m.touch(ctx, i) })
			next = (next + 1) % len(others)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// touch tries to connect to a target once.
func (m *Monitor) touch(ctx context.Context, i int) {
	try, cancel := context.WithTimeout(ctx, m.opt.Timeout)
	defer cancel()
	c, err := m.dial(try, "tcp", hostPort(m.targets[i].URL))
	if err == nil {
		_ = c.Close() // it has said all it was asked
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		return // silent still, or lost; probes say so
	}
	select {
	case m.touched <- touch{i, err != nil}:
	case <-ctx.Done():
	}
}

// hostPort is where a URL's server listens; empty for what isn't a URL.
func hostPort(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(port, "80"))
}
