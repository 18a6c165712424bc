package edgecache

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/peer"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// cluster is several edges of one region.
type cluster struct {
	*world
	edges []*edge
	bases []string
	stops []func()
}

// startCluster runs n edges that know each other.
func startCluster(w *world, n int) *cluster {
	c := &cluster{world: w}
	var listen []string
	w.table.Regions[0].Edges = nil
	for i := range n {
		listen = append(listen, fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(w.t)))
		w.table.Regions[0].Edges = append(w.table.Regions[0].Edges, region.Edge{Name: fmt.Sprintf("eu-%d", i+1), URL: "http://" + listen[i]})
	}
	for i := range n {
		cmd := w.command(fmt.Sprintf("eu-%d", i+1))
		cmd.Listen, cmd.CacheDir, cmd.Peers = listen[i], w.t.TempDir(), true
		e, err := newEdge(cmd, &service.Runtime{Region: w.table.Regions[0], Table: w.table, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		require.NoError(w.t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		stopped := false
		stop := func() {
			if !stopped {
				stopped = true
				cancel()
				client.CloseIdleConnections()
				require.NoError(w.t, <-done)
			}
		}
		w.t.Cleanup(stop)
		c.edges, c.bases, c.stops = append(c.edges, e), append(c.bases, "http://"+listen[i]), append(c.stops, stop)
	}
	for _, e := range c.edges {
		require.Eventually(w.t, func() bool { return e.Ready(context.Background()) == nil }, 15*time.Second, 10*time.Millisecond)
	}
	return c
}

// at asks edge i.
func (c *cluster) at(i int, path string, header ...string) (*http.Response, []byte) {
	c.base = c.bases[i]
	return c.get(path, header...)
}

// TestEdgesShare: the region fetches each object from its store once, whichever
// edges are asked, until one of them is gone; then the others do without it.
func TestEdgesShare(t *testing.T) {
	t.Parallel()
	const segments, rounds = 12, 4
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), segments*rounds)
	c := startCluster(w, 3)
	// A peer that is late is done without, by all for a moment: a busy machine has some
	// rounds for a calm one.
	asked, all := 0, 0
	for shared := false; !shared; {
		require.Less(t, asked, segments*rounds, "no round was shared")
		peers, fetched := 0, 0
		for range segments {
			for i := range c.edges {
				res, b := c.at((asked+i)%3, segURL("-", asked))
				require.Equal(t, 200, res.StatusCode)
				require.True(t, bytes.Equal(w.content[segKey(asked)], b))
				if res.Header.Get("Cache-Status") == fmt.Sprintf(`"eu-%d"; fwd=uri-miss; stored; detail=peer`, (asked+i)%3+1) {
					peers++
				}
			}
			fetched += w.proxies[0].gets(segKey(asked))
			asked++
		}
		// Two of three edges don't own a segment.
		t.Logf("of %d answers %d came from a peer, %d from the store", 3*segments, peers, fetched)
		shared = fetched < 2*segments && peers > segments
		all += fetched
	}
	var disk int
	for _, e := range c.edges {
		disk += e.cache.Stats().DiskObjects
	}
	require.LessOrEqual(t, disk, all, "objects of peers aren't on disk")

	// Nobody but an edge of the region is answered, and no other objects are.
	path := peer.Prefix + segKey(0)[len("streams/"):]
	res, _ := c.at(0, path)
	require.Equal(t, 403, res.StatusCode)
	ask := func(path string) int {
		key, err := peer.NewKey(w.secret(token.SessionKeyFile("eu")))
		require.NoError(t, err)
		res, _ := c.at(0, path, peer.ProofField, key.Prove("eu-2", path, time.Now()))
		return res.StatusCode
	}
	require.Equal(t, 200, ask(path))
	require.Equal(t, 404, ask(peer.Prefix+asset+"/master.m3u8"))
	require.Equal(t, 404, ask(peer.Prefix+asset+"/r1/v1080/index.m3u8"))
	require.Equal(t, 404, ask(peer.Prefix+"../health/eu.bin"))
	require.Equal(t, 404, ask(peer.Prefix+asset+"/r1/v1080/00099-1/00000.m4s"))

	// Whoever is asked by an edge asks the store, whoever owns the object.
	kept := func() (n int) { return c.edges[1].cache.Stats().Objects + c.edges[2].cache.Stats().Objects }
	before := kept()
	for n := range segments {
		// 504: it is brought, but not in the time an edge waits.
		require.Contains(t, []int{200, 504}, ask(peer.Prefix+asset+fmt.Sprintf("/r1/v360/%05d-1/00000.m4s", n)))
	}
	require.Equal(t, before, kept(), "an edge that was asked asked another")

	// Without one of them.
	c.stops[2]()
	for n := range segments {
		for _, r := range []string{"v360", "a0-aac128"} {
			started := time.Now()
			res, _ := c.at(n%2, "/v/-/"+asset+"/r1/"+r+fmt.Sprintf("/%05d-1/00000.m4s", n))
			require.Equal(t, 200, res.StatusCode)
			require.Less(t, time.Since(started), 3*time.Second)
		}
	}
}

