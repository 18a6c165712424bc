package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meridian-video/meridian/internal/durable"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 2 * 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is replaced.
	renewBefore = 90 * 24 * time.Hour
	// clockSkew is how far a machine's clock may be behind.
	clockSkew = time.Hour
)

// privateFile is the mode of what an authority writes.
const privateFile = 0o600

// Authority is a certificate authority of the platform's own, which only those
// trust who are told to: its stores and who calls them, or a developer's browser.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// LoadAuthority reads the authority in dir (ca.crt, ca.key), or makes it with a
// name.
func LoadAuthority(dir, name string) (*Authority, error) {
	crt, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	pair, err := readPair(crt, key)
	if errors.Is(err, fs.ErrNotExist) {
		template := &x509.Certificate{
			Subject:  pkix.Name{CommonName: name},
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
			NotBefore: time.Now().Add(-clockSkew), NotAfter: time.Now().Add(caLifetime),
		}
		if err := makePair(crt, key, template, nil); err != nil {
			return nil, err
		}
		pair, err = readPair(crt, key)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	signer, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("certificate authority: %s and %s: want an authority's certificate and its ECDSA key", crt, key)
	}
	b, err := os.ReadFile(crt)
	if err != nil {
		return nil, err
	}
	return &Authority{dir: dir, cert: pair.Leaf, key: signer, pem: b}, nil
}

// PEM is the authority's certificate.
func (a *Authority) PEM() []byte { return slices.Clone(a.pem) }

// Pool has the authority's certificate.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Issue returns the certificate and key, in PEM, of who is known under hosts: the
// one made before while it is good, else a new one. They are kept in the
// authority's directory as {name}.crt and {name}.key.
func (a *Authority) Issue(name string, hosts []string) (crt, key []byte, err error) {
	crtFile, keyFile := filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	pair, err := readPair(crtFile, keyFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("certificate: %w; delete it to have it made anew", err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		KeyUsage:  x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-clockSkew), NotAfter: time.Now().Add(leafLifetime),
		// Members of etcd and NATS are each other's clients.
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range append(hosts, "localhost", "127.0.0.1") {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	if err != nil || !a.good(pair.Leaf, template) {
		if err := makePair(crtFile, keyFile, template, a); err != nil {
			return nil, nil, fmt.Errorf("certificate: %w", err)
		}
	}
	crt, err = os.ReadFile(crtFile)
	if err != nil {
		return nil, nil, err
	}
	key, err = os.ReadFile(keyFile)
	return crt, key, err
}

func (a *Authority) good(have, want *x509.Certificate) bool {
	return have.CheckSignatureFrom(a.cert) == nil && time.Until(have.NotAfter) > renewBefore &&
		slices.Equal(have.DNSNames, want.DNSNames) && slices.EqualFunc(have.IPAddresses, want.IPAddresses, net.IP.Equal)
}

func readPair(crt, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}

// makePair writes a new key and its certificate, signed by a or, without one, by itself.
// The certificate goes last: a run cut short before it begins again.
func makePair(crt, key string, template *x509.Certificate, a *Authority) error {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	parent, signer := template, priv
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &priv.PublicKey, signer)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}); err != nil {
		return err
	}
	if err := os.Remove(crt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := durable.Write(key, b.Bytes(), privateFile); err != nil {
		return err
	}
	return durable.Write(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), privateFile)
}
