package edgecache

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// TestExtras serves posters, storyboards and previews like segments: by their record's
// rules, once fetched from memory, and typed.
func TestExtras(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	rec := record0()
	rec.Visibility = playback.Private
	w.video(rec, 1)
	w.start("eu-1")
	tok := mint(t, w, token.PlaybackKeyFile, token.Claims{})
	url := func(tok, name string) string { return "/v/" + tok + "/" + asset + "/r1/extra/" + name }

	res, _ := w.get(url(tok, "index.json"))
	require.Equal(t, 404, res.StatusCode, "there are none yet")

	index, err := hls.Extras{V: hls.ExtrasVersion, Asset: asset, Run: "r1",
		Posters:    []hls.Poster{{Path: "poster-720.jpg-1", Width: 1280, Height: 720, Time: 4}},
		Storyboard: &hls.Storyboard{VTT: "storyboard.vtt-1", Sprites: []string{"storyboard-00000.jpg-1"}, Width: 160, Height: 90, Columns: 10, Rows: 10, Pictures: 3},
		Preview:    &hls.Preview{Path: "preview.webp-1", Width: 320, Height: 180, Duration: 4.8}}.Encode()
	require.NoError(t, err)
	types := map[string]string{"index.json": "application/json", "poster-720.jpg-1": "image/jpeg",
		"storyboard.vtt-1": "text/vtt", "storyboard-00000.jpg-1": "image/jpeg", "preview.webp-1": "image/webp"}
	for name := range types {
		b := bytesOf(name, 5000)
		if name == "index.json" {
			b = index
		}
		w.put(objects.RunPrefix(asset, "r1")+"extra/"+name, b)
	}
	require.Contains(t, w.content, objects.ExtrasKey(asset, "r1"))
	require.Contains(t, w.content, objects.ExtraKey(asset, "r1", "poster-720.jpg", 1))

	// The absence is remembered for a second.
	require.Eventually(t, func() bool { res, _ := w.get(url(tok, "index.json")); return res.StatusCode == 200 }, 10*time.Second, 20*time.Millisecond)
	for name, mime := range types {
		for i := range 2 {
			res, b := w.get(url(tok, name))
			require.Equal(t, 200, res.StatusCode, name)
			require.Equal(t, mime, res.Header.Get("Content-Type"), name)
			require.Equal(t, "private, max-age=31536000, immutable", res.Header.Get("Cache-Control"))
			require.Equal(t, string(w.content[objects.RunPrefix(asset, "r1")+"extra/"+name]), string(b))
			if i == 1 {
				require.Contains(t, res.Header.Get("Cache-Status"), "hit; detail=memory")
			}
		}
		require.LessOrEqual(t, w.proxies[0].gets(objects.RunPrefix(asset, "r1")+"extra/"+name), 2)
		res, _ := w.get(url("-", name))
		require.Equal(t, 401, res.StatusCode, name)
	}
	res, b := w.get(url(tok, "poster-720.jpg-1"), "Range", "bytes=10-19")
	require.Equal(t, 206, res.StatusCode)
	require.Equal(t, string(bytesOf("poster-720.jpg-1", 5000)[10:20]), string(b))
	for _, name := range []string{"poster-720.jpg", "poster-720.exe-1", "../r1/extra/index.json", "index.m3u8", "00000-1/00000.m4s", strings.Repeat("a", 70) + ".jpg-1"} {
		res, _ := w.get(url(tok, name))
		require.Equal(t, 404, res.StatusCode, name)
	}
}
