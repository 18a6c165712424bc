package repair

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// inventory tells what the world has written.
type inventory struct {
	w    *world
	more map[string]catalog.Inventory // what else is known of an asset
}

func (i inventory) Inventories(_ context.Context, area catalog.Area, after string, limit int) ([]catalog.Inventory, error) {
	var out []catalog.Inventory
	for _, id := range slices.Sorted(maps.Keys(i.w.catalog.holdings)) {
		if id <= after || len(out) == limit {
			continue
		}
		inv := i.more[id]
		inv.Asset, inv.Holding = id, i.w.catalog.holdings[id]
		for key, b := range i.w.want {
			if !strings.HasPrefix(key, string(area)+"/"+id+"/") {
				continue
			}
			if inv.Gone && !strings.Contains(key, "/playback/") || area == catalog.AreaWork {
				continue
			}
			n := catalog.Named{Key: key, Size: -1}
			if !strings.Contains(key, "/playback/") && !strings.Contains(key, "/init-") {
				sum := sha256.Sum256(b)
				n.Size, n.SHA256 = int64(len(b)), hex.EncodeToString(sum[:])
			}
			inv.Named = append(inv.Named, n)
		}
		out = append(out, inv)
	}
	return out, nil
}

func (w *world) check(i inventory, read bool, settled time.Duration) Report {
	w.t.Helper()
	c := &Check{Store: w.stores["us"], Catalog: i, Settled: settled, Read: read, Parallel: 4, Copies: 2}
	r, err := c.Run(w.t.Context())
	require.NoError(w.t, err)
	return r
}

func (w *world) bucket(name string) *objects.Bucket { return w.stores[name].Own() }

