package httpcache

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/internal/testenv"
)

const (
	crashDir    = "MERIDIAN_TEST_CRASH_DIR"
	crashOrigin = "MERIDIAN_TEST_CRASH_ORIGIN"
)

// versioned is what the origin has: bodies that say which path and version they are
// of, and have bytes only that one has.
type versioned [200]struct {
	changing sync.Mutex   // held while it is changed and purged
	newest   atomic.Int64 // version
	// least is the one there was when the last purge that was answered began: none
	// before it may come.
	least atomic.Int64
}

func bodyOf(n int, version int64) []byte {
	name := fmt.Sprintf("/%d %d\n", n, version)
	b := make([]byte, len(name)+1000+n*97)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(b[copy(b, name):])
	return b
}

func (o *versioned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Path[1:])
	if err != nil || n < 0 || n >= len(o) {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "max-age=3600")
	w.Header().Set("Surrogate-Key", "p"+r.URL.Path[1:])
	_, _ = w.Write(bodyOf(n, o[n].newest.Load()))
}

// TestCrash kills a proxy that many ask and purge, again and again, and has the next
// one go on from what is on disk: no byte is wrong, and nothing comes that was purged
// or invalidated before. The proxy is a process of this test itself.
func TestCrash(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		serveUntilKilled(t, dir)
		return
	}
	rounds := 3
	if testenv.IsLong() {
		rounds = 100
	}
	o := &versioned{}
	origin := httptest.NewServer(o)
	defer origin.Close()
	dir := t.TempDir()
	var warm, purges atomic.Int64
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrash$", "-test.timeout=600s")
		cmd.Env = append(os.Environ(), crashDir+"="+dir, crashOrigin+"="+origin.URL)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		base, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}}
		var killed atomic.Bool
		var asked atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for !killed.Load() {
					err := o.step(client, strings.TrimSpace(base), &warm, &purges, asked.Add(1) < 200 && round > 0)
					if err != nil && !killed.Load() {
						t.Error(err)
						return
					}
				}
			})
		}
		end := int64(200 + rand.IntN(400))
		require.Eventually(t, func() bool { return asked.Load() > end || t.Failed() }, time.Minute, time.Millisecond)
		killed.Store(true)
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		_ = cmd.Wait() // it says that it was killed
		wg.Wait()
		client.CloseIdleConnections()
		if t.Failed() {
			return
		}
	}
	t.Logf("%d hits of what a process before had stored, %d purges", warm.Load(), purges.Load())
	require.Positive(t, warm.Load())
	require.Positive(t, purges.Load())
}

// step asks for one thing, or changes and purges it. early says that it is among the
// first that are asked of a process that isn't the first.
func (o *versioned) step(client *http.Client, base string, warm, purges *atomic.Int64, early bool) error {
	n := rand.IntN(len(o))
	r := &o[n]
	method, header := http.MethodGet, http.Header{}
	switch rand.IntN(30) {
	case 0:
		method = "PURGE"
	case 1:
		method, header = "PURGE", http.Header{"Surrogate-Key": {fmt.Sprint("p", n)}}
	case 2:
		method = http.MethodPost
	}
	least, next := r.least.Load(), int64(0)
	if method != http.MethodGet {
		r.changing.Lock()
		defer r.changing.Unlock()
		next = r.newest.Add(1)
	}
	req, err := http.NewRequest(method, fmt.Sprintf("%s/%d", base, n), nil)
	if err != nil {
		return err
	}
	req.Header = header
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s /%d: %s", method, n, res.Status)
	}
	if method != http.MethodGet {
		purges.Add(1)
		r.least.Store(next)
		return nil
	}
	var of int
	var version int64
	if k, err := fmt.Sscanf(string(got), "/%d %d\n", &of, &version); err != nil || k != 2 || of != n || !bytes.Equal(got, bodyOf(n, version)) {
		return fmt.Errorf("/%d: %d wrong bytes: %.20q", n, len(got), got)
	}
	if version < least {
		return fmt.Errorf("/%d: version %d, after those before %d were purged; %s", n, version, least, res.Header.Get("Cache-Status"))
	}
	if early && strings.Contains(res.Header.Get("Cache-Status"), "edge; hit") {
		warm.Add(1)
	}
	return nil
}

func serveUntilKilled(t *testing.T, dir string) {
	u, err := url.Parse(os.Getenv(crashOrigin))
	require.NoError(t, err)
	c, err := cache.Open(cache.Config{Memory: 4 << 20, Dir: dir, Disk: 8 << 20, MaxObject: 256 << 10})
	require.NoError(t, err)
	p, err := New(Config{Origin: u, Cache: c, Dir: dir, Name: "edge", MaxObject: 256 << 10, IndexBytes: 100_000, PurgeFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	fmt.Printf("http://%s\n", l.Addr())
	t.Fatal(http.Serve(l, p))
}
