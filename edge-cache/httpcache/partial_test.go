package httpcache

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/deliver"
)

// film is an origin's object with ranges.
func film(size int, tag string) ([]byte, func(http.ResponseWriter, *http.Request)) {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Type", "video/mp4")
		if tag != "" {
			w.Header().Set("Etag", tag)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

func TestPartsAreStoredAndCombined(t *testing.T) {
	x := newRig(t, nil)
	const size = 700_000
	want, answer := film(size, `"a"`)
	x.set(answer)
	get := func(spec string, start, end int, asked string) {
		t.Helper()
		before := x.count()
		res, got := x.send("GET", "/film", fields{"Range: " + spec})
		x.settle()
		require.Equal(t, http.StatusPartialContent, res.StatusCode, spec)
		require.Equal(t, fmt.Sprintf("bytes %d-%d/%d", start, end, size), res.Header.Get("Content-Range"))
		require.Equal(t, "video/mp4", res.Header.Get("Content-Type"))
		require.True(t, string(want[start:end+1]) == got, spec)
		if asked == "" {
			require.Equal(t, before, x.count(), "%s: the origin was asked", spec)
			require.Contains(t, res.Header.Get("Cache-Status"), "edge; hit")
		} else {
			require.Equal(t, before+1, x.count(), spec)
			require.Equal(t, asked, x.last().Header.Get("Range"), spec)
		}
	}
	get("bytes=10-19", 10, 19, "bytes=0-262143") // a whole block
	get("bytes=200000-262143", 200000, 262143, "")
	get("bytes=262143-262150", 262143, 262150, "bytes=0-524287")
	get("bytes=0-524287", 0, 524287, "")
	get("bytes=-10", size-10, size-1, "bytes=-10")
	get("bytes=699995-", 699995, size-1, "")
	get("bytes=600000-", 600000, size-1, "bytes=600000-")
	get("bytes=500000-650000", 500000, 650000, "bytes=262144-786431") // the end is known now: all is here
	before := x.count()
	res, got := x.send("GET", "/film", nil)
	require.Equal(t, 200, res.StatusCode)
	require.Contains(t, res.Header.Get("Cache-Status"), "edge; hit")
	require.Equal(t, before, x.count())
	require.True(t, string(want) == got, "joined from parts")
	get("bytes=1-2,4-5"[:9], 1, 2, "")
	res, _ = x.send("GET", "/film", fields{"Range: bytes=700000-"})
	require.Equal(t, http.StatusRequestedRangeNotSatisfiable, res.StatusCode)
}

func TestPartsOfOthersAreNotCombined(t *testing.T) {
	for name, tags := range map[string][2]string{"other": {`"a"`, `"b"`}, "weak": {`W/"a"`, `W/"a"`}, "none": {"", ""}} {
		t.Run(name, func(t *testing.T) {
			x := newRig(t, nil)
			const size = 500_000
			_, answer := film(size, tags[0])
			x.set(answer)
			x.send("GET", "/film", fields{"Range: bytes=0-9"})
			x.settle()
			want, answer := film(size, tags[1])
			x.set(answer)
			x.send("GET", "/film", fields{"Range: bytes=400000-400009"})
			x.settle()
			before := x.count()
			res, got := x.send("GET", "/film", nil)
			require.Equal(t, 200, res.StatusCode)
			require.Equal(t, before+1, x.count(), "the whole isn't made of parts that may not belong together")
			require.True(t, string(want) == got)
		})
	}
}

func TestPartsObeyTheirTerms(t *testing.T) {
	x := newRig(t, nil)
	_, answer := film(500_000, `"a"`)
	x.set(answer)
	ask := func(f ...string) bool {
		before := x.count()
		x.send("GET", "/film", append(fields{"Range: bytes=0-9"}, f...))
		x.settle()
		return x.count() > before
	}
	require.True(t, ask())
	require.False(t, ask())
	require.False(t, ask(`If-Range: "a"`))
	require.True(t, ask(`If-Range: "b"`))
	require.True(t, ask("Cache-Control: no-cache"))
	require.True(t, ask("If-None-Match: \"x\""))
	x.clock.advance(2 * time.Minute)
	require.True(t, ask(), "stale")
	x.send("POST", "/film", nil)
	require.True(t, ask(), "invalidated")
	// An origin without ranges answers with the whole, which is stored.
	x.set(reply(200, strings.Repeat("x", 100), fields{"Cache-Control: max-age=60"}))
	res, got := x.send("GET", "/plain", fields{"Range: bytes=1-3"})
	require.Equal(t, 206, res.StatusCode)
	require.Equal(t, "xxx", got)
	x.settle()
	before := x.count()
	x.send("GET", "/plain", nil)
	require.Equal(t, before, x.count())
}

// TestPartsOfLargeBodies: the whole is larger than what is kept, its parts aren't.
func TestPartsOfLargeBodies(t *testing.T) {
	for name, known := range map[string]bool{"length known": true, "length unknown": false} {
		t.Run(name, func(t *testing.T) {
			x := newRig(t, nil)
			want, answer := film(3<<20, `"a"`)
			x.set(func(w http.ResponseWriter, r *http.Request) {
				if known || r.Header.Get("Range") != "" {
					answer(w, r)
					return
				}
				w.Header().Set("Cache-Control", "max-age=60")
				_, _ = w.Write(want)
			})
			_, got := x.send("GET", "/film", nil)
			require.True(t, string(want) == got)
			x.settle()
			for i, asked := range []int{1, 0} {
				before := x.count()
				res, got := x.send("GET", "/film", fields{fmt.Sprintf("Range: bytes=%d-%d", 1000+i, 2000)})
				x.settle()
				require.Equal(t, http.StatusPartialContent, res.StatusCode)
				require.True(t, string(want[1000+i:2001]) == got)
				require.Equal(t, before+asked, x.count(), res.Header.Get("Cache-Status"))
			}
			before := x.count()
			_, got = x.send("GET", "/film", nil)
			require.True(t, string(want) == got)
			require.Equal(t, before+1, x.count())
		})
	}
}

// FuzzContentRange: what an origin says of a part lies in the representation, or isn't
// taken for a part.
func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-4/10", int64(5))
	f.Add("bytes 9223372036854775806-9223372036854775807/9223372036854775807", int64(-1))
	f.Fuzz(func(t *testing.T, field string, length int64) {
		p := partOf(&http.Response{StatusCode: http.StatusPartialContent, Header: http.Header{"Content-Range": {field}}, ContentLength: length})
		if p != nil && (p.span.Start < 0 || p.span.Length < 1 || p.end() > p.total || p.end() <= p.span.Start || length >= 0 && length != p.span.Length) {
			t.Fatalf("%q with %d bytes: %+v", field, length, p)
		}
	})
}

// FuzzWidened: the range the origin is asked for has the one the client wants.
func FuzzWidened(f *testing.F) {
	f.Add("bytes=10-300000", int64(1000000), int64(1<<20))
	f.Add("bytes=-5", int64(3), int64(4))
	f.Fuzz(func(t *testing.T, spec string, size, limit int64) {
		if size < 1 || limit < 0 {
			return
		}
		wide, ok := widened(spec, limit)
		if !ok {
			return
		}
		want, err := deliver.ParseRange(spec, size)
		if err != nil || len(want) != 1 {
			return // the origin says so
		}
		got, err := deliver.ParseRange(wide, size)
		if err != nil || len(got) != 1 || !(&part{got[0], size}).covers(want[0]) {
			t.Fatalf("%q of %d became %q: %+v of %+v, %v", spec, size, wide, got, want, err)
		}
	})
}
