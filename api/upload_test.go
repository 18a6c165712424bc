package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/client"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

const offsetStream = "application/offset+octet-stream"

// create makes an upload and returns its path and asset.
func (p *process) create(size int, kv ...string) (path, asset string) {
	p.t.Helper()
	a := p.do("POST", "/v1/uploads", nil, append([]string{"Tus-Resumable", "1.0.0", "Upload-Length", strconv.Itoa(size),
		"Upload-Metadata", "filename " + b64("clip.mp4")}, kv...)...)
	require.Equal(p.t, 201, a.StatusCode, string(a.body))
	require.NotEmpty(p.t, a.Header.Get("Upload-Expires"))
	u, err := url.Parse(a.Header.Get("Location"))
	require.NoError(p.t, err)
	return u.Path, a.Header.Get("Meridian-Asset")
}

func (p *process) patch(path string, offset int, body any, kv ...string) answer {
	p.t.Helper()
	return p.do("PATCH", path, body, append([]string{"Tus-Resumable", "1.0.0", "Upload-Offset", strconv.Itoa(offset), "Content-Type", offsetStream}, kv...)...)
}

func (p *process) offset(path string) int {
	p.t.Helper()
	a := p.do("HEAD", path, nil, "Tus-Resumable", "1.0.0")
	require.Equal(p.t, 200, a.StatusCode)
	n, err := strconv.Atoi(a.Header.Get("Upload-Offset"))
	require.NoError(p.t, err)
	return n
}

func (p *process) asset(id string) assetJSON {
	p.t.Helper()
	var out assetJSON
	p.do("GET", "/v1/assets/"+id, nil).json(p.t, &out)
	return out
}

// cut sends the first n bytes of an upload's rest over a connection of its own
// and then breaks it, or leaves it open and silent.
func (p *process) cut(path string, offset int, rest []byte, n int, leaveOpen bool) net.Conn {
	p.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	require.NoError(p.t, err)
	_, err = fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: %d\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
		path, p.key, offset, offsetStream, len(rest))
	require.NoError(p.t, err)
	_, err = conn.Write(rest[:n])
	require.NoError(p.t, err)
	if !leaveOpen {
		require.NoError(p.t, conn.Close())
	}
	return conn
}

func testUploadWhole(t *testing.T, pl *platform, p *process) {
	content := random(1<<20 + 12345)
	path, asset := p.create(len(content), "Upload-Metadata", "filename "+b64(`C:\videos\My clip.mp4`)+",visibility "+b64("unlisted"))
	a := p.asset(asset)
	require.Equal(t, "uploading", a.State)
	require.Equal(t, "My clip", a.Title)
	require.Equal(t, "unlisted", a.Visibility)

	r := p.patch(path, 0, content)
	require.Equal(t, 204, r.StatusCode, string(r.body))
	require.Equal(t, strconv.Itoa(len(content)), r.Header.Get("Upload-Offset"))
	got, parts := pl.source(asset)
	require.Equal(t, sum(content), sum(got))
	require.Equal(t, 5, parts)
	a = p.asset(asset)
	require.Equal(t, "received", a.State)
	require.InDelta(t, 1, a.Progress.Upload, 0)

	require.Equal(t, len(content), p.offset(path), "a finished upload still says where it stands")
	require.Equal(t, 204, p.patch(path, len(content), nil).StatusCode)
	require.Equal(t, "wrong-state", p.do("DELETE", path, nil, "Tus-Resumable", "1.0.0").code(t))

	o := p.as("").do("OPTIONS", "/v1/uploads", nil)
	require.Equal(t, "67108864", o.Header.Get("Tus-Max-Size"))
	for _, ext := range []string{"creation", "creation-with-upload", "creation-defer-length", "termination", "expiration"} {
		require.Contains(t, strings.Split(o.Header.Get("Tus-Extension"), ","), ext)
	}
}

