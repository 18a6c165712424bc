package cache

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPut(t *testing.T) {
	dir := t.TempDir()
	open := func() *Cache {
		c, err := Open(Config{Memory: 4 << 20, MaxObject: 1 << 20, Dir: dir, Disk: 32 << 20})
		require.NoError(t, err)
		return c
	}
	c := open()
	none := errors.New("no origin")
	src := func(context.Context, int64) (io.ReadCloser, Info, error) { return nil, Info{}, none }
	require.True(t, c.Put("a", Info{ETag: `"1"`}, []byte("first"), true))
	require.True(t, c.Put("a", Info{ETag: `"2"`}, []byte("second"), true))
	require.False(t, c.Put("b", Info{}, make([]byte, 2<<20), true), "larger than what is kept")
	o, out, err := c.Get(t.Context(), "a", src)
	require.NoError(t, err)
	require.Equal(t, Memory, out.Tier)
	require.Equal(t, "second", string(o.Whole()))
	require.Equal(t, o, c.Hit([]byte("a"), false))
	require.Nil(t, c.Hit([]byte("b"), false))
	require.EqualValues(t, len("second")+overhead, c.Stats().Bytes)
	require.NoError(t, c.Close())

	c = open()
	defer func() { require.NoError(t, c.Close()) }()
	require.Nil(t, c.Hit([]byte("a"), false))
	o, out, err = c.Get(t.Context(), "a", src)
	require.NoError(t, err)
	require.Equal(t, Disk, out.Tier)
	b, err := o.Bytes(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, "second", string(b))
	_, _, err = c.Get(t.Context(), "b", src)
	require.ErrorIs(t, err, none)
}
