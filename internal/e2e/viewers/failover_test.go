package viewers

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/viewer"
	"github.com/meridian-video/meridian/web/browser"
	"github.com/meridian-video/meridian/web/playertest"
)

// way is how a viewer is led to edges.
type way string

const (
	// byDNS: the page is at a name of the zone, which our DNS answers by the
	// viewer's address; after that the player follows steering, too.
	byDNS way = "DNS"
	// by302: the plain form: a router redirects every playlist and segment.
	by302 way = "302"
	// bySteering: the page of the nearest router, which dies with the region.
	bySteering way = "steering"
)

// page is the address a viewer opens.
func (s *isolated) page(f film, w way) string {
	path := "/watch/" + f.asset
	switch w {
	case byDNS:
		return "http://play." + s.Table.Zone + ":8081" + path
	case by302:
		return s.Table.Regions[0].Router.URL + path + "?steering=0"
	}
	return s.Table.Regions[0].Router.URL + path
}

const (
	// line is a viewer's: about three times the video's rate.
	line = 400 << 10
	// slowLine takes most of a segment's time for a segment, so that a loss can
	// be timed into one; at crawl what is left of it outlasts the loss' command.
	slowLine = 190 << 10
	crawl    = 40 << 10
	// inHand is how much is buffered at least when a region is lost.
	inHand = 10
	openIn = 45 * time.Second
	// moveIn is how long a player with a full buffer may not need anyone.
	moveIn = 45 * time.Second
)

// watching is a browser that watches from Europe.
type watching struct {
	t      *testing.T
	s      *isolated
	film   film
	way    way
	viewer *viewer.Viewer
	rate   int
	page   *playertest.Page
	lost   []string // regions
	before map[netip.Addr]int64
	lostAt time.Time
	at     browser.State // when the region was lost
	cuts   int
}

// watch opens a browser and waits until it plays from eu.
func (s *isolated) watch(t *testing.T, w way, n byte, rate int) *watching {
	t.Helper()
	return s.watchFilm(t, s.film, w, n, rate)
}

func (s *isolated) watchFilm(t *testing.T, f film, w way, n byte, rate int) *watching {
	t.Helper()
	v := s.viewer(t, n, rate)
	// A small window: the browser draws on the cores the platform works on.
	p := playertest.Open(t, s.page(f, w), browser.WithProxy(v.Proxy()), browser.WithSize(640, 480, false))
	p.WaitPlaying(openIn)
	st := p.Wait("playing from eu", openIn, func(st browser.State) bool { return st.Edge != "" })
	require.Equal(t, "eu", regionOf(st.Edge), "%+v", st)
	return &watching{t: t, s: s, film: f, way: w, viewer: v, rate: rate, page: p}
}

// ready waits until enough is buffered and, if mid, a segment is on its way.
func (w *watching) ready(mid bool) {
	w.t.Helper()
	w.page.Wait(fmt.Sprintf("%d s in hand", inHand), moveIn, func(st browser.State) bool { return st.Ahead >= inHand })
	if mid {
		require.Eventually(w.t, func() bool { return w.viewer.MidSegment(w.s.in("eu")) }, 20*time.Second, time.Millisecond, "no segment on its way")
		w.viewer.Pace(crawl)
	}
}

// lose does something to regions and remembers what had been received before.
func (w *watching) lose(fault func(), regions ...string) {
	w.t.Helper()
	w.at = w.page.State()
	w.cuts = w.viewer.Cuts()
	w.lostAt = time.Now()
	fault()
	if w.rate > 0 {
		w.viewer.Pace(w.rate)
	}
	w.lost = append(w.lost, regions...)
	w.before = w.viewer.Received()
}

