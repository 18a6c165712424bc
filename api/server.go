package api

import (
	"context"
	_ "embed"
	"io"
	"log/slog"
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/api/feed"
	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/api/upload"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/token"
)

// Assets are an owner's videos.
type Assets interface {
	upload.Assets
	GetAsset(ctx context.Context, owner, id string) (catalog.Asset, error)
	ListAssets(ctx context.Context, owner string, state catalog.State, cursor string, limit int) ([]catalog.Asset, string, error)
	UpdateAsset(ctx context.Context, owner, id string, title *string, visibility *playback.Visibility) (catalog.Asset, error)
	RevokeTokens(ctx context.Context, owner, asset string, jtis []string) error
	Runs(ctx context.Context, owner, id string) ([]catalog.Run, error)
	Encode(ctx context.Context, owner, id, profile string) (catalog.Run, error)
	CancelRun(ctx context.Context, owner, id string, run int) error
}

// Keys are an owner's API keys.
type Keys interface {
	Authenticate(ctx context.Context, secret string) (catalog.APIKey, error)
	CreateKey(ctx context.Context, owner, name string, role catalog.Role) (catalog.APIKey, string, error)
	RevokeKey(ctx context.Context, owner, id string) error
	Keys(ctx context.Context, owner string) ([]catalog.APIKey, error)
}

// Deps are what the HTTP layer works with.
type Deps struct {
	Assets  Assets
	Keys    Keys
	Uploads *upload.Handler
	Feed    *feed.Feed
	// Playback signs playback tokens.
	Playback *token.Signer
	Region   region.Region
	Table    *region.Table
	// Streams bounds event streams.
	Streams int
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Server is the HTTP layer.
type Server struct {
	Deps
	echo    *echo.Echo
	keys    *keyring
	streams chan struct{}
	log     *slog.Logger
	metrics *metrics
}

//go:embed openapi.yaml
var openAPI []byte

// NewServer returns the HTTP layer; it serves as an http.Handler.
func NewServer(d Deps) *Server {
	s := &Server{Deps: d, echo: echo.New(), keys: newKeyring(d.Keys.Authenticate), streams: make(chan struct{}, d.Streams), log: d.Log, metrics: newMetrics(d.Metrics)}
	e := s.echo
	// Only for what the middleware below can't see.
	e.HTTPErrorHandler = func(err error, c echo.Context) { s.answer(c, problemOf(err)) }
	e.Logger.SetOutput(io.Discard)
	e.Use(identify, s.record, s.recoverer, cors)

	e.GET("/", s.index, limit)
	e.GET("/openapi.yaml", s.openAPI, limit)
	e.GET("/problems", s.problems, limit)
	e.GET("/problems/:code", s.problem, limit)

	read, write, admin := s.need(catalog.RoleRead), s.need(catalog.RoleWrite), s.need(catalog.RoleAdmin)
	// No group with middleware: echo would answer a wrong method as a missing path.
	v1 := func(method, path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) {
		e.Add(method, "/v1"+path, h, append([]echo.MiddlewareFunc{session}, m...)...)
	}
	v1(http.MethodGet, "/api-keys", s.listKeys, limit, admin)
	v1(http.MethodPost, "/api-keys", s.createKey, limit, admin)
	v1(http.MethodDelete, "/api-keys/:id", s.revokeKey, limit, admin)
	v1(http.MethodGet, "/assets", s.listAssets, limit, read)
	v1(http.MethodPost, "/assets", s.createAsset, limit, write)
	v1(http.MethodGet, "/assets/:id", s.getAsset, limit, read)
	v1(http.MethodPatch, "/assets/:id", s.updateAsset, limit, write)
	v1(http.MethodDelete, "/assets/:id", s.deleteAsset, limit, write)
	v1(http.MethodGet, "/assets/:id/runs", s.listRuns, limit, read)
	v1(http.MethodPost, "/assets/:id/runs", s.createRun, limit, write)
	v1(http.MethodDelete, "/assets/:id/runs/:run", s.cancelRun, limit, write)
	v1(http.MethodPost, "/assets/:id/tokens", s.createToken, limit, write)
	v1(http.MethodDelete, "/assets/:id/tokens/:token", s.revokeToken, limit, write)
	v1(http.MethodGet, "/assets/:id/events", s.assetEvents, read)
	v1(http.MethodGet, "/events", s.events, read)

	e.OPTIONS(upload.Path, s.tus)
	e.OPTIONS(upload.Path+"/:id", s.tus)
	e.POST(upload.Path, s.tus, write)
	e.HEAD(upload.Path+"/:id", s.tus, write)
	e.PATCH(upload.Path+"/:id", s.tus, write)
	e.DELETE(upload.Path+"/:id", s.tus, write)
	return s
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// index tells people and programs where to go on.
func (s *Server) index(c echo.Context) error {
	return c.JSON(http.StatusOK, map[string]any{
		"name": "meridian", "region": s.Region.Name,
		"openapi": base(c) + "/openapi.yaml", "problems": base(c) + "/problems",
		"assets": base(c) + "/v1/assets", "uploads": base(c) + upload.Path,
	})
}

func (s *Server) openAPI(c echo.Context) error {
	c.Response().Header().Set("Cache-Control", "max-age=300")
	return c.Blob(http.StatusOK, "application/yaml", openAPI)
}

func (s *Server) problems(c echo.Context) error {
	return c.JSON(http.StatusOK, map[string]any{"problems": problem.Kinds()})
}

func (s *Server) problem(c echo.Context) error {
	for _, k := range problem.Kinds() {
		if k.Code == c.Param("code") {
			return c.JSON(http.StatusOK, k)
		}
	}
	return problem.New(problem.NotFound, "GET /problems lists every code.")
}

func (s *Server) tus(c echo.Context) error {
	r := c.Request()
	key := keyOf(c)
	caller := upload.Caller{Owner: key.Owner, RequestID: idOf(c), IdempotencyKey: r.Header.Get(idempotencyHeader)}
	if r.Method == http.MethodPost {
		if err := checkIdempotencyKey(caller.IdempotencyKey); err != nil {
			return err
		}
		if caller.Asset = c.QueryParam("asset"); caller.Asset != "" && !validID(caller.Asset) {
			return problem.Invalid(problem.Field{Field: "asset", Detail: "pass the id of an asset of yours"})
		}
	}
	return s.Uploads.Serve(c.Response(), r, caller)
}
