package edgecache

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/certificate"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/tools"
)

// TestH2Spec has h2spec try `meridian cache` over TLS: what memory answers, and what
// goes to the origin each time.
func TestH2Spec(t *testing.T) {
	h2spec, err := tools.Path("h2spec")
	require.NoError(t, err)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/kept" {
			w.Header().Set("Cache-Control", "max-age=3600")
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(bytesOf("h2spec", 10_000))
	}))
	defer origin.Close()
	dir := t.TempDir()
	c := &ProxyCommand{Origin: origin.URL, Listen: "127.0.0.1:0", Process: service.Process{AdminListen: "127.0.0.1:0"}, Name: "edge", CacheMemory: 32 << 20, MaxObject: 4 << 20, MaxConnections: 1000,
		TLS: TLS{TLS: certificate.TLS{Listen: "127.0.0.1:0", Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}}}
	selfSigned(t, c.TLS)
	require.NoError(t, c.Validate())
	_, addrs, _ := startProxy(t, c)
	res, err := client.Get("http://" + addrs[0] + "/kept")
	require.NoError(t, err)
	require.Len(t, readBody(res), 10_000)
	defer client.CloseIdleConnections()
	_, port, err := net.SplitHostPort(addrs[1])
	require.NoError(t, err)
	for _, path := range []string{"/kept", "/passed"} {
		t.Run(path[1:], func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), h2spec, "-t", "-k", "-S", "-h", "127.0.0.1", "-p", port, "-P", path).CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Regexp(t, regexp.MustCompile(`\d{3} tests, \d{3} passed, \d skipped, 0 failed`), string(out))
		})
	}
}
