package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/api/upload"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/token"
)

const idempotencyHeader = "Idempotency-Key"

// asset is the JSON form of an asset.
type asset struct {
	ID         string              `json:"id"`
	Title      string              `json:"title"`
	State      catalog.State       `json:"state"`
	Failure    *catalog.Failure    `json:"failure"`
	Visibility playback.Visibility `json:"visibility"`
	Placement  placement           `json:"placement"`
	// Region is where it was created.
	Region string `json:"region"`
	// Size in bytes, null until declared.
	Size *int64 `json:"size"`
	// Duration in seconds, null until known.
	Duration   *float64    `json:"duration"`
	Progress   *progress   `json:"progress,omitempty"`
	Playback   playbackURL `json:"playback"`
	UploadURL  string      `json:"upload_url,omitempty"`
	CreatedAt  time.Time   `json:"created_at"`
	ReceivedAt *time.Time  `json:"received_at"`
	PlayableAt *time.Time  `json:"playable_at"`
	ReadyAt    *time.Time  `json:"ready_at"`
	FailedAt   *time.Time  `json:"failed_at"`
}

type placement struct {
	Mode    objects.Mode `json:"mode"`
	Regions []string     `json:"regions,omitempty"`
	// Copies is how many regions acknowledge a byte before its upload does.
	Copies int `json:"copies"`
}

type progress struct {
	catalog.Progress
	// Upload and Encode from 0 to 1.
	Upload float64 `json:"upload"`
	Encode float64 `json:"encode"`
}

type playbackURL struct {
	Watch string `json:"watch"`
	// Master is null for private assets: their URL holds a playback token.
	Master *string `json:"master"`
	// Poster and Extras, the index of all pictures, are null until they are made,
	// and for private assets.
	Poster *string `json:"poster"`
	Extras *string `json:"extras"`
}

func (s *Server) render(c echo.Context, a catalog.Asset) asset {
	out := asset{ID: a.ID, Title: a.Title, State: a.State, Failure: a.Failure, Visibility: a.Visibility, Region: a.Region, CreatedAt: a.CreatedAt,
		ReceivedAt: a.ReceivedAt, PlayableAt: a.PlayableAt, ReadyAt: a.ReadyAt, FailedAt: a.FailedAt,
		Placement: placement{Mode: a.Placement.Mode, Regions: a.Placement.Regions, Copies: s.Table.Copies()},
		Playback:  playbackURL{Watch: s.Region.Router.URL + "/watch/" + a.ID}}
	if a.Placement.Pinned() {
		out.Placement.Copies = min(out.Placement.Copies, len(a.Placement.Regions))
	}
	if a.Visibility != playback.Private {
		m := s.master(token.None, a.ID)
		out.Playback.Master = &m
		if a.Poster != "" {
			poster := s.object(token.None, a.ID, a.Poster)
			extras := s.object(token.None, a.ID, objects.ExtrasPath(hls.RunName(a.CurrentRun)))
			out.Playback.Poster, out.Playback.Extras = &poster, &extras
		}
	}
	if a.Size > 0 {
		out.Size = &a.Size
	}
	if a.Duration > 0 {
		d := a.Duration.Seconds()
		out.Duration = &d
	}
	if a.State == catalog.Waiting {
		out.UploadURL = base(c) + upload.Path + "?asset=" + a.ID
	}
	return out
}

func (s *Server) master(tok, asset string) string {
	return s.object(tok, asset, "master.m3u8")
}

// object is the URL of one of an asset's objects for who has the token.
func (s *Server) object(tok, asset, path string) string {
	return s.Region.Router.URL + "/v/" + tok + "/" + asset + "/" + path
}

// renderWhole is render with progress, which only single assets carry.
func (s *Server) renderWhole(c echo.Context, a catalog.Asset) asset {
	out := s.render(c, a)
	p := &progress{Progress: a.Progress, Upload: ratio(a.Progress.BytesReceived, a.Progress.BytesTotal), Encode: ratio(a.Progress.FramesDone, a.Progress.FramesTotal)}
	if a.State == catalog.Ready {
		p.Encode = 1
	}
	out.Progress = p
	return out
}

func ratio(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, float64(part)/float64(whole))
}

// base is the URL this API was reached by, also behind a proxy.
func base(c echo.Context) string { return c.Scheme() + "://" + c.Request().Host }

func validID(id string) bool { return hls.ValidAssetID(id) }

