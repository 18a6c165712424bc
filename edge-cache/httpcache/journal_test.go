package httpcache

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

func newDiskRig(t testing.TB) *rig {
	dir := filepath.Join(t.TempDir(), "disk")
	return newRig(t, func(c *Config) { c.Dir = dir })
}

// keep asks until the disk has so many objects more.
func (x *rig) keep(n int, path string, f fields) {
	x.t.Helper()
	want := x.cfg.Cache.Stats().DiskObjects + n
	require.Eventually(x.t, func() bool {
		x.send(http.MethodGet, path, f)
		x.settle()
		return x.cfg.Cache.Stats().DiskObjects >= want
	}, 10*time.Second, time.Millisecond)
}

// crash begins anew on a copy of what is on disk at this moment, as after a SIGKILL.
func (x *rig) crash() {
	x.t.Helper()
	dir := filepath.Join(x.t.TempDir(), "disk")
	require.NoError(x.t, os.CopyFS(dir, os.DirFS(x.cfg.Dir)))
	x.close()
	x.cfg.Dir = dir
	x.open()
}

// hit asks and reports whether the origin wasn't asked.
func (x *rig) hit(path string, f fields) (*http.Response, string, bool) {
	x.t.Helper()
	before := x.count()
	res, got := x.send(http.MethodGet, path, f)
	x.settle()
	return res, got, x.count() == before
}

// TestRestartIsWarm: after a stop and after a crash; with header fields, age and
// terms as they were, updates by a 304, variants and parts.
func TestRestartIsWarm(t *testing.T) {
	for name, again := range map[string]func(*rig){"stop": (*rig).restart, "crash": (*rig).crash} {
		t.Run(name, func(t *testing.T) {
			x := newDiskRig(t)
			x.set(reply(200, "a body", fields{"Cache-Control: max-age=60", `Etag: "a"`, "Content-Type: text/x", "Odd: \xff", "Age: 5", "Test: 1", "Test: 2"}))
			x.keep(1, "/a?\xfe", nil)
			x.set(reply(200, "old", fields{"Cache-Control: max-age=1", `Etag: "b"`, "Test: 1"}))
			x.keep(1, "/validated", nil)
			x.clock.advance(5 * time.Second)
			x.set(reply(200, "old", fields{"Cache-Control: max-age=60", `Etag: "b"`, "Test: 2"}))
			_, _, ok := x.hit("/validated", nil)
			require.False(t, ok)
			for _, lang := range []string{"de", "en"} {
				x.set(reply(200, lang, fields{"Cache-Control: max-age=60", "Vary: Accept-Language"}))
				x.keep(1, "/vary", fields{"Accept-Language: " + lang})
			}
			film, answer := film(700_000, `"f"`)
			x.set(answer)
			x.keep(1, "/film", fields{"Range: bytes=300000-300009"})
			x.set(reply(404, "none", fields{"Cache-Control: max-age=20"}))
			x.keep(1, "/none", nil)
			require.NoError(t, x.proxy.index.journal.sync(t.Context()))

			again(x)
			x.set(reply(500, "", nil))
			x.clock.advance(3 * time.Second)
			res, got, ok := x.hit("/a?\xfe", nil)
			require.True(t, ok)
			require.Equal(t, "a body", got)
			require.Equal(t, "13", res.Header.Get("Age"))
			require.Equal(t, "edge; hit; ttl=47", res.Header.Get("Cache-Status"))
			require.Equal(t, []string{"1", "2"}, res.Header["Test"])
			require.Equal(t, "\xff", res.Header.Get("Odd"))
			res, got, ok = x.hit("/validated", nil)
			require.True(t, ok)
			require.Equal(t, "old2", got+res.Header.Get("Test"))
			for _, lang := range []string{"en", "de"} {
				_, got, ok = x.hit("/vary", fields{"Accept-Language: " + lang})
				require.True(t, ok)
				require.Equal(t, lang, got)
			}
			_, _, ok = x.hit("/vary", fields{"Accept-Language: fr"})
			require.False(t, ok)
			_, got, ok = x.hit("/film", fields{"Range: bytes=270000-280000"})
			require.True(t, ok)
			require.True(t, string(film[270_000:280_001]) == got)
			res, _, ok = x.hit("/none", nil)
			require.True(t, ok)
			require.Equal(t, 404, res.StatusCode)
			x.clock.advance(time.Minute)
			_, _, ok = x.hit("/a?\xfe", nil)
			require.False(t, ok, "it is stale by now")
		})
	}
}

