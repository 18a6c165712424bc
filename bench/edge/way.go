package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// The cipher and curve all servers use with TLS 1.3: those Go prefers and OpenSSL
// offers. Others cost other times, which would be measured in place of servers.
const (
	cipher     = tls.TLS_AES_128_GCM_SHA256
	cipherName = "TLS_AES_128_GCM_SHA256"
	curve      = tls.X25519
	curveName  = "X25519"
)

// way is how servers are asked for memory hits.
type way struct {
	title string
	base  func(*server) string // "": can't be asked so
	// newClient returns a client that asks in the same way, on connections of its own.
	newClient func() *http.Client
	proto     int // major version of HTTP
	tls       bool
	// measure is nil where no program measures it.
	measure func(ctx context.Context, url string, p *part) (result, error)
	// part is what is asked for of an object; nil for all of it.
	part func(size int) *part
}

// part of an object: the bytes from first to last.
type part struct{ first, last int }

func (p *part) field() string { return fmt.Sprintf("bytes=%d-%d", p.first, p.last) }

// second is the second quarter of an object.
func second(size int) *part { return &part{size / 4, size/2 - 1} }

func (b *bench) way(row string) way {
	byWrk := fmt.Sprintf(": wrk, 1 thread, %d connections", b.connections)
	w := way{title: byWrk, part: func(int) *part { return nil }, base: func(s *server) string { return s.base }, proto: 1, measure: b.wrk}
	var protocols http.Protocols
	switch row {
	case rowHits:
		protocols.SetHTTP1(true)
	case rowRange:
		protocols.SetHTTP1(true)
		w.title, w.part = " of the second quarter of each object"+byWrk, second
	case rowTLS:
		protocols.SetHTTP1(true)
		w.title, w.tls = " over TLS 1.3"+byWrk, true
	case rowH2:
		protocols.SetHTTP2(true)
		w.title, w.tls, w.proto, w.measure = fmt.Sprintf(" over HTTP/2 and TLS 1.3: h2load, 1 thread, %d connections of %d requests each", b.connections/h2Streams, h2Streams), true, 2, b.h2load
	case rowH3:
		w.tls, w.proto, w.measure = true, 3, nil
	}
	if w.tls {
		w.base = func(s *server) string { return s.secure }
	}
	w.newClient = func() *http.Client {
		return &http.Client{Transport: &http.Transport{Protocols: &protocols, TLSClientConfig: &tls.Config{RootCAs: b.cert.pool, ServerName: certName,
			CurvePreferences: []tls.CurveID{tls.CurveP256, curve}}}} // as wrk offers, which has no hybrid one
	}
	if w.proto == 3 {
		w.newClient = b.newH3Client
	}
	return w
}

// same is an error unless the response came the way all are to come.
func (w way) same(res *http.Response) error {
	if res.ProtoMajor != w.proto {
		return fmt.Errorf("it answers with %s", res.Proto)
	}
	if s := res.TLS; w.tls && (s.Version != tls.VersionTLS13 || s.CipherSuite != cipher || s.CurveID != curve) {
		return fmt.Errorf("it speaks %s, %s, %s, not TLS 1.3, %s, %s", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.CurveID, cipherName, curveName)
	}
	return nil
}

const certName = "localhost"

// certificate is that of all servers.
type certificate struct {
	cert, key string // files
	pool      *x509.CertPool
}

func newCertificate(dir string) (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: certName}, DNSNames: []string{certName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	c := &certificate{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), pool: x509.NewCertPool()}
	c.pool.AddCert(parsed)
	return c, errors.Join(os.WriteFile(c.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(c.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
}
