package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/meridian-video/meridian/tools"
)

// NATSServer is a running nats-server with JetStream.
type NATSServer struct {
	URL string
	*process
}

var sharedNATS = sync.OnceValues(func() (*NATSServer, error) { return StartNATS(context.Background()) })

// NATS returns the URL of a nats-server with JetStream. It is the test
// process's own, so that packages never meet on subjects or streams; tests of
// one package which need distinct streams name them apart or start one each
// with StartNATS.
func NATS(t testing.TB) string {
	t.Helper()
	s, err := sharedNATS()
	if err != nil {
		t.Fatalf("testenv: NATS: %v", err)
	}
	return s.URL
}

// StartNATS starts a server of its own on a free port.
func StartNATS(ctx context.Context) (*NATSServer, error) {
	bin, err := tools.Path("nats-server")
	if err != nil {
		return nil, err
	}
	dir, err := serverDir("nats")
	if err != nil {
		return nil, err
	}
	p, err := launch(spec{dir: dir, log: filepath.Join(dir, "log"), signal: "KILL", argv: []string{bin,
		"--addr", "127.0.0.1", "--port", "-1", "--jetstream", "--store_dir", filepath.Join(dir, "js"), "--ports_file_dir", dir}})
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	s := &NATSServer{process: p}
	err = p.await(ctx, func(ctx context.Context) error {
		if s.URL, err = natsURL(dir); err != nil {
			return err
		}
		return jetStreamReady(ctx, s.URL)
	})
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Start starts the server again after Kill, on the same port and data.
func (s *NATSServer) Start(ctx context.Context) error {
	u, err := url.Parse(s.URL)
	if err != nil {
		return err
	}
	argv := slices.Clone(s.spec.argv)
	argv[slices.Index(argv, "--port")+1] = u.Port()
	return s.startAgain(ctx, argv, func(ctx context.Context) error { return jetStreamReady(ctx, s.URL) })
}

// Stop ends the server and removes its files.
func (s *NATSServer) Stop() {
	s.stop()
	os.RemoveAll(s.spec.dir)
}

// natsURL reads the ports file the server writes once it listens.
func natsURL(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.ports"))
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", errors.New("no ports file yet")
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		return "", err
	}
	var ports struct {
		NATS []string `json:"nats"`
	}
	if err := json.Unmarshal(b, &ports); err != nil {
		return "", err
	}
	if len(ports.NATS) == 0 {
		return "", fmt.Errorf("ports file names no client port: %s", b)
	}
	return ports.NATS[0], nil
}

func jetStreamReady(ctx context.Context, url string) error {
	nc, err := nats.Connect(url, nats.NoReconnect())
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	_, err = js.AccountInfo(ctx)
	return err
}
