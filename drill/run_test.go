package drill

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/drill/drilltest"
	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/report"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/internal/testenv"
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
		Load:   scenario.Load{Viewers: viewers, Creators: []int{1}, Buffer: seconds(2)},
		WarmUp: seconds(3), Control: seconds(1.5), Watch: seconds(0.5),
		Steps: []scenario.Step{{Fault: fault, On: scenario.First, For: seconds(5)}},
	}
	s.Objectives = scenario.Objectives{
		Stalls: ptr(0), FailedOpens: ptr(0), Corrupt: ptr(0), Lost: ptr(0), Leaks: ptr(0), Denied: ptr(0),
		Reroute: scenario.Reroute{Redirect: ptr(seconds(2)), Steering: ptr(seconds(2)), DNS: ptr(seconds(2))},
		Moved:   ptr(seconds(4.8)), FalseMoves: ptr(0), WrongRegion: ptr(seconds(2)), StartUp: ptr(seconds(4)), Writes: ptr(seconds(3)),
		Ready: ptr(seconds(3)), Recovery: ptr(seconds(3)), Reconciled: ptr(seconds(3)),
	}
	return s
}

// drilled runs a scenario on a fake platform.
func drilled(ctx context.Context, dir string, s scenario.Scenario, d drilltest.Defects, b fleet.Broken) (run report.Run, err error) {
	p, err := drilltest.Start(d)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	r, err := NewRunner(ctx, p, nil)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	r.Asset, r.Private, r.Template = drilltest.Asset, drilltest.Private, filepath.Join(dir, "small.mp4")
	if err := os.WriteFile(r.Template, []byte("a video"), 0o600); err != nil {
		return run, err
	}
	r.Broken = b
	r.Waits = Waits{Whole: time.Second, Compared: time.Second, Pause: time.Second, Open: 10 * time.Second}
	if err := r.Prepare(ctx); err != nil {
		return run, err
	}
	err = r.report(ctx, s, func(x report.Run) { run = x })
	r.Wait()
	return run, err
}

func verdicts(r report.Run) map[string]score.Verdict {
	out := map[string]score.Verdict{}
	for _, x := range r.Results {
		out[x.Name] = x.Verdict
	}
	return out
}

const notices = 300 * time.Millisecond

type drillCase struct {
	fault   scenario.Fault
	defects drilltest.Defects
	broken  fleet.Broken
	viewers []int
	// sum and want are verdicts.
	sum  score.Verdict
	want map[string]score.Verdict
	// timed cases mean something on a machine that has time for them only.
	timed bool
}

var drillCases = map[string]drillCase{
	"killed": {fault: scenario.Kill, viewers: []int{6, 2, 1}, sum: score.Pass, timed: true},
	"hung":   {fault: scenario.Hang, viewers: []int{6, 2, 1}, sum: score.Pass, timed: true},
	"stale pathway, other bytes": {fault: scenario.Kill, defects: drilltest.Defects{Notices: -1, Corrupts: true}, viewers: []int{4}, sum: score.Fail, want: map[string]score.Verdict{
		"reroute.redirect": score.Fail, "reroute.steering": score.Fail, "reroute.dns": score.Fail, "corrupt": score.Fail}, timed: true},
	"players that stay": {fault: scenario.Kill, broken: fleet.Broken{NoSteering: true, NoFailover: true}, viewers: []int{4}, sum: score.Fail, want: map[string]score.Verdict{
		"stalls": score.Fail, "moved": score.Fail, "wrong_region": score.Fail}, timed: true},
	"loses all, doesn't return": {fault: scenario.Kill, defects: drilltest.Defects{Forgets: true, LosesTitles: true, LosesObjects: true, StaysDown: true, Leaks: true, Denies: true}, viewers: []int{4}, sum: score.Fail,
		want: map[string]score.Verdict{"leaks": score.Fail, "denied": score.Fail, "lost": score.Fail, "recovery": score.Fail, "reconciled": score.Fail}},
	"serves nothing, takes nothing": {fault: scenario.Kill, defects: drilltest.Defects{Unavailable: true, ReadOnly: true, Sticks: true}, viewers: []int{4}, sum: score.Fail,
		want: map[string]score.Verdict{"start_up": score.Fail, "moved": score.Fail, "writes": score.Fail, "leaks": score.Pass, "denied": score.Pass, "lost": score.Fail, "ready": score.Fail}},
	"far away":    {fault: scenario.Kill, defects: drilltest.Defects{Strange: true}, viewers: []int{4}, sum: score.Fail, want: map[string]score.Verdict{"wrong_region": score.Unsure, "false_moves": score.Unsure, "moved": score.Fail}, timed: true},
	"slow always": {fault: scenario.Kill, defects: drilltest.Defects{Slow: 900 * time.Millisecond}, viewers: []int{4}, want: map[string]score.Verdict{"stalls": score.Unsure}, sum: score.Unsure, timed: true},
}

