package geodns

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/token"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	// An object store keeps idle connections for a minute and can't be closed.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		// certmagic limits orders to a CA for as long as the process lives.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run with -update to make it")
	require.Equal(t, string(want), got)
}

const (
	asset  = "abcdefghijklmnopqrstuvwxyz"
	pinned = "pinnedpinnedpinnedpinnedpi"
	gone   = "gonegonegonegonegonegonego"
	taken  = "takentakentakentakentakent"
	ruled  = "ruledruledruledruledruledr"
	nobody = "nobodynobodynobodynobodyno"
	slow   = "slowslowslowslowslowslowsl"
)

// records is a fixed set of playback records.
type records map[string]playback.Record

func (r records) Newest(ctx context.Context, id string) (playback.Record, error) {
	if id == slow {
		return playback.Record{}, errors.New("no region answers")
	}
	rec, ok := r[id]
	if !ok {
		return rec, playback.ErrNotFound
	}
	return rec, nil
}

var testRecords = records{
	asset:  {Asset: asset, N: 1, State: "ready", Run: "r1", Master: 1, Title: "A <b>title</b>", Duration: 10, Poster: "r1/extra/poster-720.jpg-1"},
	pinned: {Asset: pinned, N: 1, State: "ready", Placement: objects.Placement{Mode: objects.PlacePinned, Regions: []string{"ap"}}},
	gone:   {Asset: gone, N: 2, Deleted: true},
	taken:  {Asset: taken, N: 2, TakenDown: true},
	ruled:  {Asset: ruled, N: 1, State: "ready", Rules: token.Rules{Origins: []string{"https://ok.example"}}},
}

var testNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// testBoard is three loopback regions with the development geo database, all
// up for a day.
func testBoard(t testing.TB) *geo.Board {
	t.Helper()
	tab, err := region.Loopback()
	require.NoError(t, err)
	return boardOf(t, tab)
}

// boardOf is testBoard of another table.
func boardOf(t testing.TB, tab *region.Table) *geo.Board {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, geo.BuildDevelopment(&b))
	db, err := geo.ParseDatabase(b.Bytes())
	require.NoError(t, err)
	s := geo.NewSnapshot(tab)
	orders, err := geo.NewBoard(s).Orders(db)
	require.NoError(t, err)
	require.NoError(t, s.SetGeo(db, orders))
	for i := range s.Regions {
		for j := range s.Regions[i].Edges {
			s.Regions[i].Edges[j].Health.Since = testNow.Add(-24 * time.Hour)
		}
	}
	return geo.NewBoard(s)
}

func testMetrics(t testing.TB) *metrics {
	t.Helper()
	m, err := newMetrics(prometheus.NewPedanticRegistry())
	require.NoError(t, err)
	return m
}

func testRouter(t testing.TB, board *geo.Board) *router {
	t.Helper()
	now := func() time.Time { return testNow }
	return &router{board: board, zone: testZone(t, board), self: "eu", records: testRecords, pulse: dead{}, rate: newRate(2000, now), now: now,
		proxies: []netip.Prefix{netip.MustParsePrefix("127.1.0.0/16")}, log: slog.New(slog.DiscardHandler), metrics: testMetrics(t)}
}

func setDown(b *geo.Board, down bool, since time.Time, edges ...string) {
	b.Update(func(s *geo.Snapshot) {
		for _, n := range edges {
			e, _ := s.Edge(n)
			e.Health = geo.Health{Down: down, Since: since}
			if down {
				e.Health.Why = "refused"
			}
		}
	})
}

func get(rt *router, target, from string, header ...string) *httptest.ResponseRecorder {
	// Not httptest.NewRequest's parsing of the target: what a client may send raw.
	r := httptest.NewRequest(http.MethodGet, "http://router"+target, nil)
	r.RemoteAddr = from + ":1234"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	rt.handler().ServeHTTP(w, r)
	return w
}

