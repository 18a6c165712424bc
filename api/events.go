package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/meridian-video/meridian/api/feed"
	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/internal/catalog"
)

const (
	heartbeat = 10 * time.Second
	// streamLife ends a stream, which its client opens again: a revoked key
	// doesn't listen for ever.
	streamLife = 15 * time.Minute
	// streamWrite bounds one write to a client that doesn't read.
	streamWrite = 10 * time.Second
)

// event is the JSON form of an event.
type event struct {
	Type     string            `json:"type"`
	Asset    string            `json:"asset"`
	State    catalog.State     `json:"state"`
	Run      string            `json:"run,omitempty"`
	Time     time.Time         `json:"time"`
	Failure  *catalog.Failure  `json:"failure,omitempty"`
	Progress *catalog.Progress `json:"progress,omitempty"`
}

// assetEvents streams one asset's events. Without Last-Event-ID, or when more
// was missed than is remembered, an "asset" event with the whole asset comes first.
func (s *Server) assetEvents(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	owner := keyOf(c).Owner
	return s.stream(c, func(e catalog.Event) bool { return e.Asset == id }, func() (string, any, error) {
		a, err := s.Assets.GetAsset(c.Request().Context(), owner, id)
		return "asset", s.renderWhole(c, a), err
	})
}

// events streams the events of all of an owner's assets. A "reset" event says
// that more was missed than is remembered: list the assets.
func (s *Server) events(c echo.Context) error {
	owner := keyOf(c).Owner
	return s.stream(c, func(e catalog.Event) bool { return e.Owner == owner }, func() (string, any, error) {
		return "reset", struct{}{}, nil
	})
}

func (s *Server) stream(c echo.Context, want func(catalog.Event) bool, snapshot func() (string, any, error)) error {
	select {
	case s.streams <- struct{}{}:
		s.metrics.streams.Inc()
		defer func() { <-s.streams; s.metrics.streams.Dec() }()
	default:
		p := problem.New(problem.TooManyStreams, "Wait a moment, or poll the asset: this region serves %d event streams already.", cap(s.streams))
		p.RetryAfter = 5 * time.Second
		return p
	}
	after, err := lastEventID(c.Request())
	if err != nil {
		return err
	}
	l, seq, gap, err := s.Feed.Listen(after, want)
	if errors.Is(err, feed.ErrClosed) {
		p := problem.New(problem.Unavailable, "This process is stopping: connect again.")
		p.RetryAfter = time.Second
		return p
	}
	if err != nil {
		return err
	}
	defer l.Close()

	// The state is read after listening began: what changes in between comes twice rather than never.
	var first []byte
	if after == 0 || gap {
		name, v, err := snapshot()
		if err != nil {
			return err
		}
		if first, err = sse(name, seq, v); err != nil {
			return err
		}
	}
	h := c.Response().Header()
	h.Set(echo.HeaderContentType, "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	c.Response().WriteHeader(http.StatusOK)
	return s.deliver(c, l, append([]byte("retry: 1000\n\n"), first...))
}

// deliver writes events until the client, the feed or the stream's life ends.
func (s *Server) deliver(c echo.Context, l *feed.Listener, first []byte) error {
	rc := http.NewResponseController(c.Response())
	write := func(b []byte) bool {
		if err := rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return false
		}
		if _, err := c.Response().Write(b); err != nil {
			return false // the client has gone
		}
		return rc.Flush() == nil
	}
	if !write(first) {
		return nil
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	life := time.NewTimer(streamLife)
	defer life.Stop()
	for {
		var b []byte
		select {
		case <-c.Request().Context().Done():
			return nil
		case <-life.C:
			return nil
		case <-beat.C:
			b = []byte(": still here\n\n")
		case e, ok := <-l.C():
			if !ok {
				return nil
			}
			var err error
			b, err = sse(e.Type, e.Seq, event{Type: e.Type, Asset: e.Asset, State: e.State, Run: e.Run, Time: e.Time, Failure: e.Failure, Progress: e.Progress})
			if err != nil {
				return err
			}
		}
		if !write(b) {
			return nil
		}
	}
}

// sse is one event of a text/event-stream. Number 0 stands for no number yet.
func sse(name string, seq uint64, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", name, err)
	}
	if seq == 0 {
		return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, b), nil
	}
	return fmt.Appendf(nil, "id: %d\nevent: %s\ndata: %s\n\n", seq, name, b), nil
}

func lastEventID(r *http.Request) (uint64, error) {
	v := r.Header.Get("Last-Event-ID")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, problem.New(problem.BadRequest, "Last-Event-ID: send the id of the last event received, or none.")
	}
	return n, nil
}
