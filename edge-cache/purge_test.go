package edgecache

import (
	"context"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

func (w *world) purge(p journal.Purge) {
	w.t.Helper()
	b, err := journal.SignPurge(p, w.signer(token.RecordKeyFile))
	require.NoError(w.t, err)
	w.put(objects.JournalKey(objects.PurgesJournal, p.N), b)
}

func (w *world) waitStatus(path string, want int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		res, _ := w.get(path)
		return res.StatusCode == want
	}, 10*time.Second, 50*time.Millisecond)
}

// keep asks for objects twice, so that they go to disk, and waits until they are there.
func (w *world) keep(paths ...string) {
	w.t.Helper()
	for _, path := range slices.Concat(paths, paths) {
		res, _ := w.get(path)
		require.Equal(w.t, 200, res.StatusCode)
	}
	require.Eventually(w.t, func() bool { return w.edge.cache.Stats().DiskObjects >= len(paths) }, 5*time.Second, 10*time.Millisecond)
}

// TestPurge: what a purge names is refused before any playback record says so,
// is gone from memory and disk for good, and comes back with a later record.
func TestPurge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 2)
	other := record0()
	other.Asset = foreign
	w.video(other, 1)
	w.start("eu-1")
	otherURL := "/v/-/" + foreign + "/r1/v1080/00000-1/00000.m4s"
	w.keep(segURL("-", 0), segURL("-", 1), otherURL)
	w.purge(journal.Purge{N: 1, At: time.Now(), Assets: []journal.Void{{Asset: asset, N: 1}}})
	w.waitStatus(segURL("-", 0), 410)
	require.Eventually(t, func() bool { return w.edge.cache.Stats().DiskObjects == 1 }, 5*time.Second, 10*time.Millisecond)
	res, _ := w.get(otherURL)
	require.Equal(t, 200, res.StatusCode)
	require.Contains(t, res.Header.Get("Cache-Status"), "hit")

	// Lifted by a later record, fetched anew.
	lifted := record0()
	lifted.N = 2
	w.publish(lifted)
	w.waitStatus(segURL("-", 0), 200)
	require.Equal(t, 2, w.proxies[0].gets(segKey(0)))

	// What the purge removed isn't found after a restart; the rest is.
	w.stop()
	w.start("eu-1")
	res, _ = w.get(segURL("-", 1))
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, 2, w.proxies[0].gets(segKey(1)))
	_, _ = w.get(otherURL)
	require.Equal(t, 1, w.proxies[0].gets(objects.SegmentKey(foreign, "r1", "v1080", "00000-1/00000.m4s")))
}

// TestPurgeWhileDown: the edge obeys purges made while it was down before it is ready.
func TestPurgeWhileDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	w.keep(segURL("-", 0))
	w.stop()
	w.purge(journal.Purge{N: 1, At: time.Now(), Assets: []journal.Void{{Asset: foreign, N: 3}}})
	w.purge(journal.Purge{N: 2, At: time.Now(), Assets: []journal.Void{{Asset: asset, N: 1}}})
	w.start("eu-1") // returns once ready
	require.Zero(t, w.edge.cache.Stats().DiskObjects)
	res, _ := w.get(segURL("-", 0))
	require.Equal(t, 410, res.StatusCode, "the old playback record is all there is")
}

// TestCheckpointOlderThanTheJournal: what was purged meanwhile can't be told.
func TestCheckpointOlderThanTheJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	w.keep(segURL("-", 0))
	w.stop()
	w.purge(journal.Purge{N: 7, At: time.Now(), Assets: []journal.Void{{Asset: foreign, N: 1}}})
	w.start("eu-1")
	require.Zero(t, w.edge.cache.Stats().DiskObjects)
	res, _ := w.get(segURL("-", 0))
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, 2, w.proxies[0].gets(segKey(0)))
	// And it follows on from there.
	w.purge(journal.Purge{N: 8, At: time.Now(), Assets: []journal.Void{{Asset: asset, N: 1}}})
	w.waitStatus(segURL("-", 0), 410)
}

// TestRevokedTokens: a token ends with its sessions, also at an edge that starts
// long after and only reads the newest purge and those it leads to.
func TestRevokedTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	rec := record0()
	rec.Visibility = playback.Private
	w.video(rec, 1)
	w.start("eu-1")
	revoked := mint(t, w, token.PlaybackKeyFile, token.Claims{ID: "stolen"})
	good := mint(t, w, token.PlaybackKeyFile, token.Claims{ID: "kept"})
	_, b := w.get("/v/" + revoked + "/" + asset + "/master.m3u8")
	session := regexp.MustCompile(`/v/([^/]+)/`).FindStringSubmatch(string(b))[1]
	for _, tok := range []string{revoked, good, session} {
		res, _ := w.get(segURL(tok, 0))
		require.Equal(t, 200, res.StatusCode)
	}
	w.purge(journal.Purge{N: 1, At: time.Now(), JTIs: []string{journal.TokenName(asset, "stolen"), journal.TokenName(foreign, "kept")}})
	w.purge(journal.Purge{N: 2, At: time.Now(), JTIs: []string{"another"}, Revoking: 1})
	w.purge(journal.Purge{N: 3, At: time.Now(), Assets: []journal.Void{{Asset: foreign, N: 1}}, Revoking: 2})
	check := func() {
		t.Helper()
		w.waitStatus(segURL(revoked, 0), 403)
		w.waitStatus(segURL(session, 0), 403)
		res, _ := w.get(segURL(good, 0))
		require.Equal(t, 200, res.StatusCode)
	}
	check()
	w.stop()
	w.dir = t.TempDir() // a cold edge
	w.start("eu-1")
	res, _ := w.get(segURL(revoked, 0))
	require.Equal(t, 403, res.StatusCode, "from the first request on")
	check()
}

// TestForgedPurge: an entry nobody of ours signed names nothing; the cache is
// emptied instead, since the true entry can't be had.
func TestForgedPurge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	w.start("eu-1")
	w.keep(segURL("-", 0))
	mallory, err := token.NewSigner("record-1")
	require.NoError(t, err)
	b, err := journal.SignPurge(journal.Purge{N: 1, At: time.Now(), Assets: []journal.Void{{Asset: asset, N: 99}}}, mallory)
	require.NoError(t, err)
	require.NoError(t, w.store.Own().Put(context.Background(), objects.JournalKey(objects.PurgesJournal, 1), objects.Bytes(b)))
	require.Eventually(t, func() bool { return w.edge.cache.Stats().DiskObjects == 0 }, 20*time.Second, 50*time.Millisecond)
	res, _ := w.get(segURL("-", 0))
	require.Equal(t, 200, res.StatusCode)
	w.purge(journal.Purge{N: 2, At: time.Now(), Assets: []journal.Void{{Asset: asset, N: 1}}})
	w.waitStatus(segURL("-", 0), 410)
}
