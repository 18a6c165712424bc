package viewers

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/wan"
)

const (
	// noWrongAfter is when no router may name a killed region any more.
	noWrongAfter = 2 * time.Second
	// listenFor is how long routers are asked beyond that, controlFor before the loss.
	listenFor, controlFor = 2 * time.Second, 2 * time.Second
	europeans             = 40
)

// asking is Europeans who ask all routers where to go, as in a drill.
type asking struct {
	askers *fleet.Watch
	edges  *fleet.Deliveries
	saw    score.Observations
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// ask begins to ask. The next thing to happen is that eu is killed.
func (s *isolated) ask(t *testing.T) *asking {
	t.Helper()
	p, err := target.OpenPlatform(t.Context(), s.State())
	require.NoError(t, err)
	d, err := p.Describe(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	a := &asking{askers: fleet.NewWatch(d, 0, europeans, s.asset), edges: fleet.NewDeliveries(d), cancel: cancel}
	t.Cleanup(func() {
		cancel()
		a.wg.Wait()
		require.NoError(t, d.Close())
	})
	a.wg.Go(func() { a.askers.Run(ctx) })
	a.wg.Go(func() { a.edges.Run(ctx) })
	a.saw.Table, a.saw.ControlBegan = d.Table, time.Now()
	time.Sleep(controlFor)
	a.saw.FaultBegan = time.Now()
	return a
}

// stop asks on until listenFor after the last wrong answer may come, and judges.
// The region was lost before killed.
func (a *asking) stop(t *testing.T, killed time.Time) {
	t.Helper()
	time.Sleep(time.Until(killed.Add(noWrongAfter + listenFor)))
	a.cancel()
	a.wg.Wait()
	o := a.saw
	o.End, o.Answers, o.Delivered = time.Now(), a.askers.Answers(), a.edges.All()
	goal, none := scenario.Duration(noWrongAfter), 0
	kill := scenario.Step{Fault: scenario.Kill, For: scenario.Duration(time.Minute)}
	o.Steps = []score.Happened{{Fault: target.Fault{Step: kill, Region: "eu"}, Began: o.FaultBegan, Applied: killed}}
	judged := 0
	for _, r := range score.Evaluate(scenario.Scenario{Objectives: scenario.Objectives{FalseMoves: &none,
		Reroute: scenario.Reroute{Redirect: &goal, Steering: &goal, DNS: &goal}}}, o) {
		if r.Goal == nil {
			continue
		}
		judged++
		require.Equal(t, score.Pass, r.Verdict, "%+v", r)
		testenv.Figure(t, "routers, eu killed: "+r.Title, "%.2f %s (%s)", *r.Value, r.Unit, r.Note)
	}
	require.Equal(t, 4, judged)
}

func openNamespace(t *testing.T, path string) *wan.Namespace {
	t.Helper()
	ns, err := wan.OpenNamespace(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ns.Close()) })
	return ns
}
