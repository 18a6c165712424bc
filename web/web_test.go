package web

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func page() Page {
	return Page{
		Asset: "abcd", Title: "Rabbits", State: StateReady, Master: "/v/-/abcd/master.m3u8", Duration: 27.2,
		Poster: "http://127.1.0.1:8082/v/-/abcd/r1/extra/poster.jpg", Routers: []string{"http://127.1.0.1:8081", "http://127.2.0.1:8081"},
		Edges: []Edge{{Name: "eu-1", Region: "eu", Place: "Frankfurt", URL: "http://127.1.0.1:8082"},
			{Name: "us-1", Region: "us", Place: "Ashburn", URL: "http://127.2.0.1:8082"}},
	}
}

func get(t *testing.T, write func(http.ResponseWriter) error) *http.Response {
	t.Helper()
	rec := httptest.NewRecorder()
	require.NoError(t, write(rec))
	return rec.Result()
}

var (
	island = regexp.MustCompile(`(?s)<script type="application/json" id="meridian-page">(.*?)</script>`)
	hashed = regexp.MustCompile(`/assets/main-[\w-]+\.`)
)

func readIsland(t *testing.T, body string) data {
	t.Helper()
	m := island.FindAllStringSubmatch(body, -1)
	require.Len(t, m, 1)
	var d data
	require.NoError(t, json.Unmarshal([]byte(m[0][1]), &d))
	return d
}

func TestPagesGolden(t *testing.T) {
	embed := page()
	embed.Embed = true
	waiting := page()
	waiting.State, waiting.Master, waiting.Poster = "uploading", "", ""
	for name, write := range map[string]func(http.ResponseWriter) error{
		"player":    func(w http.ResponseWriter) error { return Player(w, http.StatusOK, page()) },
		"embed":     func(w http.ResponseWriter) error { return Player(w, http.StatusOK, embed) },
		"preparing": func(w http.ResponseWriter) error { return Player(w, http.StatusOK, waiting) },
		"problem": func(w http.ResponseWriter) error {
			return Problem(w, http.StatusGone, "This video was removed", "Its owner deleted it.")
		},
	} {
		t.Run(name, func(t *testing.T) {
			res := get(t, write)
			var got bytes.Buffer
			got.WriteString(res.Status + "\n")
			require.NoError(t, res.Header.Write(&got))
			got.WriteString("\n")
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			got.Write(hashed.ReplaceAll(body, []byte("/assets/main-HASH.")))
			text := strings.ReplaceAll(got.String(), "\r\n", "\n")
			file := filepath.Join("testdata", name+".golden")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), text)
		})
	}
}

func TestPlayerEscapes(t *testing.T) {
	const evil = `</script><script>alert(1)</script><!-- " ' & ` + "\u2028"
	p := page()
	p.Title, p.Asset, p.Master = evil, evil, `/v/"><img src=x>/master.m3u8`
	p.Edges[0].Place, p.Edges[0].URL = evil, "http://e; script-src *"
	p.Routers = append(p.Routers, "http://r;x", "javascript:alert(1)", "http://a b", "http://ok.example/")
	res := get(t, func(w http.ResponseWriter) error { return Player(w, http.StatusOK, p) })
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	body := string(b)
	require.NotContains(t, body, "<script>alert")
	require.NotContains(t, body, "<img")
	require.Equal(t, 2, strings.Count(body, "<script"))
	d := readIsland(t, body)
	require.Equal(t, evil, d.Title)
	require.Equal(t, evil, d.Edges[0].Place)
	csp := res.Header.Get("Content-Security-Policy")
	require.Equal(t, 1, strings.Count(csp, "script-src"))
	require.Contains(t, csp, "script-src 'self';")
	require.NotContains(t, csp, "javascript:")
	require.NotContains(t, csp, "http://r")
	require.Contains(t, csp, "http://ok.example")
}

func TestPlayerNeedsSomethingToPlay(t *testing.T) {
	for _, c := range []struct{ state, master, kind string }{
		{StateReady, "/m", kindPlayer}, {StatePlayable, "/m", kindPlayer},
		{StateReady, "", kindPreparing}, {"received", "/m", kindPreparing}, {"waiting", "", kindPreparing}, {"", "", kindPreparing},
	} {
		p := page()
		p.State, p.Master = c.state, c.master
		res := get(t, func(w http.ResponseWriter) error { return Player(w, http.StatusOK, p) })
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		d := readIsland(t, string(b))
		require.Equal(t, c.kind, d.Kind, "%+v", c)
		require.Equal(t, c.kind == kindPreparing, d.Master == "")
	}
}

