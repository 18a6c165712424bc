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

// A region that accepts connections and never answers stands before the leader.
func TestHungServerCostsNothing(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts for it
	require.NoError(t, err)
	defer hung.Close()
	u, err := url.Parse(testenv.Postgres(t))
	require.NoError(t, err)
	u.Host = hung.Addr().String() + "," + u.Host
	c, err := Open(u.String(), 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer c.Close()
	ask := func() error {
		return c.direct(t.Context(), "ask", func(ctx context.Context, _ *db.Queries) error { return c.leader.Ping(ctx) })
	}
	for range 2 {
		begin := time.Now()
		require.NoError(t, ask())
		require.Less(t, time.Since(begin), connectTimeout*3/4)
		c.leave(c.left.Load())
	}
}

// Those who failed with a leader that was left mustn't cost its successor's
// connections.
func TestLeaderIsLeftOnce(t *testing.T) {
	c, err := Open(testenv.Postgres(t), 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer c.Close()
	before := c.left.Load()
	for range 3 {
		c.leave(before)
	}
	require.Equal(t, before+1, c.left.Load())
}
