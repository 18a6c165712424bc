package validate

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/fmp4"
	"github.com/meridian-video/meridian/internal/hls"
)

// sound is a stream of a segment of 2 s and one of 1 s, by file name. Frames of the
// latter have last bytes, others 340.
func sound(t testing.TB, last int) map[string]string {
	init, err := fmp4.AudioInit(48000, "und")
	require.NoError(t, err)
	files := map[string]string{"a/init.mp4": string(init.Data)}
	playlist := "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI=\"init.mp4\"\n"
	s := fmp4.NewAudioSegmenter(fmp4.AudioGrid{SampleRate: 48000, Seconds: 2}, 0)
	n := 0
	add := func(seg *fmp4.Segment) {
		if seg != nil {
			name := string(rune('0'+n)) + ".m4s"
			files["a/"+name] = string(seg.Data)
			playlist += "#EXTINF:" + map[bool]string{true: "2.005333", false: "1.002667"}[n < 1] + ",\n" + name + "\n"
			n++
		}
	}
	for i := range 94 + 47 {
		size := 340
		if i >= 94 {
			size = last
		}
		seg, err := s.Add(bytes.Repeat([]byte{1}, size))
		require.NoError(t, err)
		add(seg)
	}
	seg, err := s.Close()
	require.NoError(t, err)
	add(seg)
	files["a/index.m3u8"] = playlist + "#EXT-X-ENDLIST\n"
	master, err := hls.Master([]hls.Rendition{{ID: "a", Track: "a", Kind: hls.Audio, Codecs: "mp4a.40.2", Bandwidth: 150_000, Channels: 2}})
	require.NoError(t, err)
	files["master.m3u8"] = string(master)
	return files
}

func write(t testing.TB, files map[string]string) string {
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(data), 0o600))
	}
	return dir
}

func TestCheck(t *testing.T) {
	for want, change := range map[string]func(f map[string]string){
		"": func(map[string]string) {},
		"begins at 96256": func(f map[string]string) {
			p := f["a/index.m3u8"]
			f["a/index.m3u8"] = strings.Replace(p, "1.m4s", "1.m4s\n#EXTINF:1.002667,\n1.m4s", 1)
		},
		"EXTINF says 1.500000": func(f map[string]string) {
			f["a/index.m3u8"] = strings.Replace(f["a/index.m3u8"], "1.002667", "1.500000", 1)
		},
		"no such file":     func(f map[string]string) { delete(f, "a/1.m4s") },
		"malformed":        func(f map[string]string) { f["a/1.m4s"] = "\x00\x00\x00\x0cmoof\x00\x00\x00\x00" },
		"unexpected EOF":   func(f map[string]string) { f["a/0.m4s"] = f["a/0.m4s"][:2000] },
		"CODECS":           func(f map[string]string) { f["master.m3u8"] = strings.Replace(f["master.m3u8"], "40.2", "40.5", 1) },
		"BANDWIDTH 100000": func(f map[string]string) { f["master.m3u8"] = strings.Replace(f["master.m3u8"], "150000", "100000", 1) },
		"compatible brands [\"iso6\"]": func(f map[string]string) {
			f["a/init.mp4"] = "\x00\x00\x00\x14ftypcmfc\x00\x00\x00\x00iso6" + f["a/init.mp4"][28:]
		},
		"compatible brands [\"msdh\"]": func(f map[string]string) {
			f["a/0.m4s"] = "\x00\x00\x00\x14stypmsdh\x00\x00\x00\x00msdh" + f["a/0.m4s"]
		},
		"not in the directory": func(f map[string]string) {
			f["a/index.m3u8"] = strings.Replace(f["a/index.m3u8"], "\n1.m4s", "\nhttp://elsewhere/1.m4s", 1)
		},
		"escapes": func(f map[string]string) {
			f["a/index.m3u8"] = strings.Replace(f["a/index.m3u8"], "\n1.m4s", "\n%2e%2e/../../1.m4s", 1)
		},
	} {
		t.Run(want, func(t *testing.T) {
			files := sound(t, 340)
			change(files)
			var out bytes.Buffer
			err := (&CheckCommand{Stream: write(t, files), Timeout: time.Minute, Out: &out}).Run(t.Context())
			if want == "" {
				require.NoError(t, err, "%s", &out)
				require.Equal(t, "2 playlists, 2 segments, 3.008 s, complete\n", out.String())
				return
			}
			require.Error(t, err, "%s", &out)
			if want != "escapes" { // a path above the directory is one inside it
				require.Contains(t, out.String(), want)
			}
		})
	}
	_, _, err := OpenDir(t.TempDir())
	require.ErrorContains(t, err, "master.m3u8")
}

