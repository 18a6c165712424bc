package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/api/upload"
	"github.com/meridian-video/meridian/internal/catalog"
)

const (
	// requestTimeout bounds a request that isn't an upload or an event stream.
	requestTimeout = 15 * time.Second
	// maxBody bounds JSON bodies.
	maxBody       = 64 << 10
	sessionHeader = "Meridian-Session"
)

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{8,64}$`)

// identify gives each request an id, its client's if it sent one.
func identify(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		id := c.Request().Header.Get(echo.HeaderXRequestID)
		if !requestID.MatchString(id) {
			id = catalog.NewID()
		}
		c.Response().Header().Set(echo.HeaderXRequestID, id)
		return next(c)
	}
}

func idOf(c echo.Context) string { return c.Response().Header().Get(echo.HeaderXRequestID) }

// record logs and measures each request, by route: URLs and headers hold what logs must not.
func (s *Server) record(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		err := next(c)
		var p *problem.Error
		if err != nil {
			p = problemOf(err)
			s.answer(c, p)
		}
		route := c.Path()
		if route == "" || route == "/*" {
			route = "unknown"
		}
		status, took := c.Response().Status, time.Since(began)
		s.metrics.requests.WithLabelValues(c.Request().Method, route, fmt.Sprintf("%dxx", status/100)).Observe(took.Seconds())
		attrs := []slog.Attr{slog.String("method", c.Request().Method), slog.String("route", route), slog.Int("status", status),
			slog.Int64("bytes", c.Response().Size), slog.Duration("took", took), slog.String("request", idOf(c))}
		if id := c.Param("id"); id != "" && len(id) <= 64 {
			attrs = append(attrs, slog.String("id", id))
		}
		if key := keyOf(c); key.ID != "" {
			attrs = append(attrs, slog.String("key", key.ID))
		}
		level := slog.LevelDebug
		if p != nil {
			attrs = append(attrs, slog.String("code", p.Kind.Code))
			if p.Kind.Status >= http.StatusInternalServerError && c.Request().Context().Err() == nil {
				level = slog.LevelWarn
				attrs = append(attrs, slog.Any("err", p.Cause))
			}
		} else if c.Request().Method != http.MethodGet && c.Request().Method != http.MethodHead && c.Request().Method != http.MethodOptions {
			level = slog.LevelInfo
		}
		s.log.LogAttrs(c.Request().Context(), level, "request", attrs...)
		return nil
	}
}

// recoverer turns a panic into a 500 and a log line with its stack.
func (s *Server) recoverer(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			r := recover()
			if r == nil {
				return
			}
			if e, ok := r.(error); ok && errors.Is(e, http.ErrAbortHandler) {
				panic(r) // net/http's own way to drop a connection
			}
			s.log.Error("panic in a request", "panic", r, "route", c.Path(), "request", idOf(c), "stack", string(debug.Stack()))
			p := problem.New(problem.Internal, "Repeat the request; if it fails again, give the operator the request id.")
			p.Cause = fmt.Errorf("panic: %v", r)
			err = p
		}()
		return next(c)
	}
}

// session carries a client's Meridian-Session, so that it reads its own writes.
func session(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		sess := catalog.ParseSession(c.Request().Header.Get(sessionHeader))
		c.SetRequest(c.Request().WithContext(catalog.WithSession(c.Request().Context(), sess)))
		c.Response().Before(func() {
			if h := sess.Header(); h != "" {
				c.Response().Header().Set(sessionHeader, h)
			}
		})
		return next(c)
	}
}

// limit bounds a plain request's time and body.
func limit(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := context.WithTimeout(c.Request().Context(), requestTimeout)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		rc := http.NewResponseController(c.Response())
		now := time.Now()
		if err := errors.Join(rc.SetReadDeadline(now.Add(requestTimeout)), rc.SetWriteDeadline(now.Add(2*requestTimeout))); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if c.Request().Body != nil {
			c.Request().Body = http.MaxBytesReader(c.Response(), c.Request().Body, maxBody)
		}
		return next(c)
	}
}

// cors lets pages of any origin use the API: keys travel in a header that a
// page must know, never in cookies.
func cors(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		h := c.Response().Header()
		h.Set(echo.HeaderXContentTypeOptions, "nosniff")
		if c.Request().Header.Get(echo.HeaderOrigin) == "" {
			return next(c)
		}
		h.Set(echo.HeaderAccessControlAllowOrigin, "*")
		if c.Request().Method == http.MethodOptions && c.Request().Header.Get(echo.HeaderAccessControlRequestMethod) != "" {
			h.Set(echo.HeaderAccessControlAllowMethods, "GET, HEAD, POST, PATCH, DELETE, OPTIONS")
			h.Set(echo.HeaderAccessControlAllowHeaders, strings.Join(allowHeaders, ", "))
			h.Set(echo.HeaderAccessControlMaxAge, "86400")
			return c.NoContent(http.StatusNoContent)
		}
		h.Set(echo.HeaderAccessControlExposeHeaders, strings.Join(exposeHeaders, ", "))
		return next(c)
	}
}

var (
	allowHeaders = []string{"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", sessionHeader, "X-Request-ID", "X-Requested-With",
		"Tus-Resumable", "Upload-Length", "Upload-Defer-Length", "Upload-Metadata", "Upload-Offset"}
	exposeHeaders = []string{"Location", upload.AssetHeader, "Retry-After", sessionHeader, "X-Request-ID", "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size",
		"Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Metadata", "Upload-Expires"}
)

// problemOf maps errors, echo's own included.
func problemOf(err error) *problem.Error {
	var he *echo.HTTPError
	if !errors.As(err, &he) {
		return problem.From(err)
	}
	var p *problem.Error
	switch he.Code {
	case http.StatusNotFound:
		p = problem.New(problem.NotFound, "Check the path: GET /openapi.yaml lists those there are.")
	case http.StatusMethodNotAllowed:
		p = problem.New(problem.MethodNotAllowed, "Use a method that Allow lists.")
	case http.StatusUnsupportedMediaType:
		p = problem.New(problem.MediaType, "Send Content-Type: application/json.")
	default:
		p = problem.New(problem.BadRequest, "Check the request against GET /openapi.yaml.")
	}
	p.Cause = err
	return p
}

// answer writes a problem, unless an answer is under way already.
func (s *Server) answer(c echo.Context, p *problem.Error) {
	if c.Response().Committed {
		return
	}
	if err := p.Write(c.Response(), c.Request().Method == http.MethodHead, idOf(c)); err != nil {
		s.log.Debug("answer not delivered", "err", err, "request", idOf(c))
	}
}
