package edgecache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	// writeSize is the most bytes written under one deadline, so a reader slower
	// than writeSize per writeTimeout (12.8 KiB/s) is dropped.
	writeSize    = 256 << 10
	writeTimeout = 20 * time.Second
)

// body gives an object's bytes, those that are here first.
type body interface {
	// Bytes returns at least one byte from offset, waiting for it if need be.
	Bytes(ctx context.Context, offset int64) ([]byte, error)
	// Complete reports whether no call of Bytes would wait.
	Complete() bool
}

// whole is a body that is all here.
type whole []byte

func (b whole) Bytes(_ context.Context, offset int64) ([]byte, error) { return b[offset:], nil }
func (b whole) Complete() bool                                        { return true }

// content is what a successful request is answered with.
type content struct {
	body     body
	size     int64
	mime     string
	etag     string
	modified time.Time
	control  string // Cache-Control
	// fetched is when the origin gave it, for Age; zero for what the edge made itself.
	fetched time.Time
}

// serveContent answers GET and HEAD with conditions and ranges. net/http's own
// ServeContent copies through a small buffer and can't end a slow reader; the
// tests compare the two. An error means that nothing was written yet.
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
	switch precondition(r.Header, c.etag, c.modified) {
	case notModified:
		a.status = http.StatusNotModified
		w.WriteHeader(a.status)
		return nil
	case failed:
		return errCondition
	}
	head := r.Method == http.MethodHead
	var spans []span
	// Range has a meaning for GET only (RFC 9110 section 14.2).
	if rg := r.Header["Range"]; len(rg) == 1 && !head && rangeAllowed(r.Header, c.etag, c.modified) {
		var err error
		if spans, err = parseRange(rg[0], c.size); err != nil {
			h.Set("Content-Range", "bytes */"+strconv.FormatInt(c.size, 10))
			return errRange
		}
	}
	status, part := http.StatusOK, span{0, c.size}
	if len(spans) > 0 {
		status, part = http.StatusPartialContent, spans[0]
	}
	if !head && part.length > 0 {
		// An object that can't be had is an error, not a connection cut after a 200.
		if _, err := c.body.Bytes(r.Context(), part.start); err != nil {
			return err
		}
	}
	h.Set("Content-Type", c.mime)
	out := &output{w: w, rc: http.NewResponseController(w), ctx: r.Context(), written: &a.bytes}
	a.status = status
	if len(spans) > 1 {
		out.multipart(c, spans)
		return nil
	}
	if status == http.StatusPartialContent {
		h.Set("Content-Range", part.contentRange(c.size))
	}
	h.Set("Content-Length", strconv.FormatInt(part.length, 10))
	w.WriteHeader(status)
	if !head {
		out.copy(c.body, part)
	}
	return nil
}

// output writes a response body under deadlines. A body that can't go on ends
// the connection, so that the client never takes a cut answer for a whole one.
type output struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	ctx     context.Context
	written *int64
}

func (o *output) write(b []byte) {
	for len(b) > 0 {
		if err := o.rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			panic(http.ErrAbortHandler)
		}
		n, err := o.w.Write(b[:min(len(b), writeSize)])
		*o.written += int64(n)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		b = b[n:]
	}
}

func (o *output) copy(b body, s span) {
	for at, end := s.start, s.start+s.length; at < end; {
		p, err := b.Bytes(o.ctx, at)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		p = p[:min(int64(len(p)), end-at)]
		o.write(p)
		if at += int64(len(p)); at < end && !b.Complete() {
			// What is here goes out before we wait for more.
			if err := o.rc.Flush(); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}
}

// multipart answers several ranges (RFC 9110 section 14.6).
func (o *output) multipart(c *content, spans []span) {
	boundary := rand.Text()
	heads := make([]string, len(spans))
	end := "\r\n--" + boundary + "--\r\n"
	length := int64(len(end))
	for i, s := range spans {
		heads[i] = fmt.Sprintf("\r\n--%s\r\nContent-Type: %s\r\nContent-Range: %s\r\n\r\n", boundary, c.mime, s.contentRange(c.size))
		if i == 0 {
			heads[i] = heads[i][2:]
		}
		length += int64(len(heads[i])) + s.length
	}
	h := o.w.Header()
	h.Set("Content-Type", "multipart/byteranges; boundary="+boundary)
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	o.w.WriteHeader(http.StatusPartialContent)
	for i, s := range spans {
		o.write([]byte(heads[i]))
		o.copy(c.body, s)
	}
	o.write([]byte(end))
}

// streamed is a body read straight from the origin: an object too large to keep.
// It serves one request and reads forward only, opening the origin again where
// a range starts elsewhere.
type streamed struct {
	open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	r    io.ReadCloser
	at   int64 // of the next byte
	buf  []byte
	last []byte // read last
}

func (s *streamed) Complete() bool { return false }

func (s *streamed) Bytes(ctx context.Context, offset int64) ([]byte, error) {
	if n := int64(len(s.last)); s.r != nil && n > 0 && offset == s.at-n {
		return s.last, nil
	}
	if s.r == nil || s.at != offset {
		if err := s.Close(); err != nil {
			return nil, err
		}
		r, err := s.open(ctx, offset)
		if err != nil {
			return nil, err
		}
		s.r, s.at, s.last = r, offset, nil
	}
	if s.buf == nil {
		s.buf = make([]byte, writeSize)
	}
	for {
		n, err := s.r.Read(s.buf)
		if n > 0 {
			s.last, s.at = s.buf[:n], s.at+int64(n)
			return s.last, nil
		}
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
}

// Close ends the read from the origin.
func (s *streamed) Close() error {
	if s.r == nil {
		return nil
	}
	err := s.r.Close()
	s.r = nil
	return err
}