func TestRedirect(t *testing.T) {
	rt := testRouter(t, testBoard(t))
	for _, c := range []struct{ from, first string }{{"127.11.0.1", "127.1.0."}, {"127.12.0.1", "127.2.0."}, {"127.13.0.1", "127.3.0."}, {"127.0.0.1", "127.1.0."}} {
		for _, rest := range []string{"master.m3u8", "r1/v1080/index.m3u8", "r1/v1080/00000-1/00003.m4s", "r1/v1080/init-0a1b2c3d.mp4"} {
			w := get(rt, "/v/-/"+asset+"/"+rest+"?steering=0&p=evil&r=evil&x=a%20b", c.from)
			require.Equal(t, http.StatusFound, w.Code, rest)
			u, err := url.Parse(w.Header().Get("Location"))
			require.NoError(t, err)
			require.Equal(t, "/v/-/"+asset+"/"+rest, u.Path)
			require.True(t, strings.HasPrefix(u.Host, c.first), "%s went to %s", c.from, u.Host)
			require.Equal(t, "0", u.Query().Get("steering"))
			require.Equal(t, "a b", u.Query().Get("x"))
			require.Len(t, u.Query()["p"], 1)
			require.Len(t, u.Query()["r"], 1)
			require.Len(t, strings.Split(u.Query().Get("p"), ","), 4)
			require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"))
			require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		}
	}
	w := get(rt, "/v/-/"+asset+"/master.m3u8", "127.11.0.1")
	require.Regexp(t, `^http://127\.1\.0\.[12]:8082/v/-/`+asset+`/master\.m3u8\?p=eu-[12],eu-[12],us-[12],ap-[12]&r=us$`, w.Header().Get("Location"))
}

// TestRedirectCarriesReports: edges are told what players say, and nothing they
// can say makes a request a bad one.
func TestRedirectCarriesReports(t *testing.T) {
	rt := testRouter(t, testBoard(t))
	said := `bl=100,cid="a b;c",nor="` + strings.Repeat("x", 1500) + `",su`
	for raw, want := range map[string]string{url.QueryEscape(said): said, "%zz": "", "a%2": ""} {
		w := get(rt, "/v/-/"+asset+"/master.m3u8?x=1&CMCD="+raw, "127.11.0.1")
		require.Equal(t, http.StatusFound, w.Code, raw)
		u, err := url.Parse(w.Header().Get("Location"))
		require.NoError(t, err)
		require.Equal(t, want, u.Query().Get("CMCD"))
		require.Equal(t, "1", u.Query().Get("x"))
	}
	require.Equal(t, http.StatusBadRequest, get(rt, "/v/-/"+asset+"/master.m3u8?x=%zz", "127.11.0.1").Code)
}

func TestRedirectAvoidsTheDead(t *testing.T) {
	b := testBoard(t)
	rt := testRouter(t, b)
	setDown(b, true, time.Time{}, "eu-1", "eu-2")
	w := get(rt, "/v/-/"+asset+"/master.m3u8", "127.11.0.1")
	require.Regexp(t, `^http://127\.2\.0\.\d:8082/.*p=us-\d,us-\d,ap-\d,eu-\d&r=eu$`, w.Header().Get("Location"))
}

// dead are edges that don't answer.
type dead map[string]bool

func (d dead) Beats(edge string) bool { return !d[edge] }

