package deliver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func readBody(res *http.Response) string {
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

var (
	sample   = bytesOf(1000)
	modified = time.Date(2026, 3, 1, 12, 0, 0, 500_000_000, time.UTC)
)

func bytesOf(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

type whole []byte

func (b whole) Bytes(_ context.Context, offset int64) ([]byte, error) { return b[offset:], nil }
func (b whole) Complete() bool                                        { return true }

// serve is what a caller of Serve does.
func serve(method string, header http.Header) *http.Response {
	r := httptest.NewRequest(method, "/", nil)
	r.Header = header
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "video/mp4")
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Etag", `"abc"`)
	var sent Sent
	switch err := (&Content{Body: whole(sample), Size: 1000, ETag: `"abc"`, Modified: modified}).Serve(w, r, &sent); {
	case errors.Is(err, ErrCondition):
		w.WriteHeader(http.StatusPreconditionFailed)
	case errors.Is(err, ErrRange):
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
	case err != nil:
		panic(err)
	case sent.Status != w.Code || sent.Bytes != int64(w.Body.Len()):
		panic("sent isn't what was sent")
	}
	return w.Result()
}

func TestParseRange(t *testing.T) {
	const size = 1000
	for s, want := range map[string][]Span{
		"bytes=0-0": {{0, 1}}, "bytes=0-": {{0, 1000}}, "bytes=999-": {{999, 1}}, "bytes=-1": {{999, 1}}, "bytes=-5000": {{0, 1000}},
		"bytes=10-5000": {{10, 990}}, "BYTES=1-2": {{1, 2}}, "bytes= 1-2 , 4-5": {{1, 2}, {4, 2}}, "bytes=5-6,1-2": {{5, 2}, {1, 2}},
		"bytes=2000-,1-1": {{1, 1}}, "bytes=-0,1-1": {{1, 1}}, "bytes=,,1-1,": {{1, 1}}, "bytes=1-99999999999999999999999": {{1, 999}},
		// Ignored: the answer is the whole object.
		"": nil, "bytes": nil, "bytes=": nil, "bytes=,": nil, "items=0-1": nil, "bytes=a-b": nil, "bytes=5-1": nil, "bytes=--1": nil,
		"bytes=1-2,x": nil, "bytes=+1-2": nil, "bytes=1 -2": nil, "bytes=0-,0-,0-": nil, "bytes=0-999,0-999": nil, "bytes=0x1-2": nil,
		"bytes=0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7,8-8,9-9,10-10,11-11,12-12,13-13,14-14,15-15,16-16": nil,
	} {
		got, err := ParseRange(s, size)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=5000-6000,7000-", "bytes=99999999999999999999-"} {
		_, err := ParseRange(s, size)
		require.ErrorIs(t, err, ErrRange, s)
	}
	_, err := ParseRange("bytes=0-", 0)
	require.ErrorIs(t, err, ErrRange)
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-1,5-", int64(100))
	f.Add("bytes=-5", int64(0))
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size < 0 {
			return
		}
		spans, err := ParseRange(s, size)
		if err != nil && spans != nil || len(spans) > maxRanges {
			t.Fatal(spans, err)
		}
		for _, sp := range spans {
			if sp.Start < 0 || sp.Length < 1 || sp.Start > size-sp.Length {
				t.Fatalf("%q of %d: %+v", s, size, sp)
			}
		}
	})
}

// FuzzConditions: whatever a client writes, a tag matches only where it is named, the
// strong comparison only where the weak one does, and a weak tag never joins parts.
func FuzzConditions(f *testing.F) {
	f.Add(`"a", W/"b"`, `"a"`)
	f.Add(`*`, `W/"x"`)
	f.Add(`, ,"a"b`, `"b"`)
	f.Fuzz(func(t *testing.T, list, etag string) {
		if _, rest, ok := cutTag(etag); etag != "" && (!ok || rest != "") {
			return
		}
		lines := strings.Split(list, "\n")
		strong, weak := anyTag(lines, etag, false), anyTag(lines, etag, true)
		if strong && !weak {
			t.Fatalf("%q matches %q strongly only", list, etag)
		}
		if weak && !strings.Contains(list, "*") && (etag == "" || !strings.Contains(list, strings.TrimPrefix(etag, "W/"))) {
			t.Fatalf("%q matches %q", list, etag)
		}
		if strong && strings.HasPrefix(etag, "W/") && !strings.Contains(list, "*") {
			t.Fatalf("%q matches %q strongly", list, etag)
		}
		none := precondition(http.Header{"If-None-Match": lines}, etag, modified, time.Time{})
		if (none == notModified) != weak || none == failed {
			t.Fatalf("If-None-Match %q of %q: %v", list, etag, none)
		}
		if (precondition(http.Header{"If-Match": lines}, etag, modified, time.Time{}) == failed) == strong {
			t.Fatalf("If-Match %q of %q", list, etag)
		}
		allowed := rangeAllowed(http.Header{"If-Range": {list}}, etag, modified, time.Time{})
		if trimmed := strings.Trim(list, " \t"); allowed && strings.HasPrefix(trimmed, "W/") || allowed && strings.HasPrefix(trimmed, `"`) && trimmed != etag {
			t.Fatalf("If-Range %q of %q", list, etag)
		}
	})
}