func testUploadWithCreation(t *testing.T, pl *platform, p *process) {
	content := random(300_000)
	var made assetJSON
	p.do("POST", "/v1/assets", map[string]any{"title": "made first"}).json(t, &made)
	a := p.do("POST", made.UploadURL, content[:100_000], "Tus-Resumable", "1.0.0", "Upload-Defer-Length", "1", "Content-Type", offsetStream)
	require.Equal(t, 201, a.StatusCode, string(a.body))
	require.Equal(t, "100000", a.Header.Get("Upload-Offset"))
	require.Equal(t, made.ID, a.Header.Get("Meridian-Asset"))
	path := strings.TrimPrefix(a.Header.Get("Location"), p.URL)
	require.Equal(t, 204, p.patch(path, 100_000, content[100_000:], "Upload-Length", "300000").StatusCode)
	got, _ := pl.source(made.ID)
	require.Equal(t, sum(content), sum(got))
	require.Equal(t, "received", p.asset(made.ID).State)
	require.Equal(t, "wrong-state", p.do("POST", made.UploadURL, nil, "Tus-Resumable", "1.0.0", "Upload-Length", "5").code(t), "an asset takes one upload")
}

func testUploadCut(t *testing.T, pl *platform, p *process) {
	p = pl.start().as(p.key)
	content := random(2 << 20)
	path, asset := p.create(len(content))
	// Progress shows the offset without a request for the upload, which would end the one under way.
	arrived := func(more int) {
		t.Helper()
		require.Eventually(t, func() bool { return p.asset(asset).Progress.Upload*float64(len(content)) >= float64(more) }, 20*time.Second, 20*time.Millisecond)
	}
	p.cut(path, 0, content, 700_000, false)
	arrived(700_000)
	at := p.offset(path)
	require.Equal(t, 700_000, at, "all that had arrived is kept")

	// A connection that stays open and silent doesn't lock the upload.
	silent := p.cut(path, at, content[at:], 400_000, true)
	defer silent.Close()
	arrived(at + 1)
	began := time.Now()
	now := p.offset(path)
	require.Less(t, time.Since(began), 5*time.Second)
	require.Greater(t, now, at)
	at = now

	// Another process goes on.
	second := pl.start().as(p.key)
	half := at + (len(content)-at)/2
	require.Equal(t, at, second.offset(path))
	require.Equal(t, 204, second.patch(path, at, content[at:half]).StatusCode)
	p.stop()
	require.Equal(t, 204, second.patch(path, half, content[half:]).StatusCode)
	got, parts := pl.source(asset)
	require.Equal(t, sum(content), sum(got))
	require.Greater(t, parts, 3)
	require.Equal(t, "received", second.asset(asset).State)
}

func testTwoWriters(t *testing.T, pl *platform, p *process) {
	q := pl.start().as(p.key)
	content := random(1 << 20)
	path, asset := p.create(len(content))
	// Both processes take the whole file from the start, at the same time.
	answers := make(chan answer, 2)
	for _, x := range []*process{p, q} {
		go func() { answers <- x.patch(path, 0, content) }()
	}
	ok := 0
	for range 2 {
		a := <-answers
		if a.StatusCode == 204 {
			ok++
			continue
		}
		require.Contains(t, []string{"offset-mismatch", "wrong-state"}, a.code(t))
	}
	at := p.offset(path)
	if ok == 0 {
		require.Equal(t, 204, p.patch(path, at, content[at:]).StatusCode)
	}
	got, _ := pl.source(asset)
	require.Equal(t, sum(content), sum(got))
}

