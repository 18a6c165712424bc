package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/journal"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"))
}

const secret = "a secret that only routers, edges and APIs have"

// issue makes a self-signed certificate, which began ago and lasts three hours.
func issue(t *testing.T, ago time.Duration, names ...string) (crt, key []byte) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	start := time.Now().Add(-ago)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, DNSNames: names, NotBefore: start, NotAfter: start.Add(3 * time.Hour)},
		&x509.Certificate{}, &priv.PublicKey, priv)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func save(crt, key []byte, dir string) func(*State) error {
	return func(st *State) error {
		st.Files["certificates/"+dir+".crt"] = File{Content: crt}
		st.Files["certificates/"+dir+".key"] = File{Content: key}
		return nil
	}
}

// process is one that shares certificates.
func process(t *testing.T, store *objects.Store, table *region.Table, m *Metrics) *Shared {
	t.Helper()
	s, err := NewShared(store, table, secret, nil, m, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return s
}

// A listener takes what another process shared, and what replaces it, as it runs.
func TestSharedCertificatesAreServed(t *testing.T) {
	store, table := objectstest.New(t, 3)
	m, err := NewMetrics(prometheus.NewPedanticRegistry())
	require.NoError(t, err)
	writer, reader := process(t, store, table, nil), process(t, store, table, m)
	edge := reader.For("edge")
	require.ErrorIs(t, edge.Ready(), ErrNone)
	require.Zero(t, testutil.ToFloat64(m.expires.WithLabelValues("edge.meridian.test")))

	l, err := tls.Listen("tcp", "127.0.0.1:0", Config(edge))
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).HandshakeContext(t.Context()) // the client sees how it ends
			_ = c.Close()
		}
	})
	defer serving.Wait()
	defer l.Close()
	serial := func(name string) *big.Int {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", l.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			return nil
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber
	}
	leaf := func(crt []byte) *x509.Certificate {
		b, _ := pem.Decode(crt)
		c, err := x509.ParseCertificate(b.Bytes)
		require.NoError(t, err)
		return c
	}
	crt, key := issue(t, time.Minute, "edge.meridian.test")
	wild, wildKey := issue(t, time.Minute, "*.edge.meridian.test")
	require.NoError(t, writer.Change(t.Context(), save(crt, key, "ca/edge")))
	require.NoError(t, writer.Change(t.Context(), save(wild, wildKey, "ca/wild")))
	require.Eventually(t, func() bool { return serial("eu-1.edge.meridian.test") != nil }, 10*time.Second, 20*time.Millisecond)
	require.Equal(t, leaf(crt).SerialNumber, serial("Edge.meridian.test."))
	require.Equal(t, leaf(crt).SerialNumber, serial(""), "who names no server gets the program's")
	require.Equal(t, leaf(wild).SerialNumber, serial("eu-1.edge.meridian.test"))
	require.Nil(t, serial("a.b.edge.meridian.test"))
	require.Nil(t, serial("play.meridian.test"))
	require.NoError(t, edge.Ready())
	require.EqualValues(t, leaf(crt).NotAfter.Unix(), testutil.ToFloat64(m.expires.WithLabelValues("edge.meridian.test")))
	require.EqualValues(t, leaf(crt).NotBefore.Add(2*time.Hour).Unix(), testutil.ToFloat64(m.due.WithLabelValues("edge.meridian.test")))

	// A key that doesn't fit, an older certificate, and none at all change nothing.
	older, olderKey := issue(t, time.Hour, "edge.meridian.test")
	require.NoError(t, writer.Change(t.Context(), save(crt, olderKey, "ca/edge")))
	require.NoError(t, writer.Change(t.Context(), save(older, olderKey, "ca/edge")))
	require.NoError(t, writer.Change(t.Context(), func(st *State) error { clear(st.Files); return nil }))
	require.Eventually(t, func() bool { return len(reader.State().Files) == 0 }, 10*time.Second, 20*time.Millisecond)
	require.Equal(t, leaf(crt).SerialNumber, serial("edge.meridian.test"))

	newer, newerKey := issue(t, 0, "edge.meridian.test")
	require.NoError(t, writer.Change(t.Context(), save(newer, newerKey, "other-ca/edge")))
	require.Eventually(t, func() bool { return serial("edge.meridian.test").Cmp(leaf(newer).SerialNumber) == 0 }, 10*time.Second, 20*time.Millisecond)
}

