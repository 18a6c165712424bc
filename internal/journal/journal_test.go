package journal

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/token"
)

// The object store's idle connections stay open a minute; nothing else may.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const asset = "abcdefghijklmnopqrstuvwxyz"

// TestNewestOfALongJournal: found without listing all of it, gaps or not.
func TestNewestOfALongJournal(t *testing.T) {
	s, _ := objectstest.New(t, 1)
	for _, c := range []struct {
		from, to int64
		gap      int64 // numbers left out after from + probe
	}{{1, 1, 0}, {1, probe - 1, 0}, {1, probe, 0}, {1, probe + 1, 0}, {1, 3*probe + 57, 0}, {900, 1200, 0}, {1, 300, 100}} {
		name := fmt.Sprintf("j%d-%d-%d/", c.from, c.to, c.gap)
		var wg sync.WaitGroup
		slots := make(chan struct{}, 8)
		for n := c.from; n <= c.to; n++ {
			if n > c.from+probe && n <= c.from+probe+c.gap {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := s.Own().Put(t.Context(), objects.JournalKey(name, n), objects.Bytes([]byte{1})); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		n, err := Newest(t.Context(), s, name)
		require.NoError(t, err)
		require.Equal(t, c.to, n, name)
	}
	_, err := Newest(t.Context(), s, "none/")
	require.ErrorIs(t, err, objects.ErrNotFound)
}

func keySet(s *token.Signer) *token.KeySet {
	return &token.KeySet{N: 1, Keys: []token.Key{{KID: s.KID, Use: token.UseRecord, Public: s.Public(), NotAfter: time.Now().Add(time.Hour)}}}
}

func TestPurgeFormat(t *testing.T) {
	s, err := token.NewSigner("record-1")
	require.NoError(t, err)
	for _, bad := range []Purge{{}, {N: 1, Revoking: 1}, {N: 2, Revoking: -1}, {N: 1, Assets: []Void{{Asset: "../x", N: 1}}}, {N: 1, Assets: []Void{{Asset: asset}}}} {
		_, err := SignPurge(bad, s)
		require.Error(t, err, "%+v", bad)
	}
	want := Purge{N: 7, At: time.Unix(1_700_000_000, 0).UTC(), Assets: []Void{{Asset: asset, N: 3}}, JTIs: []string{"x"}, Revoking: 2}
	b, err := SignPurge(want, s)
	require.NoError(t, err)
	got, err := VerifyPurge(b, keySet(s), time.Now())
	require.NoError(t, err)
	require.Equal(t, want, got)
	other, err := token.NewSigner("record-1")
	require.NoError(t, err)
	_, err = VerifyPurge(b, keySet(other), time.Now())
	require.ErrorIs(t, err, token.ErrForged)
}

func FuzzVerifyPurge(f *testing.F) {
	s, err := token.NewSigner("record-1")
	if err != nil {
		f.Fatal(err)
	}
	b, err := SignPurge(Purge{N: 7, Assets: []Void{{Asset: asset, N: 3}}}, s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("e30.e30.e30"))
	ks := keySet(s)
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := VerifyPurge(b, ks, time.Now()); err == nil && p.check() != nil {
			t.Fatalf("accepted %+v", p)
		}
	})
}

// recorder is a cache that remembers what it was told.
type recorder struct {
	mu         sync.Mutex
	checkpoint int64
	warm       bool
	done       []int64
	emptied    []int64
	revoked    []string
}

func (r *recorder) Checkpoint() (int64, bool) { return r.checkpoint, r.warm }
func (r *recorder) Purge(p Purge) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, p.N)
	return nil
}
func (r *recorder) Revoke(jtis []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revoked = append(r.revoked, jtis...)
}
func (r *recorder) Empty(n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.emptied = append(r.emptied, n)
	return nil
}

// TestWherePurgesStart: cold at the newest, warm after the checkpoint, and anew
// where entries in between are gone.
func TestWherePurgesStart(t *testing.T) {
	s, _ := objectstest.New(t, 1)
	signer, err := token.NewSigner("record-1")
	require.NoError(t, err)
	root, err := token.NewSigner("root")
	require.NoError(t, err)
	set, err := token.SignKeySet(*keySet(signer), root)
	require.NoError(t, err)
	require.NoError(t, s.Own().Put(t.Context(), objects.JournalKey(objects.KeysJournal, 1), objects.Bytes(set)))
	for n := int64(5); n <= 8; n++ { // 1 to 4 were trimmed
		p := Purge{N: n, Revoking: 4}
		if n == 6 {
			p.JTIs = []string{"six"}
		}
		if n > 6 {
			p.Revoking = 6
		}
		b, err := SignPurge(p, signer)
		require.NoError(t, err)
		require.NoError(t, s.Own().Put(t.Context(), objects.JournalKey(objects.PurgesJournal, n), objects.Bytes(b)))
	}
	log := slog.New(slog.DiscardHandler)
	keys := NewKeys(s, root.Public(), log)
	require.NoError(t, keys.follower.advance(t.Context()))
	for name, c := range map[string]struct {
		checkpoint int64
		warm       bool
		done       []int64
		emptied    []int64
	}{
		"cold":                 {0, false, nil, []int64{8}},
		"warm":                 {6, true, []int64{7, 8}, nil},
		"nothing new":          {8, true, nil, nil},
		"older than the rest":  {2, true, nil, []int64{8}},
		"just what is left":    {4, true, []int64{5, 6, 7, 8}, nil},
		"ahead of the journal": {20, true, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{checkpoint: c.checkpoint, warm: c.warm}
			p := NewPurges(s, keys, r, log)
			require.Error(t, p.Ready(t.Context()))
			require.NoError(t, p.follower.advance(t.Context()))
			require.NoError(t, p.Ready(t.Context()))
			require.Equal(t, c.done, r.done)
			require.Equal(t, c.emptied, r.emptied)
			require.Contains(t, r.revoked, "six")
		})
	}
}
