package edgecache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/httpcache"
	"github.com/meridian-video/meridian/edge-cache/load"
	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/service"
)

// ProxyCommand is `meridian cache`: the edge's cache as a reverse proxy before any
// HTTP origin, without regions, tokens or video.
type ProxyCommand struct {
	Origin string `help:"Origin, as http://HOST[:PORT] or https://HOST[:PORT]." required:"" env:"MERIDIAN_CACHE_ORIGIN" placeholder:"URL"`
	Listen string `help:"Address to answer on." default:":8083" env:"MERIDIAN_CACHE_LISTEN" placeholder:"HOST:PORT"`
	Name   string `help:"Name of this cache in Cache-Status and Via." default:"meridian" env:"MERIDIAN_CACHE_NAME"`

	CacheDir    string `help:"Directory of the disk cache; without it only memory is used." env:"MERIDIAN_CACHE_DIR" placeholder:"DIR"`
	CacheMemory Size   `help:"Memory for cached bodies; an eighth more has copies of those asked for most." default:"256MiB" env:"MERIDIAN_CACHE_MEMORY" placeholder:"SIZE"`
	CacheDisk   Size   `help:"Disk for cached bodies." default:"2GiB" env:"MERIDIAN_CACHE_DISK" placeholder:"SIZE"`
	MaxObject   Size   `help:"Largest body kept." default:"16MiB" env:"MERIDIAN_CACHE_MAX_OBJECT" placeholder:"SIZE"`

	Heuristics bool           `help:"Give responses without a lifetime a tenth of their age (RFC 9111 section 4.2.2)." env:"MERIDIAN_CACHE_HEURISTICS"`
	StaleFor   time.Duration  `help:"How long after its lifetime a response may answer while the origin can't be reached." default:"1h" env:"MERIDIAN_CACHE_STALE_FOR"`
	PurgeFrom  []netip.Prefix `help:"Networks PURGE requests are obeyed from." default:"127.0.0.0/8,::1/128" env:"MERIDIAN_CACHE_PURGE_FROM"`

	TLS TLS `embed:"" prefix:"tls-" envprefix:"MERIDIAN_CACHE_TLS_"`

	MaxConnections    int           `help:"Connections open at once; further ones wait to be accepted." default:"20000" env:"MERIDIAN_CACHE_MAX_CONNECTIONS"`
	ClientConnections int           `help:"Connections one client address (IPv6: /64) may have open; further ones are closed. 0: no limit." default:"1024" env:"MERIDIAN_CACHE_CLIENT_CONNECTIONS"`
	ClientFetches     int           `help:"Requests to the origin at once because of one client address; further ones get 429. 0: no limit." default:"128" env:"MERIDIAN_CACHE_CLIENT_FETCHES"`
	Bandwidth         Size          `help:"Bytes a second this cache can send; they count in its load. 0: not known." default:"0" env:"MERIDIAN_CACHE_BANDWIDTH" placeholder:"SIZE"`
	DrainNotice       time.Duration `help:"How long a cache that is asked answers on after the stop signal, while /readyz says 503." default:"1s" env:"MERIDIAN_CACHE_DRAIN_NOTICE"`
	service.Process   `embed:""`
	Watchdog          service.Watchdog `embed:""`
}

// Args are the command's arguments, in which `edge-cache --origin` is `cache`: an edge
// has regions in place of an origin.
func Args(args []string) []string {
	if len(args) == 0 || args[0] != "edge-cache" || !slices.ContainsFunc(args, func(a string) bool { return a == "--origin" || strings.HasPrefix(a, "--origin=") }) {
		return args
	}
	return append([]string{"cache"}, args[1:]...)
}

