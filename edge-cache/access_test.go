package edgecache

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

func mint(t *testing.T, w *world, file string, c token.Claims) string {
	t.Helper()
	if c.Asset == "" {
		c.Asset = asset
	}
	if c.Expires == 0 {
		c.Expires = time.Now().Add(time.Hour).Unix()
	}
	tok, err := token.Mint(c, w.signer(file))
	require.NoError(t, err)
	return tok
}

func TestTokens(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	rec := record0()
	rec.Visibility = playback.Private
	w.video(rec, 1)
	w.start("eu-1")
	mallory, err := token.NewSigner("playback-1")
	require.NoError(t, err)
	forged, err := token.Mint(token.Claims{Asset: asset, Expires: time.Now().Add(time.Hour).Unix()}, mallory)
	require.NoError(t, err)
	good := mint(t, w, token.PlaybackKeyFile, token.Claims{})
	cut := good[:len(good)-6]
	cidr := func(s string) token.Rules { return token.Rules{CIDR: []netip.Prefix{netip.MustParsePrefix(s)}} }
	origins := mint(t, w, token.PlaybackKeyFile, token.Claims{Rules: token.Rules{Origins: []string{"https://good.example"}}})
	session, _, err := token.MintSession(token.Claims{Asset: asset, ID: "parent"}, "playback-1", time.Now().Add(time.Hour), w.signer(token.SessionKeyFile("eu")))
	require.NoError(t, err)
	orphan, _, err := token.MintSession(token.Claims{Asset: asset, ID: "parent"}, "playback-gone", time.Now().Add(time.Hour), w.signer(token.SessionKeyFile("eu")))
	require.NoError(t, err)

	for name, c := range map[string]struct {
		token  string
		header []string
		want   int
		code   string
	}{
		"none":               {token.None, nil, 401, "token_missing"},
		"valid":              {good, nil, 200, ""},
		"session":            {session, nil, 200, ""},
		"expired":            {mint(t, w, token.PlaybackKeyFile, token.Claims{Expires: time.Now().Add(-time.Second).Unix()}), nil, 401, "token_expired"},
		"not yet":            {mint(t, w, token.PlaybackKeyFile, token.Claims{NotBefore: time.Now().Add(time.Hour).Unix()}), nil, 401, "token_expired"},
		"forged":             {forged, nil, 401, "token_invalid"},
		"cut":                {cut, nil, 401, "token_invalid"},
		"key of another use": {mint(t, w, token.RecordKeyFile, token.Claims{}), nil, 401, "token_invalid"},
		"foreign":            {mint(t, w, token.PlaybackKeyFile, token.Claims{Asset: foreign}), nil, 403, "token_foreign"},
		"another run":        {mint(t, w, token.PlaybackKeyFile, token.Claims{Run: "r2"}), nil, 403, "token_foreign"},
		"parent key revoked": {orphan, nil, 403, "token_revoked"},
		"address":            {mint(t, w, token.PlaybackKeyFile, token.Claims{Rules: cidr("127.0.0.0/8")}), nil, 200, ""},
		"wrong address":      {mint(t, w, token.PlaybackKeyFile, token.Claims{Rules: cidr("10.0.0.0/8")}), nil, 403, "not_allowed"},
		"country unknown":    {mint(t, w, token.PlaybackKeyFile, token.Claims{Rules: token.Rules{Geo: []string{"DE"}}}), nil, 403, "not_allowed"},
		"origin":             {origins, []string{"Origin", "https://good.example"}, 200, ""},
		"wrong origin":       {origins, []string{"Origin", "https://bad.example"}, 403, "not_allowed"},
		"redirected":         {origins, []string{"Origin", "null", "Referer", "https://good.example/page"}, 200, ""},
		"redirected, wrong":  {origins, []string{"Origin", "null", "Referer", "https://bad.example/good.example"}, 403, "not_allowed"},
		"no origin":          {origins, nil, 403, "not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second answer comes from memory
				for _, path := range []string{segURL(c.token, 0), "/v/" + c.token + "/" + asset + "/master.m3u8", "/v/" + c.token + "/" + asset + "/r1/v360/index.m3u8"} {
					res, b := w.get(path, c.header...)
					require.Equal(t, c.want, res.StatusCode, "%s: %s", path, b)
					if c.code != "" {
						require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"))
						require.Contains(t, string(b), `"code":"`+c.code+`"`)
						require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
						require.Equal(t, c.want == 401, res.Header.Get("WWW-Authenticate") != "")
					}
				}
			}
		})
	}
	require.Equal(t, 1, w.proxies[0].gets(segKey(0)), "a token is no part of the cache key")

	// The master hands out a session token, which outlives the playback token.
	_, b := w.get("/v/" + good + "/" + asset + "/master.m3u8")
	require.NotContains(t, string(b), good)
	tok := regexp.MustCompile(`/v/([^/]+)/`).FindStringSubmatch(string(b))[1]
	claims, kid, err := token.Check(tok, asset, w.edge.keys.Current(), time.Now())
	require.NoError(t, err)
	require.True(t, claims.IsSession())
	require.Equal(t, "session-eu-1", kid)
	require.Equal(t, "playback-1", claims.ParentKID)
	require.Contains(t, string(b), "s="+claims.ID)
	require.InDelta(t, time.Now().Add(6*time.Hour+6*time.Second).Unix(), claims.Expires, 10)
	res, again := w.get("/v/" + tok + "/" + asset + "/master.m3u8")
	require.Equal(t, 200, res.StatusCode)
	require.Contains(t, string(again), tok, "a session goes on as it is")
	res, _ = w.get(segURL(tok, 0))
	require.Equal(t, "private, max-age=31536000, immutable", res.Header.Get("Cache-Control"))
}

