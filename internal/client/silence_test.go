package client

import (
	"crypto/rand"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/wan"
)

// tus takes one upload in any region.
type tus struct {
	mu      sync.Mutex
	content []byte
}

func (s *tus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.Method {
	case http.MethodPost:
		w.Header().Set("Location", "/v1/uploads/u")
		w.Header().Set("Meridian-Asset", "a")
		w.WriteHeader(http.StatusCreated)
	case http.MethodHead:
		w.Header().Set("Upload-Offset", strconv.Itoa(len(s.content)))
	case http.MethodPatch:
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.content = append(s.content, b...)
		w.Header().Set("Upload-Offset", strconv.Itoa(len(s.content)))
		w.WriteHeader(http.StatusNoContent)
	}
}

// An upload goes on elsewhere once the machines of a region have acknowledged
// nothing for a while: with bytes on their way there, and waiting for its answer.
func TestSilentRegionIsLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: network namespaces and TUN devices need CAP_SYS_ADMIN and CAP_NET_ADMIN")
	}
	for name, c := range map[string]struct {
		read int64
		net  string
	}{"on their way": {1 << 20, "198.19.240."}, "answer": {4 << 20, "198.19.241."}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node := func(name, address string) wan.Node {
				return wan.Node{Name: name, Host: name == wan.HostNode, Addresses: []netip.Prefix{netip.MustParsePrefix(c.net + address + "/32")}}
			}
			n, err := wan.New(wan.Config{Prefix: netip.MustParsePrefix(c.net + "0/24"), Nodes: []wan.Node{node("eu", "1"), node("us", "2"), node(wan.HostNode, "3")}})
			require.NoError(t, err)
			defer func() { require.NoError(t, n.Close()) }()
			store, began, over := &tus{}, make(chan struct{}, 1), make(chan struct{})
			defer close(over)
			serve := func(name, address string, h http.Handler) {
				ns, err := n.Namespace(name)
				require.NoError(t, err)
				l, err := ns.Listen(t.Context(), "tcp4", address)
				require.NoError(t, err)
				srv := &http.Server{Handler: h}
				var serving sync.WaitGroup
				serving.Go(func() { _ = srv.Serve(l) }) // until it is closed
				t.Cleanup(func() { require.NoError(t, srv.Close()); serving.Wait() })
			}
			serve("eu", c.net+"1:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPatch {
					store.ServeHTTP(w, r)
					return
				}
				_, _ = io.CopyN(io.Discard, r.Body, c.read) // it never answers, whatever came
				began <- struct{}{}
				<-over
			}))
			serve("us", c.net+"2:80", store)

			want := make([]byte, 4<<20)
			_, err = rand.Read(want)
			require.NoError(t, err)
			file := filepath.Join(t.TempDir(), "v.mp4")
			require.NoError(t, os.WriteFile(file, want, 0o600))
			creator := New([]string{"http://" + c.net + "1", "http://" + c.net + "2"}, "mk_key")
			defer creator.Close()
			uploaded := make(chan error, 1)
			go func() {
				_, err := creator.Upload(t.Context(), Upload{Path: file, StateDir: t.TempDir()})
				uploaded <- err
			}()
			<-began
			at := time.Now()
			require.NoError(t, n.Silence("eu", wan.BothWays))
			require.NoError(t, <-uploaded)
			took := time.Since(at)
			require.Greater(t, took, deadAfter/2)
			require.Less(t, took, deadAfter+callTimeout/3)
			require.Equal(t, want, store.content)
			t.Logf("went on elsewhere after %v", took)
		})
	}
}