func TestConnectionsWithoutEdges(t *testing.T) {
	p := page()
	p.Edges = nil
	res := get(t, func(w http.ResponseWriter) error { return Player(w, http.StatusOK, p) })
	require.Contains(t, res.Header.Get("Content-Security-Policy"), "connect-src data: 'self' http://127.1.0.1:8081 http://127.2.0.1:8081 http: https:;")
}

func TestProblemAsksAgainWhereThatHelps(t *testing.T) {
	for status, want := range map[int]bool{404: true, 425: true, 429: true, 500: true, 503: true, 400: false, 401: false, 403: false, 410: false, 451: false} {
		res := get(t, func(w http.ResponseWriter) error { return Problem(w, status, "T", "D") })
		require.Equal(t, status, res.StatusCode)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, want, readIsland(t, string(b)).Retry, "%d", status)
	}
}

func TestAssets(t *testing.T) {
	b, err := bundle()
	require.NoError(t, err)
	srv := httptest.NewServer(Assets())
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	do := func(method, path, encoding string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		require.NoError(t, err)
		if encoding != "" {
			req.Header.Set("Accept-Encoding", encoding)
		}
		res, err := client.Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	for _, path := range append(b.styles, b.script) {
		plain := do(http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, plain.StatusCode)
		require.Equal(t, "public, max-age=31536000, immutable", plain.Header.Get("Cache-Control"))
		require.Equal(t, "Accept-Encoding", plain.Header.Get("Vary"))
		want, err := io.ReadAll(plain.Body)
		require.NoError(t, err)
		require.Equal(t, b.files[path].plain, want)

		packed := do(http.MethodGet, path, "br, gzip;q=0.8")
		require.Equal(t, "gzip", packed.Header.Get("Content-Encoding"))
		z, err := gzip.NewReader(packed.Body)
		require.NoError(t, err)
		got, err := io.ReadAll(z)
		require.NoError(t, err)
		require.Equal(t, want, got)

		head := do(http.MethodHead, path, "")
		require.Equal(t, int64(len(want)), head.ContentLength)
	}
	require.Equal(t, "text/javascript; charset=utf-8", do(http.MethodGet, b.script, "").Header.Get("Content-Type"))
	for _, path := range []string{"/assets/", "/assets/none.js", "/assets/../manifest.json", "/manifest.json", "/assets/%2e%2e/manifest.json"} {
		res := do(http.MethodGet, path, "")
		require.Equal(t, http.StatusNotFound, res.StatusCode, path)
		require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	}
	require.Equal(t, http.StatusMethodNotAllowed, do(http.MethodPost, b.script, "").StatusCode)
}

func TestAcceptsGzip(t *testing.T) {
	for header, want := range map[string]bool{
		"": false, "gzip": true, "br, gzip": true, "gzip;q=0": false, "gzip; q=0.5": true, "*": true, "*;q=0": false,
		"br": false, "gzip;q=x": false, "*, gzip;q=0": false, "GZIP": true, "identity": false,
	} {
		require.Equal(t, want, acceptsGzip(header), "%q", header)
	}
}

func TestLoadBundleSaysWhatIsMissing(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for name, fsys := range map[string]fs.FS{
		"npm run build": fstest.MapFS{},
		"invalid":       fstest.MapFS{"dist/manifest.json": file("{")},
		"no src":        fstest.MapFS{"dist/manifest.json": file("{}")},
		"main.js":       fstest.MapFS{"dist/manifest.json": file(`{"src/main.ts":{"file":"assets/main.js"}}`), "dist/assets/other.js": file("")},
	} {
		_, err := loadBundle(fsys)
		if name == "invalid" {
			require.Error(t, err)
			continue
		}
		require.ErrorContains(t, err, name)
	}
}

// What is embedded must not have been built with sources of another version of hls.js.
func TestBundleHoldsThePinnedPlayer(t *testing.T) {
	b, err := os.ReadFile("package.json")
	require.NoError(t, err)
	var pkg struct {
		Dependencies    map[string]string `json:"dependencies"`
		DevDependencies map[string]string `json:"devDependencies"`
	}
	require.NoError(t, json.Unmarshal(b, &pkg))
	for _, deps := range []map[string]string{pkg.Dependencies, pkg.DevDependencies} {
		for name, version := range deps {
			require.Regexp(t, `^\d+\.\d+\.\d+$`, version, name)
		}
	}
	bundled, err := bundle()
	require.NoError(t, err)
	require.Contains(t, string(bundled.files[bundled.script].plain), pkg.Dependencies["hls.js"])
	lock, err := os.ReadFile("package-lock.json")
	require.NoError(t, err)
	require.NotContains(t, string(lock), `"resolved"`)
}