// watching is an edge with a private video, a token for it and that of its session.
func watching(t *testing.T) (w *world, tokens []string) {
	t.Helper()
	w = newWorld(t, testenv.S3(t, 1))
	rec := record0()
	rec.Visibility = playback.Private
	w.video(rec, 1)
	w.start("eu-1")
	good := mint(t, w, token.PlaybackKeyFile, token.Claims{})
	_, b := w.get("/v/" + good + "/" + asset + "/master.m3u8")
	session := regexp.MustCompile(`/v/([^/]+)/`).FindStringSubmatch(string(b))[1]
	return w, []string{good, session}
}

// TestRevokedKeyEndsSessions: also of tokens that were found good before.
func TestRevokedKeyEndsSessions(t *testing.T) {
	t.Parallel()
	w, tokens := watching(t)
	for _, tok := range tokens {
		res, _ := w.get(segURL(tok, 0))
		require.Equal(t, 200, res.StatusCode)
	}
	w.revokePlaybackKeys()
	for _, tok := range tokens {
		require.Eventually(t, func() bool {
			res, _ := w.get(segURL(tok, 0))
			return res.StatusCode == 403
		}, 10*time.Second, 50*time.Millisecond)
	}
}

func (w *world) revokePlaybackKeys() {
	w.t.Helper()
	next := *w.edge.keys.Current()
	next.N++
	next.Keys = append([]token.Key(nil), next.Keys...)
	for i := range next.Keys {
		next.Keys[i].Revoked = next.Keys[i].Use == token.UsePlayback
	}
	signed, err := token.SignKeySet(next, w.signer(token.RootKeyFile))
	require.NoError(w.t, err)
	w.put(objects.JournalKey(objects.KeysJournal, next.N), signed)
}

// TestKeyRevokedWhileDown: an edge that comes back takes no token of a key that was
// revoked meanwhile, from the first request on.
func TestKeyRevokedWhileDown(t *testing.T) {
	t.Parallel()
	w, tokens := watching(t)
	w.stop()
	w.revokePlaybackKeys()
	w.start("eu-1") // returns once ready
	for _, tok := range tokens {
		res, _ := w.get(segURL(tok, 0))
		require.Equal(t, 403, res.StatusCode)
	}
}

func TestRulesOfTheAsset(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	rec := record0()
	rec.Rules = token.Rules{Origins: []string{"https://good.example"}}
	w.video(rec, 1)
	w.start("eu-1")
	res, _ := w.get(segURL("-", 0))
	require.Equal(t, 403, res.StatusCode)
	res, _ = w.get(segURL("-", 0), "Origin", "https://good.example")
	require.Equal(t, 200, res.StatusCode)
}

