package edgecache

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/fastpath"
	"github.com/meridian-video/meridian/internal/certificate"
)

// selfSigned writes a certificate for localhost and its key into the files.
func selfSigned(t testing.TB, cfg TLS) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cfg.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(cfg.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// handlers leaves all to the handler.
type handlers struct{}

func (handlers) Respond(*fastpath.Request) (fastpath.Answer, bool) {
	return fastpath.Answer{}, false
}
func (handlers) Responded(*fastpath.Answer, int64, time.Duration, error) {}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cfg := TLS{TLS: certificate.TLS{Listen: "127.0.0.1:0", Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}}
	pool := selfSigned(t, cfg)
	certs, shared, err := cfg.Open(certificate.Key{}, "edge", nil, nil, nil, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Nil(t, shared)
	ctx, cancel := context.WithCancel(t.Context())
	addr, done := make(chan net.Addr, 1), make(chan error, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
	go func() {
		done <- cfg.serve(ctx, certs, h, handlers{}, slog.New(slog.DiscardHandler), newGate(100, 0), func(a net.Addr) { addr <- a })
	}()
	at := (<-addr).String()
	for _, proto := range []string{"HTTP/2.0", "HTTP/1.1"} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}, ForceAttemptHTTP2: proto == "HTTP/2.0"}
		res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("https://" + at)
		require.NoError(t, err)
		require.EqualValues(t, tls.VersionTLS13, res.TLS.Version)
		require.Equal(t, proto, readBody(res))
		tr.CloseIdleConnections()
	}
	_, err = tls.Dial("tcp", at, &tls.Config{RootCAs: pool, ServerName: "localhost", MaxVersion: tls.VersionTLS12})
	require.Error(t, err)
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, (&TLS{}).serve(ctx, nil, h, handlers{}, slog.New(slog.DiscardHandler), newGate(1, 0), nil))
}
