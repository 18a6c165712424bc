package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	// poll is how often a followed asset is looked at besides its events: it
	// shows progress, and it is the fallback when events don't come.
	poll = 3 * time.Second
	// silence is longer than the API lets an event stream be silent.
	silence = 30 * time.Second
	maxLine = 1 << 20
	// followPatience is how long an asset may be out of reach.
	followPatience = 5 * time.Minute
)

// Follow calls seen with the asset each time something about it has changed,
// until seen returns true or an error, or the asset can't be reached for long.
func (c *Client) Follow(ctx context.Context, id string, seen func(Asset) (done bool, err error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.listen(ctx, id, func() {
			select {
			case changed <- struct{}{}:
			default: // a look is due already
			}
		})
	}()
	defer func() { cancel(); <-ended }()

	reached := time.Now()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		a, err := c.Asset(ctx, id)
		if err == nil {
			reached = time.Now()
			done, err := seen(a)
			if done || err != nil {
				return err
			}
		} else if ok, _ := retryable(err); ctx.Err() != nil || !ok || time.Since(reached) > followPatience {
			return errors.Join(ctx.Err(), err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-tick.C:
		}
	}
}

// listen calls changed for each event of the asset until ctx ends. Events only
// say when to look: what is seen is always the asset itself.
func (c *Client) listen(ctx context.Context, id string, changed func()) {
	last := ""
	for n := 0; ctx.Err() == nil; n++ {
		err := c.stream(ctx, id, &last, func() { n = 0; changed() })
		_, asked := retryable(err)
		if sleep.For(ctx, backoff(n, asked)) != nil {
			return
		}
	}
}

func (c *Client) stream(ctx context.Context, id string, last *string, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	head := http.Header{"Accept": {"text/event-stream"}}
	if *last != "" {
		head.Set("Last-Event-Id", *last)
	}
	resp, err := c.request(ctx, http.MethodGet, "/v1/assets/"+url.PathEscape(id)+"/events", nil, head)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return ReadEvents(resp.Body, func(e ServerEvent) error {
		watchdog.Reset(silence)
		if e.ID != "" {
			*last = e.ID
		}
		if e.Name != "" {
			changed()
		}
		return nil
	})
}

// ServerEvent is one event of a text/event-stream; a comment has no name.
type ServerEvent struct {
	ID, Name string
	Data     json.RawMessage
}

// ReadEvents reads a text/event-stream and calls f for each event and comment,
// until the stream ends or f returns an error. A line too long is an error.
func ReadEvents(r io.Reader, f func(ServerEvent) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	var e ServerEvent
	var data []string
	size := 0
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			if len(data) > 0 {
				if e.Name == "" {
					e.Name = "message"
				}
				e.Data = json.RawMessage(strings.Join(data, "\n"))
				if err := f(e); err != nil {
					return err
				}
			}
			e, data, size = ServerEvent{}, nil, 0
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "": // a comment
			if err := f(ServerEvent{}); err != nil {
				return err
			}
		case "id":
			e.ID = value
		case "event":
			e.Name = value
		case "data":
			if size += len(value); size > maxLine {
				return bufio.ErrTooLong
			}
			data = append(data, value)
		}
	}
	return lines.Err()
}
