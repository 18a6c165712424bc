package drill

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/drill/drilltest"
	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/report"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/score"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func ptr[T any](v T) *T { return &v }

func seconds(f float64) scenario.Duration { return scenario.Duration(f * float64(time.Second)) }

// short is a scenario of a few seconds that asks for everything.
func short(fault scenario.Fault, viewers ...int) scenario.Scenario {
	s := scenario.Scenario{
		Name: "short-" + string(fault), Title: "A region is lost", Shows: "What a test needs.",
		Load:   scenario.Load{Viewers: viewers, Creators: []int{1}, Buffer: seconds(3)},
		WarmUp: seconds(4), Control: seconds(1.5), Watch: seconds(0.5),
		Steps: []scenario.Step{{Fault: fault, On: scenario.First, For: seconds(5)}},
	}
	s.Objectives = scenario.Objectives{
		Stalls: ptr(0), FailedOpens: ptr(0), Corrupt: ptr(0), Lost: ptr(0),
		Reroute: scenario.Reroute{Redirect: ptr(seconds(2)), Steering: ptr(seconds(2)), DNS: ptr(seconds(2))},
		Moved:   ptr(seconds(4.5)), WrongRegion: ptr(seconds(3)), StartUp: ptr(seconds(4)), Writes: ptr(seconds(3)),
		Ready: ptr(seconds(3)), Recovery: ptr(seconds(3)), Reconciled: ptr(seconds(3)),
	}
	return s
}

// drilled runs a scenario on a fake platform.
func drilled(t *testing.T, s scenario.Scenario, d drilltest.Defects, b fleet.Broken) report.Run {
	t.Helper()
	p, err := drilltest.Start(d)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	r, err := NewRunner(t.Context(), p, func(line string) { t.Log(line) })
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	r.Asset, r.Template = drilltest.Asset, filepath.Join(t.TempDir(), "small.mp4")
	require.NoError(t, os.WriteFile(r.Template, []byte("a video"), 0o600))
	r.Broken = b
	r.Waits = Waits{Whole: 2 * time.Second, Compared: 2 * time.Second, Pause: time.Second, Open: 2 * time.Second}
	require.NoError(t, r.Prepare(t.Context()))
	run, err := r.report(t.Context(), s)
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, run.Print(&text))
	t.Log("\n" + text.String())
	return run
}

func verdicts(r report.Run) map[string]score.Verdict {
	out := map[string]score.Verdict{}
	for _, x := range r.Results {
		out[x.Name] = x.Verdict
	}
	return out
}

const notices = 300 * time.Millisecond

// TestDrillsPass: a platform that does what it should passes, killed and hung.
func TestDrillsPass(t *testing.T) {
	for _, fault := range []scenario.Fault{scenario.Kill, scenario.Hang} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			r := drilled(t, short(fault, 6, 2, 1), drilltest.Defects{Notices: notices}, fleet.Broken{})
			require.Equal(t, score.Pass, r.Verdict)
			require.Empty(t, r.Error)
			require.Zero(t, r.Dropped)
			for _, x := range r.Results {
				require.NotEqual(t, score.Fail, x.Verdict, x.Name)
			}
			require.NotEmpty(t, r.Series.At)
		})
	}
}

// TestDrillsFail: every objective fails on something that is broken.
func TestDrillsFail(t *testing.T) {
	for name, c := range map[string]struct {
		defects drilltest.Defects
		broken  fleet.Broken
		viewers []int
		want    map[string]score.Verdict
	}{
		"stale pathway": {defects: drilltest.Defects{Notices: -1}, want: map[string]score.Verdict{
			"reroute.redirect": score.Fail, "reroute.steering": score.Fail, "reroute.dns": score.Fail}},
		"players that stay": {defects: drilltest.Defects{Notices: notices}, broken: fleet.Broken{NoSteering: true, NoFailover: true}, want: map[string]score.Verdict{
			"stalls": score.Fail, "moved": score.Fail, "wrong_region": score.Fail}},
		"other bytes":       {defects: drilltest.Defects{Notices: notices, Corrupts: true}, want: map[string]score.Verdict{"corrupt": score.Fail}},
		"no edge serves":    {defects: drilltest.Defects{Notices: notices, Unavailable: true}, want: map[string]score.Verdict{"start_up": score.Fail, "moved": score.Fail}},
		"slow always":       {defects: drilltest.Defects{Notices: notices, Slow: 1200 * time.Millisecond}, want: map[string]score.Verdict{"stalls": score.Unsure}},
		"far away":          {defects: drilltest.Defects{Notices: notices, Strange: true}, want: map[string]score.Verdict{"wrong_region": score.Unsure}},
		"forgets uploads":   {defects: drilltest.Defects{Notices: notices, Forgets: true}, viewers: []int{1}, want: map[string]score.Verdict{"lost": score.Fail}},
		"never ready":       {defects: drilltest.Defects{Notices: notices, Sticks: true}, viewers: []int{1}, want: map[string]score.Verdict{"lost": score.Fail, "ready": score.Fail}},
		"no writes":         {defects: drilltest.Defects{Notices: notices, ReadOnly: true}, viewers: []int{1}, want: map[string]score.Verdict{"writes": score.Fail}},
		"loses titles":      {defects: drilltest.Defects{Notices: notices, LosesTitles: true}, viewers: []int{1}, want: map[string]score.Verdict{"lost": score.Fail}},
		"loses objects":     {defects: drilltest.Defects{Notices: notices, LosesObjects: true}, viewers: []int{1}, want: map[string]score.Verdict{"lost": score.Fail, "reconciled": score.Fail}},
		"doesn't come back": {defects: drilltest.Defects{Notices: notices, StaysDown: true}, viewers: []int{1}, want: map[string]score.Verdict{"recovery": score.Fail}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.viewers == nil {
				c.viewers = []int{4}
			}
			r := drilled(t, short(scenario.Kill, c.viewers...), c.defects, c.broken)
			require.NotEqual(t, score.Pass, r.Verdict)
			got := verdicts(r)
			for objective, want := range c.want {
				require.Equal(t, want, got[objective], objective)
			}
		})
	}
}

// TestAStepThatCantBeMadeFails: nothing was survived.
func TestAStepThatCantBeMadeFails(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]scenario.Step{
		"unknown region": {Fault: scenario.Kill, On: "mars", For: seconds(0.5)},
		"can't be done":  {Fault: scenario.Stop, On: "eu", For: seconds(0.5)},
	} {
		s := short(scenario.Kill, 1)
		s.Steps = []scenario.Step{step}
		s.WarmUp, s.Control, s.Watch, s.Load.Creators = seconds(0.5), seconds(0.5), 0, nil
		r := drilled(t, s, drilltest.Defects{}, fleet.Broken{})
		require.Equal(t, score.Fail, r.Verdict, name)
		require.NotEmpty(t, r.Steps[0].Error, name)
	}
}

// TestInterruptedDrillsUndo: what was made is undone.
func TestInterruptedDrillsUndo(t *testing.T) {
	t.Parallel()
	p, err := drilltest.Start(drilltest.Defects{})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := NewRunner(ctx, p, func(line string) {
		if line == "kill eu done after 0.0 s" {
			cancel()
		}
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	r.asset = drilltest.Asset
	s := short(scenario.Kill, 1)
	s.WarmUp, s.Control, s.Load.Creators = seconds(0.2), seconds(0.2), nil
	began := time.Now()
	_, err = r.Run(ctx, s)
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, time.Since(began), 4*time.Second, "it doesn't wait for the step's end")
	st, err := p.Status(t.Context())
	require.NoError(t, err)
	require.NoError(t, st.Whole)
}
