package browsers

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/drill/drilltest"
	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/web/browser"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func describe(t *testing.T) *target.Description {
	t.Helper()
	p, err := drilltest.Start(drilltest.Defects{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	d, err := p.Describe(t.Context())
	require.NoError(t, err)
	return d
}

// TestFollower: what the page says becomes events.
func TestFollower(t *testing.T) {
	d := describe(t)
	var rec fleet.Recorder
	g, err := New(Config{Target: d, Asset: "a", Browsers: []int{0, 1}, Buffer: 10 * time.Second, Patience: time.Second, First: 7}, &rec)
	require.NoError(t, err)
	start := time.Now()
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	f := follower{w: g.all[0], table: d.Table, opened: start}
	edge := func(region int) string { return d.Table.Regions[region].Edges[0].Name }
	playing := browser.State{Playing: true, Position: 1, Frames: 25, Edge: edge(1), Ahead: 4}
	f.look(browser.State{}, at(0.5))
	f.look(playing, at(1))
	require.True(t, g.Seen()[0].Filled.IsZero())
	playing.Ahead = 9.5
	f.look(playing, at(5))
	require.Equal(t, at(5), g.Seen()[0].Filled)
	still := playing
	still.Ahead, still.Stalls, still.StallSeconds = 0, 1, 0.6
	f.look(still, at(20))
	still.StallSeconds = 1.4
	f.look(still, at(20.8))
	still.Ahead, still.Edge = 4, edge(0)
	f.look(still, at(21))
	f.look(still, at(22))
	// One that lasts to the end.
	still.Stalls, still.StallSeconds = 2, 1.9
	f.look(still, at(23))
	f.stalled()

	names := d.Table.Names()
	require.Equal(t, []fleet.Event{
		{At: at(1), Kind: fleet.Started, Viewer: 7, Near: names[1], Way: fleet.Browser, Seconds: 1},
		{At: at(1), Kind: fleet.Served, Viewer: 7, Near: names[1], Way: fleet.Browser, Region: names[1], Edge: edge(1)},
		{At: at(21), Kind: fleet.Served, Viewer: 7, Near: names[1], Way: fleet.Browser, Region: names[0], Edge: edge(0), Text: edge(1)},
		{At: at(19.5), Kind: fleet.Stalled, Viewer: 7, Near: names[1], Way: fleet.Browser, Region: names[1], Seconds: 1.4, Had: 9.5},
		{At: at(22.5), Kind: fleet.Stalled, Viewer: 7, Near: names[1], Way: fleet.Browser, Region: names[0], Seconds: 0.5, Had: 9.5},
	}, rec.Events())
}

// TestNoPicture: a page that shows nothing is a session that never began, and the
// browser ends with the drill.
func TestNoPicture(t *testing.T) {
	d := describe(t)
	var rec fleet.Recorder
	g, err := New(Config{Target: d, Asset: "a", Browsers: []int{1}, Buffer: 10 * time.Second, Patience: time.Second, First: 3}, &rec)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); g.Run(ctx) }()
	g.Playing()
	cancel()
	<-done
	require.True(t, slices.ContainsFunc(rec.Events(), func(e fleet.Event) bool {
		return e.Kind == fleet.FailedOpen && e.Viewer == 3 && e.Way == fleet.Browser
	}), "%v", rec.Events())
	require.NotEmpty(t, g.Seen()[0].Err)
	require.True(t, g.Seen()[0].Filled.IsZero())
}

// TestTooMany: regions the platform doesn't have.
func TestTooMany(t *testing.T) {
	d := describe(t)
	_, err := New(Config{Target: d, Browsers: []int{1, 1, 1, 1}}, &fleet.Recorder{})
	require.ErrorContains(t, err, "near 4 regions")
}
