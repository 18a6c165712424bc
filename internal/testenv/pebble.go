package testenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meridian-video/meridian/tools"
)

// PebbleServer is a running Pebble, the ACME test CA.
type PebbleServer struct {
	// Directory is the ACME directory's URL.
	Directory string
	// Roots is a file (PEM) with the CA that vouches for the directory.
	Roots string
	// Issuer has the CA that vouches for what Pebble issues.
	Issuer *x509.CertPool
	log    string
}

// Log is what the server has printed.
func (p *PebbleServer) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Pebble starts an ACME CA for this test alone and ends it with the test. It
// resolves names at dnsServer (HOST:PORT), and its certificates last for validity.
func Pebble(t testing.TB, dnsServer string, validity time.Duration) *PebbleServer {
	t.Helper()
	p, stop, err := startPebble(context.Background(), dnsServer, validity)
	if err != nil {
		t.Fatalf("testenv: Pebble: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(tail(p.log))
		}
		stop()
	})
	return p
}

func startPebble(ctx context.Context, dnsServer string, validity time.Duration) (*PebbleServer, func(), error) {
	bin, err := tools.Path("pebble")
	if err != nil {
		return nil, nil, err
	}
	var running *process
	p, err := startRetrying(func(port int) (*PebbleServer, error) {
		management, err := freePort()
		if err != nil {
			return nil, err
		}
		dir, err := serverDir("pebble")
		if err != nil {
			return nil, err
		}
		at := func(name string) string { return filepath.Join(dir, name) }
		p := &PebbleServer{Directory: fmt.Sprintf("https://127.0.0.1:%d/dir", port), Roots: at("cert.pem"), log: at("log")}
		err = writeSelfSigned(at("cert.pem"), at("key.pem"))
		if err == nil {
			err = writeJSON(at("config.json"), map[string]any{"pebble": map[string]any{
				"listenAddress": fmt.Sprintf("127.0.0.1:%d", port), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", management),
				"certificate": at("cert.pem"), "privateKey": at("key.pem"), "httpPort": 1, "tlsPort": 1, "keyAlgorithm": "ecdsa",
				"retryAfter": map[string]int{"authz": 1, "order": 1},
				"profiles":   map[string]any{"default": map[string]any{"description": "all", "validityPeriod": int(validity / time.Second)}},
			}})
		}
		if err == nil {
			// Authorizations aren't used again: every order is to be challenged.
			running, err = launch(spec{dir: dir, log: p.log, signal: "KILL", argv: []string{bin, "-config", at("config.json"), "-dnsserver", dnsServer},
				env: []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0"}})
		}
		if err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
		err = running.await(ctx, func(ctx context.Context) error { return p.ready(ctx, management) })
		if err != nil {
			running.stop()
			return nil, err
		}
		return p, nil
	})
	if err != nil {
		return nil, nil, err
	}
	return p, running.stop, nil
}

// ready asks for the directory and for the issuing CA.
func (p *PebbleServer) ready(ctx context.Context, management int) error {
	b, err := os.ReadFile(p.Roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	get := func(url string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		res, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %s", url, res.Status)
		}
		return io.ReadAll(io.LimitReader(res.Body, 1<<20))
	}
	if _, err := get(p.Directory); err != nil {
		return err
	}
	root, err := get(fmt.Sprintf("https://127.0.0.1:%d/roots/0", management))
	if err != nil {
		return err
	}
	p.Issuer = x509.NewCertPool()
	if !p.Issuer.AppendCertsFromPEM(root) {
		return fmt.Errorf("no root in %q", root)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// writeSelfSigned writes a certificate for 127.0.0.1, its own CA, and its key.
func writeSelfSigned(cert, key string) error {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return err
	}
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600)
}
