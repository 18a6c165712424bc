package order

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/region"
)

const (
	// checkEvery is how often certificates are looked at for being due.
	checkEvery = time.Minute
	// retryFirst and retryMost are the shortest and longest pause after orders that
	// failed. CAs allow few failures an hour.
	retryFirst = 15 * time.Minute
	retryMost  = 6 * time.Hour
)

// Orders orders and renews the shared certificates.
type Orders struct {
	// Names to have a certificate each, and how often they are looked at for being
	// due; New sets both, Run reads them.
	Names []string
	Every time.Duration

	shared  *certificate.Shared
	lock    *lock
	cfg     Config
	roots   *x509.CertPool
	table   *region.Table
	magic   *certmagic.Config
	issuer  string // the CA's part of certmagic's paths
	log     *slog.Logger
	metrics *certificate.Metrics
	retries map[string]retry
}

// retry is what became of a name's last orders.
type retry struct {
	pause time.Duration
	next  time.Time
}

// New returns who orders the certificates of the table's zone. c must be valid.
func New(c Config, shared *certificate.Shared, table *region.Table, m *certificate.Metrics, log *slog.Logger) (*Orders, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, fmt.Errorf("--acme-roots: %w", err)
	}
	o := &Orders{Names: certificate.Names(table.Zone), Every: checkEvery, cfg: c, roots: roots, table: table,
		shared: shared, lock: newLock(shared, "order"), metrics: m, log: log, retries: map[string]retry{}}
	m.Wanted(o.Names...)
	return o, nil
}

// Run orders what is missing and renews what is due until ctx ends.
func (o *Orders) Run(ctx context.Context) error {
	defer o.open().Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-o.shared.Known():
	}
	t := time.NewTicker(o.Every)
	defer t.Stop()
	for {
		for _, name := range o.Names {
			o.attend(ctx, name)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// open makes the ACME client. Its cache, of which nothing is used, has a goroutine
// that ends with Stop.
func (o *Orders) open() *certmagic.Cache {
	// What goes wrong comes back as errors; certmagic's own log would say it twice.
	quiet := zap.NewNop()
	cache := certmagic.NewCache(certmagic.CacheOptions{Logger: quiet,
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return o.magic, nil }})
	o.magic = certmagic.New(cache, certmagic.Config{
		Storage: newStorage(o.shared), Logger: quiet,
		KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		// A check would be two more entries of the journal for each order.
		DisableStorageCheck: true,
		// Asking the CA every few hours when to renew would be an entry each time.
		DisableARI: true,
		OCSP:       certmagic.OCSPConfig{DisableStapling: true},
	})
	issuer := certmagic.NewACMEIssuer(o.magic, certmagic.ACMEIssuer{
		CA: o.cfg.Directory, Email: o.cfg.Email, Agreed: o.cfg.Agree, TrustedRoots: o.roots, CertObtainTimeout: orderTimeout, Logger: quiet,
		DNS01Solver:          &solver{shared: o.shared, table: o.table, timeout: answeredTimeout, now: time.Now},
		DisableHTTPChallenge: true, DisableTLSALPNChallenge: true})
	o.magic.Issuers, o.issuer = []certmagic.Issuer{issuer}, issuer.IssuerKey()
	return cache
}

// attend has a name's certificate ordered if it is due and the last order that
// failed isn't too fresh.
func (o *Orders) attend(ctx context.Context, name string) {
	if !o.due(name) || time.Now().Before(o.retries[name].next) {
		return
	}
	result, err := o.order(ctx, name)
	if err != nil && ctx.Err() != nil {
		return
	}
	o.metrics.Ordered(result)
	if err == nil {
		delete(o.retries, name)
		return
	}
	r := o.retries[name]
	r.pause = min(max(2*r.pause, retryFirst), retryMost)
	r.next = time.Now().Add(r.pause)
	o.retries[name] = r
	o.log.Warn("certificate: order failed", "name", name, "again", r.pause, "err", err)
}

// Results of orders.
const (
	issued = "issued"
	found  = "found"
	failed = "failed"
)

// order orders a certificate, unless another router is faster.
func (o *Orders) order(ctx context.Context, name string) (result string, err error) {
	wait, cancel := context.WithTimeout(ctx, o.lock.lease+time.Minute)
	defer cancel()
	if err := o.lock.take(wait); err != nil {
		return failed, err
	}
	defer func() {
		if err := o.lock.giveBack(context.WithoutCancel(ctx)); err != nil {
			o.log.Warn("certificate: lock", "err", err)
		}
	}()
	if !o.due(name) {
		return found, nil
	}
	o.log.Info("certificate: ordering", "name", name)
	octx, cancelOrder := context.WithTimeout(ctx, orderTimeout)
	defer cancelOrder()
	// By force: that it is due was just decided, also when what is there can't be used.
	if err := o.magic.RenewCertSync(octx, name, true); err != nil {
		return failed, err
	}
	if o.due(name) {
		return failed, fmt.Errorf("%w for %q that isn't due, although the order went well", certificate.ErrNone, name)
	}
	return issued, nil
}

// due reports whether a name has no certificate of this CA, or one that is to be
// renewed.
func (o *Orders) due(name string) bool {
	files := o.shared.State().Files
	pair, err := tls.X509KeyPair(files[certmagic.StorageKeys.SiteCert(o.issuer, name)].Content,
		files[certmagic.StorageKeys.SitePrivateKey(o.issuer, name)].Content)
	return err != nil || !time.Now().Before(certificate.Due(pair.Leaf))
}
