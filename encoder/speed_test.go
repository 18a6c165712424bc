package encoder

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// A worker's own measurement replaces the guess; tasks outweigh it by and by.
func TestSpeedIsLearned(t *testing.T) {
	t.Parallel()
	guess := 1e12
	b := newBenchBytes(t, []byte("no film"), func(o *Options) { o.Speed.Pixels = guess })
	b.opt.Profile.Preset = "no such preset"
	b.measureSpeed(t.Context())
	require.Equal(t, guess, b.currentSpeed().Pixels, "a failure leaves the guess")

	b.opt.Profile.Preset = "veryfast"
	b.measureSpeed(t.Context())
	measured := b.currentSpeed().Pixels
	require.Positive(t, measured)
	require.Less(t, measured, guess/100)
	require.Equal(t, measured, testutil.ToFloat64(b.metrics.speed))

	b.observe(measured, time.Nanosecond, 2)
	b.observe(measured, 0, 60)
	require.Equal(t, measured, b.currentSpeed().Pixels, "too short, or without processor time")
	for range 20 {
		b.observe(60e6, time.Second, 60)
	}
	seen := b.currentSpeed().Pixels
	b.observe(60e6, 2*time.Second, 60)
	require.InEpsilon(t, 0.85*seen, b.currentSpeed().Pixels, 0.01)
}