// serve is where files are; the media playlist is first, then what it is in files.
func serve(t *testing.T, files map[string]string, first string) *url.URL {
	var reads atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", hls.ContentType)
		body := files[strings.TrimPrefix(r.URL.Path, "/")]
		if strings.HasSuffix(r.URL.Path, "a/index.m3u8") && reads.Add(1) == 1 {
			body = first
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	require.NoError(t, err)
	return u
}

// TestShortLastSegment: a master made before its stream ended needn't have known what
// it would take, one made after that must.
func TestShortLastSegment(t *testing.T) {
	files := sound(t, 600)
	whole := files["a/index.m3u8"]
	r, err := Check(t.Context(), HTTP{}, serve(t, files, whole[:strings.Index(whole, "#EXTINF:1.0")]).JoinPath("master.m3u8"), Options{Follow: true})
	require.NoError(t, err)
	require.True(t, r.Ended)
	require.Empty(t, r.Problems)
	r, err = Check(t.Context(), HTTP{}, serve(t, files, whole).JoinPath("master.m3u8"), Options{Follow: true})
	require.NoError(t, err)
	require.Len(t, r.Problems, 1)
	require.Contains(t, r.Problems[0].What, "BANDWIDTH 150000")
}

// TestFollow: a growing playlist is read until it ends, and may not shrink.
func TestFollow(t *testing.T) {
	files := sound(t, 340)
	whole := files["a/index.m3u8"]
	cut := whole[:strings.Index(whole, "#EXTINF:1.0")]
	for name, c := range map[string]struct {
		second string
		want   string
	}{
		"grows":         {whole, ""},
		"shrinks":       {strings.Replace(whole, "#EXTINF:2.005333,\n0.m4s\n", "", 1), "segment 0 changed"},
		"is renumbered": {strings.Replace(whole, "SEQUENCE:0", "SEQUENCE:1", 1), "head changed"},
	} {
		t.Run(name, func(t *testing.T) {
			files["a/index.m3u8"] = c.second
			r, err := Check(t.Context(), HTTP{}, serve(t, files, cut).JoinPath("a/index.m3u8"), Options{Follow: true})
			require.NoError(t, err)
			require.True(t, r.Ended)
			if c.want == "" {
				require.Empty(t, r.Problems)
				require.Equal(t, 2, r.Segments)
				return
			}
			require.Contains(t, r.Problems[0].String(), c.want)
		})
	}
}

// A frame rate isn't less than what a segment has, nor more than any two frames do.
func TestFrameRates(t *testing.T) {
	r := &rendition{track: fmp4.Track{Timescale: 1000, Width: 640}}
	var steady, uneven []int64
	for i := range int64(60) {
		steady = append(steady, i*1000/30)
	}
	for i := range int64(20) {
		uneven = append(uneven, 2000+i*100)
	}
	uneven = append(uneven, 3920, 3940, 3960)
	require.NoError(t, r.rateIs(0, "a"), "nothing was read")
	r.frames(steady, 2000, 2)
	for rate, ok := range map[float64]bool{30: true, 29.97: true, 25: false, 31.5: false, 60: false} {
		require.Equal(t, ok, r.rateIs(rate, "a") == nil, "%v: %v", rate, r.rateIs(rate, "a"))
	}
	r.frames(uneven, 2000, 2)
	for rate, ok := range map[float64]bool{30: true, 50: true, 25: false, 60: false} {
		require.Equal(t, ok, r.rateIs(rate, "a") == nil, "%v: %v", rate, r.rateIs(rate, "a"))
	}
	require.NoError(t, r.rateIs(0, "a"), "no more than 30 needn't be told")
	r.frames(steady, 1000, 2)
	require.ErrorContains(t, r.rateIs(0, "a"), "no FRAME-RATE")
	sound := &rendition{}
	require.NoError(t, sound.rateIs(0, "a"))
}

func TestHTTPProblems(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/x.m3u8" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-MAP:URI=\"i\"\n#EXTINF:2,\na\n#EXT-X-ENDLIST\n"))
	}))
	defer srv.Close()
	u, err := url.Parse(srv.URL + "/x.m3u8")
	require.NoError(t, err)
	r, err := Check(t.Context(), HTTP{}, u, Options{})
	require.NoError(t, err)
	require.Len(t, r.Problems, 2)
	require.Contains(t, r.Problems[0].What, "content type")
	require.Contains(t, r.Problems[1].What, "404")
	_, err = Check(t.Context(), HTTP{}, &url.URL{Scheme: "http", Host: u.Host, Path: "/none"}, Options{})
	require.ErrorContains(t, err, "404")
}

// FuzzCheck: whatever is served, the check ends without a panic.
func FuzzCheck(f *testing.F) {
	files := sound(f, 340)
	f.Add([]byte(files["a/index.m3u8"]), []byte(files["a/init.mp4"]), []byte(files["a/0.m4s"]))
	f.Add([]byte("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS=\"x\"\na\n"), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, playlist, init, segment []byte) {
		open := opener(func(u *url.URL) []byte {
			switch {
			case strings.HasSuffix(u.Path, "m3u8"):
				return playlist
			case strings.HasSuffix(u.Path, "mp4"):
				return init
			}
			return segment
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, _ = Check(ctx, open, &url.URL{Path: "/x.m3u8"}, Options{})
	})
}

type opener func(u *url.URL) []byte

func (o opener) Open(_ context.Context, u *url.URL) ([]byte, string, error) { return o(u), "", nil }
