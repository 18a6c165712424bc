package api

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/internal/catalog"
)

// run is the JSON form of one encode of an asset.
type run struct {
	Run     string           `json:"run"`
	State   catalog.RunState `json:"state"`
	Profile string           `json:"profile"`
	// Current is the run viewers see.
	Current   bool             `json:"current"`
	Failure   *catalog.Failure `json:"failure"`
	CreatedAt time.Time        `json:"created_at"`
	EndedAt   *time.Time       `json:"ended_at"`
}

func renderRun(r catalog.Run) run {
	return run{Run: r.Name(), State: r.State, Profile: r.Profile, Current: r.Current, Failure: r.Failure, CreatedAt: r.CreatedAt, EndedAt: r.EndedAt}
}

func (s *Server) listRuns(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	list, err := s.Assets.Runs(c.Request().Context(), keyOf(c).Owner, id)
	if err != nil {
		return err
	}
	out := struct {
		Runs []run `json:"runs"`
	}{Runs: make([]run, len(list))}
	for i, r := range list {
		out.Runs[i] = renderRun(r)
	}
	return c.JSON(http.StatusOK, out)
}

var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func (s *Server) createRun(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	var in struct {
		Profile string `json:"profile"`
	}
	if err := decode(c, &in); err != nil {
		return err
	}
	if in.Profile != "" && !profileName.MatchString(in.Profile) {
		return problem.Invalid(problem.Field{Field: "profile", Detail: "send the name of an encoding profile, or none for the one the asset has"})
	}
	r, err := s.Assets.Encode(c.Request().Context(), keyOf(c).Owner, id, in.Profile)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusCreated, renderRun(r))
}

func (s *Server) cancelRun(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(strings.TrimPrefix(c.Param("run"), "r"), 10, 32)
	if err != nil || n < 1 || !strings.HasPrefix(c.Param("run"), "r") {
		return problem.New(problem.NotFound, "Check the run: it is r and a number, as in r2.")
	}
	if err := s.Assets.CancelRun(c.Request().Context(), keyOf(c).Owner, id, int(n)); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