// TestDrills: a platform that does what it should passes; every objective fails
// on one where something is broken.
func TestDrills(t *testing.T) {
	for name, c := range drillCases {
		if c.timed {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := short(c.fault, c.viewers...)
			s.WarmUp, s.Control, s.Steps[0].For = seconds(2), seconds(0.5), seconds(3.5)
			c.check(t, s)
		})
	}
}

// TestTimedDrills are those whose verdicts hang on times.
func TestTimedDrills(t *testing.T) {
	testenv.Long(t)
	for name, c := range drillCases {
		if c.timed {
			t.Run(name, func(t *testing.T) {
				s := short(c.fault, c.viewers...)
				s.WarmUp, s.Control = seconds(5), seconds(3)
				s.Objectives.StartUp = nil // too short for enough new sessions
				c.check(t, s)
			})
		}
	}
}

func (c drillCase) check(t *testing.T, s scenario.Scenario) {
	t.Helper()
	if c.defects.Notices == 0 {
		c.defects.Notices = notices
	}
	run, err := drilled(t.Context(), t.TempDir(), s, c.defects, c.broken)
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, run.Print(&text))
	t.Log("\n" + text.String())
	require.Equal(t, c.sum, run.Verdict)
	require.Empty(t, run.Error)
	require.Zero(t, run.Dropped)
	require.NotEmpty(t, run.Series.At)
	v := verdicts(run)
	for objective, want := range c.want {
		require.Equal(t, want, v[objective], objective)
	}
}

// TestAStepThatCantBeMadeFails: nothing was survived.
func TestAStepThatCantBeMadeFails(t *testing.T) {
	for name, step := range map[string]scenario.Step{
		"unknown region": {Fault: scenario.Kill, On: "mars", For: seconds(0.5)},
		"can't be done":  {Fault: scenario.Stop, On: "eu", For: seconds(0.5)},
	} {
		s := short(scenario.Kill, 1)
		s.Steps = []scenario.Step{step}
		s.WarmUp, s.Control, s.Watch, s.Load.Creators = seconds(0.5), seconds(0.5), 0, nil
		r, err := drilled(t.Context(), t.TempDir(), s, drilltest.Defects{}, fleet.Broken{})
		require.NoError(t, err)
		require.Equal(t, score.Fail, r.Verdict, name)
		require.NotEmpty(t, r.Steps[0].Error, name)
	}
}

// TestTheNextWarmsUpMeanwhile: viewers of a scenario fill their buffers while the one
// before is accounted for, and nothing is done to the platform before.
func TestTheNextWarmsUpMeanwhile(t *testing.T) {
	p, err := drilltest.Start(drilltest.Defects{LosesObjects: true}) // which is waited for
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	var mu sync.Mutex
	var said []string
	say := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, line)
	}
	r, err := NewRunner(t.Context(), p, say)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	r.asset, r.Waits.Compared = drilltest.Asset, 2*time.Second
	s := short(scenario.Kill, 1)
	s.WarmUp, s.Control, s.Steps[0].For, s.Load.Creators, s.Objectives.Reconciled = seconds(0.5), seconds(0.5), seconds(0.5), nil, nil
	for range 2 {
		require.NoError(t, r.report(t.Context(), s, func(x report.Run) { say("accounted: " + x.Error) }))
	}
	r.Wait()
	var order []string
	for _, line := range said {
		switch first, _, _ := strings.Cut(line, ","); {
		case strings.Contains(line, "warming up"):
			order = append(order, "warms up")
		case first == "control phase", first == "accounted: ":
			order = append(order, strings.TrimSuffix(first, ": "))
		}
	}
	require.Equal(t, []string{"warms up", "control phase", "warms up", "accounted", "control phase", "accounted"}, order, said)
}

// TestInterruptedDrillsUndo: what was made is undone.
func TestInterruptedDrillsUndo(t *testing.T) {
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
	r.Run(ctx, s, func(_ score.Observations, e error) { err = e })
	r.Wait()
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, time.Since(began), 4*time.Second, "it doesn't wait for the step's end")
	st, err := p.Status(t.Context())
	require.NoError(t, err)
	require.NoError(t, st.Whole)
}
