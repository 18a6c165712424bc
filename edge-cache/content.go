package edgecache

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/meridian-video/meridian/edge-cache/deliver"
)

// whole is a body that is all here.
type whole []byte

func (b whole) Bytes(_ context.Context, offset int64) ([]byte, error) { return b[offset:], nil }
func (b whole) Complete() bool                                        { return true }

// content is what a successful request is answered with.
type content struct {
	body     deliver.Body
	size     int64
	mime     string
	etag     string
	modified time.Time
	control  string // Cache-Control
	// fetched is when the origin gave it, for Age; zero for what the edge made itself.
	fetched time.Time
}

// serveContent answers GET and HEAD with conditions and ranges. An error means
// that nothing was written yet.
func serveContent(w http.ResponseWriter, r *http.Request, c *content, a *answer) error {
	h := w.Header()
	h.Set("Cache-Control", c.control)
	h.Set("Etag", c.etag)
	h.Set("Accept-Ranges", "bytes")
	if !c.modified.IsZero() {
		h.Set("Last-Modified", c.modified.UTC().Format(http.TimeFormat))
	}
	if !c.fetched.IsZero() {
		h.Set("Age", strconv.FormatInt(max(0, int64(time.Since(c.fetched)/time.Second)), 10))
	}
	h.Set("Content-Type", c.mime)
	d := deliver.Content{Body: c.body, Size: c.size, ETag: c.etag, Modified: c.modified}
	err := d.Serve(w, r, &a.sent)
	switch {
	case errors.Is(err, deliver.ErrCondition):
		return errCondition
	case errors.Is(err, deliver.ErrRange):
		return errRange
	}
	return err
}
