package catalog

import (
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
)

func TestCreateAssetIsIdempotent(t *testing.T) {
	c := fresh(t)
	n := NewAsset{Owner: "ann", Title: "x", Region: "eu", IdempotencyKey: "k"}
	var mu sync.Mutex
	ids := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			a, err := c.CreateAsset(t.Context(), n)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[a.ID]++
		})
	}
	wg.Wait()
	require.Len(t, ids, 1)
	require.Equal(t, int64(1), one[int64](t, c, "SELECT count(*) FROM assets"))

	n.Title = "y"
	_, err := c.CreateAsset(t.Context(), n)
	require.ErrorIs(t, err, ErrKeyReuse)
	n.Owner = "bob" // keys are an owner's own
	_, err = c.CreateAsset(t.Context(), n)
	require.NoError(t, err)
}

func TestAssets(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	want := map[string]bool{}
	for range 5 {
		a, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
		require.NoError(t, err)
		require.True(t, hls.ValidAssetID(a.ID))
		require.Equal(t, playback.Public, a.Visibility)
		require.Equal(t, objects.PlaceAll, a.Placement.Mode)
		want[a.ID] = true
	}
	// Rows of the same instant must neither be lost nor doubled between pages.
	sql(t, c, "UPDATE assets SET created_at = now()")
	got := map[string]bool{}
	cursor := ""
	for pages := 0; ; pages++ {
		page, next, err := c.ListAssets(ctx, "ann", "", cursor, 2)
		require.NoError(t, err)
		for _, a := range page {
			require.False(t, got[a.ID])
			got[a.ID] = true
		}
		if next == "" {
			require.Equal(t, 2, pages)
			break
		}
		cursor = next
	}
	require.Equal(t, want, got)
	page, _, err := c.ListAssets(ctx, "ann", Ready, "", 0)
	require.NoError(t, err)
	require.Empty(t, page)
	page, _, err = c.ListAssets(ctx, "bob", "", "", 0)
	require.NoError(t, err)
	require.Empty(t, page)
	_, _, err = c.ListAssets(ctx, "ann", "", "?", 0)
	require.ErrorIs(t, err, ErrCursor)

	pinned, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu", Placement: objects.Placement{Mode: objects.PlacePinned, Regions: []string{"us"}}})
	require.NoError(t, err)
	pinned, err = c.GetAsset(ctx, "", pinned.ID)
	require.NoError(t, err)
	require.Equal(t, objects.Placement{Mode: objects.PlacePinned, Regions: []string{"us"}}, pinned.Placement)

	_, err = c.GetAsset(ctx, "bob", pinned.ID)
	require.ErrorIs(t, err, ErrNotFound)
	title, private := "new", playback.Private
	_, err = c.UpdateAsset(ctx, "bob", pinned.ID, &title, nil)
	require.ErrorIs(t, err, ErrNotFound)
	changed, err := c.UpdateAsset(ctx, "ann", pinned.ID, &title, &private)
	require.NoError(t, err)
	require.Equal(t, []any{title, private}, []any{changed.Title, changed.Visibility})

	require.ErrorIs(t, c.DeleteAsset(ctx, "bob", pinned.ID), ErrNotFound)
	require.NoError(t, c.DeleteAsset(ctx, "ann", pinned.ID))
	require.ErrorIs(t, c.DeleteAsset(ctx, "ann", pinned.ID), ErrNotFound)
	_, err = c.GetAsset(ctx, "ann", pinned.ID)
	require.ErrorIs(t, err, ErrNotFound)
}

