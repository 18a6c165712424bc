package platform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

// TestRegionsOfLostDisks: a region whose machine got new disks finds its place again,
// while the others run and when all start. What it lost was the leaders'.
func TestRegionsOfLostDisks(t *testing.T) {
	testenv.Long(t)
	dir, network := stateDir(t), freeNetwork(t)
	args := []string{"--stores-only", "--state", dir, "--network", fmt.Sprint(network), "--client-config", "none"}
	up := startUp(t, args...)
	up.saysWithin(t, "are ready after", 2*startTimeout)
	c := newCluster(t, dir)
	require.NoError(t, c.exec(t.Context(), "CREATE TABLE kept (n int PRIMARY KEY)"))
	nc, js := c.jetStream(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: testStream, Subjects: []string{"kept"}, Replicas: 3})
	require.NoError(t, err)
	written := 0
	write := func() {
		t.Helper()
		until(t, backWithin, func(ctx context.Context) error {
			return c.exec(ctx, "INSERT INTO kept VALUES ($1) ON CONFLICT DO NOTHING", written)
		})
		until(t, backWithin, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			_, err := js.Publish(ctx, "kept", nil, jetstream.WithMsgID(fmt.Sprint(written)), jetstream.WithRetryAttempts(0))
			return err
		})
		written++
	}
	requireAll := func() {
		t.Helper()
		until(t, backWithin, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			conn, err := pgx.Connect(ctx, c.dsn)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			var n int
			if err := conn.QueryRow(ctx, "SELECT count(*) FROM kept").Scan(&n); err != nil || n != written {
				return fmt.Errorf("%d of %d rows: %w", n, written, err)
			}
			return nil
		})
		stream, err := js.Stream(t.Context(), testStream)
		require.NoError(t, err)
		require.EqualValues(t, written, stream.CachedInfo().State.Msgs)
	}
	write()

	lost := c.leader(t)
	leadStream(t, nc, js, lost.Name)
	require.NoError(t, operate(t, dir, opKill, lost.Name))
	write()
	require.NoError(t, os.RemoveAll(filepath.Join(dir, lost.Name)))
	begin := time.Now()
	require.NoError(t, operate(t, dir, opStart, lost.Name, "wipe-objects", "false"))
	testenv.Figure(t, "stores of a region with new disks back", "%.1f s", time.Since(begin).Seconds())
	status := conditionOf(t, dir, lost.Name)
	require.Equal(t, Up, status.Condition)
	require.Empty(t, status.Problem)

	// It counts for the majority again: the next leader can be lost.
	write()
	second := c.leader(t)
	require.NotEqual(t, lost.Name, second.Name)
	require.NoError(t, operate(t, dir, opKill, second.Name))
	write()
	requireAll()
	require.NoError(t, operate(t, dir, opStart, second.Name, "wipe-objects", "false"))
	nc.Close()
	require.NoError(t, up.Process.Signal(syscall.SIGINT))
	require.NoError(t, up.endsWithin(t, 90*time.Second), up.out.String())

	require.NoError(t, os.RemoveAll(filepath.Join(dir, second.Name)))
	up = startUp(t, args...)
	up.saysWithin(t, "are ready after", 2*startTimeout)
	nc, js = c.jetStream(t)
	defer nc.Close()
	write()
	requireAll()
	require.NoError(t, up.Process.Signal(syscall.SIGINT))
	require.NoError(t, up.endsWithin(t, 90*time.Second), up.out.String())
	requireNothingLeft(t, dir)
}
