package client

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	tusVersion = "1.0.0"
	// stalled is how long a connection may take no byte, or give no answer once
	// all are sent, before the upload goes on over another.
	stalled = 45 * time.Second
)

// Upload is a file to upload.
type Upload struct {
	Path       string
	Title      string
	Visibility string
	// Profile names the encoding profile; empty: the platform's default.
	Profile string
	// StateDir remembers uploads under way; empty: the default directory.
	StateDir string
	// Progress is called as bytes go out, from one goroutine at a time; sent
	// goes back when a connection breaks and bytes must be sent again.
	Progress func(sent, size int64)
	// Started is called once the asset is known; resumed says that bytes of an
	// earlier run are there.
	Started func(asset string, offset int64, resumed bool)
}

// Result of an upload.
type Result struct {
	Asset string
	Size  int64
	// Resumed is how many bytes an earlier run had brought.
	Resumed int64
	// Forget drops what is remembered of the upload; until then the same file
	// goes on as this asset.
	Forget func() error
}

// Upload sends a file, going on where an earlier run was cut off, and returns
// once all bytes are acknowledged.
func (c *Client) Upload(ctx context.Context, u Upload) (Result, error) {
	f, err := os.Open(u.Path)
	if err != nil {
		return Result{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Result{}, err
	}
	if !info.Mode().IsRegular() {
		return Result{}, fmt.Errorf("%s: want a file", u.Path)
	}
	m, err := openMemory(u.StateDir, c.bases, u.Path, info)
	if err != nil {
		return Result{}, err
	}
	t := &transfer{c: c, u: u, f: f, size: info.Size(), m: m}
	if err := t.run(ctx); err != nil {
		return Result{}, err
	}
	return Result{Asset: m.Asset, Size: t.size, Resumed: t.resumed, Forget: m.forget}, nil
}

type transfer struct {
	c             *Client
	u             Upload
	f             *os.File
	m             *memory
	size, resumed int64
	// offset is what the server has acknowledged.
	offset int64
}

func (t *transfer) run(ctx context.Context) error {
	if t.m.URL != "" {
		err := t.c.againFor(ctx, t.c.UploadPatience, t.head)
		var p *Problem
		switch {
		case err == nil:
			t.resumed = t.offset
		case errors.As(err, &p) && (p.Status == http.StatusNotFound || p.Status == http.StatusGone):
			// Deleted or expired meanwhile: begin anew.
			t.m.URL, t.m.Asset, t.m.Key = "", "", ""
		default:
			return err
		}
	}
	if t.m.URL == "" {
		if err := t.create(ctx); err != nil {
			return err
		}
	}
	if t.u.Started != nil {
		t.u.Started(t.m.Asset, t.offset, t.resumed > 0)
	}
	return t.send(ctx)
}

func (t *transfer) create(ctx context.Context) error {
	if t.m.Key == "" {
		t.m.Key = rand.Text()
		// Remembered first, so that a creation whose answer is lost isn't made twice.
		if err := t.m.save(); err != nil {
			return err
		}
	}
	metadata := ""
	for _, kv := range [][2]string{{"filename", filepath.Base(t.u.Path)}, {"title", t.u.Title}, {"visibility", t.u.Visibility}, {"profile", t.u.Profile}} {
		if kv[1] == "" {
			continue
		}
		if metadata != "" {
			metadata += ","
		}
		metadata += kv[0] + " " + base64.StdEncoding.EncodeToString([]byte(kv[1]))
	}
	head := http.Header{"Tus-Resumable": {tusVersion}, "Upload-Length": {strconv.FormatInt(t.size, 10)}, "Upload-Metadata": {metadata},
		"Idempotency-Key": {t.m.Key}}
	err := t.c.againFor(ctx, t.c.UploadPatience, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		resp, err := t.c.request(ctx, http.MethodPost, "/v1/uploads", nil, head)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		t.m.URL, t.m.Asset = resp.Header.Get("Location"), resp.Header.Get("Meridian-Asset")
		if t.m.URL == "" || t.m.Asset == "" {
			return &Problem{Title: "Not this API", Code: "not-the-api", Detail: t.c.API() + " isn't a Meridian API: check --api"}
		}
		return nil
	})
	if err != nil {
		var p *Problem
		if errors.As(err, &p) && p.Status < http.StatusInternalServerError {
			return errors.Join(err, t.m.forget())
		}
		return err
	}
	// The same creation as before may have bytes already.
	if err := errors.Join(t.m.save(), t.c.againFor(ctx, t.c.UploadPatience, t.head)); err != nil {
		return err
	}
	t.resumed = t.offset
	return nil
}

