package geodns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/geo"
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
	op := Operator{Regions: filepath.Join(p.dir, "regions.yaml"), RecordKey: service.Secret(p.read(t, token.RecordKeyFile)), S3: operatorStores(p.cfg), RootPublicKey: s.cfg.RootPublicKey}
	america := viewerFrom(t, "127.12.0.1")
	through := Operator{Router: "http://" + s.webAddr.String() + "/", RecordKey: op.RecordKey}
	turn := 0
	change := func(f func(*journal.Routing) error) { // through the stores and through a router by turns
		t.Helper()
		turn++
		require.NoError(t, []*Operator{&op, &through}[turn%2].change(t.Context(), &bytes.Buffer{}, f))
	}
	var all []time.Duration
	obeyed := func(want, address string) {
		t.Helper()
		began := time.Now()
		require.Eventually(t, func() bool { return named(t, s, "127.12.0.1") == address }, 20*time.Second, 10*time.Millisecond)
		took := time.Since(began)
		all = append(all, took)
		t.Logf("obeyed after %v", took.Round(time.Millisecond))
		require.Equal(t, want, sentTo(t, s, america))
	}
	select { // the key set was published after the start
	case <-s.keys.Known():
	case <-time.After(20 * time.Second):
		t.Fatal("no key set")
	}
	require.Zero(t, s.routes.Current().N)
	change(func(r *journal.Routing) error {
		return edit(r, "us", func(g *journal.RegionRouting) { g.Drained = true })
	})
	obeyed("eu", "127.1.0.1")
	later := p.start(t, "us")
	require.Eventually(t, func() bool { return named(t, later, "127.12.0.1") == "127.1.0.1" }, 20*time.Second, 10*time.Millisecond)
	change(func(r *journal.Routing) error {
		err := edit(r, "us", func(g *journal.RegionRouting) { g.Drained = false })
		return errors.Join(err, override(r, netip.MustParsePrefix("127.12.0.0/24"), "ap"))
	})
	obeyed("ap", "127.3.0.1")
	require.Equal(t, "127.2.0.1", named(t, s, "127.12.1.1"), "the next network isn't overridden")
	var out bytes.Buffer
	ask := asker{Router: "http://" + s.webAddr.String()}
	require.NoError(t, ask.do(t.Context(), http.MethodGet, "/routing", nil, nil, &out))
	require.Equal(t, "routing 2\neu  in service  weight 1\nus  in service  weight 1\nap  in service  weight 1\n127.12.0.0/24  to ap\n", out.String())
	out.Reset()
	require.NoError(t, ask.do(t.Context(), http.MethodGet, "/explain", map[string][]string{"ip": {"127.12.0.9"}, "format": {"line"}, "name": {"play.meridian.test"}}, nil, &out))
	require.Contains(t, out.String(), "127.12.0.9 Ashburn, US → ap (the operator's override for this network), then us (farther 0 km), then eu (farther 6549 km); DNS: A 127.3.0.1, A 127.2.0.1")
	require.ErrorContains(t, (&ExplainCommand{asker: ask}).Run(t.Context()), "ip: want an IPv4 or IPv6 address")
	require.ErrorContains(t, ask.do(t.Context(), http.MethodGet, "/explain", map[string][]string{"ip": {"mars"}}, nil, &out), "ip: want an IPv4 or IPv6 address")
	change(func(r *journal.Routing) error {
		return override(r, netip.MustParsePrefix("127.12.0.0/24"), "")
	})
	obeyed("us", "127.2.0.1")
	slices.Sort(all)
	require.LessOrEqual(t, all[1], 2*time.Second, "the middle one of three, on a machine that may be busy")

	require.ErrorContains(t, op.change(t.Context(), &out, func(r *journal.Routing) error {
		return edit(r, "mars", func(g *journal.RegionRouting) { g.Drained = true })
	}), `region "mars": not in the region table`)
	require.ErrorContains(t, through.change(t.Context(), &out, func(r *journal.Routing) error {
		return override(r, netip.MustParsePrefix("127.12.0.0/24"), "mars")
	}), `router: region "mars": not in the region table`)
	wrong := through
	other, err := token.NewSigner("record-1")
	require.NoError(t, err)
	wrong.RecordKey = service.Secret(other.Reveal())
	require.ErrorContains(t, wrong.change(t.Context(), &out, func(*journal.Routing) error { return nil }), "signed by a record key in force")
	require.ErrorContains(t, op.change(t.Context(), &out, func(r *journal.Routing) error {
		w := -1.0
		return edit(r, "us", func(g *journal.RegionRouting) { g.Weight = &w })
	}), "want 0 to 100")
}

