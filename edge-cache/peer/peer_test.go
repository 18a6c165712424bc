package peer

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/edge-cache/origin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("eu-%d", i+1))
	}
	return out
}

const keys = 20_000

// TestAnEdgeMovesItsShareOfKeys: keys spread evenly, and of n edges one that joins
// takes 1/n of the keys from the others while no other key moves.
func TestAnEdgeMovesItsShareOfKeys(t *testing.T) {
	for n := 2; n <= 6; n++ {
		before, after := newRing(names(n-1)), newRing(names(n))
		moved := 0
		owned := map[string]int{}
		for i := range keys {
			key := fmt.Sprintf("streams/a/r1/v/%05d-1/00000.m4s", i)
			was, is := before.order(key)[0].name, after.order(key)[0].name
			owned[is]++
			if was != is {
				require.Equal(t, fmt.Sprintf("eu-%d", n), is, "only to the new one")
				moved++
			}
		}
		require.InDelta(t, 1.0/float64(n), float64(moved)/keys, 0.02, n)
		for name, k := range owned {
			require.InDelta(t, 1.0/float64(n), float64(k)/keys, 0.02, name)
		}
	}
}

func TestChoice(t *testing.T) {
	r := newRing(names(3))
	now := time.Unix(1000, 0)
	asked := map[string]int{}
	for i := range keys {
		key := fmt.Sprint(i)
		order := r.order(key)
		m := r.choose(key, "eu-1", now)
		if order[0].name == "eu-1" {
			require.Nil(t, m)
			continue
		}
		require.Equal(t, order[0], m)
		asked[m.name]++
	}
	require.Len(t, asked, 2)

	// With the first one overloaded or busy the next is asked, never one after self.
	full, tired := r.members[1], r.members[2]
	full.asking.Store(100)
	for i := range 1000 {
		key := fmt.Sprint(i)
		m := r.choose(key, "eu-1", now)
		require.NotEqual(t, full, m)
		if order := r.order(key); order[0] == full && order[1].name == "eu-1" {
			require.Nil(t, m)
		}
	}
	tired.tell(0.97, now)
	for i := range 1000 {
		require.Nil(t, r.choose(fmt.Sprint(i), "eu-1", now))
	}
	now = now.Add(3 * time.Second) // what it said is old
	some := 0
	for i := range 1000 {
		if r.choose(fmt.Sprint(i), "eu-1", now) == tired {
			some++
		}
	}
	require.Greater(t, some, 300)
	// Few requests are no overload, however they are spread.
	full.asking.Store(calm - 1)
	for some = 0; r.choose(fmt.Sprint(some), "eu-1", now) != full; some++ {
		require.Less(t, some, 1000)
	}
}

func TestProof(t *testing.T) {
	k, err := NewKey("region secret")
	require.NoError(t, err)
	other, err := NewKey("another")
	require.NoError(t, err)
	now := time.Unix(1_800_000_000, 0)
	proof := k.Prove("eu-2", "/peer/a", now)
	name, err := k.Check(proof, "/peer/a", now.Add(30*time.Second))
	require.NoError(t, err)
	require.Equal(t, "eu-2", name)
	for what, c := range map[string]struct {
		k    Key
		p    string
		path string
		at   time.Time
	}{
		"other path":   {k, proof, "/peer/b", now},
		"other region": {other, proof, "/peer/a", now},
		"old":          {k, proof, "/peer/a", now.Add(2 * time.Minute)},
		"of tomorrow":  {k, proof, "/peer/a", now.Add(-2 * time.Minute)},
		"other name":   {k, strings.Replace(proof, "eu-2", "eu-3", 1), "/peer/a", now},
		"cut":          {k, proof[:len(proof)-1], "/peer/a", now},
		"none":         {k, "", "/peer/a", now},
		"no parts":     {k, "a b", "/peer/a", now},
		"long":         {k, strings.Repeat("x", 300) + " 1 2", "/peer/a", now},
	} {
		_, err := c.k.Check(c.p, c.path, c.at)
		require.ErrorIs(t, err, ErrProof, what)
	}
}

func FuzzCheck(f *testing.F) {
	k, err := NewKey("s")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("eu-1 1800000000 00", "/peer/a")
	f.Fuzz(func(t *testing.T, proof, path string) {
		if name, err := k.Check(proof, path, time.Unix(1_800_000_000, 0)); err == nil {
			t.Fatalf("%q proves %q", proof, name)
		}
	})
}

func TestAnswers(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	res := func(status int, length int64, fields ...string) *http.Response {
		h := http.Header{"Etag": {`"x"`}, SumField: {sum}, OriginField: {"eu"}, FetchedField: {"1800000000000"}}
		for i := 0; i < len(fields); i += 2 {
			h.Set(fields[i], fields[i+1])
		}
		return &http.Response{StatusCode: status, Status: http.StatusText(status), ContentLength: length, Header: h}
	}
	info, err := infoOf(res(200, 5), 0)
	require.NoError(t, err)
	require.True(t, info.Peer)
	require.Equal(t, int64(5), info.Size)
	require.Equal(t, sum, info.SHA256)
	require.Equal(t, "eu", info.Origin)
	require.Equal(t, time.UnixMilli(1_800_000_000_000), info.Fetched)
	info, err = infoOf(res(206, 5, "Content-Range", "bytes 10-14/15"), 10)
	require.NoError(t, err)
	require.Equal(t, int64(15), info.Size)
	for _, status := range []int{404, 410, 504} {
		_, err = infoOf(res(status, 0), 0)
		require.ErrorIs(t, err, origin.ErrNotHere)
	}
	for what, r := range map[string]*http.Response{
		"403": res(403, 5), "503": res(503, 5), "part unasked": res(206, 5, "Content-Range", "bytes 0-4/5"),
		"no sum": res(200, 5, SumField, ""), "no tag": res(200, 5, "Etag", ""),
	} {
		_, err := infoOf(r, 0)
		require.Error(t, err, what)
	}
	for what, r := range map[string]*http.Response{
		"whole": res(200, 15), "other start": res(206, 5, "Content-Range", "bytes 11-14/15"), "no size": res(206, 5, "Content-Range", "bytes 10-14/*"), "no range": res(206, 5),
	} {
		_, err := infoOf(r, 10)
		require.Error(t, err, what)
	}
}
