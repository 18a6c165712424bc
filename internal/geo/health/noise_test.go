package health

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

// world is three regions and what lies between them, in simulated time: real
// monitors, whose probes and reports travel through it.
type world struct {
	mu      sync.Mutex
	r       *rand.Rand
	regions []string
	boards  []*geo.Board
	routers []*Monitor
	subs    []chan *nats.Msg
	targets map[string]string // region by host and path
	killed  string
	silent  string
	cut     []string // nothing gets into or out of these
	failing string   // a share of its answers are errors
	share   float64
	slowed  string // its answers take slowBy
	slowBy  time.Duration
	line    string // all that goes into or out of this region is late, and some gets lost
	noise   bool
	starved []time.Time // routers, until when they get no processor in time
	paused  map[string]time.Time
	roundMs map[[2]string]int
	due     map[[2]int]time.Time // when the last report from one router to another arrives
}

// A bad line.
const (
	lineBy   = 200 * time.Millisecond
	lineLoss = 0.04
)

var errRefused = &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}

// startWorld runs a router's monitor in each region until the test ends.
func startWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	tab, err := region.Loopback()
	require.NoError(t, err)
	w := &world{r: rand.New(rand.NewPCG(seed, 1)), regions: tab.Names(), targets: map[string]string{}, paused: map[string]time.Time{},
		due: map[[2]int]time.Time{}, starved: make([]time.Time, len(tab.Names())), subs: make([]chan *nats.Msg, len(tab.Names())),
		roundMs: map[[2]string]int{{"eu", "us"}: 90, {"us", "ap"}: 220, {"eu", "ap"}: 160}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, name := range w.regions {
		for _, x := range Targets(tab, name) {
			w.targets[x.URL] = x.Region
		}
	}
	for i, name := range w.regions {
		b := geo.NewBoard(geo.NewSnapshot(tab))
		w.boards = append(w.boards, b)
		m, err := New(b, Targets(tab, name), Options{Region: name, Farthest: tab.Farthest(name), Metrics: prometheus.NewPedanticRegistry()})
		require.NoError(t, err)
		way := &simulated{w, i}
		m.client, m.dial = &http.Client{Transport: way}, way.dial
		w.routers = append(w.routers, m)
		m.Attach(&simulatedBus{w, i})
		running.Go(func() { require.NoError(t, m.Run(ctx)) })
	}
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

// simulated is the way from one router to everything it probes.
type simulated struct {
	*world
	router int
}

func (w *simulated) RoundTrip(req *http.Request) (*http.Response, error) {
	url := req.URL.String()
	to := w.targets[url]
	wait, status, err := w.fate(w.router, to, url)
	ctx := req.Context()
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(wait):
	}
	time.Sleep(w.late(w.router))
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(make([]byte, 1))), Request: req}, nil
}

// dial makes a connection to whatever listens there.
func (w *simulated) dial(ctx context.Context, _, hostport string) (net.Conn, error) {
	for url, to := range w.targets {
		if hostPort(url) != hostport {
			continue
		}
		wait, _, err := w.fate(w.router, to, url)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
		if err != nil {
			return nil, err
		}
		c, _ := net.Pipe()
		return c, nil
	}
	return nil, fmt.Errorf("nobody is at %s", hostport)
}

// fate is how long an answer takes, and what it is.
func (w *world) fate(router int, to, url string) (wait time.Duration, status int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	const never = time.Hour
	from, status := w.regions[router], http.StatusOK
	wait = time.Duration(float64(w.roundTrip(from, to)) * (1 + 0.3*w.r.Float64()))
	if to == w.slowed {
		wait += w.slowBy
	}
	if from != to && (from == w.line || to == w.line) {
		for range 2 { // ways
			wait += lineBy + time.Duration(w.r.Int64N(int64(lineBy/40)))
			for w.r.Float64() < lineLoss { // sent again
				wait += 300*time.Millisecond + wait
			}
		}
	}
	switch {
	case to == w.killed:
		return wait, 0, errRefused
	case to == w.silent, w.parted(from, to):
		return never, 0, nil
	case to == w.failing && w.r.Float64() < w.share:
		return wait, http.StatusBadGateway, nil
	case w.noise && w.r.IntN(200) == 0: // lost, and what would be sent again comes too late
		return never, 0, nil
	}
	if w.noise {
		now := time.Now()
		if w.r.IntN(120) == 0 { // the server collects its garbage, or waits for a disk
			w.paused[url] = now.Add(time.Duration(200+w.r.IntN(700)) * time.Millisecond)
		}
		wait += max(0, w.paused[url].Sub(now))
	}
	return wait, status, nil
}

// parted reports whether a line between two regions is cut.
func (w *world) parted(from, to string) bool {
	return from != to && (slices.Contains(w.cut, from) || slices.Contains(w.cut, to))
}

