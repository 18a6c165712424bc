package keyset

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/token"
)

// newRing is a platform's keys, as they are after its first start.
func newRing(t *testing.T) *Ring {
	dir := t.TempDir()
	require.NoError(t, token.GenerateSecrets(dir, []string{"eu", "us"}))
	store, _ := objectstest.New(t, 2)
	t.Cleanup(store.Close)
	b, err := os.ReadFile(filepath.Join(dir, token.KeySetFile))
	require.NoError(t, err)
	_, err = store.Put(t.Context(), objects.JournalKey(objects.KeysJournal, 1), objects.Bytes(bytes.TrimSpace(b)), objects.Placement{})
	require.NoError(t, err)
	return &Ring{Dir: dir, Store: store}
}

func (r *Ring) signer(t *testing.T, file string) *token.Signer {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.Dir, file))
	require.NoError(t, err)
	s, err := token.ParseSigner(string(b))
	require.NoError(t, err)
	return s
}

// What the old key signed stays right until it is revoked, what the new one signs is right at once.
func TestRotateAndRevoke(t *testing.T) {
	r, ctx := newRing(t), t.Context()
	old := r.signer(t, token.PlaybackKeyFile)
	require.Equal(t, "playback-1", old.KID)
	require.ErrorContains(t, r.Revoke(ctx, "playback-1"), "rotate it first")
	kid, err := r.Rotate(ctx, token.UsePlayback, "")
	require.NoError(t, err)
	require.Equal(t, "playback-2", kid)
	now := r.signer(t, token.PlaybackKeyFile)
	require.Equal(t, kid, now.KID)

	valid := func(s *token.Signer) error {
		ks, err := r.Set(ctx)
		require.NoError(t, err)
		b, err := token.Sign("x", "test", s)
		require.NoError(t, err)
		return token.Verify(b, "test", ks, token.UsePlayback, time.Now(), new(string))
	}
	require.NoError(t, valid(old))
	require.NoError(t, valid(now))
	require.NoError(t, r.Revoke(ctx, "playback-1"))
	require.ErrorIs(t, valid(old), token.ErrRevoked)
	require.NoError(t, valid(now))
	require.ErrorContains(t, r.Revoke(ctx, "playback-9"), "no key")

	// The directory is one a platform starts from, also after its stores were lost.
	require.NoError(t, token.GenerateSecrets(r.Dir, []string{"eu", "us"}))
}

// A region that is added gets a session key before it starts.
func TestKeyOfANewRegion(t *testing.T) {
	r, ctx := newRing(t), t.Context()
	require.ErrorContains(t, token.GenerateSecrets(r.Dir, []string{"eu", "us", "sa"}), "keys rotate session --region")
	kid, err := r.Rotate(ctx, token.UseSession, "sa")
	require.NoError(t, err)
	require.Equal(t, "session-sa-1", kid)
	require.NoError(t, token.GenerateSecrets(r.Dir, []string{"eu", "us", "sa"}))
	require.Equal(t, kid, r.signer(t, token.SessionKeyFile("sa")).KID)
	ks, err := r.Set(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, ks.N)
}

func TestRefused(t *testing.T) {
	r, ctx := newRing(t), t.Context()
	_, err := r.Rotate(ctx, token.UseSession, "")
	require.ErrorContains(t, err, "--region")
	_, err = r.Rotate(ctx, token.UsePlayback, "eu")
	require.ErrorContains(t, err, "only they")
	_, err = r.Rotate(ctx, "dance", "")
	require.ErrorContains(t, err, "playback, record or session")
	_, err = r.Rotate(ctx, token.UseRecord, "")
	require.NoError(t, err)
	require.ErrorContains(t, r.Revoke(ctx, "record-1"), "every video")
}
