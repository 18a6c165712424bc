package drill

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/sleep"
)

const (
	guardEvery = 500 * time.Millisecond
	guardTime  = 3 * time.Second
)

// guard asks every edge for a private video without a token, all the time:
// nobody may get it, whatever is lost.
type guard struct {
	asset string
	edges []region.Edge
	http  *http.Client

	mu  sync.Mutex
	saw score.Guarded
}

func newGuard(d *target.Description, at target.Place, asset string) *guard {
	g := &guard{asset: asset, http: &http.Client{Timeout: guardTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: at.From(at.Sources[0]), MaxIdleConnsPerHost: 1}}}
	for _, r := range d.Table.Regions {
		g.edges = append(g.edges, r.Edges...)
	}
	return g
}

// run asks until ctx ends.
func (g *guard) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, e := range g.edges {
		wg.Go(func() {
			for sleep.For(ctx, guardEvery) == nil {
				g.ask(ctx, e)
			}
		})
	}
	wg.Wait()
	g.http.CloseIdleConnections()
}

func (g *guard) ask(ctx context.Context, e region.Edge) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL+"/v/-/"+g.asset+"/master.m3u8", nil)
	if err != nil {
		return
	}
	res, err := g.http.Do(req)
	if err != nil {
		return // it gives nobody anything
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // for the connection's sake
	g.mu.Lock()
	defer g.mu.Unlock()
	switch res.StatusCode {
	case http.StatusOK:
		g.saw.Given++
		g.saw.By = e.Name
	case http.StatusUnauthorized, http.StatusForbidden:
		g.saw.Refused++
	}
}

func (g *guard) seen() score.Guarded {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.saw
}
