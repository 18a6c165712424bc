package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// origin is what the peers cache: objects of any size, under /{anything}/{bytes},
// that may be kept for a year. It answers ranges with the whole.
type origin struct {
	addr string
	srv  *http.Server
	done chan struct{}

	mu    sync.Mutex
	asked map[string]int
	kept  map[int][]byte
}

func newOrigin() (*origin, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origin{addr: l.Addr().String(), done: make(chan struct{}), asked: map[string]int{}, kept: map[int][]byte{}}
	o.srv = &http.Server{Handler: o, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(o.done)
		_ = o.srv.Serve(l)
	}()
	return o, nil
}

func (o *origin) close() error {
	err := o.srv.Close()
	<-o.done
	return err
}

// body returns the object of a size; it is the same for all names.
func (o *origin) body(size int) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.kept[size]
	if b == nil {
		b = make([]byte, size)
		_, _ = rand.NewChaCha8(sha256.Sum256([]byte(strconv.Itoa(size)))).Read(b)
		o.kept[size] = b
	}
	return b
}

// slowName makes a path whose body takes a while: a quarter at once, then the
// rest in three steps.
const slowName = "slow"

const slowStep = 50 * time.Millisecond

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.asked[r.URL.Path]++
	o.mu.Unlock()
	size, err := strconv.Atoi(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	if err != nil || size < 1 || size > 32<<20 {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "video/mp4")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Etag", fmt.Sprintf(`"%d"`, size))
	h.Set("Content-Length", strconv.Itoa(size))
	h.Set("Accept-Ranges", "bytes") // nginx answers ranges from its cache only then
	b := o.body(size)
	if !strings.HasPrefix(r.URL.Path, "/"+slowName) {
		_, _ = w.Write(b)
		return
	}
	for at, step := 0, (size+3)/4; at < size; at += step {
		if at > 0 {
			time.Sleep(slowStep)
		}
		if _, err := w.Write(b[at:min(at+step, size)]); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
	}
}

// all is how often anything was asked for.
func (o *origin) all() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, asked := range o.asked {
		n += asked
	}
	return n
}

// fetches is how often a path was asked for.
func (o *origin) fetches(path string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked[path]
}