func testUploadRefused(t *testing.T, pl *platform, p *process) {
	p = pl.with(t, func(c *Command) { c.Upload.MaxBytes = 1000; c.Upload.MaxOpen = 1 }).start().as(p.key)
	tus := []string{"Tus-Resumable", "1.0.0"}
	for name, x := range map[string]struct {
		kv     []string
		code   string
		status int
	}{
		"over the limit":     {[]string{"Upload-Length", "1001"}, "upload-too-large", 413},
		"no length":          {nil, "invalid-request", 400},
		"bad length":         {[]string{"Upload-Length", "-5"}, "invalid-request", 400},
		"two lengths":        {[]string{"Upload-Length", "5", "Upload-Defer-Length", "1"}, "invalid-request", 400},
		"metadata no base64": {[]string{"Upload-Length", "5", "Upload-Metadata", "title !!!"}, "invalid-field", 422},
		"metadata no UTF-8":  {[]string{"Upload-Length", "5", "Upload-Metadata", "title " + b64("\xff\xfe")}, "invalid-field", 422},
		"metadata key twice": {[]string{"Upload-Length", "5", "Upload-Metadata", "title YQ==,title YQ=="}, "invalid-field", 422},
		"metadata too long":  {[]string{"Upload-Length", "5", "Upload-Metadata", "title " + b64(strings.Repeat("x", 4000))}, "invalid-field", 422},
		"visibility":         {[]string{"Upload-Length", "5", "Upload-Metadata", "visibility " + b64("x")}, "invalid-field", 422},
		"asset":              {[]string{"Upload-Length", "5", "Upload-Metadata", "asset " + b64("../x")}, "invalid-field", 422},
		"override":           {[]string{"Upload-Length", "5", "X-HTTP-Method-Override", "DELETE"}, "invalid-request", 400},
		"concat":             {[]string{"Upload-Concat", "final;/a /b"}, "invalid-request", 400},
		"version":            {[]string{"Tus-Resumable", "0.2.2", "Upload-Length", "5"}, "tus-version", 412},
		"empty":              {[]string{"Upload-Length", "0"}, "empty", 422},
	} {
		t.Run(name, func(t *testing.T) {
			a := p.do("POST", "/v1/uploads", nil, append(tus, x.kv...)...)
			require.Equal(t, x.code, a.code(t))
			require.Equal(t, x.status, a.StatusCode)
		})
	}
	var page struct{ Assets []assetJSON }
	p.do("GET", "/v1/assets", nil).json(t, &page)
	require.Len(t, page.Assets, 1, "nothing is left behind but the empty file's reason")
	require.Equal(t, "empty", page.Assets[0].Failure.Code)

	path, asset := p.create(1000)
	require.Equal(t, "upload-length-exceeded", p.patch(path, 0, random(1001)).code(t))
	require.Equal(t, "offset-mismatch", p.patch(path, 7, random(10)).code(t))
	require.Equal(t, "unsupported-media-type", p.do("PATCH", path, random(10), append(tus, "Upload-Offset", "0")...).code(t))
	require.Equal(t, "invalid-request", p.patch(path, -1, random(10)).code(t))
	require.Equal(t, "not-found", p.patch("/v1/uploads/aaaaaaaaaaaaaaaaaaaaaaaaaa", 0, random(10)).code(t))
	require.Equal(t, "not-found", p.patch("/v1/uploads/x", 0, random(10)).code(t))

	other := p.by(t)
	require.Equal(t, 404, other.do("HEAD", path, nil, tus...).StatusCode)
	require.Equal(t, "not-found", other.patch(path, 0, random(10)).code(t))
	require.Equal(t, "not-found", other.do("DELETE", path, nil, tus...).code(t))

	t.Run("too many at once", func(t *testing.T) {
		body, feed := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "PATCH", p.URL+path, body)
		require.NoError(t, err)
		req.ContentLength = 1000
		req.Header = http.Header{"Tus-Resumable": {"1.0.0"}, "Upload-Offset": {"0"}, "Content-Type": {offsetStream}, "Authorization": {"Bearer " + p.key}}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if resp, err := p.http.Do(req); err == nil {
				resp.Body.Close()
			}
		}()
		_, err = feed.Write(random(10))
		require.NoError(t, err)
		other, _ := p.create(5)
		var a answer
		require.Eventually(t, func() bool { a = p.patch(other, 0, nil); return a.StatusCode == 503 }, 5*time.Second, 10*time.Millisecond)
		require.Equal(t, "too-many-uploads", a.code(t))
		require.Equal(t, "5", a.Header.Get("Retry-After"))
		cancel()
		require.NoError(t, feed.Close()) // the client waits for its body
		<-ended
	})

	require.Equal(t, 204, p.do("DELETE", path, nil, tus...).StatusCode)
	require.Equal(t, 404, p.do("HEAD", path, nil, tus...).StatusCode)
	require.Equal(t, "not-found", p.do("GET", "/v1/assets/"+asset, nil).code(t))
}

func testUploadIdempotent(t *testing.T, _ *platform, p *process) {
	path, asset := p.create(5, "Idempotency-Key", "once")
	again, same := p.create(5, "Idempotency-Key", "once")
	require.Equal(t, path, again)
	require.Equal(t, asset, same)
	a := p.do("POST", "/v1/uploads", nil, "Tus-Resumable", "1.0.0", "Upload-Length", "6", "Idempotency-Key", "once", "Upload-Metadata", "filename "+b64("clip.mp4"))
	require.Equal(t, "wrong-state", a.code(t), "another length is another upload")
}

