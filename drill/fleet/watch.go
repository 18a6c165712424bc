package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/resolver"
)

const (
	// explainTime is how long a router may take to say what it believes.
	explainTime = 3 * time.Second
	// maxAnswers bounds what is kept.
	maxAnswers = 200_000
	maxAnswer  = 64 << 10
)

// Transport is a way to ask a router.
type Transport string

// The transports.
const (
	ByRedirect Transport = "redirect"
	BySteering Transport = "steering"
	ByDNS      Transport = "dns"
)

// Transports are all of them.
var Transports = []Transport{ByRedirect, BySteering, ByDNS}

// Answer is where a router sent an asker.
type Answer struct {
	Asked, At time.Time
	// Near is the region the asker is near, Asker its number there.
	Near  string
	Asker int
	// Router is the region whose router answered.
	Router    string
	Transport Transport
	// Edges it named, best first: the redirect's, steering's first, all of a DNS answer.
	Edges []string
	// Err is why no router gave an answer, empty if one did.
	Err string
}

// Watch is people near one region who ask the routers where to go, each once a
// second by every transport and from an address of its own.
type Watch struct {
	t       *region.Table
	near    string
	asset   string
	edges   map[netip.Addr][]string // each a name alone
	routers map[string]string       // regions by router URL and name server
	askers  []*asker
	http    *http.Client
	answers kept[Answer]
}

// NewWatch returns the askers, at least one, near the region with this index.
func NewWatch(d *target.Description, index, askers int, asset string) *Watch {
	at := d.Places[index]
	w := &Watch{t: d.Table, near: at.Near, asset: asset, edges: map[netip.Addr][]string{}, routers: map[string]string{}}
	for _, r := range d.Table.Regions {
		w.routers[r.Router.URL], w.routers[r.Router.DNS] = r.Name, r.Name
		for _, e := range r.Edges {
			for _, a := range e.Addresses {
				w.edges[a] = []string{e.Name}
			}
		}
	}
	for n := range askers {
		w.askers = append(w.askers, newAsker(w, d, index, n))
	}
	w.http = newClient(at.From(at.Sources[len(at.Sources)-1]))
	return w
}

// newClient follows no redirects. What it connects to are a handful of routers.
func newClient(dial resolver.Dial) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 2, MaxConnsPerHost: 2, IdleConnTimeout: time.Minute,
			ReadBufferSize: 2 << 10, WriteBufferSize: 1 << 10, DisableCompression: true},
	}
}

// Run asks until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, a := range w.askers {
		wg.Go(func() { a.run(ctx) })
	}
	wg.Wait()
	w.http.CloseIdleConnections()
}

// Answers so far; the slice isn't changed any more.
func (w *Watch) Answers() []Answer { return w.answers.all() }

// Dropped is how many answers had no room.
func (w *Watch) Dropped() int { return w.answers.lost() }

// named are the edges at addresses.
func (w *Watch) named(list ...netip.Addr) ([]string, error) {
	var out []string
	for _, a := range list {
		e, ok := w.edges[a]
		if !ok {
			return nil, fmt.Errorf("sent to %s, which is no edge", a)
		}
		if out == nil {
			out = e // mostly all there is
		} else if !slices.Contains(out, e[0]) {
			out = append(out[:len(out):len(out)], e[0])
		}
	}
	return out, nil
}

// get asks a router, and returns the answer with its whole body.
func get(ctx context.Context, c *http.Client, u string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, nil, err
	}
	res, err := c.Do(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = errTimeout
		}
		return nil, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return res, b, err
}

// Everyone is nil when every router of the table finds every edge working and
// hears another router.
func (w *Watch) Everyone(ctx context.Context) error {
	var errs []error
	for _, r := range w.t.Regions {
		errs = append(errs, w.explains(ctx, r))
	}
	return errors.Join(errs...)
}

func (w *Watch) explains(ctx context.Context, r region.Region) error {
	ctx, cancel := context.WithTimeout(ctx, explainTime)
	defer cancel()
	res, b, err := get(ctx, w.http, r.Router.URL+"/explain?format=json")
	if err != nil {
		return fmt.Errorf("router of %s: %s", r.Name, brief(err))
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("router of %s: status %d", r.Name, res.StatusCode)
	}
	down, alone, err := readExplanation(b)
	switch {
	case err != nil:
		return fmt.Errorf("router of %s: %w", r.Name, err)
	case len(down) > 0:
		return fmt.Errorf("router of %s: %s down", r.Name, strings.Join(down, ", "))
	case alone:
		return fmt.Errorf("router of %s hears no other", r.Name)
	}
	return nil
}
