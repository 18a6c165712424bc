package health

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/geo"
	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeEdge is a real listener that answers probes as told.
type fakeEdge struct {
	addr string
	mode atomic.Value // "good", "hang", "midbody", "503", "short"
	srv  *httptest.Server
	stop chan struct{}
	hits atomic.Int64
	conn atomic.Int64
}

// lateAnswer is how late a late edge answers.
const lateAnswer = time.Second

func startEdge(t *testing.T, addr string) *fakeEdge {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	e := &fakeEdge{addr: l.Addr().String(), stop: make(chan struct{})}
	e.mode.Store("good")
	body := make([]byte, 64<<10)
	e.srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.hits.Add(1)
		hang := func() {
			select {
			case <-e.stop:
			case <-r.Context().Done():
			}
		}
		switch e.mode.Load() {
		case "hang":
			hang()
		case "midbody":
			w.Header().Set("Content-Length", "65536")
			_, _ = w.Write(body[:1000])
			_ = http.NewResponseController(w).Flush()
			hang()
		case "short":
			w.Header().Set("Content-Length", "65536")
			_, _ = w.Write(body[:1000])
			panic(http.ErrAbortHandler)
		case "late":
			time.Sleep(lateAnswer)
			_, _ = w.Write(body)
		case "503":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "busy":
			w.Header().Set(LoadHeader, "0.75")
			_, _ = w.Write(body)
		default:
			w.Header().Set(LoadHeader, "0.25")
			_, _ = w.Write(body)
		}
	}))
	_ = e.srv.Listener.Close()
	e.srv.Listener = l
	e.srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			e.conn.Add(1)
		}
	}
	e.srv.Start()
	t.Cleanup(sync.OnceFunc(e.kill))
	return e
}

// kill closes the listener and every connection, as the kernel does for a killed process.
func (e *fakeEdge) kill() {
	select {
	case <-e.stop:
		return
	default:
	}
	close(e.stop)
	e.srv.CloseClientConnections()
	e.srv.Close()
}

func target(e *fakeEdge, name, region string) Target {
	return Target{Name: name, Region: region, URL: "http://" + e.addr + "/health/segment"}
}

// start runs a monitor of a three-region board until the test ends.
func start(t *testing.T, self string, bus Bus, targets ...Target) *geo.Board {
	t.Helper()
	tab, err := region.Loopback()
	require.NoError(t, err)
	board := geo.NewBoard(geo.NewSnapshot(tab))
	m, err := New(board, targets, Options{Region: self, Interval: 50 * time.Millisecond,
		Metrics: prometheus.NewPedanticRegistry()})
	require.NoError(t, err)
	require.Error(t, m.Ready(), "ready before the first round")
	if bus != nil {
		m.Attach(bus)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	eventually(t, func() bool { return m.Ready() == nil }, "first round")
	return board
}

func eventually(t *testing.T, f func() bool, what string) time.Duration {
	t.Helper()
	began := time.Now()
	require.Eventually(t, f, 15*time.Second, 2*time.Millisecond, what)
	return time.Since(began)
}

func down(b *geo.Board, edge string) bool { e, _ := b.Load().Edge(edge); return e.Health.Down }
func why(b *geo.Board, edge string) string {
	e, _ := b.Load().Edge(edge)
	return e.Health.Why
}

func TestLossesAndRecovery(t *testing.T) {
	for mode, reason := range map[string]string{
		"kill": "refused", "hang": "timed out twice", "midbody": "timed out twice", "503": "status 503", "short": "connection broken",
	} {
		t.Run(mode, func(t *testing.T) {
			e, other := startEdge(t, fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))), startEdge(t, "127.0.0.1:0")
			b := start(t, "us", nil, target(e, "eu-1", "eu"), target(other, "eu-2", "eu"))
			require.False(t, down(b, "eu-1"))
			require.True(t, b.Load().Alone)
			if mode == "kill" {
				e.kill()
			} else {
				e.mode.Store(mode)
			}
			took := eventually(t, func() bool { return down(b, "eu-1") }, "down")
			t.Logf("%s: down after %v", mode, took)
			require.Equal(t, reason, why(b, "eu-1"))
			require.False(t, down(b, "eu-2"), "its sibling")

			if mode == "kill" {
				startEdge(t, e.addr)
			} else {
				e.mode.Store("good")
			}
			eventually(t, func() bool { return !down(b, "eu-1") }, "up again")
			h, _ := b.Load().Edge("eu-1")
			require.WithinDuration(t, time.Now(), h.Health.Since, 5*time.Second)
		})
	}
}