func TestConditions(t *testing.T) {
	at := modified.Format(http.TimeFormat)
	before, after := modified.Add(-time.Hour).Format(http.TimeFormat), modified.Add(time.Hour).Format(http.TimeFormat)
	for name, c := range map[string]struct {
		header []string
		want   int
	}{
		"plain":                        {nil, 200},
		"none match":                   {[]string{"If-None-Match", `"abc"`}, 304},
		"none match, weak":             {[]string{"If-None-Match", `W/"abc"`}, 304},
		"none match, list":             {[]string{"If-None-Match", `"x" , "abc"`}, 304},
		"none match, any":              {[]string{"If-None-Match", `*`}, 304},
		"none match, other":            {[]string{"If-None-Match", `"x", "y"`}, 200},
		"none match, unquoted":         {[]string{"If-None-Match", `abc`}, 200},
		"none match beats date":        {[]string{"If-None-Match", `"x"`, "If-Modified-Since", after}, 200},
		"not modified since":           {[]string{"If-Modified-Since", at}, 304},
		"modified since":               {[]string{"If-Modified-Since", before}, 200},
		"since, malformed":             {[]string{"If-Modified-Since", "yesterday"}, 200},
		"match":                        {[]string{"If-Match", `"abc"`}, 200},
		"match, weak never":            {[]string{"If-Match", `W/"abc"`}, 412},
		"match, other":                 {[]string{"If-Match", `"x"`}, 412},
		"match, any":                   {[]string{"If-Match", `*`}, 200},
		"unmodified since":             {[]string{"If-Unmodified-Since", at}, 200},
		"unmodified since, no":         {[]string{"If-Unmodified-Since", before}, 412},
		"match beats unmodified since": {[]string{"If-Match", `"abc"`, "If-Unmodified-Since", before}, 200},
		"range":                        {[]string{"Range", "bytes=1-2"}, 206},
		"range out":                    {[]string{"Range", "bytes=1000-"}, 416},
		"range, if-range":              {[]string{"Range", "bytes=1-2", "If-Range", `"abc"`}, 206},
		"range, if-range other":        {[]string{"Range", "bytes=1-2", "If-Range", `"x"`}, 200},
		"range, if-range weak":         {[]string{"Range", "bytes=1-2", "If-Range", `W/"abc"`}, 200},
		"range, if-range date":         {[]string{"Range", "bytes=1-2", "If-Range", at}, 206},
		"range, if-range older":        {[]string{"Range", "bytes=1-2", "If-Range", before}, 200},
		"range, if-range later":        {[]string{"Range", "bytes=1-2", "If-Range", after}, 200},
		"range out, if-range other":    {[]string{"Range", "bytes=1000-", "If-Range", `"x"`}, 200},
		"range, none match":            {[]string{"Range", "bytes=1-2", "If-None-Match", `"abc"`}, 304},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			for i := 0; i+1 < len(c.header); i += 2 {
				h.Add(c.header[i], c.header[i+1])
			}
			res := serve(http.MethodGet, h)
			require.Equal(t, c.want, res.StatusCode)
			b := readBody(res)
			switch c.want {
			case 200:
				require.Equal(t, string(sample), b)
			case 206:
				require.Equal(t, string(sample[1:3]), b)
				require.Equal(t, "bytes 1-2/1000", res.Header.Get("Content-Range"))
			case 304:
				require.Empty(t, b)
				require.Equal(t, `"abc"`, res.Header.Get("Etag"))
			case 416:
				require.Equal(t, "bytes */1000", res.Header.Get("Content-Range"))
			}
		})
	}
}

// TestIfRangeOfManyRanges: all of them, or the whole.
func TestIfRangeOfManyRanges(t *testing.T) {
	at := modified.Format(http.TimeFormat)
	for tag, want := range map[string]int{`"abc"`: 206, `W/"abc"`: 200, `"x"`: 200, at: 206, modified.Add(time.Second).Format(http.TimeFormat): 200, "yesterday": 200} {
		res := serve(http.MethodGet, http.Header{"Range": {"bytes=0-1,500-"}, "If-Range": {tag}})
		require.Equal(t, want, res.StatusCode, tag)
		if b := readBody(res); want == 200 {
			require.Equal(t, string(sample), b)
		} else {
			require.Contains(t, b, string(sample[500:]))
		}
	}
	for made, want := range map[time.Duration]bool{0: false, 400 * time.Millisecond: false, time.Second: true, time.Hour: true} {
		require.Equal(t, want, rangeAllowed(http.Header{"If-Range": {at}}, "", modified, modified.Truncate(time.Second).Add(made)), made)
	}
}

