package viewers

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/viewer"
	"github.com/meridian-video/meridian/internal/wan"
)

const (
	pollEvery = 50 * time.Millisecond
	// maxAsked bounds the questions on their way to one router.
	maxAsked = 16
	askIn    = 3 * time.Second
	// steady is about how many answers of a kind come in a second.
	steady = 40
	// listenFor is how long routers are asked beyond the goal.
	listenFor = 2 * time.Second
)

// The goals for the last wrong answer of a living router.
var goals = map[string]time.Duration{"kill": 2 * time.Second, "hang": 5 * time.Second, "silence": 5 * time.Second}

// kinds are the ways to ask a router.
var kinds = []string{"302", "steering", "DNS"}

// answers asks the routers outside eu, from Europe, where to go.
type answers struct {
	s      *isolated
	viewer *viewer.Viewer
	client *http.Client
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	given  map[string][]answer // by kind
	errors map[string]int
	// alive is when an edge of eu last delivered something.
	alive time.Time
}

type answer struct {
	asked, at time.Time
	eu        bool // it names eu: first, or for DNS at all
	euFirst   bool
}

// answers begins to ask.
func (s *isolated) answers(t *testing.T) *answers {
	t.Helper()
	v := s.viewer(t, 250, 0)
	ctx, cancel := context.WithCancel(t.Context())
	a := &answers{s: s, viewer: v, client: v.Client(askIn), cancel: cancel, given: map[string][]answer{}, errors: map[string]int{}}
	t.Cleanup(func() {
		cancel()
		a.wg.Wait()
		a.client.CloseIdleConnections()
	})
	eu := s.Table.Regions[0]
	for _, e := range eu.Edges {
		a.wg.Go(func() { a.follow(ctx, e.URL+"/health/segment") })
	}
	for _, r := range s.Table.Regions[1:] {
		a.poll(ctx, "302", func(ctx context.Context) (answer, error) { return a.redirect(ctx, r) })
		a.poll(ctx, "steering", func(ctx context.Context) (answer, error) { return a.steer(ctx, r) })
		a.poll(ctx, "DNS", func(ctx context.Context) (answer, error) { return a.resolve(ctx, r) })
	}
	// A second in which nobody is wrong: a region that was lost before returns gently.
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, kind := range kinds {
			if n := len(a.given[kind]); n < steady || slices.ContainsFunc(a.given[kind][n-steady:], func(x answer) bool { return !x.euFirst }) {
				return false
			}
		}
		clear(a.given)
		return true
	}, 2*time.Minute, pollEvery, "routers don't agree on eu")
	return a
}

// follow fetches from an edge each pollEvery.
func (a *answers) follow(ctx context.Context, u string) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		at := time.Now()
		if a.fetch(ctx, u) == nil {
			a.mu.Lock()
			if at.After(a.alive) {
				a.alive = at
			}
			a.mu.Unlock()
		}
		<-tick.C
	}
}

// poll asks each pollEvery, whether the last answer has come or not.
func (a *answers) poll(ctx context.Context, kind string, ask func(context.Context) (answer, error)) {
	slots := make(chan struct{}, maxAsked)
	a.wg.Go(func() {
		tick := time.NewTicker(pollEvery)
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
				continue
			}
			a.wg.Go(func() {
				defer func() { <-slots }()
				asked := time.Now()
				got, err := ask(ctx)
				if ctx.Err() != nil {
					return
				}
				a.mu.Lock()
				defer a.mu.Unlock()
				if err != nil {
					a.errors[fmt.Sprintf("%s: %v", kind, err)]++
					return
				}
				got.asked, got.at = asked, time.Now()
				a.given[kind] = append(a.given[kind], got)
			})
		}
	})
}

func (a *answers) get(ctx context.Context, u string) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askIn)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, nil, err
	}
	res, err := a.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return res, b, err
}

func (a *answers) fetch(ctx context.Context, u string) error {
	res, _, err := a.get(ctx, u)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return err
}

func (a *answers) redirect(ctx context.Context, r region.Region) (answer, error) {
	res, _, err := a.get(ctx, r.Router.URL+"/v/-/"+a.s.asset+"/master.m3u8")
	if err != nil {
		return answer{}, err
	}
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil {
		return answer{}, err
	}
	to, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return answer{}, fmt.Errorf("status %d to %q: %w", res.StatusCode, u, err)
	}
	eu := a.s.in("eu")(to)
	return answer{eu: eu, euFirst: eu}, nil
}

