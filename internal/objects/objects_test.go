package objects_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/testenv"
)

func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func TestPutIsWrittenOnceInTwoRegions(t *testing.T) {
	ctx := t.Context()
	s, _ := objectstest.New(t, 3)
	body := content(100_000)

	acked, err := s.Put(ctx, "k", objects.Bytes(body), objects.Placement{})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"eu", "us"}, acked)

	_, err = s.Put(ctx, "k", objects.Bytes(body), objects.Placement{})
	require.NoError(t, err, "the same bytes again")
	_, err = s.Put(ctx, "k", objects.Bytes(body[1:]), objects.Placement{})
	require.ErrorIs(t, err, objects.ErrConflict)

	for _, region := range []string{"eu", "us"} {
		got, err := s.In(region).ReadAll(ctx, "k", 1<<20)
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, got))
	}
	_, err = s.In("ap").Stat(ctx, "k")
	require.ErrorIs(t, err, objects.ErrNotFound)

	acked, err = s.Put(ctx, "pinned", objects.Bytes(body), objects.Placement{Mode: objects.PlacePinned, Regions: []string{"ap"}})
	require.NoError(t, err)
	require.Equal(t, []string{"ap"}, acked)
	_, err = s.In("eu").Stat(ctx, "pinned")
	require.ErrorIs(t, err, objects.ErrNotFound)
}

func TestPutEverywhere(t *testing.T) {
	ctx := t.Context()
	s, _ := objectstest.New(t, 3)
	body := content(1000)
	acked, err := s.PutEverywhere(ctx, "k", objects.Bytes(body))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"eu", "us"}, acked)
	for _, region := range s.Regions() {
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			got, err := region.ReadAll(ctx, "k", 1000)
			require.NoError(c, err)
			require.Equal(c, body, got)
		}, 10*time.Second, 10*time.Millisecond, region.Region)
	}
	_, err = s.PutEverywhere(ctx, "k", objects.Bytes(body[1:]))
	require.ErrorIs(t, err, objects.ErrConflict)
}

func TestRanges(t *testing.T) {
	ctx := t.Context()
	s, _ := objectstest.New(t, 1)
	body := content(10_000)
	_, err := s.Put(ctx, "k", objects.Bytes(body), objects.Placement{})
	require.NoError(t, err)
	for _, c := range []struct{ offset, length, want int64 }{{0, -1, 10_000}, {0, 1, 1}, {0, 10, 10}, {9_999, 1, 1}, {5_000, -1, 5_000}, {5_000, 100, 100}} {
		r, info, err := s.Get(ctx, "k", c.offset, c.length, objects.Placement{})
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.True(t, bytes.Equal(body[c.offset:c.offset+c.want], got), "%+v", c)
		require.Equal(t, int64(10_000), info.Size, "%+v", c)
		require.Len(t, info.SHA256, 64)
	}
	_, _, err = s.Get(ctx, "absent", 0, -1, objects.Placement{})
	require.ErrorIs(t, err, objects.ErrNotFound)
	_, err = s.ReadAll(ctx, "k", 9_999, objects.Placement{})
	require.ErrorContains(t, err, "more than the limit")
	last, err := s.Own().Last(ctx, "")
	require.NoError(t, err)
	require.Equal(t, "k", last)
	require.NoError(t, s.DeletePrefix(ctx, "k"))
	_, err = s.Stat(ctx, "k", objects.Placement{})
	require.ErrorIs(t, err, objects.ErrNotFound)
}

func TestLostAndHungRegions(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	servers := []*testenv.MinIOServer{testenv.MinIO(t), testenv.MinIO(t), testenv.MinIO(t)}
	var at []testenv.S3Server
	for _, m := range servers {
		s := m.S3Server
		s.Bucket = "meridian"
		at = append(at, s)
	}
	s, _ := objectstest.Over(t, at)
	body := content(20 << 20)
	_, err := s.Put(ctx, "a", objects.Bytes(body), objects.Placement{})
	require.NoError(t, err)

	t.Run("a region hangs in mid-body", func(t *testing.T) {
		r, _, err := s.Get(ctx, "a", 10, -1, objects.Placement{})
		require.NoError(t, err)
		head := make([]byte, 1000)
		_, err = io.ReadFull(r, head)
		require.NoError(t, err)
		require.NoError(t, servers[0].Hang())
		rest, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.True(t, bytes.Equal(body[10:], append(head, rest...)))
	})
	t.Run("a write replaces the hung region", func(t *testing.T) {
		start := time.Now()
		acked, err := s.Put(ctx, "b", objects.Bytes(body[:1000]), objects.Placement{})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"us", "ap"}, acked)
		require.Less(t, time.Since(start), 10*time.Second)
	})
	t.Run("a region is killed", func(t *testing.T) {
		require.NoError(t, servers[0].Kill())
		acked, err := s.Put(ctx, "c", objects.Bytes(body[:1000]), objects.Placement{})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"us", "ap"}, acked)
		got, err := s.ReadAll(ctx, "c", 1000, objects.Placement{})
		require.NoError(t, err)
		require.Len(t, got, 1000)
	})
	t.Run("one region is too few", func(t *testing.T) {
		require.NoError(t, servers[1].Kill())
		_, err := s.Put(ctx, "d", objects.Bytes(body[:1000]), objects.Placement{})
		require.ErrorIs(t, err, objects.ErrTooFewRegions)
		require.NoError(t, s.Ready(ctx))
	})
	t.Run("none is unavailable, not missing", func(t *testing.T) {
		require.NoError(t, servers[2].Kill())
		_, err := s.ReadAll(ctx, "c", 1000, objects.Placement{})
		require.ErrorIs(t, err, objects.ErrUnavailable)
		require.NotErrorIs(t, err, objects.ErrNotFound)
		require.Error(t, s.Ready(ctx))
	})
}

func TestJournalNumber(t *testing.T) {
	for key, want := range map[string]int64{"keys/0000000007.json": 7, "keys/7.json": 0, "keys/000000000x.json": 0, "purges/0000000007.json": 0, "keys/0000000000.json": 0} {
		n, ok := objects.JournalNumber(objects.KeysJournal, key)
		require.Equal(t, want > 0, ok, key)
		if ok {
			require.Equal(t, want, n)
			require.Equal(t, key, objects.JournalKey(objects.KeysJournal, n))
		}
	}
}
