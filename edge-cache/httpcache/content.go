package httpcache

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/meridian-video/meridian/edge-cache/deliver"
)

// content is a request's content, which must go on. It may be read by the transport
// still when its request has been answered.
type content struct {
	io.ReadCloser
	rc    *http.ResponseController
	after time.Duration

	mu    sync.Mutex
	late  bool // it didn't go on
	ended bool // all of it was read
	over  bool // the request is answered: the connection is for others
}

// newContent begins to wait: net/http does, for what nobody reads, before it sends a
// response's head.
func newContent(body io.ReadCloser, rc *http.ResponseController, after time.Duration) *content {
	c := &content{ReadCloser: body, rc: rc, after: after}
	c.deadline(time.Now().Add(after))
	return c
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	c.deadline(time.Now().Add(c.after))
	c.mu.Unlock()
	n, err := c.ReadCloser.Read(p)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended = errors.Is(err, io.EOF)
		c.late = errors.Is(err, os.ErrDeadlineExceeded)
		if !c.over && c.ended {
			// From now on it would be the end of a client that waits.
			c.deadline(time.Time{})
		}
	}
	return n, err
}

// Close implements io.Closer for the transport, which wants no more of it. What is left is
// net/http's to read or to give up when it answers, for only then does it know that the
// connection is of no use for another request: of content that was closed at that moment it
// takes for granted that there is none left.
func (c *content) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over && !c.ended && !c.late {
		c.deadline(time.Now().Add(deliver.ContentGrace))
	}
	return nil
}

// finish lets go of the connection: net/http waits for what wasn't read before it
// takes the next request.
func (c *content) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if !c.ended {
		c.deadline(time.Now().Add(deliver.ContentGrace))
	}
}

func (c *content) tooLate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late
}

// deadline sets that of reading. Where there is none, or the connection has ended,
// reading ends otherwise.
func (c *content) deadline(t time.Time) { _ = c.rc.SetReadDeadline(t) }
