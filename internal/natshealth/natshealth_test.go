package natshealth

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/meridian-video/meridian/internal/platform/supervise"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/tools"
)

// TestFullDisk: a supervised server of a cluster whose disk was full has its replicas of
// all streams again once there is room.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: a small disk is mounted")
	}
	bin, err := tools.Path("nats-server")
	require.NoError(t, err)
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	require.NoError(t, os.Mkdir(disk, 0o700))
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64m"))
	defer func() { require.NoError(t, unix.Unmount(disk, 0)) }()
	restarted := make(chan string, 16)
	s, _, err := supervise.New(supervise.Options{Mark: dir, Report: func(e supervise.Event) {
		if e.State == supervise.Waiting {
			restarted <- e.Name + ": " + e.Problem
		}
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()

	const servers = 3
	var urls, routes, monitors []string
	for range servers {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", testenv.FreePort(t)))
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", testenv.FreePort(t)))
		monitors = append(monitors, fmt.Sprintf("http://127.0.0.1:%d", testenv.FreePort(t)))
	}
	var all []*supervise.Process
	for i := range servers {
		name, store := fmt.Sprint("n", i), filepath.Join(dir, fmt.Sprint("store", i))
		if i == 0 {
			store = disk
		}
		conf := filepath.Join(dir, name+".conf")
		require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "server_name: %s\nlisten: %q\nhttp: %q\njetstream {store_dir: %q, max_file: 1GB}\ncluster {name: c, listen: %q, routes: [%s]}\n",
			name, urls[i][7:], monitors[i][7:], store, routes[i][7:], strings.Join(routes, ", ")), 0o600))
		p, err := s.Group("eu").Start(supervise.Spec{Name: name, Log: filepath.Join(dir, name+".log"), Argv: []string{bin, "--config", conf},
			Ready: func(ctx context.Context) error { return Ready(ctx, monitors[i]) },
			Lost:  func(ctx context.Context) error { return Lost(ctx, monitors[i], 0) }})
		require.NoError(t, err)
		all = append(all, p)
	}
	for _, p := range all {
		require.NoError(t, p.WaitReady(ctx))
	}

	nc, err := nats.Connect(urls[1])
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: servers})
	require.NoError(t, err)
	publish := func() error {
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := js.Publish(try, "s", make([]byte, 64<<10))
		return err
	}
	require.NoError(t, publish())
	require.NoError(t, Lost(ctx, monitors[0], 0))

	full := filepath.Join(disk, "full")
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(disk, &st))
	f, err := os.Create(full)
	require.NoError(t, err)
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize))
	require.NoError(t, f.Close())
	require.Eventually(t, func() bool {
		// A vote is what it can't go on without writing.
		_, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN.S", nil, time.Second)
		return err == nil && Lost(ctx, monitors[0], 0) != nil
	}, 30*time.Second, 200*time.Millisecond)
	require.NoError(t, Lost(ctx, monitors[0], time.Hour), "a server that has just started may be reading its streams")
	require.NoError(t, os.Remove(full))
	select {
	case who := <-restarted:
		require.Contains(t, who, "n0: it lost its streams")
	case <-ctx.Done():
		t.Fatal("it isn't restarted:\n" + supervise.Tail(filepath.Join(dir, "n0.log")))
	}
	require.NoError(t, all[0].WaitReady(ctx))
	require.NoError(t, Ready(ctx, monitors[0]))
	require.Eventually(t, func() bool { return publish() == nil }, 10*time.Second, 50*time.Millisecond)
}

// TestNoAnswerSaysNothing: what can't be asked, or answers something else, is left alone.
func TestNoAnswerSaysNothing(t *testing.T) {
	require.NoError(t, Lost(t.Context(), fmt.Sprintf("http://127.0.0.1:%d", testenv.FreePort(t)), 0))
	for _, answer := range []string{"", "x", `{"status":"unavailable","error":"JetStream is not current with the meta leader"}`} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(answer))
		}))
		require.NoError(t, Lost(t.Context(), srv.URL, 0), answer)
		require.Error(t, Ready(t.Context(), srv.URL))
		srv.Close()
	}
}
