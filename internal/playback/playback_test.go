package playback_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

const asset = "abcdefghijklmnopqrstuvwxyz"

type fixture struct {
	t      *testing.T
	signer *token.Signer
	raw    []byte
	keys   *token.KeySet
	root   *token.Signer
}

func newFixture(t *testing.T) fixture {
	dir := t.TempDir()
	require.NoError(t, token.GenerateSecrets(dir, []string{"eu"}))
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return strings.TrimSpace(string(b))
	}
	signer, err := token.ParseSigner(read(token.RecordKeyFile))
	require.NoError(t, err)
	root, err := token.ParseSigner(read(token.RootKeyFile))
	require.NoError(t, err)
	raw := []byte(read(token.KeySetFile))
	ks, err := token.VerifyKeySet(raw, root.Public())
	require.NoError(t, err)
	return fixture{t, signer, raw, &ks, root}
}

func (f fixture) put(b *objects.Bucket, r playback.Record) {
	f.t.Helper()
	body, err := playback.Sign(r, f.signer)
	require.NoError(f.t, err)
	require.NoError(f.t, b.Put(f.t.Context(), objects.JournalKey(objects.PlaybackJournal(r.Asset), r.N), objects.Bytes(body)))
}

func rec(n int64) playback.Record {
	return playback.Record{Asset: asset, N: n, State: "playable", Run: "r1", Master: n, Visibility: playback.Public, Title: "A film", Duration: 12.5}
}

func TestFinder(t *testing.T) {
	ctx := t.Context()
	f := newFixture(t)
	s, _ := objectstest.New(t, 3)
	find := playback.NewFinder(s, func() *token.KeySet { return f.keys }, slog.New(slog.DiscardHandler))

	_, err := find.Newest(ctx, asset)
	require.ErrorIs(t, err, playback.ErrNotFound)

	// The newest record counts wherever it is.
	f.put(s.In("eu"), rec(1))
	f.put(s.In("us"), rec(1))
	f.put(s.In("us"), rec(2))
	require.Eventually(t, func() bool {
		r, err := find.Newest(ctx, asset)
		return err == nil && r.N == 2
	}, 5*time.Second, 50*time.Millisecond)

	// Warm, a newer one appears in the own region within its interval.
	want := rec(3)
	want.Deleted = true
	f.put(s.In("eu"), want)
	require.Eventually(t, func() bool {
		r, err := find.Newest(ctx, asset)
		require.NoError(t, err)
		return r.N == 3
	}, 10*time.Second, 50*time.Millisecond)
	r, err := find.Newest(ctx, asset)
	require.NoError(t, err)
	require.Equal(t, want, r)
	require.True(t, r.Gone())
}

// TestKnownLooksAhead: who only asks what is known without waiting learns news, too.
func TestKnownLooksAhead(t *testing.T) {
	f := newFixture(t)
	s, _ := objectstest.New(t, 1)
	find := playback.NewFinder(s, func() *token.KeySet { return f.keys }, slog.New(slog.DiscardHandler))
	_, ok := find.Known(asset)
	require.False(t, ok)
	f.put(s.Own(), rec(1))
	_, err := find.Newest(t.Context(), asset)
	require.NoError(t, err)
	f.put(s.Own(), rec(2))
	require.Eventually(t, func() bool {
		r, ok := find.Known(asset)
		if !ok { // this process had no turn for half a second
			r, err = find.Newest(t.Context(), asset)
			require.NoError(t, err)
		}
		return r.N == 2
	}, 10*time.Second, 10*time.Millisecond)
}

func TestFinderServesTheLastKnownWhenStoresAreGone(t *testing.T) {
	f := newFixture(t)
	m := testenv.MinIO(t)
	s, _ := objectstest.Over(t, []testenv.S3Server{m.S3Server})
	find := playback.NewFinder(s, func() *token.KeySet { return f.keys }, slog.New(slog.DiscardHandler))
	f.put(s.Own(), rec(1))
	_, err := find.Newest(t.Context(), asset)
	require.NoError(t, err)
	require.NoError(t, m.Kill())
	find.Hint(asset)
	r, err := find.Newest(t.Context(), asset)
	require.NoError(t, err)
	require.Equal(t, int64(1), r.N)

	// One that hangs holds nobody up.
	require.NoError(t, m.Start(t.Context()))
	require.NoError(t, m.Hang())
	find.Hint(asset)
	began := time.Now()
	for range 20 {
		r, err := find.Newest(t.Context(), asset)
		require.NoError(t, err)
		require.Equal(t, int64(1), r.N)
	}
	require.Less(t, time.Since(began), 3*time.Second, "one waits, not all twenty")
	require.NoError(t, m.Resume())
	require.NoError(t, m.Kill())

	cold := playback.NewFinder(s, func() *token.KeySet { return f.keys }, slog.New(slog.DiscardHandler))
	_, err = cold.Newest(t.Context(), asset)
	require.ErrorIs(t, err, objects.ErrUnavailable)
}

func TestVerifyRefuses(t *testing.T) {
	f := newFixture(t)
	other, err := token.NewSigner("record-1")
	require.NoError(t, err)
	forged, err := playback.Sign(rec(1), other)
	require.NoError(t, err)
	_, err = playback.Verify(forged, f.keys, time.Now())
	require.ErrorIs(t, err, token.ErrForged)
	_, err = playback.Verify([]byte("{}"), f.keys, time.Now())
	require.ErrorIs(t, err, token.ErrForged)
	_, err = playback.Sign(playback.Record{Asset: "../x", N: 1}, f.signer)
	require.Error(t, err)

	// A pinned asset's record goes everywhere, so its words stay out of it.
	pinned := rec(1)
	pinned.Placement = objects.Placement{Mode: objects.PlacePinned, Regions: []string{"eu"}}
	b, err := playback.Sign(pinned, f.signer)
	require.NoError(t, err)
	r, err := playback.Verify(b, f.keys, time.Now())
	require.NoError(t, err)
	require.Empty(t, r.Title)
}

func TestKeysFollowTheJournal(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := newFixture(t)
	s, _ := objectstest.New(t, 1)
	keys := journal.NewKeys(s, f.root.Public(), slog.New(slog.DiscardHandler))
	require.Error(t, keys.Ready(ctx))
	done := make(chan error)
	go func() { done <- keys.Run(ctx) }()
	require.NoError(t, s.Own().Put(ctx, objects.JournalKey(objects.KeysJournal, 1), objects.Bytes(f.raw)))
	require.Eventually(t, func() bool { return keys.Ready(ctx) == nil }, 5*time.Second, 20*time.Millisecond)

	next := *f.keys
	next.N = 2
	next.Keys = append([]token.Key(nil), f.keys.Keys...)
	next.Keys[0].Revoked = true
	b, err := token.SignKeySet(next, f.root)
	require.NoError(t, err)
	require.NoError(t, s.Own().Put(ctx, objects.JournalKey(objects.KeysJournal, 2), objects.Bytes(b)))
	require.Eventually(t, func() bool { return keys.Current().N == 2 }, 5*time.Second, 20*time.Millisecond)
	require.True(t, keys.Current().Revoked(next.Keys[0].KID))

	// A key set that the root didn't sign changes nothing.
	mallory, err := token.NewSigner("root")
	require.NoError(t, err)
	next.N = 3
	b, err = token.SignKeySet(next, mallory)
	require.NoError(t, err)
	require.NoError(t, s.Own().Put(ctx, objects.JournalKey(objects.KeysJournal, 3), objects.Bytes(b)))
	require.Never(t, func() bool { return keys.Current().N == 3 }, 1500*time.Millisecond, 100*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}
