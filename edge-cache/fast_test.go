package edgecache

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

var moving = regexp.MustCompile(`(Date|Age): [^\r]*`)

// raw asks on a connection of its own and returns the response as it came, twice.
// It is a GET unless path begins with "HEAD ".
func (w *world) raw(path, fields string) string {
	w.t.Helper()
	method := http.MethodGet
	if rest, ok := strings.CutPrefix(path, http.MethodHead+" "); ok {
		method, path = http.MethodHead, rest
	}
	c, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, c.Close()) }()
	require.NoError(w.t, c.SetDeadline(time.Now().Add(20*time.Second)))
	br := bufio.NewReader(c)
	var last string
	for range 2 {
		_, err = fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, path, fields)
		require.NoError(w.t, err)
		var b strings.Builder
		res, err := http.ReadResponse(bufio.NewReader(io.TeeReader(onlyReader{br}, &b)), &http.Request{Method: method})
		require.NoError(w.t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(w.t, err)
		last = b.String()
	}
	head, body, _ := strings.Cut(last, "\r\n\r\n")
	return moving.ReplaceAllString(head, "$1: *") + "\r\n\r\n" + body
}

// onlyReader hides that the reader below has more methods.
type onlyReader struct{ io.Reader }

// TestFastPathAnswersTheSame compares the fast path with the handler, byte for
// byte, for what it answers, and finds that it leaves everything else.
func TestFastPathAnswersTheSame(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 2)
	private := record0()
	private.Asset, private.Visibility = foreign, playback.Private
	w.video(private, 1)
	ruled := record0()
	ruled.Asset = "cbcdefghijklmnopqrstuvwxyz"
	ruled.Rules.Origins = []string{"https://a.example"}
	w.video(ruled, 1)
	w.put(objects.ExtraKey(asset, "r1", "poster-720.jpg", 1), bytesOf("poster", 900))
	w.start("eu-1")
	tok := mint(t, w, token.PlaybackKeyFile, token.Claims{Asset: foreign})

	fast := func() float64 {
		n := 0.0
		for k := kindMaster; k < kindHealth; k++ {
			how := "memory"
			if k == kindMedia {
				how = composedLabel
			}
			n += testutil.ToFloat64(w.edge.handler.metrics.fast.WithLabelValues(k.String(), how))
		}
		return n
	}
	of := func(asset, tok, rest string) string { return "/v/" + tok + "/" + asset + "/r1/" + rest }
	seg := "v1080/00000-1/00000.m4s"
	for _, c := range []struct {
		name, path, fields string
		fast               bool
	}{
		{"segment", of(asset, "-", seg), "", true},
		{"segment with what browsers send", of(asset, "-", seg), "User-Agent: M\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nSec-Fetch-Mode: cors\r\nReferer: http://a/\r\nOrigin: http://a\r\nCMCD-Request: bl=1\r\nCache-Control: no-cache\r\n", true},
		{"segment with CMCD", of(asset, "-", seg) + "?CMCD=br%3D1%2Cbl%3D2", "", true},
		{"segment with CMCD that can't be read", of(asset, "-", seg) + "?CMCD=bl%3D&p=eu-1", "CMCD-Request: bl=1\r\n", true},
		{"segment with CMCD that can't be decoded", of(asset, "-", seg) + "?CMCD=%zz;", "", false},
		{"segment with CMCD twice", of(asset, "-", seg) + "?CMCD=bs&CMCD=bs", "", false},
		{"playlist with CMCD", of(asset, "-", "v1080/index.m3u8") + "?p=eu-1&CMCD=ot%3Dm%2Csteering%3D0", "", true},
		{"plain playlist with CMCD", of(asset, "-", "v1080/index.m3u8") + "?CMCD=ot%3Dm&steering=0", "", false},
		{"audio", of(asset, "-", "a0-aac128/00001-1/00000.m4s"), "", true},
		{"poster", of(asset, "-", "extra/poster-720.jpg-1"), "", true},
		{"playlist", of(asset, "-", "v1080/index.m3u8"), "", true},
		{"playlist with a query", of(asset, "-", "v1080/index.m3u8") + "?p=eu-1", "", true},
		{"private segment", of(foreign, tok, seg), "", true},
		{"I-frame playlist", of(asset, "-", "v1080/iframes.m3u8"), "", false},
		{"private playlist", of(foreign, tok, "v1080/index.m3u8"), "", true},
		{"plain playlist", of(asset, "-", "v1080/index.m3u8") + "?steering=0", "", false},
		{"plain playlist, escaped", of(asset, "-", "v1080/index.m3u8") + "?%73teering=0", "", false},
		{"range", of(asset, "-", seg), "Range: bytes=1-5\r\n", true},
		{"rest", of(asset, "-", seg), "Range: bytes=7-\r\nIf-Range: \"other\"\r\n", true},
		{"end of a private segment", of(foreign, tok, seg), "Range: bytes=-9\r\n", true},
		{"range of a playlist", of(asset, "-", "v1080/index.m3u8"), "Range: bytes=0-9\r\n", true},
		{"range beyond the end", of(asset, "-", seg), "Range: bytes=1000000-\r\n", false},
		{"range that can't be read", of(asset, "-", seg), "Range: bytes=x\r\n", true},
		{"head", "HEAD " + of(asset, "-", seg), "", true},
		{"head of a playlist", "HEAD " + of(asset, "-", "v1080/index.m3u8"), "Range: bytes=0-9\r\n", true},
		{"condition", of(asset, "-", seg), "If-None-Match: *\r\n", true},
		{"condition of a playlist", of(asset, "-", "v1080/index.m3u8"), "If-None-Match: *\r\n", true},
		{"condition that is true", of(asset, "-", seg), "If-None-Match: \"other\"\r\n", true},
		{"condition that is false", of(asset, "-", seg), "If-Match: \"other\"\r\n", false},
		{"condition of a rule", of(ruled.Asset, "-", seg), "If-None-Match: *\r\n", false},
		{"unknown field", of(asset, "-", seg), "Unknown: field\r\n", false},
		{"no token", of(foreign, "-", seg), "", false},
		{"bad token", of(foreign, "a.b.c", seg), "", false},
		{"token of another", of(asset, tok, seg), "", false},
		{"rules", of(ruled.Asset, "-", seg), "Origin: https://a.example\r\n", false},
		{"missing", of(asset, "-", "v1080/00009-1/00000.m4s"), "", false},
		{"bad query", of(asset, "-", seg) + "?a;b", "", false},
		{"bad path", of(asset, "-", "v1080/../x"), "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			slow := w.raw(c.path, c.fields+"X-Unknown: leave it to the handler\r\n")
			before := fast()
			require.Equal(t, slow, w.raw(c.path, c.fields))
			if !c.fast {
				require.False(t, responds(w.edge.handler, c.path, c.fields))
				return
			}
			require.Regexp(t, `^HTTP/1.1 (200|206|304) `, slow)
			// The first of them may have to look for the record.
			require.Eventually(t, func() bool { w.raw(c.path, c.fields); return fast() > before }, 20*time.Second, time.Millisecond)
		})
	}
	t.Run("not after a purge", func(t *testing.T) {
		path := of(asset, "-", seg)
		w.raw(path, "")
		w.edge.handler.guard.purged.voids.put(asset, 1)
		require.True(t, strings.HasPrefix(w.raw(path, ""), "HTTP/1.1 410"))
	})
	t.Run("no allocations", func(t *testing.T) {
		path := of(foreign, tok, seg)
		w.raw(path, "")
		rec, err := w.edge.handler.guard.finder.Newest(t.Context(), foreign)
		require.NoError(t, err)
		w.stop() // what runs in the background allocates
		w.edge.handler.guard.finder = known{rec}
		f := newFast(w.edge.handler)
		r := &fastpath.Request{Target: []byte(path), Fields: []fastpath.Field{{Name: []byte("User-Agent"), Value: []byte("x")}}}
		a, ok := f.Respond(r)
		require.True(t, ok)
		told := &fastpath.Request{Target: []byte(path + "?CMCD=bl%3D100%2Cbs%2Cot%3Dv%2Cmtp%3D25400%2Cbr%3D6000"), Fields: r.Fields}
		fields := &fastpath.Request{Target: r.Target, Fields: append(r.Fields, fastpath.Field{Name: []byte("CMCD-Request"), Value: []byte("bl=100,su")})}
		starved := testutil.ToFloat64(w.edge.handler.metrics.players.starved)
		for _, r := range []*fastpath.Request{r, told, fields} {
			require.LessOrEqual(t, testing.AllocsPerRun(200, func() {
				a, ok = f.Respond(r)
				f.Responded(&a, 1, time.Millisecond, nil)
			}), float64(raceAllocs))
			require.True(t, ok)
		}
		require.Equal(t, starved+201, testutil.ToFloat64(w.edge.handler.metrics.players.starved))
	})
}

// responds reports whether the fast path answers a request.
func responds(h *handler, target, fields string) bool {
	path, head := strings.CutPrefix(target, "HEAD ")
	var r fastpath.Request
	plain := r.Begin([]byte(path), []byte("x"), head)
	for line := range strings.Lines(fields) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		plain = plain && r.Add([]byte(strings.ToLower(name)), []byte(value))
	}
	if !plain {
		return false
	}
	_, ok := newFast(h).Respond(&r)
	return ok
}

// known is a finder that never looks.
type known struct{ rec playback.Record }

func (k known) Newest(context.Context, string) (playback.Record, error) { return k.rec, nil }
func (k known) Known(string) (playback.Record, bool)                    { return k.rec, true }