// TestOperatorsNeedOneWay: a record key and a router are enough, and so are the
// stores; who has neither is told all that is missing.
func TestOperatorsNeedOneWay(t *testing.T) {
	for _, name := range []string{"MERIDIAN_ROUTER", "MERIDIAN_RECORD_KEY", "MERIDIAN_S3_ACCESS_KEY", "MERIDIAN_S3_SECRET_KEY"} {
		t.Setenv(name, "")
		require.NoError(t, os.Unsetenv(name))
	}
	signer, err := token.NewSigner("record-1")
	require.NoError(t, err)
	parse := func(args ...string) error {
		k, err := kong.New(&Commands{}, kong.Bind(t.Context()), kong.BindTo(t.Context(), (*context.Context)(nil)))
		require.NoError(t, err)
		c, err := k.Parse(append(args, "--record-key", signer.Reveal()))
		require.NoError(t, err)
		return c.Run(t.Context())
	}
	router := httptest.NewServer(http.NotFoundHandler())
	defer router.Close()
	for _, args := range [][]string{{"drain", "us"}, {"undrain", "us"}, {"weight", "us", "0.5"}, {"override", "192.0.2.0/24", "us"}, {"override", "as64500", "us"}} {
		require.ErrorContains(t, parse(append(args, "--router", router.URL)...), "router: 404", "%v", args)
		err := parse(append(args, "--regions", "/nonexistent")...)
		for _, want := range []string{"without --router", "--root-public-key", "region table", "--s3-access-key"} {
			require.ErrorContains(t, err, want, "%v", args)
		}
	}
}

