package fleet_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/drill/drilltest"
	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched runs viewers on a fake platform until everything wanted was seen.
type watched struct {
	t   *testing.T
	p   *drilltest.Platform
	rec *fleet.Recorder
}

func watch(t *testing.T, d drilltest.Defects, cfg fleet.Config) *watched {
	t.Helper()
	p, err := drilltest.Start(d)
	require.NoError(t, err)
	w := &watched{t, p, &fleet.Recorder{}}
	cfg.Target, err = p.Describe(t.Context())
	require.NoError(t, err)
	cfg.Asset, cfg.Buffer = drilltest.Asset, 2*time.Second
	if cfg.Patience == 0 {
		cfg.Patience = 30 * time.Second
	}
	f, err := fleet.New(cfg, w.rec)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		require.NoError(t, p.Close())
		require.Zero(t, w.rec.Dropped())
	})
	return w
}

// sees waits for an event. The machine may be slow: what is promised is that it
// comes, not when.
func (w *watched) sees(what string, match func(fleet.Event) bool) fleet.Event {
	w.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		for _, e := range w.rec.Events() {
			if match(e) {
				return e
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s; saw %+v", what, w.rec.Events())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *watched) lose(fault scenario.Fault, region string) time.Time {
	w.t.Helper()
	at := time.Now()
	require.NoError(w.t, w.p.Apply(w.t.Context(), target.Fault{Step: scenario.Step{Fault: fault}, Region: region}))
	return at
}

func servedBy(region string, after time.Time) func(fleet.Event) bool {
	return func(e fleet.Event) bool { return e.Kind == fleet.Served && e.Region == region && e.At.After(after) }
}

// TestViewersGoElsewhere: by every way, from a region that dies or hangs.
func TestViewersGoElsewhere(t *testing.T) {
	for _, fault := range []scenario.Fault{scenario.Kill, scenario.Hang} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			w := watch(t, drilltest.Defects{Notices: 300 * time.Millisecond}, fleet.Config{Viewers: []int{3}})
			ways := []fleet.Way{fleet.Steering, fleet.DNS, fleet.Plain}
			for _, way := range ways {
				w.sees("a picture by "+string(way), func(e fleet.Event) bool {
					return e.Kind == fleet.Started && e.Region == "eu" && e.Near == "eu" && e.Way == way
				})
			}
			at := w.lose(fault, "eu")
			for _, way := range ways {
				w.sees("media from us by "+string(way), func(e fleet.Event) bool { return e.Way == way && servedBy("us", at)(e) })
			}
		})
	}
}

// TestStallsAreCounted: of a viewer who can't go elsewhere.
func TestStallsAreCounted(t *testing.T) {
	t.Parallel()
	w := watch(t, drilltest.Defects{}, fleet.Config{Viewers: []int{1}, Only: fleet.Steering, Broken: fleet.Broken{NoSteering: true, NoFailover: true}})
	w.sees("a picture", func(e fleet.Event) bool { return e.Kind == fleet.Started })
	at := w.lose(scenario.Kill, "eu")
	time.Sleep(4 * time.Second) // more than is in hand
	require.NoError(t, w.p.Heal(t.Context(), target.Fault{Step: scenario.Step{Fault: scenario.Kill}, Region: "eu"}))
	e := w.sees("a stall", func(e fleet.Event) bool { return e.Kind == fleet.Stalled })
	require.True(t, e.At.After(at))
	require.GreaterOrEqual(t, e.Seconds, fleet.StallAfter.Seconds())
	require.Equal(t, "eu", e.Region)
}

// TestWhatIsWrongIsSeen: other bytes, no answers, a video that isn't there.
func TestWhatIsWrongIsSeen(t *testing.T) {
	t.Run("other bytes", func(t *testing.T) {
		t.Parallel()
		w := watch(t, drilltest.Defects{Corrupts: true}, fleet.Config{Viewers: []int{1, 1}, Only: fleet.Steering})
		w.sees("other bytes", func(e fleet.Event) bool { return e.Kind == fleet.Corrupt })
	})
	t.Run("no segments", func(t *testing.T) {
		t.Parallel()
		w := watch(t, drilltest.Defects{Unavailable: true}, fleet.Config{Viewers: []int{1}, Patience: time.Second})
		w.sees("503", func(e fleet.Event) bool { return e.Kind == fleet.Failed && e.Text == "status 503" })
		w.sees("a session that never began", func(e fleet.Event) bool { return e.Kind == fleet.FailedOpen })
	})
	t.Run("too slow", func(t *testing.T) {
		t.Parallel()
		w := watch(t, drilltest.Defects{Slow: 1500 * time.Millisecond}, fleet.Config{Viewers: []int{1}})
		w.sees("a stall", func(e fleet.Event) bool { return e.Kind == fleet.Stalled })
	})
}

// TestTheWholeVideo is seen, in its own time.
func TestTheWholeVideo(t *testing.T) {
	t.Parallel()
	w := watch(t, drilltest.Defects{Segments: 8}, fleet.Config{Viewers: []int{1}, Only: fleet.Steering})
	first := w.sees("a picture", func(e fleet.Event) bool { return e.Kind == fleet.Started })
	end := w.sees("the end", func(e fleet.Event) bool { return e.Kind == fleet.Ended })
	require.GreaterOrEqual(t, end.At.Sub(first.At), 7*time.Second, "eight seconds take eight seconds")
	require.NotEmpty(t, w.rec.Samples())
}

func TestConfigIsChecked(t *testing.T) {
	p, err := drilltest.Start(drilltest.Defects{})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	d, err := p.Describe(t.Context())
	require.NoError(t, err)
	for _, cfg := range []fleet.Config{{Target: d}, {Target: d, Asset: "a", Buffer: 1}, {Target: d, Asset: "a", Buffer: 1, Patience: 1, Viewers: make([]int, 4)}} {
		_, err := fleet.New(cfg, &fleet.Recorder{})
		require.Error(t, err)
	}
}