// TestRedirectFeelsThePulse: players without steering go to an edge that answers
// at the moment, whatever health still believes; the others are left where they are.
func TestRedirectFeelsThePulse(t *testing.T) {
	b := testBoard(t)
	rt := testRouter(t, b)
	to := func(query string) string {
		w := get(rt, "/v/-/"+asset+"/r1/v360/index.m3u8"+query, "127.11.0.1")
		require.Equal(t, http.StatusFound, w.Code)
		return w.Header().Get("Location")
	}
	first := map[bool]string{true: "eu-1", false: "eu-2"}[strings.HasPrefix(to("?steering=0"), "http://127.1.0.1:")]
	second := map[string]string{"eu-1": "eu-2", "eu-2": "eu-1"}[first]
	require.Regexp(t, `&r=ap$`, to("?steering=0"), "neither where it plays nor where it goes next")
	require.Regexp(t, `&r=us$`, to("?steering=1"))
	rt.pulse = dead{first: true}
	// As edges write them into that form's playlists.
	for _, name := range []string{"init-0a1b2c3d.mp4", "00000-1/00003.m4s"} {
		w := get(rt, "/v/-/"+asset+"/r1/v360/"+name, "127.11.0.1")
		require.Regexp(t, `^http://127\.1\.0\.\d:8082/.*p=`+second+`,`+first+`,us-\d,ap-\d&r=ap$`, w.Header().Get("Location"))
	}
	require.Regexp(t, `^http://127\.1\.0\.\d:8082/.*&p=`+second+`,`+first+`,us-\d,ap-\d&r=ap$`, to("?steering=0"))
	require.Regexp(t, `&p=`+first+`,`+second+`,us-\d,`, to("?steering=1"))
	rt.pulse = dead{"eu-1": true, "eu-2": true}
	require.Regexp(t, `^http://127\.2\.0\.\d:8082/.*&p=us-\d,`+first+`,`+second+`,ap-\d&r=ap$`, to("?x=1&steering=0"))
	setDown(b, true, time.Time{}, "us-1", "us-2")
	require.Regexp(t, `^http://127\.3\.0\.\d:8082/`, to("?steering=0"))
	// Nobody answers: health knows best.
	rt.pulse = dead{"eu-1": true, "eu-2": true, "us-1": true, "us-2": true, "ap-1": true, "ap-2": true}
	require.Regexp(t, `^http://127\.1\.0\.\d:8082/.*&p=`+first+`,`, to("?steering=0"))
}

func TestRedirectHonoursPlacement(t *testing.T) {
	b := testBoard(t)
	rt := testRouter(t, b)
	for range 2 {
		w := get(rt, "/v/-/"+pinned+"/master.m3u8", "127.11.0.1")
		require.Regexp(t, `^http://127\.3\.0\.\d:8082/.*p=ap-\d,ap-\d&r=eu$`, w.Header().Get("Location"))
		require.ElementsMatch(t, []string{"ap-1", "ap-2"}, steer(t, rt, "a="+pinned+"&s=x", "127.11.0.1").Priority, "without its list")
		setDown(b, true, time.Time{}, "ap-1", "ap-2") // still never elsewhere
	}
}