// decode reads a JSON body strictly. An empty body leaves v as it is.
func decode(c echo.Context, v any) error {
	r := c.Request()
	if ct := r.Header.Get(echo.HeaderContentType); ct != "" {
		if t, _, err := mime.ParseMediaType(ct); err != nil || t != echo.MIMEApplicationJSON {
			return problem.New(problem.MediaType, "Send Content-Type: application/json.")
		}
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if errors.Is(err, io.EOF) {
		return nil
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	if err == nil && d.More() {
		err = errors.New("more than one JSON value")
	}
	if err != nil {
		p := problem.New(problem.BadRequest, "Send one JSON object with the fields this operation has: %s.", strings.TrimPrefix(err.Error(), "json: "))
		p.Cause = err
		return p
	}
	return nil
}

var idempotencyKey = regexp.MustCompile(`^[\x21-\x7e]{1,255}$`)

func checkIdempotencyKey(key string) error {
	if key != "" && !idempotencyKey.MatchString(key) {
		return problem.Invalid(problem.Field{Field: idempotencyHeader, Detail: "send 1 to 255 printable ASCII characters without spaces, such as a UUID"})
	}
	return nil
}

func checkTitle(title string) []problem.Field {
	if utf8.RuneCountInString(title) > upload.MaxTitle || !utf8.ValidString(title) || strings.ContainsFunc(title, unicode.IsControl) {
		return []problem.Field{{Field: "title", Detail: fmt.Sprintf("send at most %d characters on one line", upload.MaxTitle)}}
	}
	return nil
}

func checkVisibility(v playback.Visibility) []problem.Field {
	switch v {
	case playback.Public, playback.Unlisted, playback.Private:
		return nil
	}
	return []problem.Field{{Field: "visibility", Detail: "send public, unlisted or private"}}
}

func (s *Server) createAsset(c echo.Context) error {
	in := struct {
		Title      string              `json:"title"`
		Visibility playback.Visibility `json:"visibility"`
		Placement  objects.Placement   `json:"placement"`
	}{Visibility: playback.Public}
	if err := decode(c, &in); err != nil {
		return err
	}
	in.Title = strings.TrimSpace(in.Title)
	if in.Title == "" {
		in.Title = upload.TitleOf("")
	}
	bad := append(checkTitle(in.Title), checkVisibility(in.Visibility)...)
	if err := in.Placement.Validate(s.Table); err != nil {
		bad = append(bad, problem.Field{Field: "placement", Detail: err.Error()})
	}
	if len(bad) > 0 {
		return problem.Invalid(bad...)
	}
	key := c.Request().Header.Get(idempotencyHeader)
	if err := checkIdempotencyKey(key); err != nil {
		return err
	}
	a, err := s.Assets.CreateAsset(c.Request().Context(), catalog.NewAsset{Owner: keyOf(c).Owner, Title: in.Title, Visibility: in.Visibility,
		Placement: in.Placement, Region: s.Region.Name, IdempotencyKey: key})
	if err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderLocation, base(c)+"/v1/assets/"+a.ID)
	return c.JSON(http.StatusCreated, s.render(c, a))
}

func (s *Server) listAssets(c echo.Context) error {
	q := c.QueryParams()
	state := catalog.State(q.Get("state"))
	var bad []problem.Field
	switch state {
	case "", catalog.Waiting, catalog.Uploading, catalog.Received, catalog.Playable, catalog.Ready, catalog.Failed:
	default:
		bad = append(bad, problem.Field{Field: "state", Detail: "pass waiting, uploading, received, playable, ready or failed"})
	}
	limit := 0
	if v := q.Get("limit"); v != "" {
		var err error
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > catalog.MaxPage {
			bad = append(bad, problem.Field{Field: "limit", Detail: fmt.Sprintf("pass 1 to %d", catalog.MaxPage)})
		}
	}
	if len(bad) > 0 {
		return problem.Invalid(bad...)
	}
	page, next, err := s.Assets.ListAssets(c.Request().Context(), keyOf(c).Owner, state, q.Get("cursor"), limit)
	if err != nil {
		return err
	}
	out := struct {
		Assets []asset `json:"assets"`
		// NextCursor is null on the last page.
		NextCursor *string `json:"next_cursor"`
	}{Assets: make([]asset, 0, len(page))}
	for _, a := range page {
		out.Assets = append(out.Assets, s.render(c, a))
	}
	if next != "" {
		out.NextCursor = &next
		u := url.URL{Path: c.Path()}
		q.Set("cursor", next)
		u.RawQuery = q.Encode()
		c.Response().Header().Set("Link", "<"+base(c)+u.String()+`>; rel="next"`)
	}
	return c.JSON(http.StatusOK, out)
}

// id is the asset of the path; whatever can't be an id isn't asked for.
func id(c echo.Context) (string, error) {
	v := c.Param("id")
	if !validID(v) {
		return "", problem.New(problem.NotFound, "Check the id: it has 26 characters a-z and 2-7.")
	}
	return v, nil
}

func (s *Server) getAsset(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	a, err := s.Assets.GetAsset(c.Request().Context(), keyOf(c).Owner, id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.renderWhole(c, a))
}

func (s *Server) updateAsset(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	var in struct {
		Title      *string              `json:"title"`
		Visibility *playback.Visibility `json:"visibility"`
	}
	if err := decode(c, &in); err != nil {
		return err
	}
	var bad []problem.Field
	if in.Title != nil {
		if *in.Title = strings.TrimSpace(*in.Title); *in.Title == "" {
			bad = append(bad, problem.Field{Field: "title", Detail: "send a title, or leave the field out"})
		}
		bad = append(bad, checkTitle(*in.Title)...)
	}
	if in.Visibility != nil {
		bad = append(bad, checkVisibility(*in.Visibility)...)
	}
	if in.Title == nil && in.Visibility == nil {
		bad = append(bad, problem.Field{Field: "title", Detail: "send title, visibility or both"})
	}
	if len(bad) > 0 {
		return problem.Invalid(bad...)
	}
	a, err := s.Assets.UpdateAsset(c.Request().Context(), keyOf(c).Owner, id, in.Title, in.Visibility)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.render(c, a))
}

func (s *Server) deleteAsset(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	if err := s.Assets.DeleteAsset(c.Request().Context(), keyOf(c).Owner, id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
