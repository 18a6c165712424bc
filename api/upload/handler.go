package upload

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tus/tusd/v2/pkg/handler"
	"github.com/tus/tusd/v2/pkg/memorylocker"
	expslog "golang.org/x/exp/slog"

	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/internal/region"
)

// Path is where uploads are.
const Path = "/v1/uploads"

// AssetHeader of tus responses names the asset an upload is for.
const AssetHeader = "Meridian-Asset"

// Deps are what the handler works with.
type Deps struct {
	Assets  Assets
	Uploads Uploads
	Objects Objects
	Table   *region.Table
	Self    string
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Handler serves tus under Path.
type Handler struct {
	tus   *handler.UnroutedHandler
	inner http.Handler
	slots chan struct{}
	store *store

	mu     sync.Mutex
	active map[*transfer]struct{}
	closed bool
}

// New returns a handler.
func New(cfg Config, d Deps) (*Handler, error) {
	s := &store{cfg: cfg, assets: d.Assets, uploads: d.Uploads, objects: d.Objects, table: d.Table, self: d.Self, log: d.Log, metrics: newMetrics(d.Metrics)}
	composer := handler.NewStoreComposer()
	composer.UseCore(s)
	composer.UseTerminater(s)
	composer.UseLengthDeferrer(s)
	composer.UseLocker(locker{memorylocker.New()})
	t, err := handler.NewUnroutedHandler(handler.Config{
		StoreComposer: composer, BasePath: Path + "/", MaxSize: cfg.MaxBytes, DisableDownload: true,
		Cors: &handler.CorsConfig{Disable: true}, // one policy for the whole API
		// The access log says what happened, and tusd's would say it with URLs.
		Logger:                           expslog.New(expslog.NewTextHandler(io.Discard, &expslog.HandlerOptions{Level: expslog.Level(100)})),
		RespectForwardedHeaders:          true,
		GracefulRequestCompletionTimeout: completion, AcquireLockTimeout: lockTimeout, NetworkTimeout: networkTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("tus handler: %w", err)
	}
	h := &Handler{tus: t, slots: make(chan struct{}, cfg.MaxOpen), store: s, active: map[*transfer]struct{}{}}
	h.inner = http.StripPrefix(Path, t.Middleware(http.HandlerFunc(h.route)))
	return h, nil
}

func (h *Handler) route(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		h.tus.PostFile(w, r)
	case http.MethodHead:
		h.tus.HeadFile(w, r)
	case http.MethodPatch:
		h.tus.PatchFile(w, r)
	case http.MethodDelete:
		h.tus.DelFile(w, r)
	}
}

// Serve answers a tus request of an authenticated caller. The error, if any, is
// the problem to answer with; nothing has been written then.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, c Caller) error {
	// tusd would take the method from this header, past the router's checks.
	if r.Header.Get("X-HTTP-Method-Override") != "" {
		return problem.New(problem.BadRequest, "Send the method itself instead of X-HTTP-Method-Override.")
	}
	if r.Method == http.MethodPost {
		if err := checkMetadata(strings.Join(r.Header.Values("Upload-Metadata"), ",")); err != nil {
			return err
		}
	}
	t := newTransfer(w, r.Method, c)
	if r.Method == http.MethodPatch || r.Method == http.MethodPost && r.Header.Get("Content-Type") == "application/offset+octet-stream" {
		select {
		case h.slots <- struct{}{}:
			h.store.metrics.open.Inc()
			defer func() { <-h.slots; h.store.metrics.open.Dec() }()
		default:
			h.store.metrics.refused.Inc()
			p := problem.New(problem.TooManyUploads, "Wait a moment: this region is receiving %d uploads already.", cap(h.slots))
			p.RetryAfter = 5 * time.Second
			return p
		}
		if !h.enter(t) {
			return stopping()
		}
		defer h.leave(t)
	}
	h.inner.ServeHTTP(t, r.WithContext(context.WithValue(r.Context(), transferKey{}, t)))
	if p := t.finish(); p != nil {
		return p
	}
	return nil
}

func stopping() *problem.Error {
	p := problem.New(problem.Unavailable, "This process is stopping: go on in a moment from where HEAD says the upload stands.")
	p.RetryAfter = time.Second
	return p
}

func (h *Handler) enter(t *transfer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.active[t] = struct{}{}
	return true
}

func (h *Handler) leave(t *transfer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.active, t)
}

// Stop ends every request that brings bytes, which keeps what it has, and
// refuses new ones.
func (h *Handler) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for t := range h.active {
		t.interrupt(stopping())
	}
}