func TestConnectionIsKept(t *testing.T) {
	e := startEdge(t, "127.0.0.1:0")
	b := start(t, "us", nil, target(e, "eu-1", "eu"))
	eventually(t, func() bool { return e.hits.Load() >= 8 }, "probes")
	require.LessOrEqual(t, e.conn.Load(), int64(2), "connections for %d probes", e.hits.Load())
	load := func(want float64) func() bool {
		return func() bool { g, _ := b.Load().Edge("eu-1"); return g.Load == want }
	}
	eventually(t, load(0.25), "load")
	generation := b.Load().Generation
	e.mode.Store("busy")
	eventually(t, load(0.75), "another load")
	require.Equal(t, generation, b.Load().Generation, "decisions are the same")
	e.mode.Store("503")
	eventually(t, func() bool { return down(b, "eu-1") }, "down")
	require.NotEqual(t, generation, b.Load().Generation)
}

// TestFarAway: connecting and answering may each take as long as a probe, and only
// the answer counts as slow.
func TestFarAway(t *testing.T) {
	e := startEdge(t, "127.0.0.1:0")
	e.mode.Store("late")
	tab, err := region.Loopback()
	require.NoError(t, err)
	targets := []Target{target(e, "eu-1", "eu")}
	m, err := New(geo.NewBoard(geo.NewSnapshot(tab)), targets, Options{Region: "us", Timeout: 2 * lateAnswer})
	require.NoError(t, err)
	m.client = newClient(func(ctx context.Context, network, hostport string) (net.Conn, error) {
		time.Sleep(m.opt.Timeout * 3 / 4)
		return m.dial(ctx, network, hostport)
	}, m.opt.Timeout)
	defer m.client.CloseIdleConnections()
	o := m.probe(t.Context(), 0)
	require.Equal(t, good, o.outcome, o.why)
	require.Less(t, o.took, m.opt.Timeout)
	require.GreaterOrEqual(t, time.Since(o.began), m.opt.Timeout)
	e.mode.Store("hang")
	o = m.probe(t.Context(), 0)
	require.Equal(t, timedOut, o.outcome, o.why)
	require.GreaterOrEqual(t, o.took, m.opt.Timeout)
}

func TestAddressReplacesHost(t *testing.T) {
	e := startEdge(t, "127.0.0.1:0")
	_, port, err := net.SplitHostPort(e.addr)
	require.NoError(t, err)
	b := start(t, "us", nil, Target{Name: "eu-1", Region: "eu", URL: "http://eu-1.edge.meridian.invalid:" + port + "/x",
		Addr: netip.MustParseAddr("127.0.0.1")})
	require.False(t, down(b, "eu-1"))
	require.Empty(t, why(b, "eu-1"))
}

func connect(t *testing.T) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(testenv.NATS(t))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func TestWitnesses(t *testing.T) {
	e := startEdge(t, "127.0.0.1:0")
	// us reaches the edge only through a link that can be cut; ap always does.
	link := startEdge(t, "127.0.0.1:0")
	us := start(t, "us", connect(t), target(link, "eu-1", "eu"))
	apBus := connect(t)
	ap := start(t, "ap", apBus, target(e, "eu-1", "eu"))
	// eu's own router claims its edges work, whatever happens.
	start(t, "eu", connect(t), target(startEdge(t, "127.0.0.1:0"), "eu-1", "eu"))
	eventually(t, func() bool { return !us.Load().Alone && !ap.Load().Alone }, "they hear each other")

	link.kill()
	eventually(t, func() bool {
		e, _ := us.Load().Edge("eu-1")
		return e.Health.Why == "not reached from here (refused), but from ap" && !e.Health.Down
	}, "ap is a witness")

	e.kill()
	took := eventually(t, func() bool { return down(us, "eu-1") && down(ap, "eu-1") }, "both agree, eu's own word doesn't count")
	t.Logf("agreed %v after the kill", took)
}

func TestWorksAloneWhenNATSIsGone(t *testing.T) {
	srv, err := testenv.StartNATS(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { srv.Stop() })
	dial := func() *nats.Conn {
		nc, err := nats.Connect(srv.URL, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		return nc
	}
	e := startEdge(t, "127.0.0.1:0")
	us := start(t, "us", dial(), target(e, "eu-1", "eu"))
	start(t, "ap", dial(), target(startEdge(t, "127.0.0.1:0"), "eu-1", "eu"))
	eventually(t, func() bool { return !us.Load().Alone }, "hears ap")
	srv.Stop()
	eventually(t, func() bool { return us.Load().Alone }, "alone")
	e.kill()
	eventually(t, func() bool { return down(us, "eu-1") }, "trusts itself")
}

func TestStrangersOnTheBus(t *testing.T) {
	nc := connect(t)
	us := start(t, "us", nc, target(startEdge(t, "127.0.0.1:0"), "eu-1", "eu"))
	for _, b := range []string{"", "null", "{", `{"v":1,"router":"x","region":"ap"}`, `{"v":9}`} {
		require.NoError(t, nc.Publish("health.lie", []byte(b)))
	}
	require.NoError(t, nc.Flush())
	require.False(t, down(us, "eu-1"))
	require.True(t, us.Load().Alone)
}