func TestRefusals(t *testing.T) {
	rt := testRouter(t, testBoard(t))
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".sig"
	}
	limited := jwt(`{"sub":"` + asset + `","origins":["https://ok.example"]}`)
	for _, c := range []struct {
		path   string
		status int
		header []string
	}{
		{"/v/-/" + nobody + "/master.m3u8", 404, nil},
		{"/v/-/" + gone + "/master.m3u8", 410, nil},
		{"/v/-/" + taken + "/master.m3u8", 451, nil},
		{"/v/-/" + slow + "/master.m3u8", 302, nil},
		{"/v/-/" + ruled + "/master.m3u8", 403, nil},
		{"/v/-/" + ruled + "/master.m3u8", 403, []string{"Origin", "https://evil.example"}},
		{"/v/-/" + ruled + "/master.m3u8", 403, []string{"Origin", "null", "Referer", "https://ok.example.evil/"}},
		{"/v/-/" + ruled + "/master.m3u8", 302, []string{"Origin", "https://ok.example"}},
		{"/v/-/" + ruled + "/master.m3u8", 302, []string{"Origin", "null", "Referer", "https://ok.example/page"}},
		{"/v/" + limited + "/" + asset + "/master.m3u8", 403, []string{"Origin", "https://evil.example"}},
		{"/v/" + limited + "/" + asset + "/master.m3u8", 302, []string{"Origin", "https://ok.example"}},
		{"/v/a.b.c/" + asset + "/master.m3u8", 302, nil}, // the edge refuses it
		{"/v/" + jwt(`[1]`) + "/" + asset + "/master.m3u8", 302, nil},
		{"/v/forged/" + asset + "/master.m3u8", 400, nil},
		{"/v/a..c/" + asset + "/master.m3u8", 400, nil},
		{"/v/-/" + strings.ToUpper(asset) + "/master.m3u8", 400, nil},
		{"/v/-/" + asset[1:] + "/master.m3u8", 400, nil},
		{"/v/-/" + asset, 400, nil},
		{"/v/-/" + asset + "/", 400, nil},
		{"/v/-/" + asset + "/../x", 400, nil},
		{"/v/-/" + asset + "/%2e%2e/x", 400, nil},
		{"/v/-/" + asset + "/..%2fx", 400, nil},
		{"/v/-/" + asset + "/r1%2Fx", 400, nil},
		{"/v/-/" + asset + "/r1//x", 400, nil},
		{"/v/-/" + asset + "/r1/.hidden", 400, nil},
		{"/v/-/" + asset + "/%00", 400, nil},
		{"/v/-/" + asset + "/a/b/c/d/e/f/g", 400, nil},
		{"/v/%2d/" + asset + "/master.m3u8", 400, nil},
		{"/v//" + asset + "/master.m3u8", 400, nil},
		{"/v/-/" + asset + "/master.m3u8?a=%zz", 400, nil},
		{"/v/-/" + asset + "/master.m3u8?a=" + strings.Repeat("x", maxQueryLen), 400, nil},
		{"/", 404, nil}, {"/v/", 404, nil}, {"/etc/passwd", 404, nil}, {"//v/-/" + asset, 404, nil}, {"/explain/..", 404, nil},
		{"/explain?ip=nonsense", 400, nil}, {"/explain?asset=nonsense", 400, nil},
	} {
		w := get(rt, c.path, "127.11.0.1", c.header...)
		require.Equal(t, c.status, w.Code, "%s %v: %s", c.path, c.header, w.Body)
		require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"), c.path)
	}
	r := httptest.NewRequest(http.MethodPost, "/steer", nil)
	w := httptest.NewRecorder()
	rt.handler().ServeHTTP(w, r)
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	r = httptest.NewRequest(http.MethodOptions, "/v/-/"+asset+"/master.m3u8", nil)
	w = httptest.NewRecorder()
	rt.handler().ServeHTTP(w, r)
	require.Equal(t, http.StatusNoContent, w.Code)
	require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"))
}

func TestViewerAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:1", "203.0.113.9", "192.0.2.1"}, // not from a proxy: not believed
		{"10.0.0.1:1", "203.0.113.9", "203.0.113.9"},
		{"10.0.0.1:1", "198.51.100.1, 203.0.113.9", "203.0.113.9"}, // the left one is what the client wrote
		{"10.0.0.1:1", "203.0.113.9, 10.2.3.4", "203.0.113.9"},
		{"10.0.0.1:1", "", "10.0.0.1"},
		{"10.0.0.1:1", "garbage", "10.0.0.1"},
		{"10.0.0.1:1", "garbage, 10.0.0.2", "10.0.0.2"},
		{"[::1]:1", "2001:db8::1", "2001:db8::1"},
		{"[::ffff:10.0.0.1]:1", "::ffff:203.0.113.9", "203.0.113.9"},
		{"nonsense", "203.0.113.9", "invalid IP"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		require.Equal(t, c.want, viewer(r, trusted).String(), "%+v", c)
	}
}

