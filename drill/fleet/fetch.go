package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/time/rate"
)

// Timeouts of our player (web/src/policies.ts).
const (
	firstByte         = 2500 * time.Millisecond
	loadTime          = 6 * time.Second
	firstByteCap      = 20 * time.Second
	loadCap           = 40 * time.Second
	steeringFirstByte = 1500 * time.Millisecond
	steeringLoad      = 2 * time.Second
	retryDelay        = 300 * time.Millisecond
	maxRedirects      = 5
	// maxText bounds playlists and manifests.
	maxText = 4 << 20
	// maxConns a host, as browsers have.
	maxConns = 6
)

// policy is how long a request may take.
type policy struct{ firstByte, load time.Duration }

func (p policy) scaled(factor int) policy {
	return policy{min(p.firstByte*time.Duration(factor), firstByteCap), min(p.load*time.Duration(factor), loadCap)}
}

var (
	mediaPolicy    = policy{firstByte, loadTime}
	steeringPolicy = policy{steeringFirstByte, steeringLoad}
)

var (
	errTimeout = errors.New("timeout")
	// errMoved is the end of a request because steering changed the pathway.
	errMoved = errors.New("moved to another pathway")
)

// statusError is an answer that isn't a success.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

// final reports whether an answer is about the viewer or the video, and so the
// same everywhere.
func (e statusError) final() bool {
	return e >= 400 && e < 500 && e != http.StatusNotFound && e != http.StatusRequestTimeout && e != http.StatusTooManyRequests
}

// got is what a request brought.
type got struct {
	// url that answered, after redirects.
	url   *url.URL
	body  []byte // of a text
	bytes int64
	sum   uint64
	took  time.Duration
}

// fetcher is a viewer's HTTP client.
type fetcher struct {
	transport *http.Transport
	line      *rate.Limiter
}

func (v *viewer) newFetcher() *fetcher {
	return &fetcher{line: v.line, transport: &http.Transport{
		DialContext: v.dial, MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: 2, MaxIdleConns: 8, IdleConnTimeout: 30 * time.Second,
		ReadBufferSize: 4 << 10, WriteBufferSize: 2 << 10, DisableCompression: true,
	}}
}

func (f *fetcher) close() { f.transport.CloseIdleConnections() }

var pieces = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

// get fetches u and follows redirects. Text is kept, anything else summed up. A
// body that stops arriving is given up after the time allowed for the first byte.
func (f *fetcher) get(ctx context.Context, u string, p policy, text bool) (got, error) {
	began := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(p.firstByte, func() { cancel(errTimeout) })
	defer idle.Stop()
	whole := time.AfterFunc(p.load, func() { cancel(errTimeout) })
	defer whole.Stop()
	g, err := f.follow(ctx, u, text, func() { idle.Reset(p.firstByte) })
	g.took = time.Since(began)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return g, err
}

func (f *fetcher) follow(ctx context.Context, u string, text bool, alive func()) (got, error) {
	var g got
	for range maxRedirects {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return g, err
		}
		g.url = req.URL
		res, err := f.transport.RoundTrip(req)
		if err != nil {
			return g, err
		}
		if res.StatusCode >= 300 && res.StatusCode < 400 {
			next, err := res.Location()
			res.Body.Close()
			if err != nil {
				return g, fmt.Errorf("status %d: %w", res.StatusCode, err)
			}
			u = next.String()
			continue
		}
		alive()
		err = f.read(ctx, res, &g, text, alive)
		return g, errors.Join(err, res.Body.Close())
	}
	return g, fmt.Errorf("more than %d redirects", maxRedirects)
}

func (f *fetcher) read(ctx context.Context, res *http.Response, g *got, text bool, alive func()) error {
	if res.StatusCode != http.StatusOK {
		return statusError(res.StatusCode)
	}
	sum := xxhash.New()
	buf := pieces.Get().(*[]byte)
	defer pieces.Put(buf)
	for {
		n, err := res.Body.Read(*buf)
		if n > 0 {
			alive()
			g.bytes += int64(n)
			if text {
				if g.body = append(g.body, (*buf)[:n]...); len(g.body) > maxText {
					return fmt.Errorf("more than %d bytes of text", maxText)
				}
			} else {
				_, _ = sum.Write((*buf)[:n]) // never fails
			}
			if err := f.line.WaitN(ctx, n); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	g.sum = sum.Sum64()
	return nil
}

// brief names an error for counting: no addresses, no times.
func brief(err error) string {
	var status statusError
	switch {
	case errors.As(err, &status):
		return status.Error()
	case errors.Is(err, errTimeout):
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE):
		return "cut off"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case strings.Contains(err.Error(), "resolve "):
		return "not resolved"
	}
	return "other: " + err.Error()
}

// ledger compares what edges serve: one key has one length and one content.
type ledger struct {
	mu   sync.Mutex
	seen map[string]content
}

type content struct {
	bytes int64
	sum   uint64
}

// maxLedger bounds what is remembered; what doesn't fit isn't compared.
const maxLedger = 50_000

// agrees reports whether an object is what it was the first time.
func (l *ledger) agrees(path string, g got) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := content{g.bytes, g.sum}
	first, ok := l.seen[path]
	if !ok {
		if len(l.seen) < maxLedger {
			l.seen[path] = now
		}
		return true
	}
	return first == now
}