// Whoever changes the state at once, nobody's change is lost.
func TestChangesAtOnce(t *testing.T) {
	store, table := objectstest.New(t, 3)
	const writers, each = 4, 3
	var g sync.WaitGroup
	for w := range writers {
		s, err := NewShared(store, table, secret, nil, nil, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		g.Go(func() {
			for i := range each {
				err := s.Change(t.Context(), func(st *State) error {
					st.Files[fmt.Sprintf("%d/%d", w, i)] = File{}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	s := process(t, store, table, nil)
	<-s.Known()
	require.Len(t, s.State().Files, writers*each)
	// Losers leave nothing behind: an entry is the same everywhere.
	for n := int64(1); n <= writers*each; n++ {
		for _, b := range store.Regions() {
			got, err := b.ReadAll(t.Context(), objects.JournalKey(objects.CertificatesJournal, n), 1<<20)
			require.NoError(t, err)
			own, err := store.Own().ReadAll(t.Context(), objects.JournalKey(objects.CertificatesJournal, n), 1<<20)
			require.NoError(t, err)
			require.Equal(t, own, got)
		}
	}
	errRefused := errors.New("refused")
	require.ErrorIs(t, s.Change(t.Context(), func(*State) error { return errRefused }), errRefused)
	require.NoError(t, s.Change(t.Context(), func(*State) error { return nil }))
	_, err := journal.Read(t.Context(), store, objects.CertificatesJournal, writers*each+1)
	require.ErrorIs(t, err, objects.ErrNotFound, "nothing changed, nothing written")
}

// One region of three may be away, also the one that decides who was first.
func TestChangesWithoutARegion(t *testing.T) {
	gone := testenv.MinIO(t)
	store, table := objectstest.Over(t, append([]testenv.S3Server{gone.S3Server}, sameBucket(testenv.S3(t, 2), gone.Bucket)...))
	s := process(t, store, table, nil)
	put := func(name string) error {
		return s.Change(t.Context(), func(st *State) error { st.Files[name] = File{}; return nil })
	}
	require.NoError(t, put("a"))
	require.NoError(t, gone.Kill())
	require.NoError(t, put("b"))
	require.NoError(t, put("c"))
	require.Len(t, s.State().Files, 3)
	require.NoError(t, gone.Start(t.Context()))
	other := process(t, store, table, nil)
	<-other.Known()
	require.Len(t, other.State().Files, 3)
}

func sameBucket(s []testenv.S3Server, bucket string) []testenv.S3Server {
	for i := range s {
		s[i].Bucket = bucket
	}
	return s
}

// What isn't what was sealed is refused, and never written over.
func TestTamperedEntriesAreRefused(t *testing.T) {
	store, table := objectstest.New(t, 1)
	writer := process(t, store, table, nil)
	require.NoError(t, writer.Change(t.Context(), func(st *State) error { st.Files["a"] = File{Content: []byte("secret content")}; return nil }))
	key := objects.JournalKey(objects.CertificatesJournal, 1)
	good, err := store.Own().ReadAll(t.Context(), key, 1<<20)
	require.NoError(t, err)
	require.NotContains(t, string(good), "secret content")
	replace := func(key string, b []byte) {
		require.NoError(t, store.Own().Delete(t.Context(), key))
		require.NoError(t, store.Own().Put(t.Context(), key, objects.Bytes(b)))
	}
	refused := func(with, what string) {
		t.Helper()
		s, err := NewShared(store, table, with, nil, nil, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		err = s.Change(t.Context(), func(st *State) error { t.Error("changed " + what); return nil })
		require.ErrorIs(t, err, journal.ErrSealed, what)
		require.ErrorContains(t, err, "certificates/", what)
	}
	refused(strings.Repeat("another", 5), "sealed with another key")
	at := len(good) / 2
	for what, b := range map[string][]byte{
		"a byte changed": append(append(append([]byte{}, good[:at]...), good[at]^1), good[at+1:]...),
		"cut off":        good[:at],
		"empty":          {},
		"not sealed":     []byte(`{"v":1,"files":{}}`),
		"a later form":   []byte(strings.Replace(string(good), `"v":1`, `"v":2`, 1)),
	} {
		replace(key, b)
		refused(secret, what)
	}
	replace(key, good)
	second := objects.JournalKey(objects.CertificatesJournal, 2)
	replace(second, good)
	refused(secret, "passed off as another entry")
	require.Len(t, writer.State().Files, 1, "what was known stays")
	require.NoError(t, store.Own().Delete(t.Context(), second))
	require.NoError(t, writer.Change(t.Context(), func(st *State) error { st.Files["b"] = File{}; return nil }), "gone, it does no harm")
}

func TestCertificateFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(serial time.Duration) {
		c, k := issue(t, serial, "localhost")
		require.NoError(t, os.WriteFile(cert, c, 0o600))
		require.NoError(t, os.WriteFile(key, k, 0o600))
	}
	_, err := OpenFiles(cert, key, nil, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, os.ErrNotExist)
	write(0)
	m, err := NewMetrics(prometheus.NewPedanticRegistry())
	require.NoError(t, err)
	f, err := OpenFiles(cert, key, m, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	first, err := f.GetCertificate(nil)
	require.NoError(t, err)
	require.EqualValues(t, first.Leaf.NotAfter.Unix(), testutil.ToFloat64(m.expires.WithLabelValues("localhost")))
	require.NoError(t, os.WriteFile(cert, []byte("half of"), 0o600))
	f.looked = time.Time{}
	kept, err := f.GetCertificate(nil)
	require.NoError(t, err)
	require.Same(t, first, kept)
	write(time.Hour)
	later := time.Now().Add(time.Minute)
	require.NoError(t, os.Chtimes(cert, later, later))
	f.looked = time.Time{}
	second, err := f.GetCertificate(nil)
	require.NoError(t, err)
	require.NotEqual(t, first.Leaf.SerialNumber, second.Leaf.SerialNumber)
}

func TestConfigurationIsChecked(t *testing.T) {
	require.NoError(t, (&TLS{}).Validate(false))
	require.NoError(t, (&TLS{Listen: ":8443"}).Validate(true))
	require.ErrorContains(t, (&TLS{Listen: ":8443"}).Validate(false), "--tls-cert")
	require.ErrorContains(t, (&TLS{Listen: ":8443", Cert: "/nonexistent"}).Validate(true), "--tls-key")
	err := (&TLS{Listen: "8443", Cert: "/nonexistent", Key: "/nonexistent"}).Validate(false)
	require.ErrorContains(t, err, "--tls-listen")
	require.ErrorContains(t, err, "/nonexistent")
	require.NoError(t, (&Key{}).Validate())
	require.NoError(t, (&Key{Key: secret}).Validate())
	err = (&Key{Key: "short"}).Validate()
	require.ErrorContains(t, err, "--certificates-key")
	require.NotContains(t, err.Error(), "short")
}
