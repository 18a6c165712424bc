package testenv

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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
	return startRetrying(func(port int) (*NATSServer, error) {
		dir, err := serverDir("nats")
		if err != nil {
			return nil, err
		}
		p, err := launch(spec{dir: dir, log: filepath.Join(dir, "log"), signal: "KILL", argv: []string{bin,
			"--addr", "127.0.0.1", "--port", strconv.Itoa(port), "--jetstream", "--store_dir", filepath.Join(dir, "js")}})
		if err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
		s := &NATSServer{URL: fmt.Sprintf("nats://127.0.0.1:%d", port), process: p}
		if err := p.await(ctx, func(ctx context.Context) error { return jetStreamReady(ctx, s.URL) }); err != nil {
			s.Stop()
			return nil, err
		}
		return s, nil
	})
}

// Start starts the server again after Kill, on the same port and data.
func (s *NATSServer) Start(ctx context.Context) error {
	return s.startAgain(ctx, func(ctx context.Context) error { return jetStreamReady(ctx, s.URL) })
}

// Stop ends the server and removes its files.
func (s *NATSServer) Stop() {
	s.stop()
	os.RemoveAll(s.spec.dir)
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