// TestCheck: a healthy platform has no findings, and each harm done to it is found
// where it was done.
func TestCheck(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 3))
	i := inventory{w: w, more: map[string]catalog.Inventory{}}
	var all []string
	for range inventoryPage + 3 { // more than a page
		id := token.NewID()
		w.catalog.set(func() { w.catalog.holdings[id] = catalog.Holding{} })
		all = append(all, id)
	}
	one, two := w.asset("eu", objects.Placement{}), w.asset("us", objects.Placement{Mode: objects.PlaceTwo})
	pinned := w.asset("ap", objects.Placement{Mode: objects.PlacePinned, Regions: []string{"ap"}})
	gone := w.asset("eu", objects.Placement{})
	w.put("eu", objects.JournalKey(objects.PurgesJournal, 1), []byte("p"), objects.Placement{})
	for _, id := range []string{one, two, pinned, gone} {
		i.more[id] = catalog.Inventory{Working: true} // their remuxes may be there
	}
	stop := w.run("eu", "us", "ap")
	require.Eventually(t, func() bool {
		return len(w.held("ap")) >= 10 && w.held("us")[objects.MasterKey(one, "r1", 1)] && w.held("ap")[objects.MasterKey(one, "r1", 1)]
	}, 20*time.Second, 50*time.Millisecond)
	// Its names hold no hashes here.
	require.Eventually(t, func() bool { return w.check(i, false, 0).Err() == nil }, 20*time.Second, 200*time.Millisecond)
	stop()
	r := w.check(i, false, 0)
	require.NoError(t, r.Err(), "%+v", r)
	require.EqualValues(t, len(all)+4, r.Assets)
	require.Empty(t, r.Findings)

	segment := func(id string, n int) string { return objects.SegmentKey(id, "r1", "v360", hls.SegmentPath(0, 1, n)) }
	found := func(r Report) map[string]string {
		out := map[string]string{}
		for _, f := range r.Findings {
			out[f.Kind+" "+f.Region+" "+f.Key] = f.Detail
		}
		return out
	}
	del := func(key string, regions ...string) {
		for _, name := range regions {
			require.NoError(t, w.bucket(name).Delete(t.Context(), key))
		}
	}
	spoil := func(region, key string, b []byte) {
		del(key, region)
		require.NoError(t, w.bucket(region).Put(t.Context(), key, objects.Bytes(b)))
	}
	del(segment(one, 0), "ap")
	del(segment(one, 1), "eu", "us", "ap")
	del(objects.MasterKey(two, "r1", 1), "us", "eu", "ap")
	require.NoError(t, w.bucket("us").Put(t.Context(), objects.MasterKey(two, "r1", 1), objects.Bytes(w.want[objects.MasterKey(two, "r1", 1)])))
	del(objects.JournalKey(objects.PlaybackJournal(pinned), 1), "eu")
	del(objects.JournalKey(objects.PurgesJournal, 1), "us")
	spoil("us", objects.RecordKey(one, "r1", "v0", 0), []byte("short"))
	same := slices.Clone(w.want[objects.RecordKey(one, "r1", "v0", 1)])
	same[0]++
	spoil("ap", objects.RecordKey(one, "r1", "v0", 1), same)
	loser := objects.SegmentKey(one, "r1", "v360", hls.SegmentPath(0, 2, 0))
	stranger := objects.PartKey(token.NewID(), 0, "x")
	for _, key := range []string{loser, stranger, "streams/x/y"} {
		require.NoError(t, w.bucket("ap").Put(t.Context(), key, objects.Bytes([]byte("?"))))
	}
	pending := objects.MasterKey(one, "r1", 2)
	require.NoError(t, w.bucket("eu").Put(t.Context(), pending, objects.Bytes([]byte("m"))))
	m := i.more[one]
	m.Pending = map[string]bool{pending: true}
	i.more[one] = m
	w.catalog.set(func() { w.catalog.holdings[gone] = catalog.Holding{Gone: true} })
	i.more[gone] = catalog.Inventory{Leaving: []string{objects.RunPrefix(gone, "r1"), "work/" + gone + "/"}}

	r = w.check(i, false, time.Hour)
	f := found(r)
	require.Len(t, f, 9, "%v", f)
	for _, want := range []string{
		"missing ap " + segment(one, 0),
		"missing eu " + segment(one, 1), "missing us " + segment(one, 1), "missing ap " + segment(one, 1), "lost  " + segment(one, 1),
		"short  " + objects.MasterKey(two, "r1", 1),
		"missing eu " + objects.JournalKey(objects.PlaybackJournal(pinned), 1), "missing us " + objects.JournalKey(objects.PurgesJournal, 1),
		"wrong us " + objects.RecordKey(one, "r1", "v0", 0),
	} {
		require.Contains(t, f, want)
	}
	require.EqualError(t, r.Err(), "stores and catalog differ: 1 lost, 1 in too few regions, 1 wrong, 6 missing")

	r = w.check(i, true, 0)
	f = found(r)
	for want, detail := range map[string]string{
		"foreign ap " + loser: reasonUnnamed, "foreign ap " + stranger: reasonUnknown, "foreign ap streams/x/y": reasonForm,
	} {
		require.Equal(t, detail, f[want], "%v", f)
	}
	require.Contains(t, f["wrong ap "+objects.RecordKey(one, "r1", "v0", 1)], "want")
	// The source of the deleted asset has no clean-up to wait for here.
	require.Equal(t, reasonRemoved, f["foreign eu "+objects.PartKey(gone, 0, "x")])
	for _, x := range r.Regions {
		require.NotZero(t, x.Read)
	}
	b, err := json.Marshal(r)
	require.NoError(t, err)
	var back Report
	require.NoError(t, json.Unmarshal(b, &back))
	var text strings.Builder
	require.NoError(t, r.Print(&text))
	require.Contains(t, text.String(), "REGION")
}

// TestCheckWithoutARegion: what is left is compared, and the region is named.
func TestCheckWithoutARegion(t *testing.T) {
	servers := []*testenv.MinIOServer{testenv.MinIO(t), testenv.MinIO(t), testenv.MinIO(t)}
	w := newWorld(t, []testenv.S3Server{servers[0].S3Server, servers[1].S3Server, servers[2].S3Server})
	id := w.asset("eu", objects.Placement{})
	require.NoError(t, servers[2].Hang())
	r := w.check(inventory{w: w, more: map[string]catalog.Inventory{id: {Working: true}}}, false, 0)
	require.ErrorContains(t, r.Err(), "ap not reached")
	for _, x := range r.Regions {
		require.Equal(t, x.Region != "ap", x.Reached, "%+v", x)
		require.Zero(t, x.Missing+x.Foreign+x.Wrong)
	}
	require.Zero(t, r.Short)
}