// head asks where the upload stands.
func (t *transfer) head(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := t.c.request(ctx, http.MethodHead, t.m.URL, nil, http.Header{"Tus-Resumable": {tusVersion}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := strconv.ParseInt(resp.Header.Get("Upload-Offset"), 10, 64)
	if err != nil || n < 0 || n > t.size {
		return &Problem{Title: "Not this API", Code: "not-the-api", Detail: fmt.Sprintf("%s says the upload stands at %q of %d bytes: check --api", t.c.API(), resp.Header.Get("Upload-Offset"), t.size)}
	}
	t.offset = n
	return nil
}

// send brings the rest, over as many connections as it takes.
func (t *transfer) send(ctx context.Context) error {
	moved := time.Now()
	for n := 0; t.offset < t.size; n++ {
		before := t.offset
		err := t.patch(ctx)
		if err == nil {
			n, moved = -1, time.Now()
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		ok, asked := retryable(err)
		if !ok {
			return err
		}
		if err := sleep.For(ctx, backoff(n, asked)); err != nil {
			return err
		}
		herr := t.head(ctx)
		if herr != nil {
			if again, _ := retryable(herr); !again {
				return herr
			}
		}
		if t.offset > before {
			n, moved = -1, time.Now()
		}
		if time.Since(moved) > t.c.UploadPatience {
			return fmt.Errorf("nothing moved for %s: %w", t.c.UploadPatience, errors.Join(err, herr))
		}
	}
	return nil
}

// patch sends everything from offset on in one request.
func (t *transfer) patch(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body := &meter{r: io.NewSectionReader(t.f, t.offset, t.size-t.offset), progress: func(n int64) {
		if t.u.Progress != nil {
			t.u.Progress(t.offset+n, t.size)
		}
	}}
	watchdog := time.AfterFunc(stalled, func() { cancel(errStalled) })
	defer watchdog.Stop()
	body.moved = func() { watchdog.Reset(stalled) }

	u, err := t.c.resolve(t.m.URL)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, u, body)
	if err != nil {
		return err
	}
	req.ContentLength = t.size - t.offset
	for k, v := range map[string]string{"Tus-Resumable": tusVersion, "Upload-Offset": strconv.FormatInt(t.offset, 10),
		"Content-Type": "application/offset+octet-stream", "Authorization": "Bearer " + t.c.key} {
		req.Header.Set(k, v)
	}
	resp, err := t.c.http.Do(req)
	if rerr := body.stop(); rerr != nil { // no other connection will help
		if err == nil {
			rerr = errors.Join(rerr, resp.Body.Close())
		}
		return &Problem{Code: "unreadable", Detail: fmt.Sprintf("%s: %v", t.u.Path, rerr)}
	}
	if err != nil {
		t.c.next()
		if errors.Is(context.Cause(ctx), errStalled) {
			return errStalled
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return problem(resp)
	}
	n, err := strconv.ParseInt(resp.Header.Get("Upload-Offset"), 10, 64)
	if err != nil || n < t.offset || n > t.size {
		return fmt.Errorf("the API answered offset %q", resp.Header.Get("Upload-Offset"))
	}
	t.c.wrote(resp)
	t.offset = n
	return nil
}

var errStalled = errors.New("the connection took no byte for a while")

// meter counts a request body as the connection takes it. The connection may
// ask once more after its request has ended; it gets nothing then.
type meter struct {
	mu       sync.Mutex
	r        io.Reader
	n        int64
	progress func(n int64)
	moved    func()
	err      error
	stopped  bool
}

func (m *meter) Read(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return 0, io.ErrClosedPipe
	}
	n, err := m.r.Read(b)
	m.n += int64(n)
	m.moved()
	m.progress(m.n)
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	return n, err
}

// stop ends reading and returns why the file couldn't be read, if it couldn't.
func (m *meter) stop() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	return m.err
}