func (w *world) roundTrip(a, b string) time.Duration {
	ms := w.roundMs[[2]string{a, b}] + w.roundMs[[2]string{b, a}]
	return time.Duration(max(1, ms)) * time.Millisecond
}

// late is by how much a router's process gets the processor too late.
func (w *world) late(router int) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !time.Now().Before(w.starved[router]) {
		return 0
	}
	return time.Duration(w.r.Int64N(int64(2 * time.Second)))
}

// simulatedBus carries one router's reports.
type simulatedBus struct {
	*world
	router int
}

func (b *simulatedBus) ChanSubscribe(_ string, ch chan *nats.Msg) (*nats.Subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs[b.router] = ch
	return nil, nil
}

func (b *simulatedBus) Publish(subject string, data []byte) error {
	time.Sleep(b.late(b.router)) // the whole process is late, its ticks too
	b.mu.Lock()
	defer b.mu.Unlock()
	from := b.regions[b.router]
	if from == b.killed || from == b.silent {
		return nil
	}
	for i, ch := range b.subs {
		if to := b.regions[i]; ch != nil && i != b.router && to != b.silent && !b.parted(from, to) {
			time.AfterFunc(b.carry(b.router, i), func() {
				select {
				case ch <- &nats.Msg{Subject: subject, Data: data}:
				default: // as NATS does when nobody takes them
				}
			})
		}
	}
	return nil
}

// carry is how long a report takes from one router to another. They share a
// connection: what is sent again keeps back all that follows.
func (w *world) carry(from, to int) time.Duration {
	a, b := w.regions[from], w.regions[to]
	wait := w.roundTrip(a, b) / 2
	if a != w.line && b != w.line {
		return wait
	}
	wait += lineBy
	// A report is one packet, what a probe fetches is more.
	for again := w.roundTrip(a, b) + 2*lineBy + 200*time.Millisecond; w.r.Float64() < lineLoss/2; again *= 2 {
		wait += again
	}
	pair := [2]int{from, to}
	due := time.Now().Add(wait)
	if due.Before(w.due[pair]) {
		due = w.due[pair]
	}
	w.due[pair] = due
	return time.Until(due)
}

// starve has routers get their processors late, each for some seconds of every
// other minute.
func (w *world) starve() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.starved {
		if w.r.IntN(120) == 0 {
			w.starved[i] = time.Now().Add(time.Duration(2+w.r.IntN(9)) * time.Second)
		}
	}
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// wrong lists what a living router believes that isn't so.
func (w *world) wrong() (out []string) {
	for i, b := range w.boards {
		if w.regions[i] == w.killed || w.regions[i] == w.silent {
			continue
		}
		for _, g := range b.Load().Regions {
			if lost := g.Name == w.killed || g.Name == w.silent; g.Up() == lost {
				out = append(out, fmt.Sprintf("%s believes %s up: %t", w.regions[i], g.Name, g.Up()))
			}
			if g.Shed > 0 && g.Up() {
				out = append(out, fmt.Sprintf("%s has %s shed %.2f: %s", w.regions[i], g.Name, g.Shed, g.ShedWhy))
			}
		}
	}
	return out
}

// TestNoiseIsNoAlarm: probes get lost, servers pause and routers starve, for an
// hour in the long tests, and nobody is sent anywhere else for it.
func TestNoiseIsNoAlarm(t *testing.T) {
	lasting := 90 * time.Second
	if testenv.IsLong() {
		lasting = time.Hour
	}
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 1)
		w.set(func() { w.noise = true })
		edges, looks := 0, 0
		for began := time.Now(); time.Since(began) < lasting; {
			for range 20 {
				time.Sleep(50 * time.Millisecond)
				require.Empty(t, w.wrong(), "after %v", time.Since(began))
				looks++
				for _, b := range w.boards {
					for _, g := range b.Load().Regions {
						for _, e := range g.Edges {
							if e.Health.Down {
								edges++
							}
						}
					}
				}
			}
			w.starve()
		}
		testenv.Figure(t, "noise", "%v: no region moved; single edges down in %d of %d looks at three routers' six", lasting, edges, looks)
		require.Less(t, edges, looks/1000+2)
	})
}

