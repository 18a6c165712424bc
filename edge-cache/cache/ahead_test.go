package cache

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPrefetch(t *testing.T) {
	c, err := Open(Config{Memory: 4 << 20, MaxObject: 1 << 20})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	var org origin
	b := object("a", 1000)
	require.True(t, c.Prefetch("a", org.source(b)))
	require.False(t, c.Prefetch("a", org.source(b)), "it is on its way")
	require.Eventually(t, func() bool { return c.Stats().Filling == 0 }, 10*time.Second, time.Millisecond)
	require.Nil(t, c.Hit([]byte("a"), false), "who asks first is told that it was brought ahead")
	_, out, err := c.Get(t.Context(), "a", nil)
	require.NoError(t, err)
	require.Equal(t, Outcome{Tier: Memory, Prefetched: true}, out)
	_, out, err = c.Get(t.Context(), "a", nil)
	require.NoError(t, err)
	require.Equal(t, Outcome{Tier: Memory}, out)
	require.NotNil(t, c.Hit([]byte("a"), false))

	// Only so many at once.
	hold := make(chan struct{})
	slow := func(context.Context, int64) (io.ReadCloser, Info, error) {
		<-hold
		return nil, Info{}, ErrNotFound
	}
	n := 0
	for i := range 3 * maxAhead {
		if c.Prefetch(fmt.Sprint("slow", i), slow) {
			n++
		}
	}
	require.Equal(t, maxAhead, n)
	close(hold)
}