func TestPages(t *testing.T) {
	rt := testRouter(t, testBoard(t))
	for _, c := range []struct {
		path   string
		status int
		want   string
	}{
		{"/watch/" + asset, 200, `/v/-/` + asset + `/master.m3u8`},
		{"/embed/" + asset, 200, `"embed":true`},
		{"/watch/" + asset + "?steering=0", 200, `/v/-/` + asset + `/master.m3u8?steering=0`},
		{"/watch/" + asset + "?t=e30.e30.sig", 200, `/v/e30.e30.sig/` + asset + `/master.m3u8`},
		{"/watch/" + asset + "?t=e30.e30.sig", 200, `"poster":"http://127.2.0.1:8082/v/e30.e30.sig/` + asset + `/r1/extra/poster-720.jpg-1"`},
		{"/watch/" + asset + "?t=%22onload", 403, "not valid"},
		{"/watch/" + slow, 200, "master.m3u8"},
		{"/watch/" + nobody, 404, "Nothing to watch here yet"},
		{"/watch/" + gone, 410, "deleted"},
		{"/watch/" + taken, 451, "taken down"},
		{"/watch/" + asset + "/x", 404, "No such video"},
		{"/watch/..%2f", 404, "No such video"},
	} {
		w := get(rt, c.path, "127.12.0.1")
		require.Equal(t, c.status, w.Code, c.path)
		require.Contains(t, w.Header().Get("Content-Type"), "text/html", c.path)
		require.Contains(t, w.Body.String(), c.want, c.path)
		require.NotContains(t, w.Body.String(), "<b>title", c.path)
	}
	body := get(rt, "/watch/"+asset, "127.12.0.1").Body.String()
	require.Contains(t, body, `"routers":["http://127.1.0.1:8081","http://127.2.0.1:8081","http://127.3.0.1:8081"]`)
	body = get(rt, "/watch/"+pinned, "127.12.0.1").Body.String()
	require.Contains(t, body, `"name":"ap-1"`)
	require.NotContains(t, body, `"name":"eu-1"`, "an edge the asset may not be served from")
}

func TestExplain(t *testing.T) {
	b := testBoard(t)
	rt := testRouter(t, b)
	setDown(b, true, time.Time{}, "us-1", "us-2")
	b.Update(func(s *geo.Snapshot) { s.Alone = true })
	var out strings.Builder
	for _, q := range []string{"ip=127.12.0.1&asset=" + asset, "ip=127.0.0.1", "ip=127.13.9.9&asset=" + pinned, "ip=2001:db8::1"} {
		w := get(rt, "/explain?"+q, "127.0.0.1")
		require.Equal(t, 200, w.Code, w.Body)
		fmt.Fprintf(&out, "GET /explain?%s\n%s\n", q, w.Body)
	}
	golden(t, "explain.txt", out.String())

	w := get(rt, "/explain?ip=127.12.0.1&asset="+asset, "127.0.0.1", "Accept", "application/json")
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	golden(t, "explain.json", w.Body.String())
	require.Equal(t, w.Body.String(), get(rt, "/explain?format=json&ip=127.12.0.1&asset="+asset, "127.0.0.1").Body.String())
}

func steer(t *testing.T, rt *router, query, from string) (m struct {
	VERSION  int
	TTL      int
	Reload   string   `json:"RELOAD-URI"`
	Priority []string `json:"PATHWAY-PRIORITY"`
}) {
	t.Helper()
	w := get(rt, "/steer?"+query, from)
	require.Equal(t, 200, w.Code)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &m))
	return m
}

func TestSteeringManifests(t *testing.T) {
	b := testBoard(t)
	rt := testRouter(t, b)
	var out strings.Builder
	ask := func(what, query, from string) {
		w := get(rt, "/steer?"+query, from)
		fmt.Fprintf(&out, "# %s\nGET /steer?%s from %s\n%d %s\n\n", what, query, from, w.Code, w.Body)
	}
	base := "a=" + asset + "&s=sid1&p=eu-1,eu-2,us-1,ap-1"
	ask("all well", base+`&_HLS_pathway=%22eu-1%22&_HLS_throughput=5000000`, "127.11.0.1")
	ask("a session at the sibling stays", base+"&_HLS_pathway=eu-2", "127.11.0.1")
	ask("from America", base, "127.12.0.1")
	ask("unknown names are dropped", "a="+asset+"&s=x&p=eu-1,mars-1,,eu-1,us-2", "127.11.0.1")
	ask("nothing usable: a new session's pathways", "a=..%2f&s=%22%3E&p=%zz", "127.11.0.1")
	setDown(b, true, time.Time{}, "eu-1", "eu-2")
	b.Update(func(s *geo.Snapshot) { s.Region("eu").Router = geo.Health{Down: true, Why: "refused"} })
	ask("Europe is down", base+"&_HLS_pathway=eu-1", "127.11.0.1")
	setDown(b, true, time.Time{}, "us-1", "us-2", "ap-1", "ap-2")
	ask("everything is down: all are returned", base+"&_HLS_pathway=eu-1", "127.11.0.1")
	golden(t, "steering.txt", out.String())
}

