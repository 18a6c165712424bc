package certificate

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
)

// TLS is the configuration of an encrypted listener: TLS 1.3, HTTP/1.1 and
// HTTP/2. Its zero value has none.
type TLS struct {
	Listen string `help:"Address to answer on with TLS 1.3 as well; needs a certificate." env:"LISTEN" placeholder:"HOST:PORT"`
	Cert   string `help:"Certificate chain (PEM). Read again when it changes." env:"CERT" placeholder:"FILE"`
	Key    string `help:"Private key of the certificate (PEM)." env:"KEY" placeholder:"FILE"`
}

// Validate returns every problem. shared says that certificates may come from the
// regions' stores.
func (t *TLS) Validate(shared bool) error {
	if *t == (TLS{}) {
		return nil
	}
	var errs []error
	if _, _, err := net.SplitHostPort(t.Listen); err != nil {
		errs = append(errs, fmt.Errorf("--tls-listen: %w", err))
	}
	if t.Cert == "" && t.Key == "" && shared {
		return errors.Join(errs...)
	}
	if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
		errs = append(errs, fmt.Errorf("--tls-cert %q, --tls-key %q: %w", t.Cert, t.Key, err))
	}
	return errors.Join(errs...)
}

// Open returns where the listener's certificates come from, nil without one, and
// the shared certificates if it is those, which must be run. See Source for base.
func (t *TLS) Open(k Key, base string, store *objects.Store, table *region.Table, m *Metrics, log *slog.Logger) (Source, *Shared, error) {
	var shared *Shared
	if t.Listen != "" && t.Cert == "" {
		var err error
		if shared, err = NewShared(store, table, k.Key.Reveal(), nil, m, log); err != nil {
			return nil, nil, err
		}
	}
	s, err := t.Source(shared, base, m, log)
	return s, shared, err
}

// Source returns where the listener's certificates come from, nil without one:
// files if there are any, else those shared, for clients that name no server as
// those of base ("edge").
func (t *TLS) Source(shared *Shared, base string, m *Metrics, log *slog.Logger) (Source, error) {
	if t.Listen == "" {
		return nil, nil
	}
	if t.Cert == "" {
		return shared.For(base), nil
	}
	// Not OpenFiles' own result: a nil *Files would not be a nil Source.
	f, err := OpenFiles(t.Cert, t.Key, m, log)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Source has the certificates of a listener; its method fits tls.Config.
type Source interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Ready returns nil once there is a certificate.
	Ready() error
}

// Config is how a listener speaks TLS.
func Config(s Source) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: s.GetCertificate}
}

// Key is the configuration of who shares certificates. Its zero value doesn't.
type Key struct {
	Key service.Secret `help:"Key that certificates shared between the regions are sealed with, the same everywhere; @FILE reads it from a file." env:"KEY"`
}

// Validate returns what is wrong with the key.
func (k *Key) Validate() error {
	if k.Key == "" {
		return nil
	}
	if _, err := journal.NewSealKey(k.Key.Reveal()); err != nil {
		return fmt.Errorf("--certificates-key: %w", err)
	}
	return nil
}
