package catalog

import (
	"encoding/json"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
)

// purgeOf reads entry n of the purges journal without checking its signature.
func purgeOf(t *testing.T, m *memory, n int64) journal.Purge {
	t.Helper()
	key := objects.JournalKey(objects.PurgesJournal, n)
	eventually(t, key, func() bool { return m.get(key) != nil })
	jws, err := jose.ParseSignedCompact(string(m.get(key)), []jose.SignatureAlgorithm{jose.EdDSA})
	require.NoError(t, err)
	var p journal.Purge
	require.NoError(t, json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &p))
	require.Equal(t, n, p.N)
	return p
}

// TestDeletingPurges: with the deletion the purge is sure to follow, and names
// what edges were told so far; what never was told of needs none.
func TestDeletingPurges(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	m := &memory{}
	stop := startPublisher(t, c, m, &sink{})
	defer stop()
	silent, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	require.NoError(t, c.DeleteAsset(ctx, "ann", silent.ID))

	id := planned(t, c, false)
	commitVideo(t, c, id, "v0", 0, 1, false, 900_000)
	commitAudio(t, c, id, claim(t, c, TrackTaskID(id, "r1", "a0", 0)), 0, false)
	eventually(t, "playable", func() bool { return m.get(objects.JournalKey(objects.PlaybackJournal(id), 1)) != nil })
	settled(t, c)
	last := one[int64](t, c, "SELECT n FROM sequences WHERE scope = $1", "playback/"+id)
	other, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	require.NoError(t, c.DeleteAsset(ctx, "", id))

	p := purgeOf(t, m, 1)
	require.Equal(t, []journal.Void{{Asset: id, N: last}}, p.Assets)
	eventually(t, "tombstone", func() bool { return m.get(objects.JournalKey(objects.PlaybackJournal(id), last+1)) != nil })
	require.True(t, said(t, m, id, last+1).Gone())

	// Revoked tokens are found from any later purge.
	require.NoError(t, c.RevokeTokens(ctx, "ann", other.ID, []string{"x", "y"}))
	require.NoError(t, c.RevokeTokens(ctx, "ann", other.ID, []string{"z"}))
	require.ErrorIs(t, c.RevokeTokens(ctx, "bob", other.ID, []string{"x"}), ErrNotFound)
	require.ErrorIs(t, c.RevokeTokens(ctx, "ann", id, []string{"x"}), ErrNotFound, "deleted")
	require.Equal(t, []string{other.ID + "/x", other.ID + "/y"}, purgeOf(t, m, 2).JTIs)
	require.Zero(t, purgeOf(t, m, 2).Revoking)
	require.Equal(t, []string{other.ID + "/z"}, purgeOf(t, m, 3).JTIs)
	require.Equal(t, int64(2), purgeOf(t, m, 3).Revoking)
	settled(t, c)
	require.Len(t, m.keys(objects.PurgesJournal), 3)
}

func TestHoldings(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	kept, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu", Placement: objects.Placement{Mode: objects.PlacePinned, Regions: []string{"us"}}})
	require.NoError(t, err)
	gone, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu", Visibility: playback.Private})
	require.NoError(t, err)
	require.NoError(t, c.DeleteAsset(ctx, "ann", gone.ID))
	unknown := NewID()
	got, err := c.Holdings(ctx, []string{kept.ID, gone.ID, unknown})
	require.NoError(t, err)
	require.Equal(t, map[string]Holding{
		kept.ID: {Placement: objects.Placement{Mode: objects.PlacePinned, Regions: []string{"us"}}},
		gone.ID: {Placement: objects.Placement{Mode: objects.PlaceAll}, Gone: true},
	}, got)

	// What was cleaned up once can be cleaned up again.
	sql(t, c, "UPDATE tasks SET not_before = now()")
	for range 2 {
		cl, err := c.ClaimCleanup(ctx, "test")
		require.NoError(t, err)
		require.NotNil(t, cl)
		remains, err := c.Remains(ctx, []string{gone.ID})
		require.NoError(t, err)
		require.Empty(t, remains[gone.ID].Covers(objects.SourcePrefix(gone.ID)+"x"), "not ended yet")
		require.NoError(t, c.EndCleanup(ctx, cl, nil))
		sql(t, c, "UPDATE tasks SET not_before = now()")
	}
	remains, err := c.Remains(ctx, []string{gone.ID, kept.ID, unknown})
	require.NoError(t, err)
	require.Len(t, remains, 2)
	require.Empty(t, remains[kept.ID].Covers(objects.SourcePrefix(kept.ID)+"x"))
	task := remains[gone.ID].Covers(objects.SourcePrefix(gone.ID) + "x")
	require.NotEmpty(t, task)
	require.NoError(t, c.RepeatCleanup(ctx, task))
	cl, err := c.ClaimCleanup(ctx, "test")
	require.NoError(t, err)
	require.Equal(t, gone.ID, cl.Asset)
	require.NoError(t, c.EndCleanup(ctx, cl, nil))
	cl, err = c.ClaimCleanup(ctx, "test")
	require.NoError(t, err)
	require.Nil(t, cl)
}

func TestWinners(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	id := planned(t, c, false)
	_, err := c.ChunkWinner(ctx, id, 1, "v360", 0)
	require.ErrorIs(t, err, ErrNotFound)
	tk := claim(t, c, TrackTaskID(id, "r1", "v0", 0))
	commit(t, c, tk, chunk(tk, 0, 1, false, video("v360", "v0", 900_000)))
	attempt, err := c.ChunkWinner(ctx, id, 1, "v360", 0)
	require.NoError(t, err)
	require.Equal(t, tk.Attempt, attempt)
	part, err := c.PartWinner(ctx, id, 1)
	require.NoError(t, err)
	require.Equal(t, "y", part)
	_, err = c.PartWinner(ctx, id, 99)
	require.ErrorIs(t, err, ErrNotFound)
}