// TestWhatIsGoneStaysGone: what was purged, invalidated or superseded isn't found
// after a crash, also where the index had no room for it any more.
func TestWhatIsGoneStaysGone(t *testing.T) {
	for name, end := range map[string]func(*rig){
		"purged":         func(x *rig) { x.send("PURGE", "/a", nil) },
		"purged by key":  func(x *rig) { x.send("PURGE", "/", fields{"Surrogate-Key: k"}) },
		"invalidated":    func(x *rig) { x.send("POST", "/a", nil) },
		"by Location":    func(x *rig) { x.set(reply(201, "", fields{"Location: /a"})); x.send("POST", "/c", nil) },
		"superseded":     func(x *rig) { x.send("GET", "/a", fields{"Cache-Control: no-cache"}); x.settle() },
		"HEAD of a next": func(x *rig) { x.send("HEAD", "/a", fields{"Cache-Control: no-cache"}) },
	} {
		for _, evicted := range []bool{false, true} {
			if evicted && (name == "superseded" || name == "HEAD of a next") {
				continue // the index can't tell that there was another
			}
			t.Run(fmt.Sprintf("%s, evicted %v", name, evicted), func(t *testing.T) {
				x := newDiskRig(t)
				x.set(reply(200, "old", fields{"Cache-Control: max-age=60", "Surrogate-Key: k", `Etag: "old"`}))
				x.keep(1, "/a", nil)
				x.set(reply(200, "other", fields{"Cache-Control: max-age=60"}))
				x.keep(1, "/b", nil)
				if evicted {
					x.proxy.index.mu.Lock()
					for _, el := range x.proxy.index.byURI {
						if e := el.Value.(*entry); strings.HasSuffix(e.uri, "/a") {
							x.proxy.index.drop(e)
						}
					}
					x.proxy.index.mu.Unlock()
				}
				x.set(reply(200, "new", fields{"Cache-Control: max-age=60", `Etag: "new"`}))
				end(x)
				if name == "superseded" || strings.HasPrefix(name, "HEAD") {
					require.NoError(t, x.proxy.index.journal.sync(t.Context())) // nobody was promised anything
				}
				x.crash()
				x.set(reply(200, "newest", fields{"Cache-Control: max-age=60"}))
				_, got, ok := x.hit("/b", nil)
				require.True(t, ok)
				require.Equal(t, "other", got)
				_, got, ok = x.hit("/a", nil)
				if name == "superseded" && ok {
					require.Equal(t, "new", got)
					return
				}
				require.False(t, ok, got)
				require.Equal(t, "newest", got)
			})
		}
	}
}

// TestBodiesWithoutResponses are taken off the disk, and responses without bodies are
// forgotten.
func TestBodiesWithoutResponses(t *testing.T) {
	x := newDiskRig(t)
	x.set(reply(200, "a body", fields{"Cache-Control: max-age=60"}))
	x.keep(1, "/a", nil)
	x.close()
	require.NoError(t, os.Remove(filepath.Join(x.cfg.Dir, journalName)))
	x.open()
	require.Zero(t, x.cfg.Cache.Stats().DiskObjects)
	x.keep(1, "/a", nil)
	x.close()
	logs, err := filepath.Glob(filepath.Join(x.cfg.Dir, "*.log"))
	require.NoError(t, err)
	for _, f := range logs {
		require.NoError(t, os.Remove(f))
	}
	x.open()
	require.Empty(t, x.proxy.index.byURI)
	_, _, ok := x.hit("/a", nil)
	require.False(t, ok)
}

// TestJournalStaysSmall: it is written anew when it has grown.
func TestJournalStaysSmall(t *testing.T) {
	x := newDiskRig(t)
	s := &response{id: "http/x", header: http.Header{"A": {strings.Repeat("x", 10_000)}}, size: 1, status: 200}
	for range 2000 {
		x.proxy.index.put("uri", s, nil)
		require.NoError(t, x.proxy.index.journal.sync(t.Context()))
	}
	st, err := os.Stat(filepath.Join(x.cfg.Dir, journalName))
	require.NoError(t, err)
	require.LessOrEqual(t, st.Size(), int64(rewriteFrom))
}

