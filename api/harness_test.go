package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/api/upload"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/objects/objectstest"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/service"
	"github.com/meridian-video/meridian/internal/telemetry"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// tusd lets these sleep for the completion time after each request.
		goleak.IgnoreAnyFunction("github.com/tus/tusd/v2/pkg/handler.newDelayedContext.func1"))
}

const adminKey = "mk_bootstrapbootstrapbootstrapbootstrap"

// platform is what api processes of a test share: real servers and a region table.
type platform struct {
	t     testing.TB
	table *region.Table
	store *objects.Store
	cmd   Command
	dsn   string
}

func newPlatform(t testing.TB) *platform {
	t.Helper()
	servers := testenv.S3(t, 2)
	store, table := objectstest.Over(t, servers)
	t.Cleanup(store.Close)
	nats, err := testenv.StartNATS(t.Context())
	require.NoError(t, err)
	t.Cleanup(nats.Stop)
	dsn := testenv.Postgres(t)
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	for i := range table.Regions {
		table.Regions[i].NATS, table.Regions[i].Postgres, table.Regions[i].Control = nats.URL, "", false
	}
	table.Regions[0].Postgres, table.Regions[0].Control = u.Host, true

	secrets := t.TempDir()
	require.NoError(t, token.GenerateSecrets(secrets, table.Names()))
	secret := func(file string) service.Secret {
		var s service.Secret
		require.NoError(t, s.UnmarshalText([]byte("@"+filepath.Join(secrets, file))))
		return s
	}
	p := &platform{t: t, table: table, store: store, dsn: dsn, cmd: Command{
		Listen: "127.0.0.1:0", RootPublicKey: secret(token.RootPublicFile), RecordKey: secret(token.RecordKeyFile),
		PlaybackKey: secret(token.PlaybackKeyFile), KeySet: secret(token.KeySetFile), BootstrapAPIKey: adminKey, EventStreams: 8,
		Upload:   upload.Config{MaxBytes: 64 << 20, MaxOpen: 4, PartBytes: 256 << 10, SpoolDir: t.TempDir()},
		S3:       objectstest.Config(servers[0]),
		Repair:   repair.Config{Interval: time.Minute, Collect: 10 * time.Minute, Parallel: 4, Bandwidth: 64},
		Postgres: catalog.Config{User: u.User.Username(), Database: strings.TrimPrefix(u.Path, "/")},
	}}
	return p
}

// with is the same platform for another test, its next processes with other configuration.
func (p *platform) with(t testing.TB, change ...func(*Command)) *platform {
	q := *p
	q.t = t
	for _, f := range change {
		f(&q.cmd)
	}
	return &q
}

// process is one running api.
type process struct {
	t    testing.TB
	URL  string
	c    *component
	key  string
	http *http.Client
	stop func()
}

func (p *platform) start() *process {
	p.t.Helper()
	t := p.t
	cmd := p.cmd
	cmd.Listen = fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	self, _ := p.table.Get("eu")
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("MERIDIAN_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	built, err := cmd.build(t.Context(), &service.Runtime{Region: self, Table: p.table, Log: log, Metrics: telemetry.NewRegistry("api")})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- built.Run(ctx) }()
	tr := &http.Transport{}
	proc := &process{t: t, URL: "http://" + cmd.Listen, c: built.(*component), key: adminKey, http: &http.Client{Transport: tr, Timeout: 30 * time.Second}}
	stopped := false
	proc.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			t.Error("the api doesn't stop")
		}
		tr.CloseIdleConnections()
	}
	t.Cleanup(proc.stop)
	require.Eventually(t, func() bool {
		rctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		err = built.Ready(rctx)
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "not ready")
	return proc
}

// as is the same process seen by another key.
func (p *process) as(key string) *process {
	q := *p
	q.key = key
	return &q
}

// by is the same process seen by a new owner, in another test.
func (p *process) by(t testing.TB) *process {
	t.Helper()
	_, secret, err := p.c.catalog.CreateKey(t.Context(), "owner-"+catalog.NewID(), "test", catalog.RoleAdmin)
	require.NoError(t, err)
	q := p.as(secret)
	q.t = t
	return q
}

// answer is a response read whole.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) json(t testing.TB, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(a.body, v), string(a.body))
}

// code is the problem's code, which must be a documented one.
func (a answer) code(t testing.TB) string {
	t.Helper()
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"), string(a.body))
	var p struct {
		Code, Detail string
		Status       int
	}
	a.json(t, &p)
	require.Equal(t, a.StatusCode, p.Status)
	require.NotEmpty(t, p.Detail)
	return p.Code
}

// do sends a request; kv are headers in pairs.
func (p *process) do(method, path string, body any, kv ...string) answer {
	p.t.Helper()
	var r io.Reader
	h := http.Header{}
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	case io.Reader:
		r = b
	case string:
		r = strings.NewReader(b)
	default:
		j, err := json.Marshal(b)
		require.NoError(p.t, err)
		r = bytes.NewReader(j)
		h.Set("Content-Type", "application/json")
	}
	if strings.HasPrefix(path, "/") {
		path = p.URL + path
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, path, r)
	require.NoError(p.t, err)
	req.Header = h
	if p.key != "" {
		req.Header.Set("Authorization", "Bearer "+p.key)
	}
	for i := 0; i+1 < len(kv); i += 2 {
		req.Header.Set(kv[i], kv[i+1])
	}
	resp, err := p.http.Do(req)
	require.NoError(p.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(p.t, err)
	checkAnswer(p.t, resp, b)
	return answer{resp, b}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(b)
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// source reads an asset's parts back from the stores, each part from every
// region that acknowledged it.
func (p *platform) source(asset string) (content []byte, parts int) {
	p.t.Helper()
	ctx := p.t.Context()
	c, err := pgx.Connect(ctx, p.dsn)
	require.NoError(p.t, err)
	defer c.Close(ctx)
	rows, err := c.Query(ctx, "SELECT n, id, size, regions FROM parts WHERE asset = $1 ORDER BY n", asset)
	require.NoError(p.t, err)
	defer rows.Close()
	for rows.Next() {
		var n int
		var id string
		var size int64
		var regions []string
		require.NoError(p.t, rows.Scan(&n, &id, &size, &regions))
		require.Len(p.t, regions, 2)
		require.Equal(p.t, parts, n)
		var part []byte
		for _, r := range regions {
			b, err := p.store.In(r).ReadAll(ctx, objects.PartKey(asset, n, id), 64<<20)
			require.NoError(p.t, err)
			require.Len(p.t, b, int(size))
			part = b
		}
		content = append(content, part...)
		parts++
	}
	require.NoError(p.t, rows.Err())
	return content, parts
}