func TestOnlyOurURLs(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.put("secret", []byte("secret"))
	w.start("eu-1")
	// Raw requests: no client may tidy these up.
	for _, path := range []string{
		"/", "//", "/v", "/v/", "/v/-", "/v/-/", "/v/-/" + asset, "/v/-/" + asset + "/", "/v//" + asset + "/master.m3u8", "//v/-/" + asset + "/master.m3u8",
		"/v/-//" + asset + "/master.m3u8", "/v/-/" + asset + "//master.m3u8", "/v/-/" + asset + "/master.m3u8/", "/v/-/" + asset + "/./master.m3u8",
		"/v/-/" + asset + "/../" + asset + "/master.m3u8", "/v/-/../../secret", "/v/-/%2e%2e/%2e%2e/secret", "/v/-/" + asset + "/%6daster.m3u8",
		"/v/-/" + asset + "/r1/v1080/..%2f..%2fplayback%2f0000000001.json", "/v/-/" + asset + "/r1/v1080/../../playback/0000000001.json",
		"/v/-/" + asset + "/r1/v0/records/00000.json", "/v/-/" + asset + "/r1/master/1.m3u8", "/v/-/" + asset + "/playback/0000000001.json",
		"/v/-/" + asset + "/r0/v1080/index.m3u8", "/v/-/" + asset + "/r01/v1080/index.m3u8", "/v/-/" + asset + "/r1/V1080/index.m3u8",
		"/v/-/" + asset + "/r1/v1080/00000-1/00000.m4s%00", "/v/-/" + asset + "/r1/v1080/00000-1/00000.m4s\x00", "/v/-/" + asset + "/r1/v1080/00000-0/00000.m4s",
		"/v/-/" + asset + "/r1/v1080/0000-1/00000.m4s", "/v/-/" + asset + "/r1/v1080/00000-1/../00000-1/00000.m4s", "/v/-/" + asset + "/r1/v1080/00000-1\\00000.m4s",
		"/v/-/" + asset + "/r1/v1080/00000-1/00000.m4s;a", "/v/-/" + strings.ToUpper(asset) + "/master.m3u8", "/v/a.b/" + asset + "/master.m3u8",
		"/v/a..c/" + asset + "/master.m3u8", "/v/a.b.c.d/" + asset + "/master.m3u8", "/v/" + strings.Repeat("a", 5000) + ".b.c/" + asset + "/master.m3u8",
		"/health/segment/", "/health/../health/segment", "/livez", "/metrics", "/secret", "/health/eu.bin",
	} {
		res := raw(t, w, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		require.Contains(t, []int{400, 404}, res.StatusCode, "%.200q", path)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NotContains(t, string(b), "secret\n", path)
	}
	res := raw(t, w, "GET /v/-/"+asset+"/master.m3u8 HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 64<<10)+"\r\n\r\n")
	require.Equal(t, 431, res.StatusCode)
	res = raw(t, w, "GET http://x/v/-/"+asset+"/master.m3u8 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.Equal(t, 200, res.StatusCode)
	for _, q := range []string{"?p=" + strings.Repeat("x", 3000), "?p=%zz", "?a;b"} {
		res, _ := w.get("/v/-/" + asset + "/master.m3u8" + q)
		require.Equal(t, 400, res.StatusCode, q)
	}
}

// raw sends bytes as they are.
func raw(t *testing.T, w *world, request string) *http.Response {
	t.Helper()
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(w.base, "http://"), 5*time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	// A server that has read enough may close before it has read all.
	_, _ = c.Write([]byte(request))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err, "%.200q", request)
	return res
}

func TestMethods(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	master := "/v/-/" + asset + "/master.m3u8"
	for _, path := range []string{master, segURL("-", 0), "/v/-/" + asset + "/r1/v360/index.m3u8", healthPath} {
		get, b := w.get(path)
		require.Equal(t, 200, get.StatusCode, path)
		head, none := w.do(http.MethodHead, path)
		require.Equal(t, 200, head.StatusCode)
		require.Empty(t, none)
		require.EqualValues(t, len(b), head.ContentLength, path)
		require.Equal(t, get.Header.Get("Etag"), head.Header.Get("Etag"))

		opt, _ := w.do(http.MethodOptions, path, "Origin", "https://x.example", "Access-Control-Request-Method", "GET")
		require.Equal(t, 204, opt.StatusCode)
		require.Equal(t, "*", opt.Header.Get("Access-Control-Allow-Origin"))
		require.Contains(t, opt.Header.Get("Access-Control-Allow-Headers"), "Range")
		for _, m := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, "PURGE"} {
			res, _ := w.do(m, path)
			if m == http.MethodGet {
				continue
			}
			require.Contains(t, []int{400, 405}, res.StatusCode, m)
		}
	}
	res, _ := w.do(http.MethodDelete, master)
	require.Equal(t, 405, res.StatusCode)
	require.Equal(t, "GET, HEAD, OPTIONS", res.Header.Get("Allow"))
}

// TestLogsHoldNoToken reads everything an edge logs at debug level.
func TestLogsHoldNoToken(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	rec := record0()
	rec.Visibility = playback.Private
	w.video(rec, 1)
	w.start("eu-1")
	var log testenv.Buffer
	w.edge.handler.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	good := mint(t, w, token.PlaybackKeyFile, token.Claims{ID: "the-jti"})
	expired := mint(t, w, token.PlaybackKeyFile, token.Claims{Expires: 1})
	for _, tok := range []string{good, expired} {
		_, _ = w.get("/v/" + tok + "/" + asset + "/master.m3u8")
		_, _ = w.get(segURL(tok, 0))
		_, _ = w.get("/v/" + tok + "/" + asset + "/r1/v360/00000-7/00000.m4s")
	}
	w.stop()
	require.Contains(t, log.String(), "jti=the-jti")
	require.Contains(t, log.String(), "kid=playback-1")
	for _, tok := range []string{good, expired} {
		require.NotContains(t, log.String(), strings.Split(tok, ".")[2])
	}
}

// TestSlowHeadersAreDropped sends a request a byte at a time.
func TestSlowHeadersAreDropped(t *testing.T) {
	t.Parallel()
	srv := newServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	require.Equal(t, 5*time.Second, srv.ReadHeaderTimeout)
	srv.ReadHeaderTimeout = 500 * time.Millisecond
	l := listen(t)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nX: "))
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, c); ended <- err }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for started := time.Now(); ; {
		select {
		case <-ended:
			require.GreaterOrEqual(t, time.Since(started), srv.ReadHeaderTimeout/2)
			return
		case <-tick.C:
			require.Less(t, time.Since(started), 20*srv.ReadHeaderTimeout)
			_, _ = c.Write([]byte("a")) // fails once the server has closed
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, p := range []string{healthPath, segURL("-", 0), "/v/-/" + asset + "/master.m3u8", "/v/a.b.c/" + asset + "/r1/a0-aac128/init-0123abcd.mp4", "/v/-/../x",
		"/v/-/" + asset + "/r1/extra/index.json", "/v/-/" + asset + "/r1/extra/poster-720.jpg-1", "/v/-/" + asset + "/r1/extra/index.m3u8"} {
		f.Add(p)
	}
	ours := regexp.MustCompile(`^/v/(-|[\w-]+\.[\w-]+\.[\w-]+)/[a-z2-7]{26}/(master\.m3u8|r[1-9]\d{0,5}/(?:extra/(?:index\.json|[a-z0-9][a-z0-9-]{0,63}\.(?:jpg|vtt)-[1-9]\d{0,8})|[a-z][a-z0-9-]{0,31}/(index\.m3u8|init-[0-9a-f]{8}\.mp4|\d{5}-[1-9]\d{0,8}/\d{5}\.m4s)))$`)
	noRendition := regexp.MustCompile(`/r\d+/extra/(index\.m3u8|init-|\d{5}-)`)
	f.Fuzz(func(t *testing.T, p string) {
		got, ok := parsePath(p)
		want := p == healthPath || len(p) <= maxPath && ours.MatchString(p) && !noRendition.MatchString(p)
		if ok != want {
			t.Fatalf("%q: accepted %v, want %v", p, ok, want)
		}
		if ok && got.kind == kindSegment {
			key := objects.SegmentKey(got.asset, got.run, got.rendition, got.object)
			if !strings.HasPrefix(key, "streams/"+got.asset+"/r") || strings.Contains(key, "..") || strings.Contains(key, "//") {
				t.Fatalf("%q leads to %q", p, key)
			}
		}
	})
}

func FuzzParseQuery(f *testing.F) {
	f.Add("steering=0&p=eu-1,us-1")
	f.Fuzz(func(t *testing.T, raw string) {
		if q, err := parseQuery(raw); err == nil && len(q.pathways) > maxQuery {
			t.Fatal("unbounded")
		}
	})
}

func TestConfigNamesEveryProblem(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	b, err := w.table.Marshal()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "regions.yaml")
	require.NoError(t, os.WriteFile(file, b, 0o600))
	var c Command
	c.Regions, c.Region, c.AdminListen, c.Edge, c.Listen, c.RootPublicKey, c.SessionKey = file, "eu", "x", "us-1", "nowhere", "k", "k"
	err = c.Validate()
	for _, want := range []string{"--admin-listen", "--edge", "--listen", "--cache-memory", "--cache-disk", "--cache-dir", "--max-connections", "--access-sample", "--root-public-key", "--session-key"} {
		require.ErrorContains(t, err, want)
	}
	for in, want := range map[string]Size{"5": 5, "1KiB": 1024, "256MiB": 256 << 20, "2 GiB": 2 << 30} {
		var s Size
		require.NoError(t, s.UnmarshalText([]byte(in)))
		require.Equal(t, want, s)
		var back Size
		require.NoError(t, back.UnmarshalText([]byte(s.String())))
		require.Equal(t, s, back)
	}
	for _, in := range []string{"", "x", "-1", "1MB", "99999999999TiB", "KiB"} {
		require.Error(t, new(Size).UnmarshalText([]byte(in)), in)
	}
}
