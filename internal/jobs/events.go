package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/meridian-video/meridian/internal/catalog"
)

func eventSubject(e catalog.Event) string { return "events.asset." + e.Asset + "." + e.Type }

// PublishEvent puts an event on EVENTS, once however often it is called.
func (c *Conn) PublishEvent(ctx context.Context, e catalog.Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("event %d: %w", e.ID, err)
	}
	return c.publish(ctx, eventSubject(e), b, strconv.FormatInt(e.ID, 10))
}

// Subscription delivers an asset's events in order.
type Subscription struct {
	messages jetstream.MessagesContext
}

// Subscribe returns the events of an asset, or with "*" of all assets, after the
// one with sequence number after; with 0, those from now on. Events older than a day are gone. Stop the
// subscription when done. It survives a lost connection.
func (c *Conn) Subscribe(ctx context.Context, asset string, after uint64) (*Subscription, error) {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{"events.asset." + asset + ".>"}, InactiveThreshold: time.Minute,
		DeliverPolicy: jetstream.DeliverNewPolicy}
	if after > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, after+1
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	consumer, err := c.js.OrderedConsumer(ctx, streamEvents, cfg)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", asset, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(64), jetstream.WithMessagesErrOnMissingHeartbeat(false))
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", asset, err)
	}
	return &Subscription{messages: messages}, nil
}

// ErrClosed is returned by Next after Stop, or once the connection is closed.
var ErrClosed = errors.New("subscription is closed")

// Next waits for the next event and returns it with its sequence number, which
// a later Subscribe can go on from.
func (s *Subscription) Next(ctx context.Context) (catalog.Event, uint64, error) {
	msg, err := s.messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			err = ErrClosed
		}
		return catalog.Event{}, 0, err
	}
	var e catalog.Event
	if err := json.Unmarshal(msg.Data(), &e); err != nil {
		return catalog.Event{}, 0, fmt.Errorf("event on %s: %w", msg.Subject(), err)
	}
	meta, err := msg.Metadata()
	if err != nil {
		return catalog.Event{}, 0, fmt.Errorf("event on %s: %w", msg.Subject(), err)
	}
	return e, meta.Sequence.Stream, nil
}

// Stop ends the subscription.
func (s *Subscription) Stop() { s.messages.Stop() }
