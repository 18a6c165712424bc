package order

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"os"
)

// Config says which CA to order from. Its zero value orders nothing.
type Config struct {
	Directory string `help:"Directory URL of the ACME CA to order certificates from; empty: none are ordered." env:"DIRECTORY" placeholder:"URL"`
	Email     string `help:"Address the CA writes to." env:"EMAIL" placeholder:"ADDRESS"`
	Agree     bool   `help:"Agree to the CA's terms of service." env:"AGREE"`
	Roots     string `help:"CAs to trust as the system's when talking to the ACME CA (PEM)." env:"ROOTS" placeholder:"FILE"`
}

// Enabled reports whether certificates are to be ordered.
func (c *Config) Enabled() bool { return c.Directory != "" }

// Validate returns every problem. sealed says that there is a key to seal with.
func (c *Config) Validate(sealed bool) error {
	if *c == (Config{}) {
		return nil
	}
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if u, err := url.Parse(c.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		bad("--acme-directory %q: want the https URL of an ACME directory", c.Directory)
	}
	if a, err := mail.ParseAddress(c.Email); err != nil || a.Address != c.Email {
		bad("--acme-email %q: want an address the CA can write to", c.Email)
	}
	if !c.Agree {
		bad("--acme-agree: say that you agree to the CA's terms of service")
	}
	if _, err := c.roots(); err != nil {
		bad("--acme-roots: %w", err)
	}
	if !sealed {
		bad("--certificates-key: want the key that ordered certificates are sealed with")
	}
	return errors.Join(errs...)
}

// roots returns the CAs to trust; nil: the system's.
func (c *Config) roots() (*x509.CertPool, error) {
	if c.Roots == "" {
		return nil, nil
	}
	b, err := os.ReadFile(c.Roots)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: no certificate in it", c.Roots)
	}
	return pool, nil
}