// TestTimeToTheLastWrongBelief of a living router after a region is lost, at any
// moment of its rounds, with noise.
func TestTimeToTheLastWrongBelief(t *testing.T) {
	trials := 4
	if testenv.IsLong() {
		trials = 300
	}
	for what, limit := range map[string]time.Duration{"killed": 2 * time.Second, "silent": 5 * time.Second} {
		worst := time.Duration(0)
		for i := range trials {
			synctest.Test(t, func(t *testing.T) {
				w := startWorld(t, uint64(i))
				w.set(func() { w.noise = true })
				r := rand.New(rand.NewPCG(uint64(i), 2))
				time.Sleep(20*time.Second + time.Duration(r.Int64N(int64(time.Second))))
				lost := w.regions[r.IntN(len(w.regions))]
				w.set(func() {
					if what == "killed" {
						w.killed = lost
					} else {
						w.silent = lost
					}
				})
				began, last := time.Now(), time.Duration(0)
				var wrong []string
				for time.Since(began) < 8*time.Second {
					if is := w.wrong(); len(is) > 0 {
						last, wrong = time.Since(began), is
					}
					time.Sleep(10 * time.Millisecond)
				}
				require.LessOrEqual(t, last, limit, "%s %s, trial %d: %v", lost, what, i, wrong)
				worst = max(worst, last)
			})
		}
		testenv.Figure(t, "health, "+what, "last wrong belief at most %v after, in %d trials", worst, trials)
	}
}

// TestNobodyIsShedOnReturn: routers find a region back at different moments, and what
// one of them still misses is no partial failure.
func TestNobodyIsShedOnReturn(t *testing.T) {
	trials := 8
	if testenv.IsLong() {
		trials = 100
	}
	for i := range trials {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, uint64(i))
			r := rand.New(rand.NewPCG(uint64(i), 3))
			time.Sleep(20*time.Second + time.Duration(r.Int64N(int64(time.Second))))
			lost := w.regions[i%len(w.regions)]
			w.set(func() { w.silent = lost })
			time.Sleep(10*time.Second + time.Duration(r.Int64N(int64(time.Second))))
			w.set(func() { w.silent = "" })
			for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
				for n, b := range w.boards {
					back := b.Load().Region(lost)
					require.Zero(t, back.Shed, "trial %d: %s is back for %v, and %s sheds it: %s", i, lost, time.Since(began), w.regions[n], back.ShedWhy)
				}
			}
		})
	}
}

// TestPartialFailureIsNoLoss: a region a third of whose answers are errors, or
// which answers late, keeps a share of its viewers, at all routers and all the time.
func TestPartialFailureIsNoLoss(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*world)
		min, max float64
	}{
		"errors": {func(w *world) { w.failing, w.share = "us", 0.3 }, 2*failHigh - 1.0/64, 0.91},
		"slow":   {func(w *world) { w.slowed, w.slowBy = "us", 350*time.Millisecond }, slowShed, slowShed},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, 9)
			time.Sleep(30 * time.Second)
			require.Empty(t, w.wrong())
			w.set(func() { c.change(w) })
			time.Sleep(30 * time.Second)
			fewer := 0
			for range 60 {
				time.Sleep(time.Second)
				for i, b := range w.boards {
					us := b.Load().Region("us")
					require.True(t, us.Up(), "%s: at %s", name, w.regions[i])
					if us.Shed < c.min {
						fewer++
					}
					require.LessOrEqual(t, us.Shed, c.max, "%s: at %s", name, w.regions[i])
					require.Zero(t, b.Load().Region("eu").Shed)
				}
			}
			// Both edges may fail four times in a row, and come back as good as new.
			require.LessOrEqual(t, fewer, 60*len(w.boards)/50, name)
		})
	}
}

// TestABadLineIsOneRegions: where the line of a region is bad, others leave half of
// its viewers to the next; its own router, which finds all others late, blames none.
func TestABadLineIsOneRegions(t *testing.T) {
	trials := 4
	if testenv.IsLong() {
		trials = 100
	}
	for i := range trials {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, uint64(i))
			time.Sleep(30*time.Second + time.Duration(i)*77*time.Millisecond)
			bad := w.regions[i%len(w.regions)]
			w.set(func() { w.line = bad })
			seen := map[string]float64{}
			look := func(lasting time.Duration) {
				for began := time.Now(); time.Since(began) < lasting; time.Sleep(50 * time.Millisecond) {
					for n, b := range w.boards {
						for _, g := range b.Load().Regions {
							require.True(t, g.Up(), "trial %d: %s is bad, and %s believes %s lost: %v", i, bad, w.regions[n], g.Name, g.Edges)
							if g.Name != bad || w.regions[n] == bad {
								require.Zero(t, g.Shed, "trial %d: %s is bad, and %s has %s shed: %s", i, bad, w.regions[n], g.Name, g.ShedWhy)
								continue
							}
							seen[w.regions[n]] = max(seen[w.regions[n]], g.Shed)
						}
					}
				}
			}
			look(time.Minute)
			require.Len(t, seen, 2)
			for at, share := range seen {
				require.InDelta(t, slowShed, share, 0.4, at)
			}
			w.set(func() { w.line = "" })
			look(30 * time.Second)
		})
	}
}