func TestUpload(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	a, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	_, err = c.CreateUpload(ctx, NewUpload{Owner: "bob", Asset: a.ID, Size: 30})
	require.ErrorIs(t, err, ErrNotFound)
	u, err := c.CreateUpload(ctx, NewUpload{Owner: "ann", Asset: a.ID, Size: -1, Filename: "a.mp4", Metadata: map[string]string{"k": "v"}})
	require.NoError(t, err)
	_, err = c.CreateUpload(ctx, NewUpload{Owner: "ann", Asset: a.ID, Size: 30})
	require.ErrorIs(t, err, ErrState)

	part := func(n int, id string, start, size int64) Part {
		return Part{N: n, ID: id, Start: start, Size: size, SHA256: hash(id), Regions: []string{"eu", "us"}}
	}
	require.NoError(t, c.AppendPart(ctx, u.ID, part(0, "a", 0, 20), false))
	require.NoError(t, c.AppendPart(ctx, u.ID, part(0, "a", 0, 20), false), "repeated after a lost answer")
	var offset *OffsetError
	require.ErrorAs(t, c.AppendPart(ctx, u.ID, part(0, "other", 0, 20), false), &offset)
	require.Equal(t, int64(20), offset.Want)
	require.ErrorAs(t, c.AppendPart(ctx, u.ID, part(1, "b", 30, 1), false), &offset)
	require.ErrorAs(t, c.AppendPart(ctx, u.ID, part(2, "b", 20, 1), false), &offset)
	require.ErrorIs(t, c.DeclareSize(ctx, u.ID, 10), ErrState)
	require.NoError(t, c.DeclareSize(ctx, u.ID, 30))
	require.ErrorIs(t, c.DeclareSize(ctx, u.ID, 31), ErrState)
	require.ErrorIs(t, c.AppendPart(ctx, u.ID, part(1, "b", 20, 11), false), ErrState)
	_, err = c.FinishUpload(ctx, u.ID)
	require.ErrorAs(t, err, &offset)

	// Of many that write the same place one wins.
	var wg sync.WaitGroup
	won := make(chan string, 8)
	for _, id := range []string{"b0", "b1", "b2", "b3"} {
		wg.Go(func() {
			if c.AppendPart(ctx, u.ID, part(1, id, 20, 10), false) == nil {
				won <- id
			}
		})
	}
	wg.Wait()
	close(won)
	require.Len(t, won, 1)

	for range 2 {
		got, err := c.FinishUpload(ctx, u.ID)
		require.NoError(t, err)
		require.Equal(t, Received, got.State)
		require.Equal(t, int64(30), got.Size)
	}
	require.Equal(t, int64(1), one[int64](t, c, "SELECT count(*) FROM tasks"))
	u, err = c.GetUpload(ctx, u.ID)
	require.NoError(t, err)
	require.Equal(t, []any{"finished", int64(30), 2, map[string]string{"k": "v"}}, []any{u.State, u.Received, u.Parts, u.Metadata})
	s, err := c.Source(ctx, a.ID)
	require.NoError(t, err)
	require.True(t, s.Complete)
	require.Equal(t, []int64{30, 0, 20}, []int64{s.Size, s.Parts[0].Start, s.Parts[1].Start})
	require.Equal(t, "sources/"+a.ID+"/parts/00001-"+<-won, s.Key(s.Parts[1]))
	require.ErrorIs(t, c.FailUpload(ctx, u.ID, Failure{Code: "x"}), ErrState)
}

