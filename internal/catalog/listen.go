package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Channels of notifications, which carry nothing: look at the rows.
const (
	OutboxChannel = "meridian_outbox"
	TasksChannel  = "meridian_tasks"
)

const (
	// listenCheck is how often a silent listener makes sure it still listens on the leader.
	listenCheck = 5 * time.Second
	listenPause = time.Second
)

// Listen calls wake after every notification on the channel, and after every
// new connection, until ctx ends. wake must not block. Notifications are a
// shortcut: they may be lost, so callers look from time to time unasked.
func (c *Catalog) Listen(ctx context.Context, channel string, wake func()) error {
	for {
		err := c.listen(ctx, channel, wake)
		if ctx.Err() != nil {
			return nil
		}
		c.log.Debug("listening again", "channel", channel, "err", err)
		t := time.NewTimer(listenPause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

func (c *Catalog) listen(ctx context.Context, channel string, wake func()) error {
	cctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	cfg := c.leader.pool().Config().ConnConfig
	if err := c.finder.before(cctx, cfg); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	conn, err := pgx.ConnectConfig(cctx, cfg)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() {
		// Also when ctx has ended; the server notices a connection that just breaks off.
		dctx, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		_ = conn.Close(dctx)
	}()
	if _, err := conn.Exec(cctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	wake()
	for {
		wctx, stop := context.WithTimeout(ctx, listenCheck)
		_, err := conn.WaitForNotification(wctx)
		stop()
		switch {
		case err == nil:
			wake()
			continue
		case ctx.Err() != nil || !pgconn.Timeout(err):
			return fmt.Errorf("listen: %w", err)
		}
		var standby bool
		qctx, stop := context.WithTimeout(ctx, c.finder.timeout)
		err = conn.QueryRow(qctx, "SELECT pg_is_in_recovery()").Scan(&standby)
		stop()
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		if standby {
			return errors.New("listen: the server is no leader any more")
		}
	}
}