// TestJournalOfAFailedDisk: a purge says that it isn't kept, and the journal is whole
// again once the disk is back.
func TestJournalOfAFailedDisk(t *testing.T) {
	x := newDiskRig(t)
	x.set(reply(200, "old", fields{"Cache-Control: max-age=60"}))
	for _, path := range []string{"/a", "/b"} {
		x.keep(1, path, nil)
	}
	away := x.cfg.Dir + ".away"
	require.NoError(t, os.Rename(x.cfg.Dir, away))
	x.setDisk(func() cache.DiskState { return cache.DiskState{Err: errors.New("no disk")} }) // as if it had been found gone
	res, _ := x.send("PURGE", "/a", nil)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	_, _, ok := x.hit("/b", nil)
	require.True(t, ok, "memory serves on")
	require.NoError(t, os.Rename(away, x.cfg.Dir))
	x.setDisk(func() cache.DiskState { return cache.DiskState{Recoveries: 1} })
	require.NoError(t, x.proxy.index.journal.sync(t.Context()))
	x.crash()
	_, _, ok = x.hit("/b", nil)
	require.True(t, ok)
	_, _, ok = x.hit("/a", nil)
	require.False(t, ok)
}

// TestJournalThatCantBeWritten is removed, so that a purge holds, and written again.
func TestJournalThatCantBeWritten(t *testing.T) {
	x := newDiskRig(t)
	x.set(reply(200, "old", fields{"Cache-Control: max-age=60"}))
	for _, path := range []string{"/a", "/b"} {
		x.keep(1, path, nil)
	}
	j := x.proxy.index.journal
	require.NoError(t, j.sync(t.Context()))
	require.NoError(t, j.f.Close()) // its writer is idle
	res, _ := x.send("PURGE", "/a", nil)
	require.Equal(t, 200, res.StatusCode)
	require.NoFileExists(t, j.file)
	require.Eventually(t, func() bool {
		require.NoError(t, j.sync(t.Context()))
		_, err := os.Stat(j.file)
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	x.crash()
	_, _, ok := x.hit("/b", nil)
	require.True(t, ok)
	_, _, ok = x.hit("/a", nil)
	require.False(t, ok)
}

// TestHungJournal: nobody waits for a disk that hangs longer than is good, and what is
// noted meanwhile doesn't grow without bound.
func TestHungJournal(t *testing.T) {
	x := newDiskRig(t)
	j := x.proxy.index.journal
	hung, free := make(chan struct{}), make(chan struct{})
	hang := sync.OnceFunc(func() { close(hung); <-free })
	require.NoError(t, j.sync(t.Context()))
	x.setDisk(func() cache.DiskState { hang(); return cache.DiskState{} })
	x.proxy.index.invalidate("first")
	<-hung
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, j.sync(ctx), context.DeadlineExceeded)
	for range 5 * maxPending / 1000 {
		x.proxy.index.invalidate(strings.Repeat("x", 1000))
		x.proxy.index.put("uri", &response{id: "http/x", size: 1, status: 200}, nil)
	}
	j.mu.Lock()
	require.LessOrEqual(t, len(j.pending), 2*maxPending+2000)
	j.mu.Unlock()
	close(free)
	require.NoError(t, j.sync(t.Context()))
	b, err := os.ReadFile(j.file)
	require.NoError(t, err)
	var r recorder
	replay(bytes.NewReader(b), &r)
	require.Equal(t, []string{"put uri http/x"}, r.ops, "it was written anew")
}

// TestDamagedBody: what is damaged on disk at its beginning is fetched anew; of what
// is damaged further on the rest comes from the origin.
func TestDamagedBody(t *testing.T) {
	for _, at := range []int{10, 200_000} {
		x := newDiskRig(t)
		want, answer := film(400_000, `"f"`)
		x.set(answer)
		x.keep(1, "/film", nil)
		x.close()
		logs, err := filepath.Glob(filepath.Join(x.cfg.Dir, "*.log"))
		require.NoError(t, err)
		require.Len(t, logs, 1)
		b, err := os.ReadFile(logs[0])
		require.NoError(t, err)
		i := bytes.Index(b, want[:4096])
		require.Positive(t, i)
		b[i+at] ^= 1
		require.NoError(t, os.WriteFile(logs[0], b, 0o600))
		x.open()
		res, got, ok := x.hit("/film", nil)
		require.False(t, ok)
		require.Equal(t, 200, res.StatusCode)
		require.True(t, string(want) == got)
		if at > 1000 {
			require.Equal(t, http.Header{"Range": {"bytes=196608-"}, "If-Range": {`"f"`}}, http.Header{"Range": x.last().Header["Range"], "If-Range": x.last().Header["If-Range"]})
		}
		_, got, ok = x.hit("/film", nil)
		require.True(t, ok)
		require.True(t, string(want) == got)
	}
}

// recorder is told what a journal has.
type recorder struct{ ops []string }

func (r *recorder) put(uri string, s, _ *response) { r.ops = append(r.ops, "put "+uri+" "+s.id) }
func (r *recorder) goneByID(id string)             { r.ops = append(r.ops, "gone "+id) }
func (r *recorder) invalidate(uri string) int      { r.ops = append(r.ops, "uri "+uri); return 0 }
func (r *recorder) purge(key string) int           { r.ops = append(r.ops, "key "+key); return 0 }

func entryOf(p []byte) []byte {
	return appendEntry([]byte(journalMagic), func(b []byte) []byte { return append(b, p...) })
}

func FuzzJournal(f *testing.F) {
	r := &http.Request{Header: http.Header{"Accept-Language": {"en"}}}
	s := newResponse(r, 200, http.Header{"Vary": {"Accept-Language"}, "Surrogate-Key": {"a b"}, "Etag": {`"x"`}}, freshness{directives: noDirectives()}, time.Unix(1, 2))
	s.id, s.size = "http/1", 5
	one := appendResponse([]byte{opPut}, "host /a", s)
	s.part = &part{total: 9}
	s.part.span.Length = 5
	f.Add(one)
	f.Add(appendResponse([]byte{opPut}, "host /a", s))
	f.Add([]byte("g\x06http/1"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		// As a record with the right checksum, and as a file.
		replay(bytes.NewReader(payload), &recorder{})
		var r recorder
		replay(bytes.NewReader(append(entryOf(payload), entryOf([]byte("k\x01z"))[len(journalMagic):]...)), &r)
		if len(payload) > 0 && len(payload) <= maxEntry && (len(r.ops) == 0 || r.ops[len(r.ops)-1] != "key z") {
			t.Fatalf("%q: what follows a record is lost: %q", payload, r.ops)
		}
		if len(payload) == 0 || payload[0] != opPut {
			return
		}
		d := decoder{b: payload[1:]}
		uri, s, ok := d.response()
		if !ok {
			return
		}
		// What was read is written and read the same.
		d = decoder{b: appendResponse(nil, uri, s)}
		uri2, s2, ok := d.response()
		if !ok || uri != uri2 {
			t.Fatalf("%q isn't read again", uri)
		}
		require.Equal(t, s, s2)
		s2.matches(http.Header{})
		_ = s2.cost()
	})
}

// TestCutJournal: whatever a crash leaves of the last record, those before it count.
func TestCutJournal(t *testing.T) {
	one, two := entryOf([]byte("k\x01a")), entryOf([]byte("k\x01b"))[len(journalMagic):]
	for n := range len(two) {
		var r recorder
		replay(bytes.NewReader(append(bytes.Clone(one), two[:n]...)), &r)
		require.Equal(t, []string{"key a"}, r.ops)
	}
	var r recorder
	bad := append(bytes.Clone(one), two...)
	bad[len(bad)-1] ^= 1
	replay(bytes.NewReader(bad), &r)
	require.Equal(t, []string{"key a"}, r.ops)
	binary.LittleEndian.PutUint32(bad[len(one)+4:], crc32.Checksum(bad[len(one)+8:], castagnoli))
	r.ops = nil
	replay(bytes.NewReader(bad), &r)
	require.Equal(t, []string{"key a", "key c"}, r.ops)
}