func TestUploadsThatRestExpire(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	a, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
	require.NoError(t, err)
	_, err = c.CreateUpload(ctx, NewUpload{Owner: "ann", Asset: a.ID, Size: 30})
	require.NoError(t, err)
	n, err := c.ExpireUploads(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
	sql(t, c, "UPDATE uploads SET expires_at = now() - interval '1 second'")
	n, err = c.ExpireUploads(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	got, err := c.GetAsset(ctx, "ann", a.ID)
	require.NoError(t, err)
	require.Equal(t, Failed, got.State)
	require.Equal(t, UploadExpired, got.Failure.Code)

	// Its objects go, in two passes.
	for pass := range 2 {
		cl, err := c.ClaimCleanup(ctx, "j")
		require.NoError(t, err)
		require.Nil(t, cl, "before its time")
		sql(t, c, "UPDATE tasks SET not_before = now()")
		cl, err = c.ClaimCleanup(ctx, "j")
		require.NoError(t, err)
		require.NotNil(t, cl, pass)
		require.Equal(t, []string{"sources/" + a.ID + "/", "work/" + a.ID + "/"}, cl.Prefixes)
		require.NoError(t, c.EndCleanup(ctx, cl, nil))
	}
	require.Equal(t, "done", one[string](t, c, "SELECT state FROM tasks"))
}

func TestAssetsNobodyUploadsToExpire(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	ids := map[string]string{}
	for _, name := range []string{"old", "begun", "new"} {
		a, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
		require.NoError(t, err)
		ids[name] = a.ID
		if name != "new" {
			sql(t, c, "UPDATE assets SET created_at = now() - interval '8 days' WHERE id = $1", a.ID)
		}
	}
	_, err := c.CreateUpload(ctx, NewUpload{Owner: "ann", Asset: ids["begun"], Size: 30})
	require.NoError(t, err)
	n, err := c.ExpireUnused(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	for name, want := range map[string]State{"old": Failed, "begun": Waiting, "new": Waiting} {
		got := state(t, c, ids[name])
		if name == "begun" && got == Uploading {
			got = Waiting
		}
		require.Equal(t, want, got, name)
	}
	a, err := c.GetAsset(ctx, "ann", ids["old"])
	require.NoError(t, err)
	require.Equal(t, UploadExpired, a.Failure.Code)
	_, err = c.CreateUpload(ctx, NewUpload{Owner: "ann", Asset: ids["old"], Size: 30})
	require.ErrorIs(t, err, ErrState)
}

// Whoever takes the last part may die before it marks the upload complete; its
// creator has been told of every byte.
func TestCompleteUploadsAreFinished(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	open := func(size int64, parts ...int64) string {
		a, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
		require.NoError(t, err)
		u, err := c.CreateUpload(ctx, NewUpload{Owner: "ann", Asset: a.ID, Size: size})
		require.NoError(t, err)
		start := int64(0)
		for n, part := range parts {
			require.NoError(t, c.AppendPart(ctx, u.ID, Part{N: n, ID: "p", Start: start, Size: part, SHA256: hash("p"), Regions: []string{"eu", "us"}}, false))
			start += part
		}
		return a.ID
	}
	complete, short, deferred := open(30, 20, 10), open(30, 20), open(-1, 30)
	n, err := c.FinishUploads(ctx)
	require.NoError(t, err)
	require.Zero(t, n, "its own request may be about to")
	sql(t, c, "UPDATE uploads SET expires_at = expires_at - interval '6 seconds'")
	n, err = c.FinishUploads(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	for id, want := range map[string]State{complete: Received, short: Uploading, deferred: Uploading} {
		a, err := c.GetAsset(ctx, "ann", id)
		require.NoError(t, err)
		require.Equal(t, want, a.State)
	}
	require.Equal(t, 1, one[int](t, c, "SELECT count(*) FROM tasks WHERE kind = 'plan'"))
	n, err = c.FinishUploads(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
}

// Deleting an asset while parts are still being added must neither deadlock nor
// leave a part that counts.
func TestDeleteDuringUpload(t *testing.T) {
	c := fresh(t)
	ctx := t.Context()
	for range 5 {
		a, err := c.CreateAsset(ctx, NewAsset{Owner: "ann", Region: "eu"})
		require.NoError(t, err)
		u, err := c.CreateUpload(ctx, NewUpload{Owner: "ann", Asset: a.ID, Size: 1000})
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := range 1000 {
				err := c.AppendPart(ctx, u.ID, Part{N: n, ID: "p", Start: int64(n), Size: 1, SHA256: hash("p"), Regions: []string{"eu"}}, false)
				if err != nil {
					if !errors.Is(err, ErrState) {
						t.Errorf("append: %v", err)
					}
					return
				}
			}
		})
		wg.Go(func() {
			if err := c.DeleteAsset(ctx, "ann", a.ID); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
		wg.Wait()
		require.Equal(t, "failed", one[string](t, c, "SELECT state FROM uploads WHERE id = $1", u.ID))
	}
}