// Validate names every problem of the configuration.
func (c *ProxyCommand) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if u, err := url.Parse(c.Origin); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" {
		bad("--origin %q: want http://HOST[:PORT] or https://HOST[:PORT], and no path", c.Origin)
	}
	errs = append(errs, c.Process.Validate(), c.Watchdog.Validate())
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		bad("--listen: %w", err)
	}
	if !validToken(c.Name) {
		bad("--name %q: want a letter, then letters, digits, '-', '_' or '.'", c.Name)
	}
	if c.CacheMemory < 16<<20 {
		bad("--cache-memory %s: want at least 16MiB", c.CacheMemory)
	}
	if c.MaxObject < 1 || c.MaxObject > c.CacheMemory/8 {
		bad("--max-object %s: want at most an eighth of --cache-memory (%s)", c.MaxObject, c.CacheMemory)
	}
	if c.CacheDir != "" && c.CacheDisk < 16*c.MaxObject {
		bad("--cache-disk %s: want at least sixteen times --max-object (%s)", c.CacheDisk, c.MaxObject)
	}
	if c.StaleFor < 0 {
		bad("--stale-for %s: want no less than 0", c.StaleFor)
	}
	errs = append(errs, c.TLS.validate(false))
	errs = append(errs, validLimits(c.MaxConnections, map[string]int{"--client-connections": c.ClientConnections, "--client-fetches": c.ClientFetches}, c.DrainNotice))
	return errors.Join(errs...)
}

func validToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return s != ""
}

// Run serves until ctx ends.
func (c *ProxyCommand) Run(ctx context.Context) error {
	return c.Process.Run(ctx, "cache", c.Validate, func(_ context.Context, rt *service.Runtime) (service.Component, error) {
		return newProxyCache(c, rt)
	})
}

// proxyCache is the running component.
type proxyCache struct {
	cmd     *ProxyCommand
	log     *slog.Logger
	cache   *cache.Cache
	proxy   *httpcache.Proxy
	handler http.Handler
	tls     certificate.Source // nil without
	gate    *gate
	drain   *drainer
	meter   *load.Meter
	status  *statusPage
	serving atomic.Bool
	// listening, which may be nil, is told the addresses, the encrypted one last.
	listening func(net.Addr)
}

func newProxyCache(c *ProxyCommand, rt *service.Runtime) (*proxyCache, error) {
	origin, err := url.Parse(c.Origin)
	if err != nil {
		return nil, err
	}
	p := &proxyCache{cmd: c, log: rt.Log, gate: newGate(c.MaxConnections, c.ClientConnections), drain: newDrainer(c.DrainNotice, rt.Log)}
	cm, err := certificate.NewMetrics(rt.Metrics)
	if err != nil {
		return nil, err
	}
	if p.tls, _, err = c.TLS.Open(certificate.Key{}, "", nil, nil, cm, p.log); err != nil {
		return nil, err
	}
	cfg := cache.Config{Memory: int64(c.CacheMemory), MaxObject: int64(c.MaxObject), Log: p.log}
	if c.CacheDir != "" {
		cfg.Dir, cfg.Disk = c.CacheDir, int64(c.CacheDisk)
	}
	if p.cache, err = cache.Open(cfg); err != nil {
		return nil, err
	}
	m := newProxyMetrics(rt.Metrics)
	clients := newLimits(c.ClientFetches, 0)
	p.proxy, err = httpcache.New(httpcache.Config{Origin: origin, Cache: p.cache, Dir: c.CacheDir, Name: c.Name, Heuristics: c.Heuristics, StaleFor: c.StaleFor,
		MaxObject: int64(c.MaxObject), PurgeFrom: c.PurgeFrom, Log: p.log,
		Admit: func(remote string) (func(), bool) {
			leave, err := clients.enter(clientOf(remote), "")
			if err != nil {
				m.refused.Inc()
			}
			return leave, err == nil
		},
		Answered: func(how string, status int, bytes int64, took time.Duration) {
			p.drain.seen(time.Now())
			m.answered(how, status, bytes, took)
		}})
	if err != nil {
		return nil, errors.Join(err, p.cache.Close())
	}
	p.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.open.Inc()
		defer m.open.Dec()
		p.proxy.ServeHTTP(w, r)
	})
	p.meter = newMeter(p.gate, c.Bandwidth, p.cache)
	p.status = &statusPage{name: c.Name, place: "before " + origin.Host, component: "cache", hits: []string{"hit", "stale", "collapsed"},
		ready: p.Ready, meter: p.meter, cache: p.cache, metrics: rt.Metrics, started: time.Now(), more: proxyTables}
	observeCache(rt.Metrics, "cache", p.cache)
	observeLoad(rt.Metrics, "cache", p.meter, p.drain, p.gate)
	return p, nil
}

