package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meridian-video/meridian/internal/sleep"
)

// Streams.
const (
	streamJobs   = "JOBS"
	streamEvents = "EVENTS"
	streamDead   = "DEAD"
)

const (
	requestTimeout = 3 * time.Second
	retryMin       = 100 * time.Millisecond
	retryMax       = 2 * time.Second
	// dedupe is how long a message id is remembered: longer than any repeat by a
	// process that crashed between publishing and noting it.
	dedupe = 10 * time.Minute
)

// Conn is a connection to NATS with the platform's streams. Safe for concurrent use.
type Conn struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	replicas int
	log      *slog.Logger
	ready    atomic.Bool
	// setup is held by the one caller of Setup that works.
	setup chan struct{}
}

// Connect prepares a connection to the first reachable of urls and returns at
// once; it goes on trying for as long as it is open. replicas is how many servers
// hold the streams: min(3, control regions). Close it when done.
func Connect(urls []string, replicas int, log *slog.Logger) (*Conn, error) {
	nc, err := nats.Connect(strings.Join(urls, ","),
		nats.Name("meridian"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond),
		nats.Timeout(2*time.Second), nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2), nats.ReconnectBufSize(-1), nats.DontRandomize(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS connection lost", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("NATS connected", "server", nc.ConnectedAddr()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("NATS", "err", err) }))
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return &Conn{nc: nc, js: js, replicas: max(1, min(3, replicas)), log: log, setup: make(chan struct{}, 1)}, nil
}

// Close ends the connection; subscriptions on it end.
func (c *Conn) Close() { c.nc.Close() }

// Ready returns nil when connected and the streams exist.
func (c *Conn) Ready(context.Context) error {
	if !c.nc.IsConnected() {
		return fmt.Errorf("NATS: not connected (%s): %w", c.nc.Status(), errors.Join(c.nc.LastError()))
	}
	if !c.ready.Load() {
		return errors.New("NATS: streams aren't there yet")
	}
	return nil
}

// Setup makes the streams, trying until it has succeeded or ctx ends. Doing it
// again, or in several processes at once, changes nothing.
func (c *Conn) Setup(ctx context.Context) error {
	select {
	case c.setup <- struct{}{}:
		defer func() { <-c.setup }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.ready.Load() {
		return nil
	}
	err := retry(ctx, c.log, "set up streams", func(ctx context.Context) error {
		for _, cfg := range c.streams() {
			if err := c.ensure(ctx, cfg); err != nil {
				return fmt.Errorf("stream %s: %w", cfg.Name, err)
			}
		}
		return nil
	})
	if err == nil {
		c.ready.Store(true)
	}
	return err
}

// ensureTimeout is how long ensure waits for one answer.
const ensureTimeout = 1500 * time.Millisecond

// ensure makes a stream what it should be. Where several processes ask for a new one in
// the same moment, as all do at a platform's first start, NATS makes it and may answer
// none of them: so it looks again soon.
func (c *Conn) ensure(ctx context.Context, want jetstream.StreamConfig) error {
	for {
		octx, cancel := context.WithTimeout(ctx, ensureTimeout)
		err := c.ensureOnce(octx, want)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// ensureOnce looks first: a change, also one that changes nothing, is agreed on by all
// servers, and every process asks at a start.
func (c *Conn) ensureOnce(ctx context.Context, want jetstream.StreamConfig) error {
	s, err := c.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = c.js.CreateOrUpdateStream(ctx, want)
		return err
	}
	if err != nil {
		return err
	}
	have := s.CachedInfo().Config
	if slices.Equal(have.Subjects, want.Subjects) && have.Retention == want.Retention && have.Discard == want.Discard &&
		(have.MaxMsgs == want.MaxMsgs || want.MaxMsgs == 0 && have.MaxMsgs == -1) && have.MaxBytes == want.MaxBytes && have.MaxAge == want.MaxAge &&
		have.Duplicates == want.Duplicates && have.Storage == want.Storage && have.Replicas == want.Replicas {
		return nil
	}
	_, err = c.js.UpdateStream(ctx, want)
	return err
}

func (c *Conn) streams() []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		{Name: streamJobs, Subjects: []string{"jobs.>"}, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
			MaxMsgs: 100_000, MaxBytes: 64 << 20, Duplicates: dedupe, Storage: jetstream.FileStorage, Replicas: c.replicas},
		{Name: streamEvents, Subjects: []string{"events.>"}, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
			MaxAge: 24 * time.Hour, MaxBytes: 512 << 20, Duplicates: dedupe, Storage: jetstream.FileStorage, Replicas: c.replicas},
		{Name: streamDead, Subjects: []string{"dead.>"}, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
			MaxAge: 30 * 24 * time.Hour, MaxBytes: 64 << 20, Duplicates: dedupe, Storage: jetstream.FileStorage, Replicas: c.replicas},
	}
}

// publish stores a message once, however often it is called with the same id.
// It makes one attempt: callers repeat it, because only they know for how long.
func (c *Conn) publish(ctx context.Context, subject string, body []byte, id string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := c.js.Publish(ctx, subject, body, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0))
	if err != nil {
		return fmt.Errorf("publish %s: %w", subject, err)
	}
	return nil
}

// retry calls f, each time with a deadline, until it succeeds or ctx ends.
func retry(ctx context.Context, log *slog.Logger, what string, f func(context.Context) error) error {
	pause := retryMin
	for {
		err := func() error {
			tctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
			defer cancel()
			return f(tctx)
		}()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		log.Warn(what+": trying again", "err", err, "in", pause)
		if sleep.For(ctx, pause) != nil {
			return errors.Join(ctx.Err(), err)
		}
		pause = min(2*pause, retryMax)
	}
}
