package testenv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meridian-video/meridian/tools"
)

// S3Env names shared servers: a JSON list of S3Server.
const S3Env = "MERIDIAN_TEST_S3"

// S3Server is a bucket's place on one object store.
type S3Server struct {
	// Endpoint is the base URL.
	Endpoint  string `json:"endpoint"`
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
	// Bucket is a fresh name, the same on every server of one call; the bucket isn't made yet.
	Bucket string `json:"-"`
}

// pool holds the servers of this process, shared ones first.
type pool struct {
	mu      sync.Mutex
	loaded  bool
	servers []S3Server
	own     []*MinIOServer
}

var s3Pool pool

func (p *pool) first(ctx context.Context, n int) ([]S3Server, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if env := os.Getenv(S3Env); env != "" && !p.loaded {
		if err := json.Unmarshal([]byte(env), &p.servers); err != nil {
			return nil, fmt.Errorf("%s: %w", S3Env, err)
		}
	}
	p.loaded = true
	for len(p.servers) < n {
		m, err := StartMinIO(ctx)
		if err != nil {
			return nil, err
		}
		p.servers, p.own = append(p.servers, m.S3Server), append(p.own, m)
	}
	return append([]S3Server(nil), p.servers[:n]...), nil
}

// report tells of servers that died under a test.
func (p *pool) report(t testing.TB) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.own {
		if m.p != nil && m.p.ended() {
			t.Logf("testenv: MinIO at %s has ended by itself:\n%s", m.Endpoint, tail(m.p.log))
		}
	}
}

// S3 returns n object stores which act as the stores of n regions, with a
// bucket name of this test's own. They are shared with other tests: one that
// stops a store uses MinIO.
func S3(t testing.TB, n int) []S3Server {
	t.Helper()
	servers, err := s3Pool.first(context.Background(), n)
	if err != nil {
		t.Fatalf("testenv: MinIO: %v", err)
	}
	bucket := newBucket()
	for i := range servers {
		servers[i].Bucket = bucket
	}
	t.Cleanup(func() {
		if t.Failed() {
			s3Pool.report(t)
		}
	})
	return servers
}

func newBucket() string { return "t-" + strings.ToLower(rand.Text()) }

// MinIOServer is an object store of one test's own, which may be killed, hung
// and started again on the same port and data.
type MinIOServer struct {
	S3Server
	bin, dir, addr string
	mu             sync.Mutex
	p              *process
}

// MinIO starts an object store for this test alone and ends it with the test.
func MinIO(t testing.TB) *MinIOServer {
	t.Helper()
	m, err := StartMinIO(context.Background())
	if err != nil {
		t.Fatalf("testenv: MinIO: %v", err)
	}
	t.Cleanup(m.Stop)
	return m
}

// StartMinIO starts an object store of its own on a free port.
func StartMinIO(ctx context.Context) (*MinIOServer, error) {
	bin, err := tools.Path("minio")
	if err != nil {
		return nil, err
	}
	return startRetrying(func(port int) (*MinIOServer, error) {
		dir, err := serverDir("s3")
		if err != nil {
			return nil, err
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		m := &MinIOServer{bin: bin, dir: dir, addr: addr, S3Server: S3Server{Endpoint: "http://" + addr,
			AccessKey: "meridian-test", SecretKey: "meridian-test-secret", Bucket: newBucket()}}
		if err := m.Start(ctx); err != nil {
			m.Stop()
			return nil, err
		}
		return m, nil
	})
}

// Start starts the server again after Kill and returns when it is ready.
func (m *MinIOServer) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.p != nil {
		return errors.New("minio already runs")
	}
	data := filepath.Join(m.dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	p, err := launch(spec{dir: m.dir, log: filepath.Join(m.dir, "log"), signal: "KILL",
		argv: []string{m.bin, "server", "--quiet", "--certs-dir", filepath.Join(m.dir, "certs"), "--address", m.addr, data},
		env: []string{"MINIO_ROOT_USER=" + m.AccessKey, "MINIO_ROOT_PASSWORD=" + m.SecretKey, "MINIO_BROWSER=off",
			"MINIO_UPDATE=off", "MINIO_CALLHOME_ENABLE=off", "MINIO_CI_CD=1"}})
	if err != nil {
		return err
	}
	m.p = p
	return p.await(ctx, func(ctx context.Context) error { return minioReady(ctx, m.Endpoint) })
}

// Kill ends the server at once; its data stays.
func (m *MinIOServer) Kill() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.p == nil {
		return errors.New("minio doesn't run")
	}
	// The keeper goes first, or it would remove the data.
	err := errors.Join(m.p.keeper.Process.Kill(), syscall.Kill(m.p.pid, syscall.SIGKILL))
	m.p.stop()
	m.p = nil
	return err
}

// Wipe removes the data of a killed server: it starts again with an empty disk.
func (m *MinIOServer) Wipe() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.p != nil {
		return errors.New("minio still runs")
	}
	return os.RemoveAll(filepath.Join(m.dir, "data"))
}

// Hang makes the server accept connections and answer nothing until Resume.
func (m *MinIOServer) Hang() error {
	if err := m.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	// The signal stops the threads one by one; a request just sent might still be answered.
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.p.pid))
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(") T ")) {
			return nil
		}
	}
	return errors.New("minio doesn't stop")
}

// Resume ends Hang.
func (m *MinIOServer) Resume() error { return m.signal(syscall.SIGCONT) }

func (m *MinIOServer) signal(s syscall.Signal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.p == nil {
		return errors.New("minio doesn't run")
	}
	return syscall.Kill(m.p.pid, s)
}

// Stop ends the server and removes its files.
func (m *MinIOServer) Stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.p != nil {
		m.p.stop()
		m.p = nil
	}
	os.RemoveAll(m.dir)
}

func minioReady(ctx context.Context, endpoint string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/", nil)
	if err != nil {
		return err
	}
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	// An anonymous listing is refused once the server can look up users; the
	// health pages say "ready" earlier.
	if res.StatusCode != http.StatusForbidden {
		return fmt.Errorf("%s: %s", req.URL, res.Status)
	}
	return nil
}
