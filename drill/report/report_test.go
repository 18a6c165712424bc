package report

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/drill/creators"
	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/drill/target"
	"github.com/meridian-video/meridian/internal/region"
)

var update = flag.Bool("update", false, "write golden files anew")

func ptr[T any](v T) *T { return &v }

// example is a report as a drill makes it, of made-up observations.
func example(t *testing.T, stalls int) Report {
	t.Helper()
	table, err := region.Loopback()
	require.NoError(t, err)
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return began.Add(time.Duration(s * float64(time.Second))) }
	o := score.Observations{Table: table, Viewers: []int{2, 1, 0}, ControlBegan: at(10), FaultBegan: at(20), End: at(50), Whole: at(45), Creators: 1,
		Steps: []score.Happened{{Fault: target.Fault{Step: scenario.Step{Fault: scenario.Kill, For: scenario.Duration(14 * time.Second)}, Region: "eu"}, Began: at(20), Applied: at(20.2), Healing: at(34), Healed: at(44)}}}
	for i := range 50 {
		s := fleet.Sample{At: at(float64(i)), Playing: 3, By: []int{2, 1, 0}, Wrong: []int{0, 0, 0}, Least: 9, Median: 10, Bytes: int64(i) * 1e6}
		if i > 22 && i < 40 {
			s.By = []int{0, 3, 0}
		}
		o.Samples = append(o.Samples, s)
		o.Pressure = append(o.Pressure, score.Pressure{At: s.At, Some: float64(i) / 100})
	}
	for i := range stalls {
		o.Events = append(o.Events, fleet.Event{At: at(25), Kind: fleet.Stalled, Viewer: i, Way: fleet.Steering, Seconds: 1.5})
	}
	o.Events = append(o.Events, fleet.Event{At: at(22), Kind: fleet.Failed, Text: "refused <b>"})
	o.Uploads = []creators.Upload{{Asset: "a", Near: "eu", Began: at(12), Acked: at(13), Ready: at(15), State: "ready"}}
	s := scenario.Scenario{Name: "kill-region", Title: "A region <dies>", Shows: "That & this.", Objectives: scenario.Objectives{Stalls: ptr(0)}}
	run := NewRun(s, "name: kill-region\n", o, nil, began)
	run.Seconds = 50
	return Report{Version: Version, Began: began, Seconds: 50, Program: "v1", Target: "meridian up --isolated", Machine: Machine{2, "linux/amd64"},
		Regions: []Region{{"eu", "Frankfurt"}, {"us", "Ashburn"}, {"ap", "Singapore"}}, Runs: []Run{run}}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run with -update if it should be so")
}

func TestForms(t *testing.T) {
	r := example(t, 0)
	require.NoError(t, r.Err())
	var page, junit, text bytes.Buffer
	require.NoError(t, r.HTML(&page))
	require.NoError(t, r.JUnit(&junit))
	require.NoError(t, r.Runs[0].Print(&text))
	golden(t, "junit.xml", junit.Bytes())
	golden(t, "run.txt", text.Bytes())
	for _, want := range []string{"All passed", "A region &lt;dies&gt;", "kill eu", "Frankfurt", "<svg", "✓ passed"} {
		require.Contains(t, page.String(), want)
	}
	for _, never := range []string{"<dies>", "http://", "https://", "<script", "NaN", "ZgotmplZ"} {
		require.NotContains(t, page.String(), never, "the page needs nothing else and runs nothing")
	}
	require.Equal(t, strings.Count(page.String(), "<svg"), strings.Count(page.String(), "</svg>"))
}

func TestAFailureIsSeenInEveryForm(t *testing.T) {
	r := example(t, 2)
	require.ErrorIs(t, r.Err(), ErrNotPassed)
	require.Equal(t, score.Fail, r.Runs[0].Verdict)
	var page, junit bytes.Buffer
	require.NoError(t, r.HTML(&page))
	require.NoError(t, r.JUnit(&junit))
	require.Contains(t, page.String(), "0 of 1 passed")
	require.Contains(t, page.String(), "✗ failed")
	var s suites
	require.NoError(t, xml.Unmarshal(junit.Bytes(), &s))
	require.Equal(t, 1, s.Suites[0].Failures)
	require.ErrorIs(t, Report{}.Err(), ErrNotPassed, "nothing run is nothing shown")
}

func TestAnEndedRunIsUnsure(t *testing.T) {
	s := example(t, 0).Runs[0]
	x := NewRun(scenario.Scenario{Name: s.Name}, "", score.Observations{}, fmt.Errorf("warm up: %w", context.Canceled), time.Now())
	require.Equal(t, score.Unsure, x.Verdict)
	require.Contains(t, x.Error, "run it again")
	require.Empty(t, x.Results)
	require.ErrorIs(t, Report{Runs: []Run{x}}.Err(), ErrNotPassed)
}

func TestLoadAndDiff(t *testing.T) {
	write := func(r Report) string {
		file := filepath.Join(t.TempDir(), "drill.json")
		b, err := json.Marshal(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, b, 0o600))
		return file
	}
	good, err := Load(write(example(t, 0)))
	require.NoError(t, err)
	require.Equal(t, example(t, 0), good)
	bad, err := Load(write(example(t, 2)))
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, PrintDiff(&text, Diff(good, good)))
	require.NoError(t, PrintDiff(&text, Diff(bad, good)))
	text.Reset()
	require.ErrorIs(t, PrintDiff(&text, Diff(good, bad)), ErrWorse)
	require.Contains(t, text.String(), "pass → fail  WORSE")
	require.Contains(t, text.String(), "+2")
	// What had a figure and has none any more is worse; what wasn't run isn't.
	without := example(t, 0)
	without.Runs[0].Results = nil
	require.ErrorIs(t, PrintDiff(&text, Diff(good, without)), ErrWorse)
	require.NoError(t, PrintDiff(&text, Diff(good, Report{})))

	old := example(t, 0)
	old.Version = 0
	_, err = Load(write(old))
	require.ErrorContains(t, err, "use the program that wrote it")
	_, err = Load(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestNice(t *testing.T) {
	for v, want := range map[float64]float64{0: 1, 0.3: 0.4, 1: 1, 3: 4, 17: 20, 100: 100, 101: 200, 99: 100} {
		require.InDelta(t, want, nice(v), 1e-9, "%v", v)
	}
}
