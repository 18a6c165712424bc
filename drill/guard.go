package drill

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/client"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/sleep"
	"github.com/meridian-video/meridian/internal/token"
)

const (
	guardEvery = 500 * time.Millisecond
	guardTime  = 3 * time.Second
	// mintEvery a token is made, by one region's API after the other, which lasts
	// mintLife.
	mintEvery = 2 * time.Second
	mintLife  = 10 * time.Minute
)

// guard asks every edge for a private video, all the time, whatever is lost:
// without a token nobody may get it, with one everybody.
type guard struct {
	asset string
	edges []region.Edge
	apis  []string
	key   string
	http  *http.Client

	mu    sync.Mutex
	token string // the newest; empty before there is one
	saw   score.Guarded
}

func newGuard(d *target.Description, at target.Place, asset string) *guard {
	g := &guard{asset: asset, key: d.APIKey, http: &http.Client{Timeout: guardTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: at.From(at.Sources[0]), MaxIdleConnsPerHost: 1}}}
	for _, r := range d.Table.Regions {
		g.edges = append(g.edges, r.Edges...)
		g.apis = append(g.apis, r.API)
	}
	return g
}

// run asks until ctx ends.
func (g *guard) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { g.mint(ctx) })
	for _, e := range g.edges {
		wg.Go(func() {
			for n := 0; sleep.For(ctx, guardEvery) == nil; n++ {
				g.ask(ctx, e, n%2 == 1)
			}
		})
	}
	wg.Wait()
	g.http.CloseIdleConnections()
}

// mint makes tokens. An API that is lost makes none.
func (g *guard) mint(ctx context.Context) {
	for n := 0; ; n++ {
		c := client.New(g.apis[n%len(g.apis):][:1], g.key)
		c.Patience = guardTime
		mctx, cancel := context.WithTimeout(ctx, guardTime)
		t, err := c.CreateToken(mctx, g.asset, mintLife)
		cancel()
		c.Close()
		if err == nil {
			g.mu.Lock()
			g.token = t.Token
			g.mu.Unlock()
		}
		if sleep.For(ctx, mintEvery) != nil {
			return
		}
	}
}

// ask asks an edge once, with the newest token or without one.
func (g *guard) ask(ctx context.Context, e region.Edge, admitted bool) {
	with := token.None
	if admitted {
		g.mu.Lock()
		with = g.token
		g.mu.Unlock()
		if with == "" {
			return
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL+"/v/"+with+"/"+g.asset+"/master.m3u8", nil)
	if err != nil {
		return
	}
	res, err := g.http.Do(req)
	if err != nil {
		return // it gives nobody anything
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // for the connection's sake
	// Master playlists may be at an address of the session's own.
	given := res.StatusCode == http.StatusOK || res.StatusCode == http.StatusFound
	refused := res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case given && admitted:
		g.saw.Admitted++
	case given:
		g.saw.Given++
		g.saw.By = e.Name
	case refused && admitted:
		g.saw.Denied++
		g.saw.DeniedBy = e.Name
	case refused:
		g.saw.Refused++
	}
}

func (g *guard) seen() score.Guarded {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.saw
}
