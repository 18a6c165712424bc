package geodns

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/token"
)

// TestOperatorsRoute: what operators say is obeyed within two seconds, by a
// router that starts later too, and by DNS and redirects alike.
func TestOperatorsRoute(t *testing.T) {
	p := newPlatform(t)
	s := p.start(t, "eu")
	p.publish(t, playback.Record{Asset: asset, N: 1, State: "ready", Run: "r1", Master: 1, Visibility: playback.Public, Duration: 10})
	op := Operator{Regions: filepath.Join(p.dir, "regions.yaml"), RecordKey: service.Secret(p.read(t, token.RecordKeyFile)), S3: p.cfg, RootPublicKey: s.cfg.RootPublicKey}
	america := viewerFrom(t, "127.12.0.1")
	change := func(f func(*region.Table, *journal.Routing) error) {
		t.Helper()
		require.NoError(t, op.change(t.Context(), &bytes.Buffer{}, f))
	}
	obeyed := func(want, address string) {
		t.Helper()
		began := time.Now()
		require.Eventually(t, func() bool { return named(t, s, "127.12.0.1") == address }, 20*time.Second, 10*time.Millisecond)
		t.Logf("obeyed after %v", time.Since(began).Round(time.Millisecond))
		require.Equal(t, want, sentTo(t, s, america))
	}
	select { // the key set was published after the start
	case <-s.keys.Known():
	case <-time.After(20 * time.Second):
		t.Fatal("no key set")
	}
	require.Zero(t, s.routes.Current().N)
	change(func(t *region.Table, r *journal.Routing) error {
		return edit(t, r, "us", func(g *journal.RegionRouting) { g.Drained = true })
	})
	obeyed("eu", "127.1.0.1")
	later := p.start(t, "us")
	require.Eventually(t, func() bool { return named(t, later, "127.12.0.1") == "127.1.0.1" }, 20*time.Second, 10*time.Millisecond)
	change(func(t *region.Table, r *journal.Routing) error {
		err := edit(t, r, "us", func(g *journal.RegionRouting) { g.Drained = false })
		return errors.Join(err, override(t, r, netip.MustParsePrefix("127.12.0.0/24"), "ap"))
	})
	obeyed("ap", "127.3.0.1")
	require.Equal(t, "127.2.0.1", named(t, s, "127.12.1.1"), "the next network isn't overridden")
	var out bytes.Buffer
	ask := asker{Router: "http://" + s.webAddr.String()}
	require.NoError(t, ask.get(t.Context(), "/routing", nil, &out))
	require.Equal(t, "routing 2\neu  in service  weight 1\nus  in service  weight 1\nap  in service  weight 1\n127.12.0.0/24  to ap\n", out.String())
	out.Reset()
	require.NoError(t, ask.get(t.Context(), "/explain", map[string][]string{"ip": {"127.12.0.9"}, "format": {"line"}}, &out))
	require.Contains(t, out.String(), "127.12.0.9 Ashburn, US → ap (the operator's override for this network), then us (farther 0 km), then eu (farther 6549 km)")
	require.ErrorContains(t, ask.get(t.Context(), "/explain", map[string][]string{"ip": {"mars"}}, &out), "ip: want an IPv4 or IPv6 address")
	change(func(t *region.Table, r *journal.Routing) error {
		return override(t, r, netip.MustParsePrefix("127.12.0.0/24"), "")
	})
	obeyed("us", "127.2.0.1")

	require.ErrorContains(t, op.change(t.Context(), &out, func(t *region.Table, r *journal.Routing) error {
		return edit(t, r, "mars", func(*journal.RegionRouting) {})
	}), `region "mars": not in the region table`)
	require.ErrorContains(t, op.change(t.Context(), &out, func(t *region.Table, r *journal.Routing) error {
		w := -1.0
		return edit(t, r, "us", func(g *journal.RegionRouting) { g.Weight = &w })
	}), "want 0 to 100")
}

// TestRoutingRaces: of two entries with one number one is refused.
func TestRoutingRaces(t *testing.T) {
	p := newPlatform(t)
	require.NoError(t, token.GenerateSecrets(p.dir, p.table.Names()))
	p.publish(t, playback.Record{Asset: asset, N: 1, State: "ready", Run: "r1", Master: 1, Visibility: playback.Public, Duration: 10})
	root, err := token.ParseSigner(p.read(t, token.RootKeyFile))
	require.NoError(t, err)
	ks, err := newestKeys(t.Context(), p.store, root.Public())
	require.NoError(t, err)
	signer, err := token.ParseSigner(p.read(t, token.RecordKeyFile))
	require.NoError(t, err)
	write := func(change func(*journal.Routing) error) error {
		_, err := journal.ChangeRouting(context.Background(), p.store, ks, signer, change)
		return err
	}
	drain := func(name string) func(*journal.Routing) error {
		return func(r *journal.Routing) error {
			return edit(p.table, r, name, func(g *journal.RegionRouting) { g.Drained = true })
		}
	}
	require.ErrorIs(t, write(func(r *journal.Routing) error {
		require.NoError(t, write(drain("eu")))
		return drain("us")(r)
	}), journal.ErrRoutingRace)
	require.NoError(t, write(drain("us")))
	b, err := journal.Read(t.Context(), p.store, objects.RoutingJournal, 2)
	require.NoError(t, err)
	r, err := journal.VerifyRouting(b, ks, time.Now())
	require.NoError(t, err)
	require.Len(t, r.Regions, 2, "nothing is lost")
	other, err := token.NewSigner("record-1")
	require.NoError(t, err)
	forged, err := journal.SignRouting(journal.Routing{N: 3}, other)
	require.NoError(t, err)
	_, err = journal.VerifyRouting(forged, ks, time.Now())
	require.ErrorIs(t, err, token.ErrForged)
}

func TestSlowPathwaysArePenalisedOnce(t *testing.T) {
	rt := testRouter(t, testBoard(t))
	ask := func(query string) (first, reload string) {
		m := steer(t, rt, query, "127.11.0.1")
		return m.Priority[0], m.Reload
	}
	first, reload := ask("a=" + asset + "&s=x&p=eu-1,eu-2,us-1,ap-1&_HLS_pathway=eu-1&_HLS_throughput=5000000")
	require.Equal(t, "eu-1", first)
	require.NotContains(t, reload, "x=")
	first, reload = ask("a=" + asset + "&s=x&p=eu-1,eu-2,us-1,ap-1&_HLS_pathway=eu-1&_HLS_throughput=300000")
	require.Equal(t, "eu-2", first)
	_, q, _ := bytes.Cut([]byte(reload), []byte("?"))
	first, again := ask(string(q) + "&_HLS_pathway=eu-2&_HLS_throughput=200000")
	require.Equal(t, "eu-2", first, "the viewer's own line is slow: no third pathway")
	require.Equal(t, reload, again)
	rt.now = func() time.Time { return testNow.Add(penaltyTime + time.Second) }
	first, reload = ask(string(q) + "&_HLS_pathway=eu-2&_HLS_throughput=5000000")
	require.Equal(t, "eu-2", first, "siblings are equals")
	require.NotContains(t, reload, "x=")
	require.Equal(t, http.StatusOK, get(rt, "/steer?x=eu-1.zz,mars.1,.,eu-1.99999999999999999999", "127.11.0.1").Code)
}
