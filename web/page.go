package web

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Edge is an edge cache as viewers see it.
type Edge struct {
	// Name is the edge's name and pathway: "eu-1".
	Name string `json:"name"`
	// Region is the region's name: "eu".
	Region string `json:"region"`
	// Place is the name people know the region by: "Frankfurt".
	Place string `json:"place"`
	// URL is the public base URL.
	URL string `json:"url"`
}

// Page is what a player page shows.
type Page struct {
	Asset string
	Title string
	// State is the asset's state; anything but StatePlayable and StateReady is
	// shown as being prepared.
	State string
	// Master is the URL of the master playlist, absolute or root-relative.
	Master string
	// Poster is the URL of a picture to show before playing, or empty.
	Poster string
	// Routers are the base URLs of all routers, the own first.
	Routers []string
	// Duration in seconds, 0 when unknown.
	Duration float64
	// Embed is for /embed/: only the video, and any site may frame it.
	Embed bool
	// Edges are all edges that may serve the video.
	Edges []Edge
}

// States in which a video has something to play.
const (
	StatePlayable = "playable"
	StateReady    = "ready"
)

const (
	kindPlayer    = "player"
	kindPreparing = "preparing"
	kindProblem   = "problem"
)

// data is the page's JSON block; src/page.ts reads it.
type data struct {
	Kind     string   `json:"kind"`
	Asset    string   `json:"asset"`
	Title    string   `json:"title"`
	State    string   `json:"state"`
	Master   string   `json:"master"`
	Poster   string   `json:"poster"`
	Routers  []string `json:"routers"`
	Duration float64  `json:"duration"`
	Embed    bool     `json:"embed"`
	Edges    []Edge   `json:"edges"`
	Detail   string   `json:"detail"`
	Retry    bool     `json:"retry"`
}

type view struct {
	DocumentTitle string
	Heading       string
	Styles        []string
	Script        string
	// Plain is the master's form for players that know no steering.
	Plain string
	Data  data
}

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// Player writes the page of a video. One that isn't playable yet is shown as
// being prepared; the page asks again and starts by itself.
func Player(w http.ResponseWriter, status int, p Page) error {
	d := data{Kind: kindPlayer, Asset: p.Asset, Title: p.Title, State: p.State, Master: p.Master, Poster: p.Poster,
		Routers: p.Routers, Duration: p.Duration, Embed: p.Embed, Edges: p.Edges}
	v := view{DocumentTitle: documentTitle(p.Title)}
	if p.Master == "" || (p.State != StatePlayable && p.State != StateReady) {
		d.Kind, d.Master = kindPreparing, ""
		v.Heading = "This video is being prepared"
		d.Detail = preparing(p.State)
		v.DocumentTitle = documentTitle(v.Heading)
		w.Header().Set("Retry-After", "2")
	} else if d.Title == "" {
		d.Title = "Untitled video"
	}
	v.Data, v.Plain = d, plain(p.Master)
	frames := "'none'"
	if p.Embed {
		frames = "*"
	}
	return render(w, status, v, policy(connections(p), p.Poster, frames))
}

// Problem writes a page that says what is wrong and what happens next. When
// asking again can help (not found, conflict, too many requests, our own
// failure) the page does so and moves on by itself.
func Problem(w http.ResponseWriter, status int, title, detail string) error {
	d := data{Kind: kindProblem, Title: title, Detail: detail, Retry: retryable(status)}
	// Any site may frame it, because it also answers /embed/ and has nothing to click.
	return render(w, status, view{DocumentTitle: documentTitle(title), Heading: title, Data: d}, policy([]string{"'self'"}, "", "*"))
}

func retryable(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	default:
		return status >= http.StatusInternalServerError
	}
}

func preparing(state string) string {
	switch state {
	case "waiting", "uploading":
		return "It is still being uploaded. It starts here by itself as soon as the first seconds are ready; you don’t need to reload."
	default:
		return "It starts here by itself as soon as the first seconds are ready; you don’t need to reload."
	}
}

func plain(master string) string {
	u, err := url.Parse(master)
	if err != nil {
		return master
	}
	q := u.Query()
	q.Set("steering", "0")
	u.RawQuery = q.Encode()
	return u.String()
}

func documentTitle(title string) string {
	if title == "" {
		return "Meridian"
	}
	return title + " · Meridian"
}

func render(w http.ResponseWriter, status int, v view, csp string) error {
	b, err := bundle()
	if err != nil {
		return err
	}
	v.Styles, v.Script = b.styles, b.script
	v.Data.Routers, v.Data.Edges = orEmpty(v.Data.Routers), orEmpty(v.Data.Edges)
	var body bytes.Buffer
	if err := pageTemplate.Execute(&body, v); err != nil {
		return fmt.Errorf("render player page: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Security-Policy", csp)
	h.Set("X-Content-Type-Options", "nosniff")
	// Edges check the origin of the Referer, see the token's origins.
	h.Set("Referrer-Policy", "strict-origin-when-cross-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	// A page whose router died asks the other routers for itself. It carries no
	// cookie and nothing its address doesn't already give away.
	h.Set("Access-Control-Allow-Origin", "*")
	w.WriteHeader(status)
	_, err = w.Write(body.Bytes())
	return err
}

// policy is the content security policy. Styles may be inline because
// media-chrome puts style elements into its shadow trees; scripts may not.
func policy(connect []string, poster, frameAncestors string) string {
	sources := strings.Join(connect, " ")
	images := sources
	if o := origin(poster); o != "" && !slices.Contains(connect, o) {
		images += " " + o
	}
	return strings.Join([]string{
		"default-src 'none'",
		"script-src 'self'",
		"style-src 'self' 'unsafe-inline'",
		"img-src data: " + images,
		"media-src blob: " + sources,
		// The first steering manifest is a data: URI.
		"connect-src data: " + sources,
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors " + frameAncestors,
	}, "; ")
}

// connections lists the origins the player may talk to.
func connections(p Page) []string {
	out := []string{"'self'"}
	add := func(raw string) {
		if o := origin(raw); o != "" && !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	for _, r := range p.Routers {
		add(r)
	}
	add(p.Master)
	if len(p.Edges) == 0 {
		// Nobody told where the segments will come from.
		return append(out, "http:", "https:")
	}
	for _, e := range p.Edges {
		add(e.URL)
	}
	return out
}

// origin is the scheme and host of an http URL, or empty. Only characters that
// can't end a source or a directive of the policy pass.
func origin(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return ""
	}
	if strings.ContainsFunc(u.Host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-:[]", r))
	}) {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