func TestReturnIsSpreadOverAMinute(t *testing.T) {
	b := testBoard(t)
	rt := testRouter(t, b)
	recovered := testNow
	setDown(b, false, recovered, "eu-1", "eu-2")
	back := func(after time.Duration) int {
		rt.now = func() time.Time { return recovered.Add(after) }
		n := 0
		for i := range 400 {
			m := steer(t, rt, fmt.Sprintf("a=%s&s=session%d&p=eu-1,eu-2,us-1,ap-1&_HLS_pathway=us-1", asset, i), "127.11.0.1")
			require.ElementsMatch(t, []string{"eu-1", "eu-2", "us-1", "ap-1"}, m.Priority)
			if strings.HasPrefix(m.Priority[0], "eu") {
				n++
			} else {
				require.Equal(t, "us-1", m.Priority[0], "who waits stays where it is")
			}
		}
		return n
	}
	last := 0
	for _, c := range []struct {
		after    time.Duration
		min, max int
	}{{0, 0, 5}, {15 * time.Second, 60, 140}, {30 * time.Second, 150, 250}, {45 * time.Second, 260, 340}, {60 * time.Second, 400, 400}} {
		n := back(c.after)
		require.True(t, n >= c.min && n <= c.max && n >= last, "%d of 400 back after %v", n, c.after)
		last = n
	}
	// A session that started in the recovered region is not sent away from it,
	// and one whose edge dies goes back at once.
	rt.now = func() time.Time { return recovered }
	for i := range 50 {
		m := steer(t, rt, fmt.Sprintf("a=%s&s=s%d&p=eu-1,eu-2,us-1,ap-1&_HLS_pathway=eu-2", asset, i), "127.11.0.1")
		require.Equal(t, "eu-2", m.Priority[0])
	}
	setDown(b, true, time.Time{}, "us-1")
	m := steer(t, rt, "a="+asset+"&s=s1&p=eu-1,eu-2,us-1,ap-1&_HLS_pathway=us-1", "127.11.0.1")
	require.Equal(t, "eu", m.Priority[0][:2])
	require.Equal(t, "us-1", m.Priority[3])
}

func TestReloadNamesARouterOutsideTheRegion(t *testing.T) {
	b := testBoard(t)
	rt := testRouter(t, b) // itself in eu
	p := "a=" + asset + "&s=x&p=eu-1,eu-2,us-1,ap-1"
	require.True(t, strings.HasPrefix(steer(t, rt, p, "127.11.0.1").Reload, "http://127.2.0.1:8081/steer?a="+asset+"&s=x&p=eu-1,eu-2,us-1,ap-1"))
	require.True(t, strings.HasPrefix(steer(t, rt, p, "127.12.0.1").Reload, "http://127.1.0.1:8081/"), "itself, when it is outside")
	b.Update(func(s *geo.Snapshot) { s.Region("us").Router = geo.Health{Down: true} })
	require.True(t, strings.HasPrefix(steer(t, rt, p, "127.11.0.1").Reload, "http://127.3.0.1:8081/"), "not one that is down")
}

func TestTTLGrowsUnderLoad(t *testing.T) {
	now := testNow
	r := newRate(100, func() time.Time { return now })
	second := func(n int) (ttl int) {
		now = now.Add(time.Second)
		for range n {
			ttl = r.ttl()
		}
		return ttl
	}
	require.Equal(t, minTTL, second(1))
	require.Equal(t, minTTL, second(40))
	var last int
	for range 5 {
		last = second(500)
	}
	require.GreaterOrEqual(t, last, 8)
	for range 5 {
		last = second(100_000)
	}
	require.Equal(t, maxTTL, last)
	now = now.Add(time.Minute)
	require.Equal(t, minTTL, second(1))
}

