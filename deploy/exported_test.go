package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/api"
	edgecache "github.com/meridian-video/meridian/edge-cache"
	"github.com/meridian-video/meridian/encoder"
	"github.com/meridian-video/meridian/geodns"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/geo/health"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/jobs"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// family is a metric as a service exports it.
type family struct {
	kind   dto.MetricType
	labels map[string]bool
}

// families are a service's metrics by name.
type families map[string]family

func (f families) add(name string, kind dto.MetricType, labels []string) {
	if _, ok := f[name]; !ok {
		f[name] = family{kind, map[string]bool{}}
	}
	for _, l := range labels {
		f[name].labels[l] = true
	}
}

var description = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "((?:[^"\\]|\\.)*)".* constLabels: \{\}, variableLabels: \{(.*)\}\}$`)

// registered adds the metrics of a registry, also those that have no value yet.
func (f families) registered(t *testing.T, reg *prometheus.Registry) {
	t.Helper()
	ch := make(chan *prometheus.Desc)
	go func() { defer close(ch); reg.Describe(ch) }()
	var all []*prometheus.Desc // first: the registry is locked meanwhile
	for d := range ch {
		all = append(all, d)
	}
	for _, d := range all {
		m := description.FindStringSubmatch(d.String())
		require.NotNil(t, m, d)
		var labels []string
		if m[3] != "" {
			labels = strings.Split(m[3], ",")
		}
		// The registry names the collector it has when another with the same description comes.
		err := reg.Register(prometheus.NewCounterVec(prometheus.CounterOpts{Name: m[1], Help: strings.ReplaceAll(m[2], `\"`, `"`)}, labels))
		var have prometheus.AlreadyRegisteredError
		require.ErrorAs(t, err, &have, m[1])
		kind := dto.MetricType_COUNTER
		switch have.ExistingCollector.(type) {
		case *prometheus.HistogramVec, prometheus.Histogram:
			kind = dto.MetricType_HISTOGRAM
		case *prometheus.GaugeVec, prometheus.Gauge:
			kind = dto.MetricType_GAUGE
		}
		f.add(m[1], kind, labels)
	}
}

// scraped adds what an admin listener answers to Prometheus.
func (f families) scraped(t *testing.T, at string) {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(get(t, "http://"+at+"/metrics")))
	require.NoError(t, err)
	for name, mf := range all {
		for _, m := range mf.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName())
			}
			f.add(name, mf.GetType(), labels)
		}
	}
}

// get returns a body, whatever the status.
func get(t testing.TB, from string) string {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Get(from)
	if err != nil {
		return ""
	}
	b, err := io.ReadAll(res.Body)
	require.NoError(t, res.Body.Close())
	if err != nil {
		t.Logf("%s: %v", from, err)
	}
	return string(b)
}

// running components, each with the address of its admin listener.
type components struct {
	table                    *region.Table
	dir                      string
	server                   testenv.S3Server
	postgres                 string // DSN; empty: there is none
	admin                    map[string]string
	tls                      map[string]string // encrypted listeners
	router, dnsAt, edge, api string
	slow, cut                atomic.Bool // what the own store's segments suffer
}

const certificatesKey = "what routers, edges and APIs seal with"

const watched = "abcdefghijklmnopqrstuvwxyz"

// freePorts are addresses that nobody has, for TCP and UDP.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	}
	return out
}

