package edgecache

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// TestCommand runs the edge as it is run: configured by the environment, ready
// by its admin listener, ended by its context.
func TestCommand(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 1)
	b, err := w.table.Marshal()
	require.NoError(t, err)
	table := filepath.Join(t.TempDir(), "regions.yaml")
	require.NoError(t, os.WriteFile(table, b, 0o600))
	free := func() string {
		l := listen(t)
		defer func() { require.NoError(t, l.Close()) }()
		return l.Addr().String()
	}
	addr, admin := free(), free()
	for k, v := range map[string]string{
		"MERIDIAN_REGIONS": table, "MERIDIAN_REGION": "eu", "MERIDIAN_ADMIN_LISTEN": admin,
		"MERIDIAN_EDGE": "eu-1", "MERIDIAN_EDGE_LISTEN": addr, "MERIDIAN_EDGE_CACHE_DIR": t.TempDir(), "MERIDIAN_EDGE_DRAIN_NOTICE": "0s",
		"MERIDIAN_ROOT_PUBLIC_KEY": "@" + filepath.Join(w.secrets, token.RootPublicFile),
		"MERIDIAN_SESSION_KEY":     "@" + filepath.Join(w.secrets, token.SessionKeyFile("eu")),
		"MERIDIAN_S3_ACCESS_KEY":   w.cfg.AccessKey.Reveal(), "MERIDIAN_S3_SECRET_KEY": w.cfg.SecretKey.Reveal(), "MERIDIAN_S3_BUCKET": w.cfg.Bucket,
	} {
		t.Setenv(k, v)
	}
	var grammar struct {
		EdgeCache Command `cmd:""`
	}
	parser, err := kong.New(&grammar)
	require.NoError(t, err)
	_, err = parser.Parse([]string{"edge-cache"})
	require.NoError(t, err)
	require.Equal(t, Size(256<<20), grammar.EdgeCache.CacheMemory)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- grammar.EdgeCache.Run(ctx) }()
	status := func(url string) int {
		res, err := client.Get(url)
		if err != nil {
			return 0
		}
		defer func() { _ = res.Body.Close() }()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	require.Eventually(t, func() bool { return status("http://"+admin+"/readyz") == 200 }, 15*time.Second, 20*time.Millisecond)
	require.Equal(t, 200, status("http://"+addr+segURL("-", 0)))
	// Requests and fills are counted when their last reader may be done already.
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		res, err := client.Get("http://" + admin + "/status")
		require.NoError(t, err)
		require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
		page := readBody(res)
		for _, want := range []string{"<h1>eu-1, Frankfurt: serving</h1>", "<tr><td>origin<td>1", "<tr><td>objects in memory<td>1", "<tr><td>eu<td>unknown", "<tr><td>peer eu-2<td>"} {
			require.Contains(t, page, want)
		}
	}, 5*time.Second, 20*time.Millisecond)
	res, err := client.Post("http://"+admin+"/drain", "", nil)
	require.NoError(t, err)
	require.Equal(t, "drained\n", readBody(res))
	require.Equal(t, 503, status("http://"+admin+"/readyz"))
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		res, err := http.Get("http://" + admin + "/metrics")
		require.NoError(t, err)
		lines := strings.Split(readBody(res), "\n")
		for _, m := range []string{`meridian_edge_requests_total{cache="origin",kind="segment",status="200"} 1`, `meridian_edge_fills_total{tier="origin"} 1`,
			"meridian_edge_memory_objects 1", "meridian_edge_disk_failed 0"} {
			require.True(t, slices.Contains(lines, m), m)
		}
	}, 5*time.Second, 20*time.Millisecond)
	cancel()
	http.DefaultClient.CloseIdleConnections()
	client.CloseIdleConnections()
	require.NoError(t, <-done)
	_, err = net.DialTimeout("tcp", addr, time.Second)
	require.Error(t, err)
}

func readBody(res *http.Response) string {
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
