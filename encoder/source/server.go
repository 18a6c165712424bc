package source

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Reader is what the server serves.
type Reader interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Size() int64
}

// Awaiter is a Reader that may have to wait for bytes.
type Awaiter interface {
	// Await returns how many bytes can be read from off on, at least one.
	Await(ctx context.Context, off int64) (int64, error)
}

// Server answers ranges of registered files on a loopback port.
type Server struct {
	l    net.Listener
	http *http.Server
	done chan struct{}

	mu    sync.Mutex
	files map[string]Reader
}

// Listen starts a server on 127.0.0.1. Close stops it.
func Listen(ctx context.Context) (*Server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("source server: %w", err)
	}
	return Serve(l), nil
}

// Serve starts a server on a loopback listener, which is then its own.
func Serve(l net.Listener) *Server {
	s := &Server{l: l, files: map[string]Reader{}, done: make(chan struct{})}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() {
		defer close(s.done)
		// Serve always returns an error; after Close it is the expected one.
		_ = s.http.Serve(l)
	}()
	return s
}

// Close ends all connections.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}

// Add makes f readable at the returned URL until remove is called.
func (s *Server) Add(f Reader) (url string, remove func()) {
	path := "/" + rand.Text()
	s.mu.Lock()
	s.files[path] = f
	s.mu.Unlock()
	return "http://" + s.l.Addr().String() + path, func() {
		s.mu.Lock()
		delete(s.files, path)
		s.mu.Unlock()
	}
}

// writeLimit is the longest a reader may leave one buffer unread. It must be
// longer than ffmpeg's pauses, which end with the deadlines of its jobs.
const writeLimit = 10 * time.Minute

// ServeHTTP answers GET and HEAD, whole or one range.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	f, ok := s.files[r.URL.Path]
	s.mu.Unlock()
	if !ok || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		http.NotFound(w, r)
		return
	}
	size := f.Size()
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Type", "application/octet-stream")
	start, end, partial, err := parseRange(r.Header.Get("Range"), size)
	if err != nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		http.Error(w, err.Error(), http.StatusRequestedRangeNotSatisfiable)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(end-start, 10))
	status := http.StatusOK
	if partial {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end-1, size))
		status = http.StatusPartialContent
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	rc := http.NewResponseController(w)
	buf := make([]byte, 128<<10)
	growing, grows := f.(Awaiter)
	for start < end {
		want := min(int64(len(buf)), end-start)
		if grows {
			there, err := growing.Await(r.Context(), start)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			want = min(want, there)
		}
		n, err := f.ReadAt(r.Context(), buf[:want], start)
		if n > 0 {
			// Not supported only by test recorders.
			_ = rc.SetWriteDeadline(time.Now().Add(writeLimit))
			if _, werr := w.Write(buf[:n]); werr != nil {
				return // the reader went away: ffmpeg does when it seeks
			}
			start += int64(n)
		}
		if err != nil && start < end {
			// Break the connection: a short body must not look whole.
			panic(http.ErrAbortHandler)
		}
	}
}

var errRange = errors.New("range not satisfiable")

// parseRange understands "bytes=a-b", "bytes=a-" and "bytes=-n".
func parseRange(h string, size int64) (start, end int64, partial bool, err error) {
	if h == "" {
		return 0, size, false, nil
	}
	spec, ok := strings.CutPrefix(h, "bytes=")
	a, b, dash := strings.Cut(spec, "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return 0, 0, false, errRange
	}
	end = size
	if a == "" {
		n, err := strconv.ParseInt(b, 10, 64)
		if err != nil || n <= 0 {
			return 0, 0, false, errRange
		}
		return max(0, size-n), size, true, nil
	}
	start, err = strconv.ParseInt(a, 10, 64)
	if err != nil || start < 0 || start >= size {
		return 0, 0, false, errRange
	}
	if b != "" {
		last, err := strconv.ParseInt(b, 10, 64)
		if err != nil || last < start {
			return 0, 0, false, errRange
		}
		end = min(size, last+1)
	}
	return start, end, true, nil
}
