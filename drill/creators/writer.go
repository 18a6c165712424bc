package creators

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
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
	// sessionHeader tells how far a session's writes have come.
	sessionHeader = "Meridian-Session"
	// maxPages of a writer whose region fails again and again.
	maxPages = 100
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

// Writer changes a title again and again at one region's API. After a failure it
// goes on with another asset: what was acknowledged just before a failure is what
// may be lost with it, and later writes would hide that.
type Writer struct {
	// Region whose API is asked.
	Region string
	api    string
	key    string
	http   *http.Client

	mu     sync.Mutex
	writes []Write
	made   int
	pages  []page // the last is written to; never empty
	turn   bool   // the next write is to a new page
	// session is of the last write that was acknowledged.
	session string
}

// page is an asset that is written to.
type page struct {
	asset string
	acked int // the highest number acknowledged
}

// NewWriter makes an asset to write to.
func NewWriter(ctx context.Context, region, api, key string) (*Writer, error) {
	w := &Writer{Region: region, api: api, key: key, http: &http.Client{Timeout: writeTime, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}}
	var err error
	for range createTries {
		var x Write
		if x, err = w.create(ctx, 0); err == nil && x.OK() {
			return w, nil
		}
		if err == nil {
			err = fmt.Errorf("status %d: %s", x.Status, x.Wrong)
		}
		if perr := sleep.For(ctx, time.Second); perr != nil {
			return nil, perr
		}
	}
	return nil, fmt.Errorf("make an asset at %s: %w", api, err)
}

// create makes the next asset, with its first title. An error is an answer that
// can't be read.
func (w *Writer) create(ctx context.Context, n int) (Write, error) {
	x, b := w.write(ctx, http.MethodPost, "/v1/assets", fmt.Sprintf(`{"visibility": "private", "title": "%s%d"}`, titleIs, n))
	if !x.OK() {
		return x, nil
	}
	var a client.Asset
	if err := json.Unmarshal(b, &a); err != nil || a.ID == "" {
		return x, fmt.Errorf("an asset was made that isn't named: %.200s", b)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages = append(w.pages, page{a.ID, n})
	return x, nil
}

// write makes one request and says how it went.
func (w *Writer) write(ctx context.Context, method, path, body string) (Write, []byte) {
	x := Write{Asked: time.Now()}
	status, h, b, err := w.call(ctx, method, path, body, "")
	x.At, x.Status = time.Now(), status
	switch {
	case err != nil:
		x.Wrong = err.Error()
	case x.OK():
		w.mu.Lock()
		w.session = h.Get(sessionHeader)
		w.mu.Unlock()
	case status == http.StatusServiceUnavailable && h.Get("Retry-After") != "":
	default:
		x.Wrong = fmt.Sprintf("status %d: %.200s", status, b)
	}
	return x, b
}

func (w *Writer) call(ctx context.Context, method, path, body, session string) (status int, h http.Header, b []byte, err error) {
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
	if session != "" {
		req.Header.Set(sessionHeader, session)
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
	n, last := w.made, w.pages[len(w.pages)-1]
	turn := w.turn && len(w.pages) < maxPages
	w.mu.Unlock()
	var x Write
	if turn {
		var err error
		if x, err = w.create(ctx, n); err != nil {
			x.Status, x.Wrong = 0, err.Error()
		}
	} else {
		x, _ = w.write(ctx, http.MethodPatch, "/v1/assets/"+last.asset, `{"title": "`+titleIs+strconv.Itoa(n)+`"}`)
	}
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn = !x.OK()
	if x.OK() {
		w.pages[len(w.pages)-1].acked = n
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

// Check reads the titles back from an API; each must be the last acknowledged one
// or a later one, whose acknowledgement was lost. It reads as the session that wrote
// them: a region's follower may be behind after it was cut off.
func (w *Writer) Check(ctx context.Context, api string) error {
	w.mu.Lock()
	pages, session := slices.Clone(w.pages), w.session
	w.mu.Unlock()
	var lost []error
	for _, p := range pages {
		err := w.check(ctx, api, p, session)
		if err != nil && !errors.Is(err, ErrLost) {
			return err
		}
		lost = append(lost, err)
	}
	return errors.Join(lost...)
}

func (w *Writer) check(ctx context.Context, api string, p page, session string) error {
	reader := &Writer{api: api, key: w.key, http: w.http}
	status, _, b, err := reader.call(ctx, http.MethodGet, "/v1/assets/"+p.asset, "", session)
	if err != nil {
		return fmt.Errorf("read a title back: %w", err)
	}
	if status == http.StatusNotFound {
		return fmt.Errorf("%w: asset %s of %s, title %d", ErrLost, p.asset, w.Region, p.acked)
	}
	var a client.Asset
	if err := json.Unmarshal(b, &a); err != nil || status != http.StatusOK {
		return fmt.Errorf("read a title back: status %d: %.200s", status, b)
	}
	n, err := strconv.Atoi(strings.TrimPrefix(a.Title, titleIs))
	if err != nil || n < p.acked {
		return fmt.Errorf("%w: asset %s of %s has %q, acknowledged was %d", ErrLost, p.asset, w.Region, a.Title, p.acked)
	}
	return nil
}

// Clean deletes the assets, through any of the APIs.
func (w *Writer) Clean(ctx context.Context, apis []string) error {
	c := client.New(apis, w.key)
	defer c.Close()
	var assets []string
	for _, p := range w.pages {
		assets = append(assets, p.asset)
	}
	return remove(ctx, c, assets)
}
