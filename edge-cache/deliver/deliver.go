package deliver

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
	// WriteSize is the most bytes written under one deadline, so a reader slower
	// than WriteSize per WriteTimeout (12.8 KiB/s) is dropped.
	WriteSize    = 256 << 10
	WriteTimeout = 20 * time.Second
	// ContentGrace is how long a request's content that nobody wants is read, so that
	// the client may read the answer before its connection ends.
	ContentGrace = time.Second
)

// ErrCondition: a precondition of the request is false (412).
var ErrCondition = errors.New("the object is not the one the request asks for")

// Body gives an object's bytes, those that are here first.
type Body interface {
	// Bytes returns at least one byte from offset, waiting for it if need be, or
	// io.EOF at the end of a body whose size wasn't known.
	Bytes(ctx context.Context, offset int64) ([]byte, error)
	// Complete reports whether no call of Bytes would wait.
	Complete() bool
}

// Content is a representation to answer with.
type Content struct {
	Body Body
	// Size in bytes; -1 when it isn't known before the end: such a body has no ranges.
	Size int64
	// ETag is quoted and may be weak or empty; Modified may be zero.
	ETag     string
	Modified time.Time
	// Date is when the origin gave it; zero where Modified is a strong validator anyway.
	Date time.Time
	// Status other than 200 (0 means that) is answered whole and without conditions.
	Status int
}

// Selector is an http.ResponseWriter that wants to know which parts of a body are the
// answer, in place of their bytes. The head of several is left to it.
type Selector interface{ Select(parts ...Span) }

// Sent is what was answered.
type Sent struct {
	Status int
	Bytes  int64 // of the body
}

// Serve answers r. The caller has set the representation's header fields; Serve
// adds Content-Length, Content-Range and the type of multiple ranges. An error
// means that nothing was written yet; a body that breaks off later ends the
// connection by http.ErrAbortHandler. net/http's own ServeContent copies through
// a small buffer and can't end a slow reader; the tests compare the two.
func (c *Content) Serve(w http.ResponseWriter, r *http.Request, sent *Sent) error {
	h := w.Header()
	head := r.Method == http.MethodHead
	status, part := http.StatusOK, Span{0, c.Size}
	var spans []Span
	if c.Status != 0 && c.Status != http.StatusOK {
		status = c.Status
	} else {
		switch precondition(r.Header, c.ETag, c.Modified, c.Date) {
		case notModified:
			h.Del("Content-Type")
			sent.Status = http.StatusNotModified
			w.WriteHeader(sent.Status)
			return nil
		case failed:
			return ErrCondition
		}
		// Range has a meaning for GET only (RFC 9110 section 14.2).
		if rg := r.Header["Range"]; len(rg) == 1 && !head && c.Size >= 0 && rangeAllowed(r.Header, c.ETag, c.Modified, c.Date) {
			var err error
			if spans, err = ParseRange(rg[0], c.Size); err != nil {
				h.Set("Content-Range", "bytes */"+strconv.FormatInt(c.Size, 10))
				return err
			}
		}
	}
	if len(spans) > 0 {
		status, part = http.StatusPartialContent, spans[0]
	}
	if !head && part.Length > 0 {
		// An object that can't be had is an error, not a connection cut after a 200.
		if _, err := c.Body.Bytes(r.Context(), part.Start); err != nil {
			return err
		}
	}
	out := &output{w: w, rc: http.NewResponseController(w), ctx: r.Context(), sent: sent}
	sent.Status = status
	selector, selects := w.(Selector)
	if len(spans) > 1 && selects {
		selector.Select(spans...)
		return nil
	}
	if len(spans) > 1 {
		out.multipart(c, spans)
		return nil
	}
	if len(spans) == 1 {
		h.Set("Content-Range", part.ContentRange(c.Size))
	}
	if part.Length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(part.Length, 10))
	}
	w.WriteHeader(status)
	if head {
		return nil
	}
	if selects {
		selector.Select(part)
	} else {
		out.copy(c.Body, part)
	}
	return nil
}

// Write sends a small body that is all here, after the caller's WriteHeader.
func Write(w http.ResponseWriter, b []byte, sent *Sent) {
	(&output{w: w, rc: http.NewResponseController(w), sent: sent}).write(b)
}

// Copy sends a body of unknown validators as it arrives, after the caller's
// WriteHeader; size is -1 when only its end tells.
func Copy(w http.ResponseWriter, r *http.Request, b Body, size int64, sent *Sent) {
	(&output{w: w, rc: http.NewResponseController(w), ctx: r.Context(), sent: sent}).copy(b, Span{0, size})
}

// output writes a response body under deadlines. A body that can't go on ends
// the connection, so that the client never takes a cut answer for a whole one.
type output struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	ctx  context.Context
	sent *Sent
}

func (o *output) write(b []byte) {
	for len(b) > 0 {
		if err := o.rc.SetWriteDeadline(time.Now().Add(WriteTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			panic(http.ErrAbortHandler)
		}
		n, err := o.w.Write(b[:min(len(b), WriteSize)])
		o.sent.Bytes += int64(n)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		b = b[n:]
	}
}

func (o *output) copy(b Body, s Span) {
	end := s.Start + s.Length
	for at := s.Start; s.Length < 0 || at < end; {
		p, err := b.Bytes(o.ctx, at)
		if s.Length < 0 && errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if s.Length >= 0 {
			p = p[:min(int64(len(p)), end-at)]
		}
		o.write(p)
		if at += int64(len(p)); (s.Length < 0 || at < end) && !b.Complete() {
			// What is here goes out before we wait for more.
			if err := o.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
				panic(http.ErrAbortHandler)
			}
		}
	}
}

// multipart answers several ranges (RFC 9110 section 14.6).
func (o *output) multipart(c *Content, spans []Span) {
	h := o.w.Header()
	kind := ""
	if mime := h.Get("Content-Type"); mime != "" {
		kind = "Content-Type: " + mime + "\r\n"
	}
	boundary := rand.Text()
	heads := make([]string, len(spans))
	end := "\r\n--" + boundary + "--\r\n"
	length := int64(len(end))
	for i, s := range spans {
		heads[i] = fmt.Sprintf("\r\n--%s\r\n%sContent-Range: %s\r\n\r\n", boundary, kind, s.ContentRange(c.Size))
		if i == 0 {
			heads[i] = heads[i][2:]
		}
		length += int64(len(heads[i])) + s.Length
	}
	h.Set("Content-Type", "multipart/byteranges; boundary="+boundary)
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	o.w.WriteHeader(http.StatusPartialContent)
	for i, s := range spans {
		o.write([]byte(heads[i]))
		o.copy(c.Body, s)
	}
	o.write([]byte(end))
}