func TestTransportsAgree(t *testing.T) {
	b := testBoard(t)
	rt := testRouter(t, b)
	for _, down := range [][]string{nil, {"eu-1"}, {"eu-1", "eu-2"}, {"us-1", "us-2", "ap-1"}} {
		setDown(b, true, time.Time{}, down...)
		for _, from := range []string{"127.11.0.1", "127.12.0.1", "127.13.0.1", "127.0.0.1"} {
			require.Equal(t, 4, len(steer(t, rt, "a="+slow+"&s=x", from).Priority), "no store answers")
			u, err := url.Parse(get(rt, "/v/-/"+asset+"/master.m3u8", from).Header().Get("Location"))
			require.NoError(t, err)
			p := strings.Split(u.Query().Get("p"), ",")
			m := steer(t, rt, "a="+asset+"&s=x&p="+u.Query().Get("p"), from)
			require.Equal(t, p, m.Priority, "redirect and steering, %s, down %v", from, down)
			var e explanation
			require.NoError(t, json.Unmarshal(get(rt, "/explain?format=json&asset="+asset+"&ip="+from, "127.0.0.1").Body.Bytes(), &e))
			require.Equal(t, p, e.Pathways)
			require.Equal(t, p[0][:2], e.Regions[0].Name)
		}
		setDown(b, false, testNow.Add(-time.Hour), down...)
	}
}

func FuzzPlaybackPath(f *testing.F) {
	for _, s := range []string{"/v/-/" + asset + "/master.m3u8", "/v/a.b.c/" + asset + "/r1/v1/00000-1/00000.m4s", "/v/-/" + asset + "/%2e%2e/x", "/v/-/../x"} {
		f.Add(s, "steering=0&p=x")
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		p, err := parsePlaybackPath(path)
		if err == nil {
			if "/v/"+p.Token+"/"+p.Asset+"/"+p.Rest != path {
				t.Fatalf("%q does not come back from %+v", path, p)
			}
			if strings.ContainsAny(path, "%\\?#\x00 \r\n") || strings.Contains(path, "//") || strings.Contains(p.Asset+"/"+p.Rest, "..") {
				t.Fatalf("accepted %q", path)
			}
			claimedRules(p.Token)
		}
		q, ok := redirectQuery(query)
		if !ok {
			return
		}
		v, err := url.ParseQuery(q + "p=eu-1")
		if err != nil || len(v["p"]) != 1 || v.Get("p") != "eu-1" {
			t.Fatalf("%q became %q: %v %v", query, q, v, err)
		}
	})
}

func FuzzSteer(f *testing.F) {
	f.Add("a=" + asset + "&s=x&p=eu-1,us-1&_HLS_pathway=%22eu-1%22")
	f.Add("p=%zz;&&&=")
	b := testBoard(f)
	rt := testRouter(f, b)
	f.Fuzz(func(t *testing.T, query string) {
		s := b.Load()
		q := parseSteer(query, func(n string) bool { e, _ := s.Edge(n); return e != nil })
		m := rt.manifest(s, q, netip.MustParseAddr("127.11.0.1"), nil)
		if _, err := m.Encode(); err != nil {
			t.Fatal(err)
		}
		if len(m.Priority) == 0 || len(slices.Compact(slices.Sorted(slices.Values(m.Priority)))) != len(m.Priority) {
			t.Fatalf("priority %v", m.Priority)
		}
		u, err := url.Parse(m.ReloadURI)
		if err != nil || u.Path != "/steer" {
			t.Fatalf("reload %q: %v", m.ReloadURI, err)
		}
		again := parseSteer(u.RawQuery, func(n string) bool { e, _ := s.Edge(n); return e != nil })
		if !slices.Equal(again.pathways, q.pathways) && len(q.pathways) > 0 || again.session != q.session || again.asset != q.asset {
			t.Fatalf("%+v became %+v", q, again)
		}
	})
}
