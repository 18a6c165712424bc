package upload

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tus/tusd/v2/pkg/handler"

	"github.com/meridian-video/meridian/api/problem"
)

// Caller is who makes a request, and what it says beside the tus headers.
type Caller struct {
	Owner string
	// Asset the upload is for; empty makes one.
	Asset          string
	IdempotencyKey string
	RequestID      string
}

// transfer is one HTTP request on its way through tusd: it carries what tusd's
// interfaces have no room for, and it is the response tusd writes to, so that
// every error leaves as a problem.
type transfer struct {
	http.ResponseWriter
	caller Caller
	method string

	// stop is closed when the request must end now and keep what it has.
	stop     chan struct{}
	stopOnce sync.Once
	stopped  *problem.Error

	// problem is the error the store gave to tusd.
	problem *problem.Error
	expires time.Time
	// asset the upload is for, which clients follow from here.
	asset string
	// location replaces the URL tusd would give to a new upload.
	location string

	status   int
	withheld []byte
}

type transferKey struct{}

func transferOf(ctx context.Context) *transfer {
	t, _ := ctx.Value(transferKey{}).(*transfer)
	return t
}

func newTransfer(w http.ResponseWriter, method string, c Caller) *transfer {
	return &transfer{ResponseWriter: w, method: method, caller: c, stop: make(chan struct{})}
}

// interrupt ends the request, also one that waits for bytes; p is what its
// caller is told. tusd's own way reads the request's state without a lock.
func (t *transfer) interrupt(p *problem.Error) {
	t.stopOnce.Do(func() {
		t.stopped = p
		close(t.stop)
		// Whoever reads next sees stop first, so a deadline reset in between does no harm.
		_ = http.NewResponseController(t.ResponseWriter).SetReadDeadline(time.Now()) // not supported: the network timeout ends it
	})
}

func (t *transfer) interrupted() bool {
	select {
	case <-t.stop:
		return true
	default:
		return false
	}
}

// fail notes err as the request's problem and returns it for tusd.
func (t *transfer) fail(err error) error {
	if err == nil {
		return nil
	}
	t.problem = problem.From(err)
	return handler.NewError(t.problem.Kind.Code, t.problem.Detail, t.problem.Kind.Status)
}

// Unwrap lets http.ResponseController reach the connection.
func (t *transfer) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// WriteHeader holds errors back until finish turns them into problems.
func (t *transfer) WriteHeader(status int) {
	if t.status != 0 {
		return
	}
	t.status = status
	if status >= http.StatusBadRequest {
		return
	}
	h := t.Header()
	if ext := h.Get("Tus-Extension"); ext != "" {
		h.Set("Tus-Extension", ext+",expiration")
	}
	if !t.expires.IsZero() {
		h.Set("Upload-Expires", t.expires.UTC().Format(http.TimeFormat))
	}
	if t.asset != "" {
		h.Set(AssetHeader, t.asset)
	}
	if t.location != "" && h.Get("Location") != "" {
		h.Set("Location", t.location)
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *transfer) Write(b []byte) (int, error) {
	if t.status == 0 {
		t.WriteHeader(http.StatusOK)
	}
	if t.status < http.StatusBadRequest {
		return t.ResponseWriter.Write(b)
	}
	t.withheld = append(t.withheld, b[:min(len(b), 1024-min(1024, len(t.withheld)))]...)
	return len(b), nil
}

// finish returns the problem to answer with, nil when tusd has answered.
func (t *transfer) finish() *problem.Error {
	if t.status < http.StatusBadRequest {
		return nil
	}
	h := t.Header()
	h.Del("Content-Length")
	if t.problem != nil {
		return t.problem
	}
	code, _, _ := strings.Cut(string(t.withheld), ":")
	if p, ok := tusdProblems[code]; ok {
		return problem.New(p.kind, "%s", p.detail)
	}
	p := problem.New(problem.Internal, "Repeat the request; if it fails again, give the operator the request id.")
	p.Cause = errors.New("tusd: " + strings.TrimSpace(string(t.withheld)))
	return p
}

type tusdProblem struct {
	kind   problem.Kind
	detail string
}

// tusdProblems says tusd's own errors in the API's words.
var tusdProblems = map[string]tusdProblem{
	handler.ErrUnsupportedVersion.ErrorCode:               {problem.TusVersion, "Send Tus-Resumable: 1.0.0."},
	handler.ErrMaxSizeExceeded.ErrorCode:                  {problem.UploadTooLarge, "Upload a smaller file; Tus-Max-Size of an OPTIONS request tells the limit."},
	handler.ErrInvalidContentType.ErrorCode:               {problem.MediaType, "Send Content-Type: application/offset+octet-stream."},
	handler.ErrInvalidUploadLength.ErrorCode:              {problem.BadRequest, "Upload-Length: send the file's size in bytes, at most the limit, and only once."},
	handler.ErrInvalidUploadDeferLength.ErrorCode:         {problem.BadRequest, "Upload-Defer-Length: send 1, or Upload-Length instead."},
	handler.ErrUploadLengthAndUploadDeferLength.ErrorCode: {problem.BadRequest, "Send either Upload-Length or Upload-Defer-Length."},
	handler.ErrInvalidOffset.ErrorCode:                    {problem.BadRequest, "Upload-Offset: send the offset that HEAD returned."},
	handler.ErrNotFound.ErrorCode:                         {problem.NotFound, "Check the upload's URL: there is no such upload among this API key's own."},
	handler.ErrMismatchOffset.ErrorCode:                   {problem.Offset, "Ask with HEAD where the upload stands and go on from there."},
	handler.ErrSizeExceeded.ErrorCode:                     {problem.SizeExceeded, "Send no more bytes than Upload-Length declared."},
	handler.ErrNotImplemented.ErrorCode:                   {problem.BadRequest, "This tus extension isn't offered; Tus-Extension of an OPTIONS request lists those that are."},
	handler.ErrUnexpectedEOF.ErrorCode:                    {problem.Incomplete, "Ask with HEAD where the upload stands and go on from there."},
	handler.ErrConnectionReset.ErrorCode:                  {problem.Incomplete, "Ask with HEAD where the upload stands and go on from there."},
	handler.ErrReadTimeout.ErrorCode:                      {problem.Incomplete, "No byte arrived for a while. Ask with HEAD where the upload stands and go on from there."},
}
