package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
)

// ContentType of problem details.
const ContentType = "application/problem+json"

// Field is one value that isn't allowed.
type Field struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

// Error is a problem on its way to the caller.
type Error struct {
	Kind   Kind
	Detail string
	Fields []Field
	// RetryAfter, if any, tells when to try again.
	RetryAfter time.Duration
	// Header holds further response headers.
	Header http.Header
	// Cause goes to the log alone.
	Cause error
}

// Error describes the problem for logs.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Kind.Code + ": " + e.Detail + ": " + e.Cause.Error()
	}
	return e.Kind.Code + ": " + e.Detail
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// New returns a problem of a kind; detail says what to change.
func New(k Kind, format string, a ...any) *Error {
	return &Error{Kind: k, Detail: fmt.Sprintf(format, a...)}
}

// Invalid returns a problem that names values which aren't allowed.
func Invalid(fields ...Field) *Error {
	e := New(InvalidField, "Change the values named in errors.")
	if len(fields) == 1 {
		e.Detail = fields[0].Field + ": " + fields[0].Detail
	}
	e.Fields = fields
	return e
}

// retryAfter is what 503 answers advise: a leader is back within about twice that.
const retryAfter = 5 * time.Second

// From maps any error to the problem the caller sees.
func From(err error) *Error {
	var p *Error
	if errors.As(err, &p) {
		return p
	}
	var offset *catalog.OffsetError
	var tooLarge *http.MaxBytesError
	with := func(k Kind, format string, a ...any) *Error {
		e := New(k, format, a...)
		e.Cause = err
		if k.Status == http.StatusServiceUnavailable {
			e.RetryAfter = retryAfter
		}
		return e
	}
	switch {
	case errors.As(err, &offset):
		return with(Offset, "The upload stands at offset %d. Ask with HEAD and go on from there.", offset.Want)
	case errors.As(err, &tooLarge):
		return with(BodyTooLarge, "The body may have at most %d bytes.", tooLarge.Limit)
	case errors.Is(err, catalog.ErrNotFound):
		return with(NotFound, "Check the id: there is no such thing among this API key's own.")
	case errors.Is(err, catalog.ErrUnauthorized):
		return unauthorized(err)
	case errors.Is(err, catalog.ErrKeyReuse):
		return with(KeyReused, "Use a new Idempotency-Key: this one was sent before with other values.")
	case errors.Is(err, catalog.ErrCursor):
		return Invalid(Field{"cursor", "pass the next_cursor of the last page, or none"})
	case errors.Is(err, catalog.ErrState):
		return with(WrongState, "Look at the asset's state first: it doesn't allow this any more, or not yet.")
	case errors.Is(err, objects.ErrTooFewRegions), errors.Is(err, objects.ErrUnavailable):
		return with(Storage, "Too few regions could store the bytes. Go on in a moment from where the upload stands.")
	case errors.Is(err, catalog.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return with(Unavailable, "Repeat the request in a moment.")
	}
	return with(Internal, "Repeat the request; if it fails again, give the operator the request id.")
}

func unauthorized(cause error) *Error {
	e := New(Unauthorized, "Send a valid API key: Authorization: Bearer mk_….")
	e.Cause = cause
	e.Header = http.Header{"Www-Authenticate": {`Bearer realm="meridian"`}}
	return e
}

// NoKey is the problem of a request without a valid API key.
func NoKey() *Error { return unauthorized(nil) }

// document is the JSON form (RFC 9457 §3).
type document struct {
	Type      string  `json:"type"`
	Title     string  `json:"title"`
	Status    int     `json:"status"`
	Detail    string  `json:"detail"`
	Code      string  `json:"code"`
	RequestID string  `json:"request_id,omitempty"`
	Errors    []Field `json:"errors,omitempty"`
}

// Body returns the JSON form.
func (e *Error) Body(requestID string) []byte {
	b, err := json.Marshal(document{Type: "/problems/" + e.Kind.Code, Title: e.Kind.Title, Status: e.Kind.Status, Detail: e.Detail,
		Code: e.Kind.Code, RequestID: requestID, Errors: e.Fields})
	if err != nil { // strings and integers always encode
		return []byte(`{"title":"Internal error"}`)
	}
	return b
}

// SetHeader sets the response headers of the problem.
func (e *Error) SetHeader(h http.Header) {
	for k, v := range e.Header {
		h[k] = v
	}
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
}

// Write answers a request with the problem.
func (e *Error) Write(w http.ResponseWriter, head bool, requestID string) error {
	e.SetHeader(w.Header())
	if head {
		w.WriteHeader(e.Kind.Status)
		return nil
	}
	b := e.Body(requestID)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(e.Kind.Status)
	_, err := w.Write(b)
	return err
}
