package geodns

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/geodns/worldmap"
	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/web/browser"
	"github.com/meridian-video/meridian/web/playertest"
)

// TestMapPage: the page holds all it needs, and its policy lets nothing else run.
func TestMapPage(t *testing.T) {
	w := get(testRouter(t, testBoard(t)), "/map", "127.11.0.1")
	require.Equal(t, 200, w.Code)
	policy, page := w.Header().Get("Content-Security-Policy"), w.Body.String()
	require.True(t, strings.HasPrefix(policy, "default-src 'none'; "))
	require.NotContains(t, policy, "unsafe")
	for _, tag := range []string{"script", "style"} {
		m := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(page, -1)
		require.Len(t, m, 1, tag)
		sum := sha256.Sum256([]byte(m[0][1]))
		require.Contains(t, policy, tag+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	require.NotRegexp(t, `(?i)(src|href)="?(https?:)?//|@import|url\(|\son\w+=|\sstyle=`, page)
	require.Less(t, len(page), 40<<10)
}

func TestMapState(t *testing.T) {
	b := publicBoard(t)
	rt := testRouter(t, b)
	ask := func(qtype uint16, subnet string, n int) {
		m, err := query("play.meridian.test.", qtype, subnet).Pack()
		require.NoError(t, err)
		w := rt.zone.newWorker("udp", 1)
		for range n {
			w.now = testNow
			require.NotNil(t, w.answer(m, someone))
			w.now = w.now.Add(originPause)
		}
		w.now = testNow.Add(originPause)
		require.NotNil(t, w.answer(m, someone))
	}
	ask(dns.TypeA, "81.2.69.142/32", 99)
	ask(dns.TypeA, "2001:480:10::/48", 9)
	require.Equal(t, http.StatusFound, get(rt, "/v/-/"+asset+"/master.m3u8", "175.16.199.1").Code)
	require.Equal(t, 200, get(rt, "/steer?a="+asset+"&s=x", "192.0.2.1").Code)
	require.Equal(t, 200, get(rt, "/explain?ip=81.2.69.142&name=play.meridian.test", "127.0.0.1").Code, "counts nothing")
	setDown(b, true, time.Time{}, "us-1")
	b.Update(func(s *geo.Snapshot) {
		s.Region("eu").Edges[0].Load, s.Region("eu").Edges[1].Load = 0.5, 0.25
		s.Region("eu").Shed, s.Region("eu").ShedWhy = 0.25, "load 0.97"
		s.Region("ap").Drained = true
		s.Region("ap").Router = geo.Health{Down: true, Why: "refused"}
	})
	w := get(rt, "/map/state", "127.11.0.1")
	var out bytes.Buffer
	require.NoError(t, json.Indent(&out, w.Body.Bytes(), "", "  "))
	golden(t, "map.json", out.String())

	rt.now = func() time.Time { return testNow.Add(originWindow + originSlot) }
	var m mapped
	require.NoError(t, json.Unmarshal(get(rt, "/map/state", "127.11.0.1").Body.Bytes(), &m))
	require.Empty(t, m.Origins, "what is long ago")
	require.Zero(t, m.Unknown)
}

// TestOriginsAreCoarse: what is kept of a place is its cell of ten degrees.
func TestOriginsAreCoarse(t *testing.T) {
	o := newOrigins(testBoard(t).Load())
	for _, p := range []geo.Point{{Latitude: 51.5, Longitude: -0.1}, {Latitude: 50.1, Longitude: -9.9}, {Latitude: 59.9, Longitude: -5}} {
		o.add(viaDNS, "eu", geo.Location{Known: true, Point: p}, 1, testNow)
	}
	for _, p := range []geo.Point{{Latitude: 90, Longitude: 180}, {Latitude: -90, Longitude: -180}} {
		o.add(viaSteer, "us", geo.Location{Known: true, Point: p}, 1, testNow)
	}
	o.add(viaDNS, "mars", geo.Location{}, 1, testNow)
	known, unknown, asked := o.recent(testNow)
	require.Equal(t, []origin{{geo.Point{Latitude: -85, Longitude: -175}, 1, 1}, {geo.Point{Latitude: 55, Longitude: -5}, 0, 3}, {geo.Point{Latitude: 85, Longitude: 175}, 1, 1}}, known)
	require.Equal(t, []uint64{0, 0, 0}, unknown)
	require.Equal(t, map[string]uint64{viaDNS: 3, viaRedirect: 0, viaSteer: 2, viaPage: 0}, asked)
}

func TestCountingOriginsAllocatesNothing(t *testing.T) {
	b := publicBoard(t)
	z := testZone(t, b)
	w := z.newWorker("udp", 1)
	m, err := query("play.meridian.test.", dns.TypeA, "81.2.69.142/32").Pack()
	require.NoError(t, err)
	w.now = testNow
	w.answer(m, someone)
	require.Zero(t, testing.AllocsPerRun(1000, func() { w.answer(m, someone) }))
}

func TestProjection(t *testing.T) {
	for _, c := range []struct {
		p    geo.Point
		x, y float64
	}{
		{geo.Point{}, worldmap.Width / 2, 487.7},
		{geo.Point{Longitude: 180}, worldmap.Width, 487.7},
		{geo.Point{Longitude: -180}, 0, 487.7},
		{geo.Point{Latitude: 90}, worldmap.Width / 2, 1},
	} {
		x, y := worldmap.Project(c.p)
		require.InDelta(t, c.x, x, 1, "%v", c.p)
		require.InDelta(t, c.y, y, 1, "%v", c.p)
	}
}

// TestMapScriptIsWellFormed as far as Node can tell without a page.
func TestMapScriptIsWellFormed(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "node", "--check", "mapview/map.js").CombinedOutput()
	require.NoError(t, err, string(out))
}

// mapWith is a map's server with viewers all over the world.
func mapWith(t *testing.T) (*httptest.Server, *geo.Board) {
	t.Helper()
	b := publicBoard(t)
	rt := testRouter(t, b)
	for _, v := range []struct {
		region    string
		lat, long float64
		n         uint32
	}{{"eu", 51.5, 0, 1234}, {"eu", 48, 16, 400}, {"eu", -26, 28, 60}, {"us", 40, -75, 900}, {"us", 37, -122, 500}, {"us", -23, -46, 150},
		{"ap", 1.3, 103.8, 300}, {"ap", -33.9, 151, 200}, {"ap", 35, 139, 700}, {"ap", 61, 179, 3}, {"us", 64, -179, 2}} {
		rt.zone.origins.add(viaDNS, v.region, geo.Location{Known: true, Point: geo.Point{Latitude: v.lat, Longitude: v.long}}, v.n, testNow)
	}
	rt.zone.origins.add(viaSteer, "eu", geo.Location{}, 17, testNow)
	srv := httptest.NewServer(rt.handler())
	t.Cleanup(srv.Close)
	return srv, b
}

// shotMap keeps a picture of the map when MAP_SHOTS names a directory.
func shotMap(p *playertest.Page, name string) {
	if dir := os.Getenv("MAP_SHOTS"); dir != "" {
		p.Screenshot(filepath.Join(dir, name+".png"))
	}
}

// TestMapInABrowser: the page draws itself under its own policy, follows what
// happens, and fits its window.
func TestMapInABrowser(t *testing.T) {
	srv, b := mapWith(t)
	text := func(p *playertest.Page) string { return playertest.Eval[string](p, "document.body.innerText") }
	says := func(p *playertest.Page, want string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(text(p), want) }, 20*time.Second, 50*time.Millisecond, "%s", want)
	}
	wide := playertest.Open(t, srv.URL+"/map", browser.WithSize(1280, 900, false))
	says(wide, "all regions in service")
	for _, want := range []string{"4,449 DNS", "Frankfurt", "from unknown places 17"} {
		require.Contains(t, text(wide), want)
	}
	require.Equal(t, 11, playertest.Eval[int](wide, "document.querySelectorAll('#cells circle').length"))
	shotMap(wide, "wide")

	setDown(b, true, time.Time{}, "us-1", "us-2")
	b.Update(func(s *geo.Snapshot) {
		s.Region("eu").Edges[0].Load, s.Region("eu").Edges[1].Load = 0.7, 0.5
		s.Region("ap").Drained = true
	})
	says(wide, "us down, ap drained")
	for _, want := range []string{"drained", "refused", "capacity in use"} {
		require.Contains(t, text(wide), want)
	}
	shotMap(wide, "wide-down")
	require.Empty(t, playertest.Eval[string](wide, "document.getElementById('ip').value = '127.0.0.300', ''"))
	wide.Click("#explain button")
	says(wide, "want an IPv4 or IPv6 address")
	playertest.Eval[string](wide, "document.getElementById('ip').value = '81.2.69.142'")
	wide.Click("#explain button")
	says(wide, "London")
	shotMap(wide, "wide-explain")

	narrow := playertest.Open(t, srv.URL+"/map", browser.WithSize(360, 780, true), browser.WithDark())
	says(narrow, "us down, ap drained")
	require.LessOrEqual(t, playertest.Eval[int](narrow, "document.documentElement.scrollWidth"), 360, "wider than its window")
	// A region's name stays on the map and off the others'.
	shotMap(narrow, "narrow-dark")
	require.Empty(t, playertest.Eval[[]string](narrow, `(() => {
		const map = document.getElementById('map').getBoundingClientRect();
		const names = [...document.querySelectorAll('#regions text')].map(e => ({ name: e.textContent, box: e.getBoundingClientRect() }));
		const bad = names.filter(({ box }) => box.left < map.left || box.right > map.right || box.height < 10).map(n => n.name);
		names.forEach((a, i) => names.slice(i + 1).forEach(b => {
			if (a.box.left < b.box.right && b.box.left < a.box.right && a.box.top < b.box.bottom && b.box.top < a.box.bottom) bad.push(a.name + ' on ' + b.name);
		}));
		return bad;
	})()`))
	shotMap(narrow, "narrow-dark")
	for _, p := range []*playertest.Page{wide, narrow} {
		for _, c := range p.Complaints() {
			// What was asked about an impossible address was refused, as it should be.
			require.Contains(t, c, "/explain", "browser")
		}
	}

	srv.CloseClientConnections()
	srv.Close()
	says(wide, "The router has not answered for")
	shotMap(wide, "wide-lost")
}