func TestMultipart(t *testing.T) {
	res := serve(http.MethodGet, http.Header{"Range": {"bytes=900-,10-19,-5"}})
	require.Equal(t, http.StatusPartialContent, res.StatusCode)
	body := readBody(res)
	require.EqualValues(t, len(body), res.ContentLength)
	kind, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/byteranges", kind)
	mr := multipart.NewReader(bytes.NewReader([]byte(body)), params["boundary"])
	for _, want := range []struct {
		rng  string
		body []byte
	}{{"bytes 900-999/1000", sample[900:]}, {"bytes 10-19/1000", sample[10:20]}, {"bytes 995-999/1000", sample[995:]}} {
		p, err := mr.NextPart()
		require.NoError(t, err)
		b, err := io.ReadAll(p)
		require.NoError(t, err)
		require.Equal(t, want.rng, p.Header.Get("Content-Range"))
		require.Equal(t, "video/mp4", p.Header.Get("Content-Type"))
		require.Equal(t, want.body, b)
	}
	_, err = mr.NextPart()
	require.ErrorIs(t, err, io.EOF)
}

// TestLikeNetHTTP compares status, bytes and headers with http.ServeContent's
// for random requests.
func TestLikeNetHTTP(t *testing.T) {
	at := func(d time.Duration) string { return modified.Add(d).Format(http.TimeFormat) }
	tags := rapid.SampledFrom([]string{"", `"abc"`, `W/"abc"`, `"x"`, "*", `"x", "abc"`})
	dates := rapid.SampledFrom([]string{"", at(0), at(-time.Hour), at(time.Hour)})
	rapid.Check(t, func(t *rapid.T) {
		h := http.Header{}
		set := func(k, v string) {
			if v != "" {
				h.Set(k, v)
			}
		}
		set("If-Match", tags.Draw(t, "match"))
		set("If-None-Match", tags.Draw(t, "none match"))
		set("If-Modified-Since", dates.Draw(t, "since"))
		set("If-Unmodified-Since", dates.Draw(t, "unmodified"))
		set("If-Range", rapid.OneOf(rapid.SampledFrom([]string{"", `"abc"`, `W/"abc"`, `"x"`}), dates).Draw(t, "if-range"))
		set("Range", rapid.OneOf(rapid.Just(""), rapid.StringMatching(`bytes=(\d{1,4}-\d{0,4}|-\d{1,4})`)).Draw(t, "range"))
		method := rapid.SampledFrom([]string{"GET", "HEAD"}).Draw(t, "method")
		if method == "HEAD" {
			h.Del("Range") // net/http gives HEAD ranges, RFC 9110 doesn't
		}
		r := httptest.NewRequest(method, "/", nil)
		r.Header = h.Clone()
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "video/mp4")
		w.Header().Set("Etag", `"abc"`)
		http.ServeContent(w, r, "", modified, bytes.NewReader(sample))
		want, got := w.Result(), serve(method, h)
		// RFC 9110 section 14.1.2: a suffix of no bytes can't be satisfied; net/http
		// answers 206 with none.
		if want.StatusCode == 206 && want.Header.Get("Content-Length") == "0" {
			if _, err := ParseRange(h.Get("Range"), 1000); err == nil || got.StatusCode != 416 {
				t.Fatalf("%v: status %d for a suffix of no bytes", h, got.StatusCode)
			}
			return
		}
		// A backward range is a syntax error, which RFC 9110 section 14.2 lets a
		// server ignore; net/http answers 416.
		if want.StatusCode == 416 && got.StatusCode == 200 {
			if spans, err := ParseRange(h.Get("Range"), 1000); spans != nil || err != nil {
				t.Fatalf("ignored %q", h.Get("Range"))
			}
			return
		}
		if want.StatusCode != got.StatusCode {
			t.Fatalf("%v: status %d, net/http %d", h, got.StatusCode, want.StatusCode)
		}
		if want.StatusCode >= 400 {
			return
		}
		for _, k := range []string{"Content-Range", "Content-Length", "Etag", "Accept-Ranges"} {
			if want.StatusCode != 304 && want.Header.Get(k) != got.Header.Get(k) {
				t.Fatalf("%v: %s %q, net/http %q", h, k, got.Header.Get(k), want.Header.Get(k))
			}
		}
		if readBody(want) != readBody(got) {
			t.Fatalf("%v: other bytes than net/http", h)
		}
	})
}

// TestReaderThatTakesNothingIsDropped lets a client ask for much and read nothing.
func TestReaderThatTakesNothingIsDropped(t *testing.T) {
	big := bytesOf(16 << 20)
	ended := make(chan any, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { v := recover(); ended <- v; panic(v) }()
		_ = (&Content{Body: whole(big), Size: int64(len(big))}).Serve(&hurried{w}, r, &Sent{})
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.NoError(t, err)
	select {
	case v := <-ended:
		require.Equal(t, http.ErrAbortHandler, v)
	case <-time.After(10 * time.Second):
		t.Fatal("the response goes on")
	}
}

// hurried makes write deadlines forty times as near.
type hurried struct{ http.ResponseWriter }

func (h *hurried) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(h.ResponseWriter).SetWriteDeadline(time.Now().Add(time.Until(t) / 40))
}

func (h *hurried) Unwrap() http.ResponseWriter { return h.ResponseWriter }
