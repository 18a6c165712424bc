package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/meridian-video/meridian/api/problem"
	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/token"
)

// apiKey is the JSON form of an API key.
type apiKey struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Prefix is the key's beginning, to recognise it by.
	Prefix    string       `json:"prefix"`
	Role      catalog.Role `json:"role"`
	CreatedAt time.Time    `json:"created_at"`
	RevokedAt *time.Time   `json:"revoked_at"`
	// Key is the secret, shown once.
	Key string `json:"key,omitempty"`
}

func renderKey(k catalog.APIKey) apiKey {
	return apiKey{ID: k.ID, Name: k.Name, Prefix: k.Prefix, Role: k.Role, CreatedAt: k.CreatedAt, RevokedAt: k.RevokedAt}
}

func (s *Server) listKeys(c echo.Context) error {
	list, err := s.Keys.Keys(c.Request().Context(), keyOf(c).Owner)
	if err != nil {
		return err
	}
	out := make([]apiKey, 0, len(list))
	for _, k := range list {
		out = append(out, renderKey(k))
	}
	return c.JSON(http.StatusOK, map[string]any{"api_keys": out})
}

const maxName = 100

func (s *Server) createKey(c echo.Context) error {
	in := struct {
		Name string       `json:"name"`
		Role catalog.Role `json:"role"`
	}{Role: catalog.RoleWrite}
	if err := decode(c, &in); err != nil {
		return err
	}
	var bad []problem.Field
	in.Name = strings.TrimSpace(in.Name)
	if in.Name == "" || utf8.RuneCountInString(in.Name) > maxName {
		bad = append(bad, problem.Field{Field: "name", Detail: fmt.Sprintf("send a name of 1 to %d characters that says who uses the key", maxName)})
	}
	if !slices.Contains([]catalog.Role{catalog.RoleRead, catalog.RoleWrite, catalog.RoleAdmin}, in.Role) {
		bad = append(bad, problem.Field{Field: "role", Detail: "send read, write or admin"})
	}
	if len(bad) > 0 {
		return problem.Invalid(bad...)
	}
	k, secret, err := s.Keys.CreateKey(c.Request().Context(), keyOf(c).Owner, in.Name, in.Role)
	if err != nil {
		return err
	}
	out := renderKey(k)
	out.Key = secret
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.JSON(http.StatusCreated, out)
}

func (s *Server) revokeKey(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	if err := s.Keys.RevokeKey(c.Request().Context(), keyOf(c).Owner, id); err != nil {
		return err
	}
	s.keys.forget(id)
	return c.NoContent(http.StatusNoContent)
}

// Limits of playback tokens.
const (
	defaultTokenLife = time.Hour
	maxTokenLife     = 30 * 24 * time.Hour
	maxRules         = 64
)

var country = regexp.MustCompile(`^[A-Z]{2}$`)

func (s *Server) createToken(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	in := struct {
		// ExpiresIn in seconds.
		ExpiresIn int64 `json:"expires_in"`
		// NotBefore in Unix seconds.
		NotBefore int64    `json:"not_before"`
		Geo       []string `json:"geo"`
		CIDR      []string `json:"cidr"`
		Origins   []string `json:"origins"`
	}{ExpiresIn: int64(defaultTokenLife / time.Second)}
	if err := decode(c, &in); err != nil {
		return err
	}
	claims := token.Claims{Asset: id, ID: token.NewID(), NotBefore: in.NotBefore}
	var bad []problem.Field
	reject := func(field, format string, a ...any) {
		bad = append(bad, problem.Field{Field: field, Detail: fmt.Sprintf(format, a...)})
	}
	now := time.Now()
	if in.ExpiresIn < 1 || in.ExpiresIn > int64(maxTokenLife/time.Second) {
		reject("expires_in", "send 1 to %d seconds", int64(maxTokenLife/time.Second))
	}
	claims.Expires = now.Add(time.Duration(in.ExpiresIn) * time.Second).Unix()
	if in.NotBefore < 0 || in.NotBefore > claims.Expires {
		reject("not_before", "send Unix seconds before the token expires")
	}
	if len(in.Geo)+len(in.CIDR)+len(in.Origins) > maxRules {
		reject("geo", "send at most %d rules together", maxRules)
	} else {
		for _, g := range in.Geo {
			if g = strings.ToUpper(g); !country.MatchString(g) {
				reject("geo", "send ISO 3166-1 alpha-2 country codes such as DE")
				break
			}
			claims.Geo = append(claims.Geo, g)
		}
		for _, v := range in.CIDR {
			p, err := netip.ParsePrefix(v)
			if err != nil {
				reject("cidr", "send address prefixes such as 192.0.2.0/24")
				break
			}
			claims.CIDR = append(claims.CIDR, p.Masked())
		}
		for _, o := range in.Origins {
			u, err := url.Parse(o)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != o {
				reject("origins", "send origins such as https://example.org, without a path")
				break
			}
			claims.Origins = append(claims.Origins, o)
		}
	}
	if len(bad) > 0 {
		return problem.Invalid(bad...)
	}
	// Not for others' assets, nor for deleted ones.
	if _, err := s.Assets.GetAsset(c.Request().Context(), keyOf(c).Owner, id); err != nil {
		return err
	}
	tok, err := token.Mint(claims, s.Playback)
	if err != nil {
		return err
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return c.JSON(http.StatusCreated, map[string]any{
		"id": claims.ID, "kid": s.Playback.KID, "token": tok, "expires_at": time.Unix(claims.Expires, 0).UTC(),
		"master": s.master(tok, id), "watch": s.Region.Router.URL + "/watch/" + id + "?t=" + url.QueryEscape(tok),
	})
}

// tokenID is what can be the id of a playback token, also of one its owner's own
// program has signed.
var tokenID = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,128}$`)

// revokeToken ends a token and the sessions it started. Whether there is such a
// token nobody knows: tokens aren't stored.
func (s *Server) revokeToken(c echo.Context) error {
	id, err := id(c)
	if err != nil {
		return err
	}
	jti := c.Param("token")
	if !tokenID.MatchString(jti) {
		return problem.Invalid(problem.Field{Field: "token", Detail: "pass the token's id (its jti), which creating it returned"})
	}
	if err := s.Assets.RevokeTokens(c.Request().Context(), keyOf(c).Owner, id, []string{jti}); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
