package catalog

import (
	"context"
	"log/slog"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog/db"
	"github.com/meridian-video/meridian/internal/testenv"
)

// behindHung opens a catalog whose server stands behind a region that accepts
// connections and never answers.
func behindHung(t *testing.T) (*Catalog, net.Listener) {
	t.Helper()
	hung, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts for it
	require.NoError(t, err)
	t.Cleanup(func() { hung.Close() }) // again where the test has
	u, err := url.Parse(testenv.Postgres(t))
	require.NoError(t, err)
	u.Host = hung.Addr().String() + "," + u.Host
	c, err := Open(u.String(), 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c, hung
}

// A region that hangs before the leader's costs its callers nothing.
func TestHungServerCostsNothing(t *testing.T) {
	c, _ := behindHung(t)
	ask := func() error {
		return c.direct(t.Context(), "ask", func(ctx context.Context, _ *db.Queries) error { return c.leader.pool().Ping(ctx) })
	}
	for range 2 {
		begin := time.Now()
		require.NoError(t, ask())
		require.Less(t, time.Since(begin), connectTimeout*3/4)
		c.leave(c.finder.left())
	}
}

// A nearest server that hangs costs those who ask it at first, and is asked again later.
func TestHungNearestRests(t *testing.T) {
	c, hung := behindHung(t)
	read := func() {
		require.NoError(t, c.read(t.Context(), "ask", func(ctx context.Context, q *db.Queries) error {
			_, err := q.Replayed(ctx, "0/0")
			return err
		}))
	}
	read()
	begin := time.Now()
	for range 3 {
		read()
	}
	require.Less(t, time.Since(begin), c.timeout/2, "it isn't asked")
	require.NoError(t, hung.Close())
	require.Eventually(t, func() bool { read(); return c.rest.Load() == 0 }, 3*nearestRest, nearestRest/10)
	require.Positive(t, c.nearest.pool().Stat().TotalConns(), "it is asked again")
}

// Those who failed with a leader that was left mustn't cost its successor's
// connections.
func TestLeaderIsLeftOnce(t *testing.T) {
	c, err := Open(testenv.Postgres(t), 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer c.Close()
	before := c.finder.left()
	for range 3 {
		c.leave(before)
	}
	require.Equal(t, before+1, c.finder.left())
}