// moved waits until segments come from elsewhere.
func (w *watching) moved() browser.State {
	w.t.Helper()
	st := w.page.Wait("playing from elsewhere than "+strings.Join(w.lost, " and "), moveIn, func(st browser.State) bool {
		for _, r := range w.lost {
			if regionOf(st.Edge) == r {
				return false
			}
		}
		return true
	})
	w.t.Logf("%s: %.1f s after the loss from %s (%s); %.1f s in hand then, %.1f s now; stalls %d", w.way,
		time.Since(w.lostAt).Seconds(), st.Edge, st.Place, w.at.Ahead, st.Ahead, st.Stalls)
	w.shot("moved")
	return st
}

// shot keeps a picture of the page when VIEWERS_SHOTS names a directory.
func (w *watching) shot(name string) {
	w.t.Helper()
	if dir := os.Getenv("VIEWERS_SHOTS"); dir != "" {
		w.page.Screenshot(filepath.Join(dir, strings.ReplaceAll(w.t.Name(), "/", "-")+"-"+string(w.way)+"-"+name+".png"))
	}
}

// ended waits for the video's end and checks that all of it was seen.
func (w *watching) ended(name string) {
	w.t.Helper()
	st := w.page.WaitEnded(time.Duration(w.film.seconds+40) * time.Second)
	w.shot("ended")
	// A change of pathway or rung may decode a few frames twice or leave one out.
	require.GreaterOrEqual(w.t, st.Frames, w.film.frames-2*(st.Rungs+st.Switches+1), "%+v", st)
	require.GreaterOrEqual(w.t, st.Position, float64(w.film.seconds)-0.5, "%+v", st)
	after := w.viewer.Received()
	elsewhere := int64(0)
	for a, n := range after {
		if !w.s.in(w.lost...)(a) && w.s.in(w.s.Table.Names()...)(a) {
			elsewhere += n - w.before[a]
		}
	}
	require.Greater(w.t, elsewhere, int64(100<<10), "bytes from living edges")
	testenv.Figure(w.t, name, "%d stalls (%.1f s) with %.0f s in hand; %d of %d frames, %d errors, %d switches, %d recoveries; %d KiB from other regions",
		st.Stalls, st.StallSeconds, w.at.Ahead, st.Frames, w.film.frames, st.Errors, st.Switches, st.Recoveries, elsewhere>>10)
	require.Zero(w.t, st.Stalls, "%+v", st)
	for _, c := range w.page.Complaints() {
		if strings.HasPrefix(c, "exception:") || strings.Contains(c, "Content Security Policy") {
			w.t.Errorf("browser: %s", c)
		}
	}
}

// TestLoss loses eu as the README's tour does, while a European watches, and
// brings it back: the next European is served from there again.
func TestLoss(t *testing.T) {
	s := needPlatform(t)
	s.settled(t)
	kill, back := tour(t)
	w := s.watch(t, bySteering, 20, line)
	w.ready(false)
	askers := s.ask(t)
	w.lose(func() { s.shell(t, kill) }, "eu")
	killed := time.Now()
	w.moved()
	askers.stop(t, killed)
	s.shell(t, back)
	s.restore(t)
	w.ended("steering, eu lost by kill")
	s.watch(t, bySteering, 21, line)
}

// TestLossMatrix is every way with every kind of loss, also within a segment.
func TestLossMatrix(t *testing.T) {
	testenv.Long(t)
	s := needPlatform(t)
	smallBuffers(t, s)
	n := byte(40)
	for _, way := range []way{byDNS, by302, bySteering} {
		for _, c := range []struct {
			fault string
			mid   bool
		}{{"kill", false}, {"hang", false}, {"silence", false}, {"kill", true}, {"hang", true}, {"silence", true}} {
			name := fmt.Sprintf("%s %s", way, c.fault)
			rate := line
			if c.mid {
				name, rate = name+" within a segment", slowLine
			}
			n++
			t.Run(name, func(t *testing.T) {
				s.restore(t)
				w := s.watch(t, way, n, rate)
				w.ready(c.mid)
				w.lose(func() { s.Regions(t, c.fault, "eu") }, "eu")
				w.moved()
				w.ended(name)
				if c.mid {
					require.Greater(t, w.viewer.Cuts(), w.cuts, "the segment had arrived")
				}
				s.restore(t)
				again := s.watch(t, way, n+100, 0)
				again.page.WaitPosition(3, openIn)
				require.Equal(t, "eu", regionOf(again.page.State().Edge))
			})
		}
	}
}

