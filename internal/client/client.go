package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	dialTimeout = 3 * time.Second
	callTimeout = 30 * time.Second
	// deadAfter is how long a region's machine may acknowledge nothing, whatever its
	// API takes to answer, before a request goes on elsewhere.
	deadAfter = 9 * time.Second
	// maxAnswer bounds what is read of a JSON answer.
	maxAnswer = 8 << 20
	// sessionHeader says what a request must show, and what a write has changed.
	sessionHeader = "Meridian-Session"
	pauseMin      = 250 * time.Millisecond
	pauseMax      = 10 * time.Second
)

// Client talks to one platform. Safe for concurrent use.
type Client struct {
	bases []string
	// at counts fail-overs: the base in use is bases[at % len].
	at   atomic.Int64
	key  string
	http *http.Client
	// session is what the last write returned, so that later requests show it; nil
	// before the first.
	session atomic.Pointer[string]
	// Patience is how long a call is tried again, UploadPatience how long an
	// upload is without a byte moving, and tried to begin while the API answers
	// that it will work again.
	Patience, UploadPatience time.Duration
}

// New returns a client of the API at bases (URLs without trailing slash).
func New(bases []string, key string) *Client {
	return &Client{bases: bases, key: key, Patience: 15 * time.Second, UploadPatience: 5 * time.Minute, http: &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: deadAfter / 3, Interval: deadAfter / 3, Count: 2},
			Control: noticeDeath}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   4,
	}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// noticeDeath ends a connection whose peer acknowledges nothing (RFC 5482). TCP
// itself gives up after a quarter of an hour.
func noticeDeath(_, _ string, conn syscall.RawConn) error {
	var set error
	err := conn.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter/time.Millisecond))
	})
	return errors.Join(err, set)
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// API is the URL of the region in use.
func (c *Client) API() string { return c.bases[int(c.at.Load())%len(c.bases)] }

// next goes on with the next region.
func (c *Client) next() { c.at.Add(1) }

// resolve makes ref absolute and moves a URL of any of the client's regions to
// the one in use; other hosts stay.
func (c *Client) resolve(ref string) (string, error) {
	u, err := url.Parse(c.API() + "/")
	if err != nil {
		return "", err
	}
	r, err := u.Parse(ref)
	if err != nil {
		return "", err
	}
	out := r.String()
	for _, b := range c.bases {
		if rest, ok := strings.CutPrefix(out, b+"/"); ok {
			return c.API() + "/" + rest, nil
		}
	}
	return out, nil
}

// Problem is an error the API explains (RFC 9457).
type Problem struct {
	Type      string `json:"type,omitempty"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      string `json:"code"`
	RequestID string `json:"request_id,omitempty"`
	// RetryAfter is zero unless the API named a time.
	RetryAfter time.Duration `json:"-"`
}

func (p *Problem) Error() string {
	s := p.Code + ": " + p.Detail
	if p.RequestID != "" && p.Status >= http.StatusInternalServerError {
		s += " (request " + p.RequestID + ")"
	}
	return s
}

// problem reads an answer that isn't a success.
func problem(resp *http.Response) *Problem {
	p := &Problem{}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || json.Unmarshal(b, p) != nil || p.Code == "" {
		// HEAD answers have no body, and a proxy has its own.
		p = &Problem{Title: resp.Status, Code: codeOf(resp.StatusCode), Detail: "the API answered " + resp.Status}
	}
	p.Status = resp.StatusCode
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		p.RetryAfter = time.Duration(s) * time.Second
	}
	return p
}

func codeOf(status int) string {
	switch status {
	case http.StatusNotFound:
		return "not-found"
	case http.StatusGone:
		return "upload-gone"
	case http.StatusUnauthorized:
		return "unauthorized"
	case http.StatusForbidden:
		return "forbidden"
	}
	return "http-" + strconv.Itoa(status)
}

// retryable reports whether trying again can help, and after which pause at least.
func retryable(err error) (bool, time.Duration) {
	var p *Problem
	if errors.As(err, &p) {
		switch p.Status {
		case http.StatusConflict:
			return p.Code == "offset-mismatch" || p.Code == "upload-interrupted", p.RetryAfter
		case http.StatusLocked, http.StatusTooManyRequests, http.StatusRequestTimeout:
			return true, p.RetryAfter
		}
		return p.Status >= http.StatusInternalServerError || p.Code == "body-incomplete", p.RetryAfter
	}
	return !errors.Is(err, context.Canceled), 0
}

// backoff is the pause before attempt n (from 0), with jitter, at least as long as asked.
func backoff(n int, asked time.Duration) time.Duration {
	d := min(pauseMax, pauseMin<<min(n, 10))
	d = d/2 + rand.N(d/2+1)
	return max(d, min(asked, time.Minute))
}

// request sends one request to the region in use. A region that can't be
// reached is left for the next one.
func (c *Client) request(ctx context.Context, method, ref string, body io.Reader, head http.Header) (*http.Response, error) {
	u, err := c.resolve(ref)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	for k, v := range head {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	if s := c.session.Load(); s != nil {
		req.Header.Set(sessionHeader, *s)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() == nil || errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			c.next()
		}
		return nil, err
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		defer resp.Body.Close()
		p := problem(resp)
		if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusBadGateway || p.Status == http.StatusGatewayTimeout {
			c.next()
		}
		return nil, p
	}
	if method != http.MethodGet && method != http.MethodHead {
		c.wrote(resp)
	}
	return resp, nil
}

// wrote notes what the answer to a write says of what is to be seen from now on.
func (c *Client) wrote(resp *http.Response) {
	if s := resp.Header.Get(sessionHeader); s != "" {
		c.session.Store(&s)
	}
}

// call sends JSON and reads JSON, again and again while that can help. in and
// out may be nil. What isn't idempotent by nature must carry an Idempotency-Key.
func (c *Client) call(ctx context.Context, method, ref string, in, out any, head http.Header) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
		if head = head.Clone(); head == nil {
			head = http.Header{}
		}
		head.Set("Content-Type", "application/json")
	}
	return c.again(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		resp, err := c.request(ctx, method, ref, bytes.NewReader(body), head)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if out == nil {
			return nil
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, out); err != nil {
			return &Problem{Title: "Not this API", Code: "not-the-api", Detail: fmt.Sprintf("%s answered something else than JSON: check --api", c.API())}
		}
		return nil
	})
}

// again repeats f while that can help and patience lasts.
func (c *Client) again(ctx context.Context, f func(context.Context) error) error {
	return c.againFor(ctx, c.Patience, f)
}

// againFor is again, with a patience of its own while the API answers that it
// will work again.
func (c *Client) againFor(ctx context.Context, told time.Duration, f func(context.Context) error) error {
	began := time.Now()
	for n := 0; ; n++ {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		ok, asked := retryable(err)
		wait, patience := backoff(n, asked), c.Patience
		if asked > 0 {
			patience = told
		}
		if !ok || time.Since(began)+wait > patience {
			return err
		}
		if err := sleep.For(ctx, wait); err != nil {
			return err
		}
	}
}