func (a *answers) steer(ctx context.Context, r region.Region) (answer, error) {
	_, b, err := a.get(ctx, r.Router.URL+"/steer?a="+a.s.asset+"&s=poll&p=eu-1,eu-2,us-1,ap-1&_HLS_pathway=%22eu-1%22")
	if err != nil {
		return answer{}, err
	}
	var m struct {
		Priority []string `json:"PATHWAY-PRIORITY"`
	}
	if err := json.Unmarshal(b, &m); err != nil || len(m.Priority) == 0 {
		return answer{}, fmt.Errorf("%q: %w", b, err)
	}
	eu := regionOf(m.Priority[0]) == "eu"
	return answer{eu: eu, euFirst: eu}, nil
}

func (a *answers) resolve(ctx context.Context, r region.Region) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askIn)
	defer cancel()
	conn, err := a.viewer.Dial(ctx, "udp", r.Router.DNS)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(askIn)); err != nil {
		return answer{}, err
	}
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(new(dns.Msg).SetQuestion("edge."+a.s.Table.Zone+".", dns.TypeA)); err != nil {
		return answer{}, err
	}
	m, err := c.ReadMsg()
	if err != nil {
		return answer{}, err
	}
	var out answer
	for i, rr := range m.Answer {
		if rec, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(rec.A.To4())
			eu := a.s.in("eu")(addr)
			out.eu = out.eu || eu
			out.euFirst = out.euFirst || eu && i == 0
		}
	}
	if len(m.Answer) == 0 {
		return out, fmt.Errorf("no address: %s", dns.RcodeToString[m.Rcode])
	}
	return out, nil
}

// stop asks on until listenFor after the goal, then says when the last wrong
// answer came. Times count from the last thing an edge of eu delivered, which a
// viewer asked for each pollEvery.
func (a *answers) stop(t *testing.T, fault string) {
	t.Helper()
	a.mu.Lock()
	lost := a.alive
	a.mu.Unlock()
	time.Sleep(time.Until(lost.Add(goals[fault] + listenFor)))
	a.cancel()
	a.wg.Wait()
	require.Equal(t, lost, a.alive, "eu delivers")
	require.Empty(t, a.errors, "routers that live must answer")
	for _, kind := range kinds {
		var last, slowest time.Duration
		wrong, after := 0, 0
		for _, x := range a.given[kind] {
			if x.at.Before(lost) {
				require.True(t, x.euFirst, "%s: a wrong answer before the loss", kind)
				continue
			}
			after++
			slowest = max(slowest, x.at.Sub(x.asked))
			if x.eu {
				wrong++
				last = max(last, x.at.Sub(lost))
			}
		}
		require.Greater(t, after, 50, "%s: answers", kind)
		testenv.Figure(t, fmt.Sprintf("last wrong answer after %s, %s", fault, kind), "%.2f s (%d of %d wrong; the slowest took %.2f s)",
			last.Seconds(), wrong, after, slowest.Seconds())
		require.LessOrEqual(t, last, goals[fault], "%s after %s", kind, fault)
	}
}

// TestAnswers is the figures alone, beside a run without a fault.
func TestAnswers(t *testing.T) {
	testenv.Long(t)
	s := needPlatform(t)
	t.Run("control", func(t *testing.T) {
		s.restore(t)
		a := s.answers(t)
		time.Sleep(goals["silence"] + listenFor)
		a.cancel()
		a.wg.Wait()
		require.Empty(t, a.errors)
		for _, kind := range kinds {
			wrong := 0
			for _, x := range a.given[kind] {
				if !x.euFirst {
					wrong++
				}
			}
			testenv.Figure(t, "wrong answers without a fault, "+kind, "%d of %d", wrong, len(a.given[kind]))
			require.Zero(t, wrong)
		}
	})
	for _, fault := range []string{"kill", "hang", "silence"} {
		for n := range 3 {
			t.Run(fmt.Sprintf("%s %d", fault, n+1), func(t *testing.T) {
				s.restore(t)
				a := s.answers(t)
				s.Regions(t, fault, "eu")
				a.stop(t, fault)
				s.restore(t)
				s.heard(t)
			})
		}
	}
}

func openNamespace(t *testing.T, path string) *wan.Namespace {
	t.Helper()
	ns, err := wan.OpenNamespace(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ns.Close()) })
	return ns
}