// startComponents runs one of each service over one object store, which both
// regions share, with one published video; nats and postgres may be nowhere.
func startComponents(t *testing.T, nats, postgres string) *components {
	t.Helper()
	server := testenv.S3(t, 1)[0]
	store, _ := objectstest.Over(t, []testenv.S3Server{server})
	table, err := region.Loopback("eu", "us")
	require.NoError(t, err)
	p := freePorts(t, 13)
	c := &components{table: table, dir: t.TempDir(), server: server, postgres: postgres, router: p[0], dnsAt: p[1], edge: p[2], api: p[3],
		admin: map[string]string{"geodns": p[4], "edge-cache": p[5], "api": p[6], "encoder": p[7]},
		tls:   map[string]string{"geodns": p[10], "edge-cache": p[11], "api": p[12]}}
	host := "127.0.0.1:1"
	if postgres != "" {
		host, err = testenv.DSNHostPort(postgres)
		require.NoError(t, err)
	}
	for i := range table.Regions {
		r := &table.Regions[i]
		r.NATS, r.Postgres, r.Edges = nats, host, r.Edges[:1]
		r.S3, r.Edges[0].URL = server.Endpoint, "http://"+p[8]
		r.Edges[0].Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
		r.Router, r.API = region.Router{URL: "http://" + p[9], DNS: p[9]}, "http://"+p[9]
		r.Control = i == 0
	}
	table.Regions[1].Postgres = ""
	own := &table.Regions[0]
	own.S3, own.Edges[0].URL, own.API, own.Router = c.store(t), "http://"+c.edge, "http://"+c.api, region.Router{URL: "http://" + c.router, DNS: c.dnsAt}
	b, err := table.Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(c.dir, "regions.yaml"), b, 0o600))
	require.NoError(t, token.GenerateSecrets(c.dir, table.Names()))
	c.publish(t, store)

	places, err := os.Create(c.file("geo.mmdb"))
	require.NoError(t, err)
	require.NoError(t, geo.BuildDevelopment(places))
	require.NoError(t, places.Close())
	c.start(t, "geodns", &geodns.Command{}, "--geo-database="+places.Name(), "--router-listen="+c.router, "--dns-listen="+c.dnsAt, "--root-public-key=@"+c.file(token.RootPublicFile))
	// As long as no edge runs, the router has nobody to send viewers to.
	master := "/v/-/" + watched + "/master.m3u8"
	c.until(t, "geodns", "meridian_geodns_alarms_total", func() { get(t, "http://"+c.router+master) })
	c.until(t, "geodns", "meridian_geodns_dns_answers_total", func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _ = dns.ExchangeContext(ctx, new(dns.Msg).SetQuestion("play."+table.Zone+".", dns.TypeA), c.dnsAt)
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+c.router+"/routing", strings.NewReader("unsigned"))
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())

	c.start(t, "edge-cache", &edgecache.Command{}, "--edge=eu-1", "--listen="+c.edge, "--cache-dir="+filepath.Join(c.dir, "cache"),
		"--root-public-key=@"+c.file(token.RootPublicFile), "--session-key=@"+c.file(token.SessionKeyFile("eu")), "--drain-notice=0s")
	c.start(t, "api", &api.Command{}, "--listen="+c.api, "--root-public-key=@"+c.file(token.RootPublicFile), "--record-key=@"+c.file(token.RecordKeyFile),
		"--playback-key=@"+c.file(token.PlaybackKeyFile), "--key-set=@"+c.file(token.KeySetFile), "--upload-spool-dir="+t.TempDir())
	c.start(t, "encoder", &encoder.Command{}, "--scratch-dir="+filepath.Join(c.dir, "scratch"))
	c.play(t, 0)
	return c
}

// store stands before the own region's: it can be slow and break off.
func (c *components) store(t *testing.T) string {
	to, err := url.Parse(c.server.Endpoint)
	require.NoError(t, err)
	tr := &http.Transport{DisableCompression: true}
	forward := &httputil.ReverseProxy{Transport: tr, FlushInterval: -1, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }, // the signature covers Host
		ModifyResponse: func(r *http.Response) error {
			if !strings.HasSuffix(r.Request.URL.Path, ".m4s") {
				return nil
			}
			if c.slow.Load() {
				select {
				case <-time.After(2 * time.Second):
				case <-r.Request.Context().Done():
				}
			}
			if c.cut.Load() {
				r.Body = struct {
					io.Reader
					io.Closer
				}{io.MultiReader(io.LimitReader(r.Body, 1000), broken{}), r.Body}
			}
			return nil
		}}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: forward, ReadHeaderTimeout: 5 * time.Second, ErrorLog: forward.ErrorLog}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done; tr.CloseIdleConnections() })
	return "http://" + l.Addr().String()
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (c *components) file(name string) string { return filepath.Join(c.dir, name) }

// start runs a command as its command line does, until the test ends.
func (c *components) start(t *testing.T, name string, command interface{ Run(context.Context) error }, args ...string) {
	t.Helper()
	args = append(args, "--regions="+c.file("regions.yaml"), "--region=eu", "--admin-listen="+c.admin[name], "--log-level=error",
		"--s3-access-key="+c.server.AccessKey, "--s3-secret-key="+c.server.SecretKey, "--s3-bucket="+c.server.Bucket)
	if c.postgres != "" && (name == "api" || name == "encoder") {
		u, err := url.Parse(c.postgres)
		require.NoError(t, err)
		password, _ := u.User.Password()
		args = append(args, "--postgres-user="+u.User.Username(), "--postgres-database="+strings.TrimPrefix(u.Path, "/"), "--postgres-password="+password)
	}
	if at := c.tls[name]; at != "" {
		args = append(args, "--tls-listen="+at, "--certificates-key="+certificatesKey)
	}
	k, err := kong.New(command, kong.Name(name))
	require.NoError(t, err)
	_, err = k.Parse(args)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- command.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err, name)
		case <-time.After(time.Minute):
			t.Errorf("%s doesn't stop", name)
		}
	})
	require.Eventually(t, func() bool { return get(t, "http://"+c.admin[name]+"/livez") != "" }, 30*time.Second, 10*time.Millisecond, name)
}