// smallBuffers keeps the kernel of eu from sending the rest of a segment after
// the death of the process that wrote it.
func smallBuffers(t *testing.T, s *isolated) {
	t.Helper()
	st, err := s.status()
	require.NoError(t, err)
	ns := openNamespace(t, st.Namespaces["eu"])
	const file = "/proc/sys/net/ipv4/tcp_wmem"
	var before []byte
	require.NoError(t, ns.Do(func() (err error) {
		if before, err = os.ReadFile(file); err == nil {
			err = os.WriteFile(file, []byte("4096 16384 16384"), 0o644)
		}
		return err
	}))
	t.Cleanup(func() {
		require.NoError(t, ns.Do(func() error { return os.WriteFile(file, before, 0o644) }))
	})
}

// TestTwoRegionsInTurn loses eu and then the region the player went to.
func TestTwoRegionsInTurn(t *testing.T) {
	testenv.Long(t)
	s := needPlatform(t)
	for i, faults := range [][2]string{{"kill", "kill"}, {"hang", "silence"}} {
		t.Run(faults[0]+" "+faults[1], func(t *testing.T) {
			s.restore(t)
			w := s.watch(t, bySteering, byte(170+i), line)
			w.ready(false)
			w.lose(func() { s.Regions(t, faults[0], "eu") }, "eu")
			second := regionOf(w.moved().Edge)
			w.page.Wait("in hand", moveIn, func(st browser.State) bool { return st.Ahead >= inHand })
			w.lose(func() { s.Regions(t, faults[1], second) }, second)
			w.moved()
			w.ended(fmt.Sprintf("steering, eu lost by %s, then %s by %s", faults[0], second, faults[1]))
			s.restore(t)
		})
	}
}

// returnIn is how long a session may stay elsewhere once its region is back:
// sessions return over a minute, and ask where to play from every few seconds.
const returnIn = 90 * time.Second

// TestSessionReturns: a player that left a region returns to it, in the same
// session, after the region was lost and after an operator drained it.
func TestSessionReturns(t *testing.T) {
	testenv.Long(t)
	s := needPlatform(t)
	s.restore(t)
	file := filepath.Join(t.TempDir(), "film.mp4")
	const long = 240
	require.NoError(t, makeVideo(file, long))
	f, err := s.upload(file, long)
	require.NoError(t, err)
	// With a faster line all of it would soon be buffered, and nothing left to fetch.
	w := s.watchFilm(t, f, bySteering, 180, slowLine)
	w.ready(false)
	w.lose(func() { s.Regions(t, "kill", "eu") }, "eu")
	w.moved()
	s.restore(t)
	back := time.Now()
	in := func(eu bool, what string) browser.State {
		return w.page.Wait(what, returnIn, func(st browser.State) bool { return (regionOf(st.Edge) == "eu") == eu })
	}
	returned := func(after string) {
		st := in(true, "playing from eu again")
		testenv.Figure(t, "session returns after "+after, "%.0f s after eu was back, at %.0f s of %d s; %d stalls", time.Since(back).Seconds(), st.Position, long, st.Stalls)
	}
	returned("a kill")
	operate := func(what string) {
		out, _, err := s.CLI(t.Context(), "geodns", what, "eu", "--config", filepath.Join(s.State(), "operator.yaml"))
		require.NoError(t, err, out)
	}
	operate("drain")
	in(false, "playing from elsewhere while eu is drained")
	operate("undrain")
	back = time.Now()
	returned("a drain")
	w.ended("steering, eu lost and drained in turn")
}