// TestRoutingRaces: of two entries with one number one is refused.
func TestRoutingRaces(t *testing.T) {
	p := newPlatform(t)
	require.NoError(t, token.GenerateSecrets(p.dir, p.table.Names()))
	p.publish(t, playback.Record{Asset: asset, N: 1, State: "ready", Run: "r1", Master: 1, Visibility: playback.Public, Duration: 10})
	root, err := token.ParseSigner(p.read(t, token.RootKeyFile))
	require.NoError(t, err)
	ks, err := journal.NewestKeys(t.Context(), p.store, root.Public())
	require.NoError(t, err)
	signer, err := token.ParseSigner(p.read(t, token.RecordKeyFile))
	require.NoError(t, err)
	write := func(change func(*journal.Routing) error) error {
		_, err := journal.ChangeRouting(context.Background(), p.store, ks, signer, change)
		return err
	}
	drain := func(name string) func(*journal.Routing) error {
		return func(r *journal.Routing) error {
			return edit(r, name, func(g *journal.RegionRouting) { g.Drained = true })
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

// TestReturnToALargerWeight is as gentle as that to a region that works again: new
// viewers come at once, sessions over a minute.
func TestReturnToALargerWeight(t *testing.T) {
	b := testBoard(t)
	rt := testRouter(t, b)
	s := &Server{board: b, log: rt.log}
	for _, from := range []float64{0, 0.01} {
		require.NoError(t, s.applyRouting(journal.Routing{N: 1, Regions: map[string]journal.RegionRouting{"us": {Weight: &from}}}))
		rt.now = time.Now
		require.Equal(t, "eu", steer(t, rt, "a="+asset+"&s=x", "127.12.0.1").Priority[0][:2])
		require.NoError(t, s.applyRouting(journal.Routing{N: 2}))
		require.Equal(t, "us", steer(t, rt, "a="+asset+"&s=x", "127.12.0.1").Priority[0][:2])
		grew := b.Load().Region("us").GrewSince
		back := func(after time.Duration) (n int) {
			rt.now = func() time.Time { return grew.Add(after) }
			for i := range 200 {
				m := steer(t, rt, fmt.Sprintf("a=%s&s=session%d&p=us-1,us-2,eu-1,ap-1&_HLS_pathway=eu-1", asset, i), "127.12.0.1")
				if strings.HasPrefix(m.Priority[0], "us") {
					n++
				}
			}
			return n
		}
		require.LessOrEqual(t, back(0), 4, "weight %v", from)
		require.InDelta(t, 100, back(returnOver/2), 40, "weight %v", from)
		require.Equal(t, 200, back(returnOver), "weight %v", from)
		// Other regions' sessions, and a smaller weight, are nobody's reason to wait.
		require.NoError(t, s.applyRouting(journal.Routing{N: 3, Regions: map[string]journal.RegionRouting{"us": {Weight: &from}}}))
		require.Equal(t, grew, b.Load().Region("us").GrewSince)
	}
}

// TestSystemsAreOverridden once there is a database of their networks; until then
// the override is ignored, and each entry that holds it is worth one warning.
func TestSystemsAreOverridden(t *testing.T) {
	b := testBoard(t)
	rt, z := testRouter(t, b), testZone(t, b)
	var log bytes.Buffer
	s := &Server{board: b, log: slog.New(slog.NewTextHandler(&log, nil))}
	r := journal.Routing{N: 1}
	require.ErrorContains(t, overrideSystem(&r, 64500, ""), "override AS64500: there is none")
	require.NoError(t, overrideSystem(&r, 64500, "eu"))
	require.NoError(t, overrideSystem(&r, 64500, "ap"))
	require.NoError(t, overrideSystem(&r, 64501, "eu"))
	require.NoError(t, r.Check())
	require.Len(t, r.Systems, 2)
	named := func() string {
		region, sent, steered, e := byAllWays(t, rt, z, netip.MustParseAddr("127.12.0.1"))
		require.Equal(t, []string{region, region, region}, []string{sent, steered, e.Regions[0].Name})
		return region
	}
	require.NoError(t, s.applyRouting(r))
	require.Equal(t, "us", named())
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
	require.Contains(t, log.String(), "--asn-database")

	b.Update(func(s *geo.Snapshot) {
		require.NoError(t, s.SetSystems(asnDatabase(t, map[string]uint32{"127.12.0.0/16": 64500})))
	})
	require.Equal(t, "ap", named())
	log.Reset()
	require.NoError(t, s.applyRouting(r))
	require.Contains(t, log.String(), "as=AS64501")
	explain := func(format string) string {
		return get(rt, "/explain?ip=127.12.0.1&format="+format, "127.0.0.1").Body.String()
	}
	require.Contains(t, explain("line"), "127.12.0.1 Ashburn, US (AS64500 Example) → ap (the operator's override for AS64500), then us (farther 0 km)")
	require.Contains(t, explain("text"), "127.12.0.1  Ashburn, US  (network 127.12.0.0/16)  (AS64500 Example)\n")
	var e explanation
	require.NoError(t, json.Unmarshal([]byte(explain("json")), &e))
	require.Equal(t, &explainedSystem{64500, "Example"}, e.AS)

	require.NoError(t, override(&r, netip.MustParsePrefix("127.12.0.0/15"), "eu"))
	require.NoError(t, s.applyRouting(r))
	require.Equal(t, "eu", named(), "an operator's own network goes first")
	r.Overrides = nil
	require.NoError(t, overrideSystem(&r, 64500, ""))
	require.NoError(t, s.applyRouting(r))
	require.Equal(t, "us", named())
	require.Error(t, journal.Routing{N: 1, Systems: []journal.SystemOverride{{Region: "eu"}}}.Check())
	require.Error(t, journal.Routing{N: 1, Systems: make([]journal.SystemOverride, journal.MaxOverrides+1)}.Check())
}

// routesFake is a routing journal in memory.
type routesFake struct {
	current  journal.Routing
	forged   error
	unstored error
}

func (f *routesFake) Current() journal.Routing { return f.current }

func (f *routesFake) Verify(entry []byte) (r journal.Routing, err error) {
	if f.forged != nil {
		return r, f.forged
	}
	return r, json.Unmarshal(entry, &r)
}

func (f *routesFake) Write(_ context.Context, n int64, entry []byte) error {
	if n != f.current.N+1 {
		return journal.ErrRoutingRace
	}
	return f.unstored
}

// TestRoutingEntriesAreChecked before they are written.
func TestRoutingEntriesAreChecked(t *testing.T) {
	rt := testRouter(t, testBoard(t))
	var err error
	rt.table, err = region.Loopback()
	require.NoError(t, err)
	routes := &routesFake{current: journal.Routing{N: 7, Regions: map[string]journal.RegionRouting{"atlantis": {Drained: true}},
		Systems: []journal.SystemOverride{{AS: 64499, Region: "us"}}}}
	rt.routes = routes
	put := func(body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPut, "http://router/routing", strings.NewReader(body))
		w := httptest.NewRecorder()
		rt.handler().ServeHTTP(w, r)
		return w
	}
	at := func(d time.Duration) string { return testNow.Add(d).Format(time.RFC3339) }
	good := `{"n":8,"at":"` + at(0) + `","regions":{"us":{"drained":true}}}`
	for name, c := range map[string]struct {
		body     string
		forged   error
		unstored error
		status   int
		says     string
	}{
		"good":               {body: good, status: 200, says: "us  drained  weight 1\n"},
		"forged":             {body: good, forged: token.ErrForged, status: 403, says: "signed by a record key"},
		"no keys yet":        {body: good, forged: errNoKeys, status: 503, says: "try again"},
		"no number":          {body: `{"n":9,"at":"` + at(0) + `"}`, status: 409, says: "someone else"},
		"an old number":      {body: `{"n":6,"at":"` + at(0) + `"}`, status: 409, says: "someone else"},
		"signed long ago":    {body: `{"n":8,"at":"` + at(-6*time.Minute) + `"}`, status: 403, says: "at most 5m0s"},
		"signed in future":   {body: `{"n":8,"at":"` + at(6*time.Minute) + `"}`, status: 403, says: "at most 5m0s"},
		"region taken away":  {body: `{"n":8,"at":"` + at(0) + `","regions":{"atlantis":{"drained":true},"us":{"drained":true}}}`, status: 200},
		"unknown region":     {body: `{"n":8,"at":"` + at(0) + `","regions":{"mars":{}}}`, status: 422, says: "not in the region table"},
		"unknown override":   {body: `{"n":8,"at":"` + at(0) + `","overrides":[{"network":"10.0.0.0/8","region":"mars"}]}`, status: 422, says: "mars"},
		"unknown system":     {body: `{"n":8,"at":"` + at(0) + `","systems":[{"as":64500,"region":"us"}]}`, status: 422, says: "override AS64500: this router doesn't know the networks of autonomous systems: give it --asn-database"},
		"system before":      {body: `{"n":8,"at":"` + at(0) + `","systems":[{"as":64499,"region":"eu"}]}`, status: 200, says: "AS64499  to eu\n"},
		"system to nowhere":  {body: `{"n":8,"at":"` + at(0) + `","systems":[{"as":64499,"region":"mars"}]}`, status: 422, says: "mars"},
		"too large":          {body: strings.Repeat(" ", maxRoutingBytes+1), status: 413, says: "at most 1048576 bytes"},
		"stores unreachable": {body: good, unstored: errors.New("taken by 1 of 3 regions"), status: 503, says: "taken by 1 of 3"},
	} {
		routes.forged, routes.unstored = c.forged, c.unstored
		w := put(c.body)
		require.Equal(t, c.status, w.Code, name)
		require.Contains(t, w.Body.String(), c.says, name)
	}
	routes.forged, routes.unstored = nil, nil
	rt.board.Update(func(s *geo.Snapshot) {
		require.NoError(t, s.SetSystems(asnDatabase(t, map[string]uint32{"127.12.0.0/16": 64500})))
	})
	require.Equal(t, 200, put(`{"n":8,"at":"`+at(0)+`","systems":[{"as":64500,"region":"us"}]}`).Code)
	var r journal.Routing
	require.NoError(t, json.Unmarshal(get(rt, "/routing?format=json", "127.0.0.1").Body.Bytes(), &r))
	require.EqualValues(t, 7, r.N)
	for _, path := range []string{"/explain", "/steer", "/v/-/" + asset + "/master.m3u8"} {
		w := httptest.NewRecorder()
		rt.handler().ServeHTTP(w, httptest.NewRequest(http.MethodPut, "http://router"+path, nil))
		require.Equal(t, http.StatusMethodNotAllowed, w.Code, path)
	}
}

// TestMetricsTellRegionReasonAndTransport of every decision.
func TestMetricsTellRegionReasonAndTransport(t *testing.T) {
	b := testBoard(t)
	reg := prometheus.NewPedanticRegistry()
	m, err := newMetrics(reg)
	require.NoError(t, err)
	rt := testRouter(t, b)
	rt.zone.metrics, rt.metrics = m, m
	ask := func() {
		w := rt.zone.newWorker("udp", 1)
		q, err := query("play.meridian.test.", dns.TypeA, "127.12.0.0/16").Pack()
		require.NoError(t, err)
		w.answer(q, someone)
		rt.zone.newWorker("tcp", 1).answer(q, someone)
		get(rt, "/v/-/"+asset+"/master.m3u8", "127.12.0.1")
		get(rt, "/steer?a="+asset+"&s=x", "127.12.0.1")
		get(rt, "/watch/"+asset, "127.12.0.1")
	}
	ask()
	b.Update(func(s *geo.Snapshot) { s.Region("us").Drained = true })
	ask()
	families, err := reg.Gather()
	require.NoError(t, err)
	var got []string
	for _, f := range families {
		if f.GetName() != "meridian_geodns_decisions_total" && f.GetName() != "meridian_geodns_dns_answers_total" {
			continue
		}
		for _, x := range f.GetMetric() {
			if x.GetCounter().GetValue() == 0 {
				continue
			}
			line := fmt.Sprintf("%g", x.GetCounter().GetValue())
			for _, l := range x.GetLabel() {
				line += " " + l.GetName() + "=" + l.GetValue()
			}
			got = append(got, line)
		}
	}
	require.ElementsMatch(t, []string{
		"2 reason=nearest region=eu via=dns", "2 reason=nearest region=us via=dns", "1 reason=nearest region=eu via=page", "1 reason=nearest region=us via=page",
		"1 reason=nearest region=eu via=redirect", "1 reason=nearest region=us via=redirect", "1 reason=nearest region=eu via=steer", "1 reason=nearest region=us via=steer",
		"2 rcode=NOERROR transport=tcp", "2 rcode=NOERROR transport=udp",
	}, got)
}
