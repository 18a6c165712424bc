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
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/httpcache"
	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/telemetry"
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

	MaxConnections int           `help:"Connections open at once; further ones wait to be accepted." default:"20000" env:"MERIDIAN_CACHE_MAX_CONNECTIONS"`
	AdminListen    string        `help:"Address of /livez, /readyz and /metrics; keep it private." default:"127.0.0.1:0" env:"MERIDIAN_ADMIN_LISTEN" placeholder:"HOST:PORT"`
	Log            telemetry.Log `embed:"" prefix:"log-" envprefix:"MERIDIAN_LOG_"`
	CheckConfig    bool          `help:"Validate the configuration, name every problem and exit."`
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
	for flag, addr := range map[string]string{"--listen": c.Listen, "--admin-listen": c.AdminListen} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			bad("%s: %w", flag, err)
		}
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
	if c.MaxConnections < 1 {
		bad("--max-connections %d: want at least 1", c.MaxConnections)
	}
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
	if err := c.Validate(); err != nil {
		return fmt.Errorf("cache: configuration is not valid:\n%w", err)
	}
	if c.CheckConfig {
		_, err := fmt.Println("cache: configuration is valid")
		return err
	}
	log := c.Log.Logger(os.Stderr).With("component", "cache")
	return c.serve(ctx, log, telemetry.NewRegistry("cache"), nil)
}

// serve runs the proxy; listening, which may be nil, is told its address.
func (c *ProxyCommand) serve(ctx context.Context, log *slog.Logger, reg *prometheus.Registry, listening func(net.Addr)) error {
	origin, err := url.Parse(c.Origin)
	if err != nil {
		return err
	}
	m := newProxyMetrics(reg)
	cm, err := certificate.NewMetrics(reg)
	if err != nil {
		return err
	}
	certs, _, err := c.TLS.Open(certificate.Key{}, "", nil, nil, cm, log)
	if err != nil {
		return err
	}
	cfg := cache.Config{Memory: int64(c.CacheMemory), MaxObject: int64(c.MaxObject), Log: log}
	if c.CacheDir != "" {
		cfg.Dir, cfg.Disk = c.CacheDir, int64(c.CacheDisk)
	}
	store, err := cache.Open(cfg)
	if err != nil {
		return err
	}
	observeCache(reg, "cache", store)
	proxy, err := httpcache.New(httpcache.Config{Origin: origin, Cache: store, Dir: c.CacheDir, Name: c.Name, Heuristics: c.Heuristics, StaleFor: c.StaleFor,
		MaxObject: int64(c.MaxObject), PurgeFrom: c.PurgeFrom, Log: log, Answered: m.answered})
	if err != nil {
		return errors.Join(err, store.Close())
	}
	defer proxy.Close()
	l, err := (&net.ListenConfig{KeepAlive: 30 * time.Second}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listener: %w", err), store.Close())
	}
	admin, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.AdminListen)
	if err != nil {
		return errors.Join(fmt.Errorf("admin listener: %w", err), l.Close(), store.Close())
	}
	log.Info("listening", "addr", l.Addr().String(), "admin", admin.Addr().String(), "origin", c.Origin)
	if listening != nil {
		listening(l.Addr())
	}
	in := newGate(c.MaxConnections, 0)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		srv := &http.Server{Handler: telemetry.Handler(reg, func(context.Context) error { return errors.Join(gctx.Err(), store.DiskErr()) }),
			ReadHeaderTimeout: headerTimeout, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
		return service.ServeHTTP(gctx, srv, admin, time.Second)
	})
	g.Go(func() error { return c.TLS.serve(gctx, certs, proxy, proxy, log, in, listening) })
	g.Go(func() error { return serveFast(gctx, newServer(proxy, log), l, in, proxy, store.Window(), log) })
	err = g.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	proxy.Close()
	return errors.Join(err, store.Close())
}

type proxyMetrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newProxyMetrics(reg prometheus.Registerer) *proxyMetrics {
	m := &proxyMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_cache_requests_total", Help: "Requests by how the cache answered and status."}, []string{"cache", "status"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meridian_cache_response_bytes_total", Help: "Body bytes sent, by how the cache answered."}, []string{"cache"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "meridian_cache_request_seconds", Help: "Time to answer, by how the cache answered.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"cache"}),
	}
	reg.MustRegister(m.requests, m.bytes, m.seconds)
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
