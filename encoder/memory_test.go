package encoder

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/encoder/plan"
)

func TestMemoryIsShared(t *testing.T) {
	opt := testOptions(t)
	opt.Memory = 1000
	e, err := New(t.Context(), newMemory(), opt, slog.New(slog.DiscardHandler), NewMetrics(prometheus.NewRegistry()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	first, err := e.hold(t.Context(), 600)
	require.NoError(t, err)
	second, err := e.hold(t.Context(), 400)
	require.NoError(t, err)

	stop := errors.New("the task is cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(stop) })
	_, err = e.hold(ctx, 1)
	require.ErrorIs(t, err, stop)

	second()
	first()
	// More than there is runs alone.
	alone, err := e.hold(t.Context(), 1<<40)
	require.NoError(t, err)
	require.False(t, e.budget.sem.TryAcquire(1))
	alone()
}

func TestMemoryEstimates(t *testing.T) {
	mib := func(width, height int) int64 {
		tr := plan.VideoTrack{SourcePixels: int64(width * height), Rungs: plan.Ladder(width, height, 30, plan.Default(2).Rungs)}
		return videoMemory(tr) >> 20
	}
	require.InDelta(t, 600, mib(1920, 1080), 80)
	require.InDelta(t, 2400, mib(3840, 2160), 300)
	require.Less(t, mib(426, 240), int64(100))
	require.EqualValues(t, 24_681_408<<10, memTotal([]byte("MemTotal:       24681408 kB\nMemFree: 1 kB\n")))
	require.Zero(t, memTotal([]byte("MemTotal: x\n")))
	require.Positive(t, machineMemory())
}
