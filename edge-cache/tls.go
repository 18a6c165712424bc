package edgecache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
	"github.com/meridian-video/meridian/internal/certificate"
)

// TLS is the configuration of the encrypted listener, which may speak HTTP/3 as
// well. Its zero value has none.
type TLS struct {
	certificate.TLS `embed:""`
	HTTP3           bool `name:"http3" help:"Answer HTTP/3 too, on UDP at the same address, and tell clients so (Alt-Svc)." env:"HTTP3"`
}

// validate returns every problem. shared says that certificates may come from the
// regions' stores.
func (t *TLS) validate(shared bool) error {
	err := t.TLS.Validate(shared)
	if t.HTTP3 && t.Listen == "" {
		err = errors.Join(err, errors.New("--tls-http3: needs --tls-listen"))
	}
	return err
}

// serve answers on the encrypted listener, as r and h do, until ctx ends; nil at
// once without one. listening, which may be nil, is told the address.
func (t *TLS) serve(ctx context.Context, from certificate.Source, h http.Handler, r fastpath.Responder, log *slog.Logger, g *gate, listening func(net.Addr)) error {
	if t.Listen == "" {
		return nil
	}
	l, err := (&net.ListenConfig{KeepAlive: 30 * time.Second}).Listen(ctx, "tcp", t.Listen)
	if err != nil {
		return fmt.Errorf("TLS listener: %w", err)
	}
	cfg := certificate.Config(from)
	// Bodies are large: full records from the first.
	cfg.DynamicRecordSizingDisabled = true
	wg, ctx := errgroup.WithContext(ctx)
	tcp := h
	if t.HTTP3 {
		h3, err := listenHTTP3(ctx, l.Addr(), endUnclear(h), cfg, g)
		if err != nil {
			return errors.Join(fmt.Errorf("HTTP/3 listener: %w", err), l.Close())
		}
		tcp, r = h3.advertise(h), h3.advertiseFast(r)
		wg.Go(func() error { return h3.serve(ctx) })
	}
	if listening != nil {
		listening(l.Addr())
	}
	log.Info("listening with TLS", "addr", l.Addr().String(), "http3", t.HTTP3)
	srv := newServer(tcp, log)
	srv.TLSConfig = cfg
	wg.Go(func() error { return serveFast(ctx, srv, l, g, r, nil, log) })
	if err := wg.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