// Patience implements service.Watched.
func (p *proxyCache) Patience() time.Duration { return p.cmd.Watchdog.Patience }

// Ready implements service.Component.
func (p *proxyCache) Ready(context.Context) error {
	var errs []error
	if !p.serving.Load() {
		errs = append(errs, errors.New("not listening"))
	}
	if err := p.cache.DiskErr(); err != nil {
		errs = append(errs, fmt.Errorf("cache directory: %w", err))
	}
	if p.tls != nil {
		errs = append(errs, p.tls.Ready())
	}
	return errors.Join(append(errs, p.drain.ready())...)
}

// Operate implements service.Operator.
func (p *proxyCache) Operate(mux *http.ServeMux) {
	p.drain.operate(mux)
	mux.Handle("GET /status", p.status)
}

// Run implements service.Component.
func (p *proxyCache) Run(ctx context.Context) error {
	g, ctx, end := p.drain.group(ctx)
	defer end()
	g.Go(func() error { p.meter.Run(ctx); return nil })
	g.Go(func() error { return p.serve(ctx) })
	err := g.Wait()
	p.proxy.Close()
	return errors.Join(err, p.cache.Close())
}

func (p *proxyCache) serve(ctx context.Context) error {
	l, err := (&net.ListenConfig{KeepAlive: 30 * time.Second}).Listen(ctx, "tcp", p.cmd.Listen)
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	p.log.Info("listening", "addr", l.Addr().String(), "origin", p.cmd.Origin)
	if p.listening != nil {
		p.listening(l.Addr())
	}
	p.serving.Store(true)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.cmd.TLS.serve(ctx, p.tls, p.handler, p.proxy, p.log, p.gate, p.listening) })
	g.Go(func() error {
		return serveFast(ctx, newServer(p.handler, p.log), l, p.gate, p.proxy, p.cache.Window(), p.log)
	})
	if err := g.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// proxyTables are the status page's own of `meridian cache`.
func proxyTables(by metricValues) []statusTable {
	return []statusTable{countTable("Statuses", by("requests_total", "status")),
		{"Refused", []statusRow{{"too many fetches for one client", countText(by.one("fetches_refused_total"))}}}}
}

type proxyMetrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	open     prometheus.Gauge
	refused  prometheus.Counter
}

func newProxyMetrics(reg prometheus.Registerer) *proxyMetrics {
	m := &proxyMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_cache_requests_total", Help: "Requests by how the cache answered and status."}, []string{"cache", "status"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_cache_response_bytes_total", Help: "Body bytes sent, by how the cache answered."}, []string{"cache"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meridian_cache_request_seconds", Help: "Time to answer, by how the cache answered.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"cache"}),
		open:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "meridian_cache_requests_open", Help: "Requests being answered, but for those answered straight from the connection."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "meridian_cache_fetches_refused_total", Help: "Requests not passed on because too many of their client's were."}),
	}
	reg.MustRegister(m.requests, m.bytes, m.seconds, m.open, m.refused)
	return m
}

func (m *proxyMetrics) answered(how string, status int, bytes int64, took time.Duration) {
	text := "200"
	if status != http.StatusOK {
		text = strconv.Itoa(status)
	}
	m.requests.WithLabelValues(how, text).Inc()
	m.bytes.WithLabelValues(how).Add(float64(bytes))
	m.seconds.WithLabelValues(how).Observe(took.Seconds())
}