// TestHotObjectsSpread: what is asked for much each edge answers from its own memory,
// without asking who owns it again, and when it has cooled only the owner has it.
func TestHotObjectsSpread(t *testing.T) {
	t.Parallel()
	const segments = 12
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), segments)
	c := startCluster(w, 3)
	const fromPeer, fromMemory = "fwd=uri-miss; stored; detail=peer", "hit; detail=memory"
	// ask returns how edge i came by segment n.
	ask := func(i, n int) string {
		t.Helper()
		res, b := c.at(i, segURL("-", n))
		require.Equal(t, 200, res.StatusCode)
		require.True(t, bytes.Equal(w.content[segKey(n)], b))
		_, how, _ := strings.Cut(res.Header.Get("Cache-Status"), "; ")
		return how
	}
	// A peer that is starved is done without, so the first that both others have from one.
	hot, owner := -1, -1
	var others []int
	for n := 0; n < segments && hot < 0; n++ {
		others = nil
		for i := range c.edges {
			if ask(i, n) == fromPeer {
				others = append(others, i)
			} else {
				owner = i
			}
		}
		if len(others) == 2 {
			hot = n
		}
	}
	require.GreaterOrEqual(t, hot, 0, "edges never asked each other")
	for i := range c.edges { // their first readers may have been faster than the last byte
		require.Eventually(t, func() bool { return ask(i, hot) == fromMemory }, 10*time.Second, time.Millisecond)
	}
	fetched := w.proxies[0].gets(segKey(hot))
	for range 50 {
		for i := range c.edges {
			require.Equal(t, fromMemory, ask(i, hot)) // nobody was asked for it
		}
	}
	require.Equal(t, fetched, w.proxies[0].gets(segKey(hot)))
	require.Eventually(t, func() bool { return slices.Contains(c.edges[owner].cache.DiskKeys(), segKey(hot)) }, 10*time.Second, time.Millisecond)
	for _, i := range others {
		require.NotContains(t, c.edges[i].cache.DiskKeys(), segKey(hot))
	}

	// It cools: of others so much is asked for that it is forgotten how hot it was.
	const size, capacities = 256 << 10, 30
	for _, i := range others {
		store, again := c.edges[i].cache, false
		for try := 0; try < 5 && !again; try++ {
			for k := range capacities * store.Stats().Capacity / size {
				key := fmt.Sprint("other", k)
				store.Put(key, cache.Info{Peer: true}, make([]byte, size), false)
				for range 2 {
					store.Hit([]byte(key), false)
				}
			}
			how := ask(i, hot)
			require.NotEqual(t, fromMemory, how, "it is held by all still")
			again = how == fromPeer
		}
		require.True(t, again, "edge %d didn't ask who owns it", i)
	}
}