// until calls do until the component exports a value of the metric.
func (c *components) until(t *testing.T, component, metric string, do func()) {
	t.Helper()
	require.Eventually(t, func() bool {
		do()
		return strings.Contains(get(t, "http://"+c.admin[component]+"/metrics"), "\n"+metric+"{")
	}, 30*time.Second, 20*time.Millisecond, "no %s", metric)
}

const segments = 3

// publish stores one video, and the key set that vouches for its record.
func (c *components) publish(t *testing.T, store *objects.Store) {
	t.Helper()
	put := func(key string, b []byte) {
		t.Helper()
		require.NoError(t, store.Own().Put(t.Context(), key, objects.Bytes(b)))
	}
	keys, err := os.ReadFile(c.file(token.KeySetFile))
	require.NoError(t, err)
	put(objects.JournalKey(objects.KeysJournal, 1), keys)
	key, err := os.ReadFile(c.file(token.RecordKeyFile))
	require.NoError(t, err)
	signer, err := token.ParseSigner(strings.TrimSpace(string(key)))
	require.NoError(t, err)
	rendition := hls.Rendition{ID: "v360", Track: "v0", Kind: hls.Video, Codecs: "avc1.64001e", Width: 640, Height: 360, Bandwidth: 900_000}
	master, err := hls.Master([]hls.Rendition{rendition})
	require.NoError(t, err)
	put(objects.MasterKey(watched, "r1", 1), master)
	media := make([]byte, 20_000)
	sum := sha256.Sum256(media)
	init := "init-" + hex.EncodeToString(sum[:4]) + ".mp4"
	put(objects.InitKey(watched, "r1", "v360", init), media)
	list := hls.RenditionSegments{Init: init}
	for i := range segments {
		put(objects.SegmentKey(watched, "r1", "v360", hls.SegmentPath(0, 1, i)), media)
		list.Segments = append(list.Segments, hls.Segment{Duration: 2000, Bytes: int64(len(media)), SHA256: hex.EncodeToString(sum[:])})
	}
	chunk := hls.Record{V: hls.RecordVersion, Asset: watched, Run: "r1", Track: "v0", Attempt: 1, Timescale: 1000, Target: 2, Last: true,
		Renditions: map[string]hls.RenditionSegments{"v360": list}}
	b, err := chunk.Encode()
	require.NoError(t, err)
	put(objects.RecordKey(watched, "r1", "v0", 0), b)
	b, err = playback.Sign(playback.Record{Asset: watched, N: 1, State: "ready", Run: "r1", Master: 1, Visibility: playback.Public, Title: "A film", Duration: 2 * segments}, signer)
	require.NoError(t, err)
	put(objects.JournalKey(objects.PlaybackJournal(watched), 1), b)
}

// play does once what makes a rare metric have a value.
func (c *components) play(t *testing.T, n int) {
	t.Helper()
	segment := func(i int) func() {
		return func() { get(t, "http://"+c.edge+"/v/-/"+watched+"/r1/v360/"+hls.SegmentPath(0, 1, i)) }
	}
	c.slow.Store(true)
	c.until(t, "edge-cache", "meridian_edge_hedges_total", segment(0))
	c.slow.Store(false)
	c.cut.Store(true)
	c.until(t, "edge-cache", "meridian_edge_handovers_total", segment(1))
	c.cut.Store(false)
	c.until(t, "edge-cache", "meridian_edge_fill_errors_total", func() { get(t, "http://"+c.edge+fmt.Sprintf("/v/-/%s/r1/v360/%s", watched, hls.SegmentPath(7, 1, n))) })
	c.until(t, "api", "meridian_api_request_duration_seconds_bucket", func() { get(t, "http://"+c.api+"/v1/assets") })
	get(t, "http://"+c.router+"/v/-/"+watched+"/master.m3u8")
}

// exported are the metrics of every service, by component.
func (c *components) exported(t *testing.T) map[string]families {
	t.Helper()
	out := map[string]families{}
	for name, at := range c.admin {
		out[name] = families{}
		out[name].scraped(t, at)
	}
	// Of these, most have no value where there is no work.
	for name, register := range map[string]func(prometheus.Registerer){
		"api":     func(r prometheus.Registerer) { jobs.NewMetrics(r); catalog.NewMetrics(r); repair.NewMetrics(r) },
		"encoder": func(r prometheus.Registerer) { jobs.NewMetrics(r); encoder.NewMetrics(r) },
	} {
		reg := prometheus.NewRegistry()
		register(reg)
		out[name].registered(t, reg)
	}
	reg := prometheus.NewRegistry()
	_, err := health.New(geo.NewBoard(geo.NewSnapshot(c.table)), nil, health.Options{Metrics: reg})
	require.NoError(t, err)
	_, err = certificate.NewMetrics(reg)
	require.NoError(t, err)
	out["geodns"].registered(t, reg)
	return out
}
