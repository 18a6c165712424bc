package catalog

import (
	"log/slog"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

// TestReadsAreFresh: a region whose server no longer hears of the leader's writes
// shows what others did after some seconds nevertheless, and goes on with what it
// knows when the leader is away.
func TestReadsAreFresh(t *testing.T) {
	leader, err := testenv.StartPostgres(t.Context())
	require.NoError(t, err)
	t.Cleanup(leader.Stop)
	standby, err := leader.Standby(t.Context())
	require.NoError(t, err)
	t.Cleanup(standby.Stop)
	const most = 2 * time.Second
	near := func(first, second *testenv.PostgresServer) *Catalog {
		a, err := url.Parse(first.DSN)
		require.NoError(t, err)
		b, err := url.Parse(second.DSN)
		require.NoError(t, err)
		a.Host += "," + b.Host
		c, err := Open(a.String(), 0, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		t.Cleanup(c.Close)
		c.horizon.most = most
		return c
	}
	there, here := near(leader, standby), near(standby, leader)
	ctx := t.Context()
	require.NoError(t, there.Migrate(ctx))
	gone, secret, err := there.CreateKey(ctx, "ann", "lost laptop", RoleWrite)
	require.NoError(t, err)
	_, stays, err := there.CreateKey(ctx, "ann", "desk", RoleWrite)
	require.NoError(t, err)
	_, err = here.Authenticate(ctx, secret)
	require.NoError(t, err)
	for c, isStandby := range map[*Catalog]bool{there: false, here: true} {
		_, err := c.Keys(ctx, "ann")
		require.NoError(t, err)
		var recovering bool
		require.NoError(t, c.nearest.pool().QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovering))
		require.Equal(t, isStandby, recovering, "the nearest server answers, leader or not")
	}

	require.Eventually(t, func() bool {
		var has int
		err := here.nearest.pool().QueryRow(ctx, "SELECT count(*) FROM api_keys").Scan(&has)
		return err == nil && has == 2
	}, 5*time.Second, 10*time.Millisecond)
	_, err = here.nearest.pool().Exec(ctx, "SELECT pg_wal_replay_pause()")
	require.NoError(t, err)
	require.NoError(t, there.RevokeKey(ctx, "ann", gone.ID))
	require.Eventually(t, func() bool {
		_, err := here.Authenticate(ctx, secret)
		return err != nil
	}, most+5*time.Second, 50*time.Millisecond)
	_, err = here.Authenticate(ctx, secret)
	require.ErrorIs(t, err, ErrUnauthorized)
	_, err = here.Authenticate(ctx, stays)
	require.NoError(t, err, "the leader answers")

	_, err = here.nearest.pool().Exec(ctx, "SELECT pg_wal_replay_resume()")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var caughtUp bool
		err := here.nearest.pool().QueryRow(ctx, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", here.mustHaveReplayed(ctx)).Scan(&caughtUp)
		return err == nil && caughtUp
	}, 5*time.Second, 10*time.Millisecond)
	leader.Stop()
	for begin := time.Now(); time.Since(begin) < most+askFresh; time.Sleep(askFresh / 2) {
		asked := time.Now()
		_, err := here.Authenticate(ctx, stays)
		require.NoError(t, err)
		require.Less(t, time.Since(asked), here.timeout/3, "it waits for no leader")
	}
}
