package creators

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	writeEvery = 300 * time.Millisecond
	writeTime  = 20 * time.Second
	maxWrites  = 50_000
	maxBody    = 1 << 20
	titleIs    = "drill title "
	// createTries are for the asset that is written to.
	createTries = 3
)

// Write is one change of a title.
type Write struct {
	Asked, At time.Time
	// Status of the answer; 0 without one.
	Status int
	// Wrong is what was neither a success nor a 503 with Retry-After.
	Wrong string
}

// OK reports whether it was acknowledged.
func (w Write) OK() bool { return w.Status >= 200 && w.Status < 300 }

// Writer changes a title again and again at one region's API.
type Writer struct {
	// Region whose API is asked.
	Region string
	api    string
	key    string
	asset  string
	http   *http.Client

	mu     sync.Mutex
	writes []Write
	acked  int // the highest number acknowledged
	made   int
}

// NewWriter makes an asset to write to.
func NewWriter(ctx context.Context, region, api, key string) (*Writer, error) {
	w := &Writer{Region: region, api: api, key: key, http: &http.Client{Timeout: writeTime, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}}
	var err error
	for range createTries {
		var b []byte
		var status int
		status, _, b, err = w.call(ctx, http.MethodPost, "/v1/assets", `{"visibility": "private", "title": "`+titleIs+`0"}`)
		if err == nil && status != http.StatusCreated {
			err = fmt.Errorf("status %d: %s", status, b)
		}
		var a client.Asset
		if err == nil {
			err = json.Unmarshal(b, &a)
		}
		if w.asset = a.ID; err == nil && w.asset != "" {
			return w, nil
		}
		if perr := sleep.For(ctx, time.Second); perr != nil {
			return nil, perr
		}
	}
	return nil, fmt.Errorf("make an asset at %s: %w", api, err)
}

func (w *Writer) call(ctx context.Context, method, path, body string) (status int, h http.Header, b []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.api+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+w.key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := w.http.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer res.Body.Close()
	b, err = io.ReadAll(io.LimitReader(res.Body, maxBody))
	return res.StatusCode, res.Header, b, err
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	defer w.http.CloseIdleConnections()
	for ctx.Err() == nil {
		w.once(ctx)
		if sleep.For(ctx, writeEvery) != nil {
			return
		}
	}
}

func (w *Writer) once(ctx context.Context) {
	w.mu.Lock()
	w.made++
	n := w.made
	w.mu.Unlock()
	x := Write{Asked: time.Now()}
	status, h, b, err := w.call(ctx, http.MethodPatch, "/v1/assets/"+w.asset, `{"title": "`+titleIs+strconv.Itoa(n)+`"}`)
	if ctx.Err() != nil {
		return
	}
	x.At, x.Status = time.Now(), status
	switch {
	case err != nil:
		x.Wrong = err.Error()
	case status < 300:
	case status == http.StatusServiceUnavailable && h.Get("Retry-After") != "":
	default:
		x.Wrong = fmt.Sprintf("status %d: %.200s", status, b)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if x.OK() {
		w.acked = n
	}
	if len(w.writes) < maxWrites {
		w.writes = append(w.writes, x)
	}
}

// Writes so far; the slice isn't changed any more.
func (w *Writer) Writes() []Write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writes[:len(w.writes):len(w.writes)]
}

// ErrLost is an acknowledged title that is gone.
var ErrLost = errors.New("an acknowledged title is gone")

// Check reads the title back from an API; it must be the last acknowledged one
// or a later one, whose acknowledgement was lost.
func (w *Writer) Check(ctx context.Context, api string) error {
	reader := &Writer{api: api, key: w.key, http: w.http}
	status, _, b, err := reader.call(ctx, http.MethodGet, "/v1/assets/"+w.asset, "")
	if err != nil {
		return fmt.Errorf("read a title back: %w", err)
	}
	w.mu.Lock()
	acked := w.acked
	w.mu.Unlock()
	if status == http.StatusNotFound {
		return fmt.Errorf("%w: asset %s of %s, title %d", ErrLost, w.asset, w.Region, acked)
	}
	var a client.Asset
	if err := json.Unmarshal(b, &a); err != nil || status != http.StatusOK {
		return fmt.Errorf("read a title back: status %d: %.200s", status, b)
	}
	n, err := strconv.Atoi(strings.TrimPrefix(a.Title, titleIs))
	if err != nil || n < acked {
		return fmt.Errorf("%w: asset %s of %s has %q, acknowledged was %d", ErrLost, w.asset, w.Region, a.Title, acked)
	}
	return nil
}

// Clean deletes the asset, through any of the APIs.
func (w *Writer) Clean(ctx context.Context, apis []string) error {
	c := client.New(apis, w.key)
	defer c.Close()
	return remove(ctx, c, w.asset)
}
