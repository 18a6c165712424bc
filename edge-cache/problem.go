package edgecache

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/origin"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/token"
)

// problem is an error as the viewer gets it (RFC 9457), with a reason for
// metrics. Its detail never holds internals.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	// Code is stable and for programs.
	Code string `json:"code"`
}

func (p *problem) Error() string { return p.Code + ": " + p.Detail }

var (
	errPath      = &problem{http.StatusNotFound, "Not found", "There is no such playback URL.", "no_such_url"}
	errNotFound  = &problem{http.StatusNotFound, "Not found", "There is no such video, or nothing of it can be played yet.", "not_found"}
	errGone      = &problem{http.StatusGone, "Gone", "This video was removed.", "gone"}
	errNoToken   = &problem{http.StatusUnauthorized, "Token needed", "This video is private: ask its owner's site for a playback URL.", "token_missing"}
	errBadToken  = &problem{http.StatusUnauthorized, "Token not valid", "The token in this URL is not valid.", "token_invalid"}
	errExpired   = &problem{http.StatusUnauthorized, "Token expired", "The token in this URL has expired or is not valid yet: load the page again.", "token_expired"}
	errRevoked   = &problem{http.StatusForbidden, "Token revoked", "The token in this URL was revoked.", "token_revoked"}
	errForeign   = &problem{http.StatusForbidden, "Token for something else", "The token in this URL is for another video.", "token_foreign"}
	errRule      = &problem{http.StatusForbidden, "Not allowed here", "This video can't be watched from this place, address or site.", "not_allowed"}
	errNotPeer   = &problem{http.StatusForbidden, "Not an edge", "Only edges of this region ask for this.", "not_peer"}
	errNotYet    = &problem{http.StatusGatewayTimeout, "Not yet", "The object isn't here in time for a peer.", "late"}
	errMethod    = &problem{http.StatusMethodNotAllowed, "Method not allowed", "Use GET, HEAD or OPTIONS.", "method"}
	errContent   = &problem{http.StatusBadRequest, "Request has a body", "Playback requests have no content.", "content"}
	errQuery     = &problem{http.StatusBadRequest, "Bad query", "The query can't be read, or is too long.", "query"}
	errCondition = &problem{http.StatusPreconditionFailed, "Precondition failed", "The object is not the one the request asks for.", "precondition"}
	errRange     = &problem{http.StatusRequestedRangeNotSatisfiable, "Range not satisfiable", "The object has no such range.", "range"}
	errBusy      = &problem{http.StatusServiceUnavailable, "Busy", "This edge is busy: try again in a moment.", "busy"}
	errDown      = &problem{http.StatusServiceUnavailable, "Not available", "No region's store answers: try again in a moment.", "unavailable"}
	errStarting  = &problem{http.StatusServiceUnavailable, "Starting", "This edge isn't ready.", "starting"}
	errTooMany   = &problem{http.StatusTooManyRequests, "Too many requests", "Too much is being fetched for this address: try again in a moment.", "too_many"}
	errDraining  = &problem{http.StatusServiceUnavailable, "Draining", "This edge is about to stop: use another.", "draining"}
	errShed      = &problem{http.StatusServiceUnavailable, "Busy", "This edge takes no more viewers just now: try again in a moment.", "shed"}
	errBroken    = &problem{http.StatusBadGateway, "Bad origin", "The stored object is damaged.", "corrupt"}
	errInternal  = &problem{http.StatusInternalServerError, "Internal error", "This edge failed to answer.", "internal"}
)

// problemOf maps an error to what the viewer gets: the one place that does.
func problemOf(err error) *problem {
	var p *problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, token.ErrExpired):
		return errExpired
	case errors.Is(err, token.ErrRevoked):
		return errRevoked
	case errors.Is(err, token.ErrForeign):
		return errForeign
	case errors.Is(err, token.ErrRule):
		return errRule
	case errors.Is(err, playback.ErrNotFound), errors.Is(err, cache.ErrNotFound), errors.Is(err, objects.ErrNotFound):
		return errNotFound
	case errors.Is(err, cache.ErrBusy):
		return errBusy
	case errors.Is(err, cache.ErrCorrupt):
		return errBroken
	case errors.Is(err, objects.ErrUnavailable), errors.Is(err, origin.ErrUnavailable), errors.Is(err, cache.ErrClosed), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return errDown
	default:
		return errInternal
	}
}

// retryAfter is longer where the edge has too many askers already.
func (p *problem) retryAfter() string {
	if p == errShed {
		return "5"
	}
	return "1"
}

// write sends the problem.
func (p *problem) write(w http.ResponseWriter, head bool) {
	b, err := json.Marshal(struct {
		Type string `json:"type"`
		*problem
	}{"about:blank", p})
	if err != nil {
		panic(err) // strings and a number
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	for _, k := range []string{"Etag", "Last-Modified", "Age", "Accept-Ranges"} {
		h.Del(k)
	}
	switch p.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="playback"`)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", p.retryAfter())
	case http.StatusMethodNotAllowed:
		h.Set("Allow", "GET, HEAD, OPTIONS")
	}
	w.WriteHeader(p.Status)
	if !head {
		_, _ = w.Write(b)
	}
}
