package httpcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/edge-cache/cache"
)

// Config of a Proxy. Origin, Cache and Name are required.
type Config struct {
	// Origin is where requests go: scheme and host, without a path.
	Origin *url.URL
	// Cache keeps the bodies.
	Cache *cache.Cache
	// Dir, which Cache has its disk in, has a journal of what is stored there, so that
	// a restart finds it. Empty: a restart begins with nothing.
	Dir string
	// Name is this cache's in Cache-Status and Via: a token of RFC 9110.
	Name string
	// Heuristics gives a lifetime to responses whose origin gave none.
	Heuristics bool
	// StaleFor is how long after its lifetime a response may answer while the
	// origin can't be reached, where the origin doesn't forbid it; default none.
	StaleFor time.Duration
	// MaxObject is the largest body kept; default 8 MiB.
	MaxObject int64
	// IndexBytes bounds the header fields kept; default 64 MiB.
	IndexBytes int64
	// PurgeFrom are the addresses PURGE requests are obeyed from.
	PurgeFrom []netip.Prefix
	// HeaderTimeout bounds the wait for the origin's head; default 30 s.
	HeaderTimeout time.Duration
	// BodyTimeout bounds the fetch of a body that is kept; default 5 minutes.
	BodyTimeout time.Duration
	// SilenceTimeout bounds the wait for more of a body that is kept; default 30 s.
	SilenceTimeout time.Duration
	// ContentTimeout bounds the wait for more of a request's content; default 20 s.
	ContentTimeout time.Duration
	Log            *slog.Logger
	// Admit may refuse to have the origin asked for a client (429); leave is called when
	// the answer has come. It is given the request's RemoteAddr. May be nil.
	Admit func(remote string) (leave func(), ok bool)
	// Answered is told of every response: how the cache answered ("hit", "stale",
	// "collapsed", "validated", "miss", "pass", "error"), its status and body bytes. May be nil.
	Answered func(how string, status int, bytes int64, took time.Duration)
	// now is time.Now, and disk is Cache.Disk, but for tests.
	now  func() time.Time
	disk func() cache.DiskState
}

// Proxy is the cache, an http.Handler. Close it.
type Proxy struct {
	cfg       Config
	index     *index
	transport *http.Transport
	now       func() time.Time
	fetches   sync.WaitGroup
	ctx       context.Context
	cancel    context.CancelFunc

	mu      sync.Mutex
	closed  bool
	flights map[string]*flight
	room    int64 // bytes arriving bodies may still take
}

// New makes a Proxy.
func New(cfg Config) (*Proxy, error) {
	if cfg.Origin == nil || (cfg.Origin.Scheme != "http" && cfg.Origin.Scheme != "https") || cfg.Origin.Host == "" ||
		strings.Trim(cfg.Origin.Path, "/") != "" || cfg.Origin.RawQuery != "" || cfg.Origin.User != nil {
		return nil, fmt.Errorf("origin %q: want http://HOST[:PORT] or https://HOST[:PORT], and no path", cfg.Origin)
	}
	if cfg.Cache == nil || cfg.Name == "" {
		return nil, errors.New("httpcache: Cache and Name are required")
	}
	if cfg.MaxObject == 0 {
		cfg.MaxObject = 8 << 20
	}
	if cfg.IndexBytes == 0 {
		cfg.IndexBytes = 64 << 20
	}
	if cfg.HeaderTimeout == 0 {
		cfg.HeaderTimeout = 30 * time.Second
	}
	if cfg.BodyTimeout == 0 {
		cfg.BodyTimeout = 5 * time.Minute
	}
	if cfg.SilenceTimeout == 0 {
		cfg.SilenceTimeout = 30 * time.Second
	}
	if cfg.ContentTimeout == 0 {
		cfg.ContentTimeout = 20 * time.Second
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.disk == nil {
		cfg.disk = cfg.Cache.Disk
	}
	if cfg.Admit == nil {
		cfg.Admit = func(string) (func(), bool) { return func() {}, true }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{cfg: cfg, ctx: ctx, cancel: cancel, index: newIndex(cfg.IndexBytes), now: cfg.now, flights: map[string]*flight{}, room: 32 * cfg.MaxObject,
		transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext, TLSHandshakeTimeout: 5 * time.Second,
			ResponseHeaderTimeout: cfg.HeaderTimeout, IdleConnTimeout: time.Minute, MaxIdleConns: 512, MaxIdleConnsPerHost: 256, MaxConnsPerHost: 1024,
			MaxResponseHeaderBytes: 64 << 10, DisableCompression: true, ForceAttemptHTTP2: true}}
	if cfg.Dir != "" {
		if err := p.restore(cfg.Dir); err != nil {
			return nil, err
		}
		p.index.journal = openJournal(cfg.Dir, cfg.Log, p.index.all, cfg.disk)
	}
	return p, nil
}

// Close ends the fetches that run, and completes the journal. Cache is closed after it.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.fetches.Wait()
	p.index.journal.close()
	p.transport.CloseIdleConnections()
}
