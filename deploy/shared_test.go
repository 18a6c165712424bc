package deploy

import (
	"crypto/tls"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
)

// Router, edge and api answer with the certificates that the regions share, and
// take those that replace them, without a restart.
func TestServicesAnswerWithSharedCertificates(t *testing.T) {
	c := startComponents(t, "nats://127.0.0.1:1", "")
	store, err := objects.New(c.table, "eu", objectstest.Config(c.server), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	shared, err := certificate.NewShared(store, c.table, certificatesKey, nil, nil, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	dir := t.TempDir()
	ca, err := certificate.LoadAuthority(dir, "Meridian test")
	require.NoError(t, err)
	names := map[string]string{"geodns": "eu.play.", "edge-cache": "eu-1.edge.", "api": "eu.api."}
	serial := func(service string) *big.Int {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", c.tls[service],
			&tls.Config{ServerName: names[service] + c.table.Zone, RootCAs: ca.Pool(), NextProtos: []string{"h2"}})
		if err != nil {
			return nil
		}
		defer conn.Close()
		require.Equal(t, "h2", conn.ConnectionState().NegotiatedProtocol, service)
		return conn.ConnectionState().PeerCertificates[0].SerialNumber
	}
	before := map[string]*big.Int{}
	for range 2 {
		crt, key, err := ca.Issue("all", certificate.Names(c.table.Zone))
		require.NoError(t, err)
		require.NoError(t, shared.Change(t.Context(), func(st *certificate.State) error {
			st.Files["certificates/ca/all/all.crt"] = certificate.File{Content: crt}
			st.Files["certificates/ca/all/all.key"] = certificate.File{Content: key}
			return nil
		}))
		for service := range names {
			require.Eventually(t, func() bool {
				n := serial(service)
				if n == nil || before[service] != nil && n.Cmp(before[service]) == 0 {
					return false
				}
				before[service] = n
				return true
			}, 20*time.Second, 50*time.Millisecond, service)
		}
		// Certificates begin at a full second, and the later one is meant.
		start := time.Now().Truncate(time.Second)
		require.Eventually(t, func() bool { return time.Now().Truncate(time.Second).After(start) }, 2*time.Second, 10*time.Millisecond)
		require.NoError(t, os.Remove(filepath.Join(dir, "all.crt")))
	}
}
