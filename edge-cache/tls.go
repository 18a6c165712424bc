package edgecache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/internal/service"
)

// TLS is the configuration of the encrypted listener: TLS 1.3, HTTP/1.1, HTTP/2
// and, if wanted, HTTP/3. Its zero value has none.
type TLS struct {
	Listen string `help:"Address to answer on with TLS 1.3 as well; needs certificate and key." env:"LISTEN" placeholder:"HOST:PORT"`
	Cert   string `help:"Certificate chain (PEM). Read again when it changes." env:"CERT" placeholder:"FILE"`
	Key    string `help:"Private key of the certificate (PEM)." env:"KEY" placeholder:"FILE"`
	HTTP3  bool   `name:"http3" help:"Answer HTTP/3 too, on UDP at the same address, and tell clients so (Alt-Svc)." env:"HTTP3"`
}

func (t *TLS) validate(bad func(format string, a ...any)) {
	if t.Listen == "" && t.Cert == "" && t.Key == "" {
		if t.HTTP3 {
			bad("--tls-http3: needs --tls-listen, --tls-cert and --tls-key")
		}
		return
	}
	if _, _, err := net.SplitHostPort(t.Listen); err != nil {
		bad("--tls-listen: %w", err)
	}
	if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
		bad("--tls-cert %q, --tls-key %q: %w", t.Cert, t.Key, err)
	}
}

// certificateInterval is how often the files are looked at, at most.
const certificateInterval = 10 * time.Second

// certificate is the one in the files, as far as it can be read.
type certificate struct {
	cfg TLS
	log *slog.Logger

	mu      sync.Mutex
	looked  time.Time
	changed [2]time.Time
	pair    *tls.Certificate
}

// get implements tls.Config.GetCertificate. A pair that can't be read, as while
// it is being replaced, leaves the one in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair != nil && time.Since(c.looked) < certificateInterval {
		return c.pair, nil
	}
	c.looked = time.Now()
	if err := c.load(); err != nil {
		if c.pair == nil {
			return nil, err
		}
		c.log.Warn("certificate: keeping the one in use", "err", err)
	}
	return c.pair, nil
}

func (c *certificate) load() error {
	var changed [2]time.Time
	for i, file := range []string{c.cfg.Cert, c.cfg.Key} {
		st, err := os.Stat(file)
		if err != nil {
			return err
		}
		changed[i] = st.ModTime()
	}
	if c.pair != nil && changed == c.changed {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cfg.Cert, c.cfg.Key)
	if err != nil {
		return err
	}
	c.pair, c.changed = &pair, changed
	return nil
}

// serve answers on the encrypted listener until ctx ends; nil at once without one.
// listening, which may be nil, is told the address.
func (t *TLS) serve(ctx context.Context, h http.Handler, log *slog.Logger, g *gate, listening func(net.Addr)) error {
	if t.Listen == "" {
		return nil
	}
	c := &certificate{cfg: *t, log: log}
	if _, err := c.get(nil); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	l, err := (&net.ListenConfig{KeepAlive: 30 * time.Second}).Listen(ctx, "tcp", t.Listen)
	if err != nil {
		return fmt.Errorf("TLS listener: %w", err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.get}
	wg, ctx := errgroup.WithContext(ctx)
	tcp := h
	if t.HTTP3 {
		h3, err := listenHTTP3(ctx, l.Addr(), endUnclear(h), cfg, g)
		if err != nil {
			return errors.Join(fmt.Errorf("HTTP/3 listener: %w", err), l.Close())
		}
		tcp = h3.advertise(h)
		wg.Go(func() error { return h3.serve(ctx) })
	}
	if listening != nil {
		listening(l.Addr())
	}
	log.Info("listening with TLS", "addr", l.Addr().String(), "http3", t.HTTP3)
	srv := newServer(tcp, log)
	// What a stream may hold open is bounded as connections are.
	srv.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 100, MaxReadFrameSize: 64 << 10, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}
	srv.TLSConfig = cfg
	wg.Go(func() error { return service.ServeHTTP(ctx, srv, tls.NewListener(g.limit(l), cfg), drainTime) })
	if err := wg.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
