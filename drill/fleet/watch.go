package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/resolver"
)

const (
	askEvery = 200 * time.Millisecond
	// maxAsked bounds the questions on their way to one router, of one kind.
	maxAsked = 8
	askTime  = 3 * time.Second
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

// Answer is where a router sent a viewer.
type Answer struct {
	Asked, At time.Time
	// Router is the region whose router was asked.
	Router    string
	Transport Transport
	// Edges it named: the redirect's, steering's first, all of a DNS answer.
	Edges []string
	// Err is why there is no answer, empty if there is one.
	Err string
}

// Watch asks every router, each askEvery and by every transport, from one place.
// A question doesn't wait for the answer to the last one.
type Watch struct {
	t     *region.Table
	asset string
	dial  resolver.Dial
	http  *http.Client
	edges map[netip.Addr]string

	mu      sync.Mutex
	answers []Answer
	dropped int
}

// NewWatch returns one that asks from an address of its own at a place.
func NewWatch(d *target.Description, at target.Place, asset string) *Watch {
	w := &Watch{t: d.Table, asset: asset, dial: at.From(at.Sources[len(at.Sources)-1]), edges: map[netip.Addr]string{}}
	for _, r := range d.Table.Regions {
		for _, e := range r.Edges {
			for _, a := range e.Addresses {
				w.edges[a] = e.Name
			}
		}
	}
	w.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: w.dial, MaxIdleConnsPerHost: 2 * maxAsked, IdleConnTimeout: time.Minute},
	}
	return w
}

// Run asks until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	var wg sync.WaitGroup
	ask := map[Transport]func(context.Context, region.Region) ([]string, error){ByRedirect: w.redirect, BySteering: w.steering, ByDNS: w.names}
	for _, r := range w.t.Regions {
		for transport, f := range ask {
			wg.Go(func() {
				w.poll(ctx, r.Name, transport, func(ctx context.Context) ([]string, error) { return f(ctx, r) })
			})
		}
	}
	wg.Wait()
	w.http.CloseIdleConnections()
}

func (w *Watch) poll(ctx context.Context, router string, by Transport, ask func(context.Context) ([]string, error)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxAsked)
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue // it answers none of those under way
		}
		wg.Go(func() {
			defer func() { <-slots }()
			a := Answer{Asked: time.Now(), Router: router, Transport: by}
			actx, cancel := context.WithTimeout(ctx, askTime)
			defer cancel()
			var err error
			a.Edges, err = ask(actx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				a.Err = brief(err)
			}
			a.At = time.Now()
			w.keep(a)
		})
	}
}

func (w *Watch) keep(a Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.answers) >= maxAnswers {
		w.dropped++
		return
	}
	w.answers = append(w.answers, a)
}

// Answers so far; the slice isn't changed any more.
func (w *Watch) Answers() []Answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.answers[:len(w.answers):len(w.answers)]
}

// Dropped is how many answers had no room.
func (w *Watch) Dropped() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped
}

func (w *Watch) get(ctx context.Context, u string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, nil, err
	}
	res, err := w.http.Do(req)
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

func (w *Watch) redirect(ctx context.Context, r region.Region) ([]string, error) {
	res, _, err := w.get(ctx, r.Router.URL+"/v/-/"+w.asset+"/master.m3u8")
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil || res.StatusCode != http.StatusFound {
		return nil, statusError(res.StatusCode)
	}
	return w.named(u.Hostname())
}

func (w *Watch) named(host string) ([]string, error) {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return nil, fmt.Errorf("sent to %q: want an edge's address", host)
	}
	e, ok := w.edges[a]
	if !ok {
		return nil, fmt.Errorf("sent to %s, which is no edge", a)
	}
	return []string{e}, nil
}

func (w *Watch) steering(ctx context.Context, r region.Region) ([]string, error) {
	var all []string
	for _, x := range w.t.Regions {
		for _, e := range x.Edges {
			all = append(all, e.Name)
		}
	}
	// Without a current pathway: where a session that has none yet would go.
	res, b, err := w.get(ctx, r.Router.URL+"/steer?a="+w.asset+"&s=watch&p="+strings.Join(all, ","))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, statusError(res.StatusCode)
	}
	m, err := ParseManifest(b)
	if err != nil {
		return nil, err
	}
	return m.Priority[:1], nil
}

func (w *Watch) names(ctx context.Context, r region.Region) ([]string, error) {
	list, _, err := resolver.Query(ctx, w.dial, r.Router.DNS, "edge."+w.t.Zone)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range list {
		e, ok := w.edges[a]
		if !ok {
			return nil, fmt.Errorf("named %s, which is no edge", a)
		}
		out = append(out, e)
	}
	return out, nil
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
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	res, b, err := w.get(ctx, r.Router.URL+"/explain?format=json")
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
