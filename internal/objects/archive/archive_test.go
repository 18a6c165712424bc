package archive

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// world is a platform's stores, and an archive beside them.
type world struct {
	t       *testing.T
	archive *Archive
	table   *region.Table
	servers []testenv.S3Server
}

func newWorld(t *testing.T) *world {
	servers := testenv.S3(t, 3)
	store, table := objectstest.Over(t, servers)
	t.Cleanup(store.Close)
	away := testenv.S3(t, 1)[0] // another bucket
	b, err := objects.OpenBucket("archive", away.Endpoint, objectstest.Config(away))
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return &world{t, &Archive{Bucket: b, Store: store, Parallel: 4}, table, servers}
}

// lose gives the platform empty stores.
func (w *world) lose() {
	store, table := objectstest.Over(w.t, testenv.S3(w.t, 3))
	w.t.Cleanup(store.Close)
	w.archive.Store, w.table = store, table
}

func (w *world) put(key string, p objects.Placement) catalog.Named {
	w.t.Helper()
	b := []byte(key + rand.Text())
	_, err := w.archive.Store.Put(w.t.Context(), key, objects.Bytes(b), p)
	require.NoError(w.t, err)
	sum := sha256.Sum256(b)
	return catalog.Named{Key: key, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
}

func (w *world) save() *Report {
	w.t.Helper()
	r, err := w.archive.Save(w.t.Context())
	require.NoError(w.t, err)
	return r
}

// holders are the regions that hold a key.
func (w *world) holders(key string) []string {
	w.t.Helper()
	var out []string
	for _, b := range w.archive.Store.Regions() {
		if _, err := b.Stat(w.t.Context(), key); err == nil {
			out = append(out, b.Region)
		} else {
			require.ErrorIs(w.t, err, objects.ErrNotFound)
		}
	}
	slices.Sort(out)
	return out
}

// inventory is what a catalog knew at a time.
type inventory struct {
	areas  map[catalog.Area][]catalog.Inventory
	purges int64
}

func (i inventory) Purges(context.Context) (int64, error) { return i.purges, nil }

func (i inventory) Inventories(_ context.Context, area catalog.Area, after string, limit int) ([]catalog.Inventory, error) {
	var out []catalog.Inventory
	for _, inv := range i.areas[area] {
		if inv.Asset > after && len(out) < limit {
			out = append(out, inv)
		}
	}
	return out, nil
}

func TestRestoreOfAnEarlierTime(t *testing.T) {
	w := newWorld(t)
	one, pinned, later := token.NewID(), token.NewID(), token.NewID()
	inAP := objects.Placement{Mode: objects.PlacePinned, Regions: []string{"ap"}}
	sources, streams := catalog.Inventory{Asset: one}, catalog.Inventory{Asset: one, Extras: []string{objects.RunPrefix(one, "r1") + "extra/"}}
	sources.Named = append(sources.Named, w.put(objects.PartKey(one, 0, "x"), objects.Placement{}))
	for _, key := range []string{objects.InitKey(one, "r1", "v360", "init-01234567.mp4"), objects.RecordKey(one, "r1", "v0", 0), objects.MasterKey(one, "r1", 1),
		objects.JournalKey(objects.PlaybackJournal(one), 1)} {
		streams.Named = append(streams.Named, w.put(key, objects.Placement{}))
	}
	extra := w.put(objects.ExtraKey(one, "r1", "poster", 1), objects.Placement{})
	pinnedStreams := catalog.Inventory{Asset: pinned, Holding: catalog.Holding{Placement: inAP},
		Named: []catalog.Named{w.put(objects.MasterKey(pinned, "r1", 1), inAP)}}
	purge := w.put(objects.JournalKey(objects.PurgesJournal, 1), objects.Placement{})
	byAsset := []catalog.Inventory{streams, pinnedStreams}
	slices.SortFunc(byAsset, func(a, b catalog.Inventory) int { return strings.Compare(a.Asset, b.Asset) })
	then := inventory{areas: map[catalog.Area][]catalog.Inventory{catalog.AreaSources: {sources}, catalog.AreaStreams: byAsset}, purges: 1}

	first := w.save()
	require.EqualValues(t, 8, first.Objects)
	require.Zero(t, first.Present)

	// What comes after the time that is restored.
	after := []catalog.Named{
		w.put(objects.JournalKey(objects.PlaybackJournal(one), 2), objects.Placement{}),
		w.put(objects.MasterKey(one, "r1", 2), objects.Placement{}),
		w.put(objects.ExtraKey(one, "r2", "poster", 1), objects.Placement{}),
		w.put(objects.PartKey(later, 0, "x"), objects.Placement{}),
		w.put(objects.JournalKey(objects.PurgesJournal, 2), objects.Placement{}),
	}
	second := w.save()
	require.EqualValues(t, len(after), second.Objects)
	require.EqualValues(t, 8, second.Present)

	_, err := w.archive.Restore(t.Context(), then, false)
	require.ErrorIs(t, err, ErrNotEmpty)
	w.lose()
	r, err := w.archive.Restore(t.Context(), then, false)
	require.NoError(t, err)
	require.EqualValues(t, 8, r.Objects)
	require.EqualValues(t, len(after), r.Later)
	for _, n := range after {
		require.Empty(t, w.holders(n.Key), n.Key)
	}
	everywhere := []string{"ap", "eu", "us"}
	for _, n := range append(streams.Named, extra, purge) {
		require.Equal(t, everywhere, w.holders(n.Key), n.Key)
		info, err := w.archive.Store.Own().Stat(t.Context(), n.Key)
		require.NoError(t, err)
		require.Equal(t, n.SHA256, info.SHA256)
	}
	require.Len(t, w.holders(sources.Named[0].Key), 2)
	require.Equal(t, []string{"ap"}, w.holders(pinnedStreams.Named[0].Key))

	// Numbers are given again from here on, so the archive takes no more.
	_, err = w.archive.Save(t.Context())
	require.ErrorIs(t, err, ErrRestoredFrom)
	// Going on with a restore changes nothing that is there.
	again, err := w.archive.Restore(t.Context(), then, true)
	require.NoError(t, err)
	require.EqualValues(t, 8, again.Objects)
}

func TestRestoreNamesWhatIsNotAsTheCatalogWants(t *testing.T) {
	w := newWorld(t)
	asset := token.NewID()
	good, other, missing := w.put(objects.PartKey(asset, 0, "x"), objects.Placement{}), w.put(objects.PartKey(asset, 1, "x"), objects.Placement{}),
		catalog.Named{Key: objects.PartKey(asset, 2, "x"), Size: 3}
	w.save()
	w.lose()
	other.SHA256 = strings.Repeat("0", 64)
	r, err := w.archive.Restore(t.Context(), inventory{areas: map[catalog.Area][]catalog.Inventory{
		catalog.AreaSources: {{Asset: asset, Named: []catalog.Named{good, other, missing}}}}}, false)
	require.ErrorContains(t, err, "2 objects failed")
	require.EqualValues(t, 2, r.Failed)
	require.Contains(t, strings.Join(r.Findings, "\n"), missing.Key+": the catalog names it")
	require.Len(t, w.holders(good.Key), 2)
	require.Empty(t, w.holders(other.Key))
}

func TestTrim(t *testing.T) {
	w := newWorld(t)
	asset, gone := token.NewID(), token.NewID()
	kept := w.put(objects.PartKey(asset, 0, "x"), objects.Placement{})
	w.put(objects.PartKey(gone, 0, "x"), objects.Placement{})
	w.save()
	require.NoError(t, w.archive.Store.DeletePrefix(t.Context(), objects.SourcePrefix(gone)))
	r, err := w.archive.Trim(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Objects)
	_, err = w.archive.Bucket.Stat(t.Context(), kept.Key)
	require.NoError(t, err)
	_, err = w.archive.Bucket.Stat(t.Context(), objects.PartKey(gone, 0, "x"))
	require.ErrorIs(t, err, objects.ErrNotFound)
}

// A region that can't be listed doesn't keep the others' objects out, and nothing
// is taken for deleted that it may have.
func TestARegionIsAway(t *testing.T) {
	w := newWorld(t)
	asset := token.NewID()
	key := w.put(objects.PartKey(asset, 0, "x"), objects.Placement{}).Key
	w.table.Regions[2].S3 = "http://127.0.0.1:9"
	store, err := objects.New(w.table, "eu", objectstest.Config(w.servers[0]), nil)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	w.archive.Store = store
	r, err := w.archive.Save(t.Context())
	require.ErrorContains(t, err, "ap could not be listed")
	require.EqualValues(t, 1, r.Objects)
	_, err = w.archive.Bucket.Stat(t.Context(), key)
	require.NoError(t, err)
	_, err = w.archive.Trim(t.Context())
	require.ErrorContains(t, err, "nothing more is removed")
}