func testUploadPinned(t *testing.T, pl *platform, p *process) {
	var made assetJSON
	p.do("POST", "/v1/assets", map[string]any{"placement": map[string]any{"mode": "pinned", "regions": []string{"us"}}}).json(t, &made)
	a := p.do("POST", made.UploadURL, nil, "Tus-Resumable", "1.0.0", "Upload-Length", "5")
	require.Equal(t, 201, a.StatusCode)
	us, _ := pl.table.Get("us")
	loc := a.Header.Get("Location")
	require.True(t, strings.HasPrefix(loc, us.API+"/v1/uploads/"), loc)
	b := p.patch(strings.TrimPrefix(loc, us.API), 0, []byte("hello"))
	require.Equal(t, "wrong-region", b.code(t))
	require.Equal(t, loc, b.Header.Get("Location"))
}

func testEvents(t *testing.T, _ *platform, p *process) {
	content := random(1000)
	path, asset := p.create(len(content))

	open := func(path, last string) (events chan client.ServerEvent, end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", p.URL+path, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+p.key)
		if last != "" {
			req.Header.Set("Last-Event-ID", last)
		}
		resp, err := p.http.Do(req)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
		events, done := make(chan client.ServerEvent, 100), make(chan struct{})
		go func() {
			defer close(done)
			defer resp.Body.Close()
			_ = client.ReadEvents(resp.Body, func(e client.ServerEvent) error { events <- e; return nil })
		}()
		return events, func() { cancel(); <-done }
	}
	next := func(events chan client.ServerEvent) client.ServerEvent {
		t.Helper()
		for {
			select {
			case e := <-events:
				if e.Name != "" {
					return e
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no event")
			}
		}
	}
	until := func(events chan client.ServerEvent, name string) client.ServerEvent {
		t.Helper()
		for {
			if e := next(events); e.Name == name {
				return e
			}
		}
	}
	one, end := open("/v1/assets/"+asset+"/events", "")
	all, endAll := open("/v1/events", "")
	require.Equal(t, "asset", next(one).Name, "the whole asset comes first")
	require.Equal(t, "reset", next(all).Name)
	require.Equal(t, 204, p.patch(path, 0, content).StatusCode)
	e := until(one, "received")
	require.NotEmpty(t, e.ID)
	require.Contains(t, string(e.Data), `"state":"received"`)
	require.NotContains(t, string(e.Data), `"owner"`)
	require.Equal(t, e.ID, until(all, "received").ID)
	end()

	require.Equal(t, 200, p.do("PATCH", "/v1/assets/"+asset, map[string]any{"title": "t"}).StatusCode)
	until(all, "changed")
	endAll()
	back, end := open("/v1/assets/"+asset+"/events", e.ID)
	defer end()
	require.Equal(t, "changed", next(back).Name, "what was missed, and nothing twice")
	require.Equal(t, "invalid-request", p.do("GET", "/v1/events", nil, "Last-Event-ID", "x").code(t))
	require.Equal(t, 204, p.do("DELETE", "/v1/assets/"+asset, nil).StatusCode)
	until(back, "deleted")
}

func testEventStreams(t *testing.T, pl *platform, p *process) {
	p = pl.with(t, func(c *Command) { c.EventStreams = 1 }).start().as(p.key)
	req, err := http.NewRequestWithContext(t.Context(), "GET", p.URL+"/v1/events", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+p.key)
	resp, err := p.http.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	a := p.do("GET", "/v1/events", nil)
	require.Equal(t, "too-many-streams", a.code(t))
	began := time.Now()
	p.stop()
	require.Less(t, time.Since(began), 5*time.Second)
	_, err = io.ReadAll(resp.Body)
	require.True(t, err == nil || errors.Is(err, io.ErrUnexpectedEOF), err)
}

func testStopping(t *testing.T, pl *platform, p *process) {
	p = pl.start().as(p.key)
	content := random(600_000)
	path, asset := p.create(len(content))
	conn := p.cut(path, 0, content, 300_000, true)
	defer conn.Close()
	require.Eventually(t, func() bool { return p.asset(asset).Progress.Upload > 0 }, 10*time.Second, 20*time.Millisecond)
	began := time.Now()
	p.stop()
	require.Less(t, time.Since(began), 8*time.Second)
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.True(t, bytes.Contains(b, []byte("503")), string(b))
	q := pl.start().as(p.key)
	at := q.offset(path)
	require.Equal(t, 300_000, at)
	require.Equal(t, 204, q.patch(path, at, content[at:]).StatusCode)
	got, _ := pl.source(asset)
	require.Equal(t, sum(content), sum(got))
}
