// Command failover measures where people are sent while a region is lost.
//
// It drills an isolated platform (root) by scenarios of `meridian drill`, with
// hundreds of askers near each region, who together ask the routers 40 times a second by
// redirect, steering and DNS. What it prints is the time from the last thing an
// edge of the lost region delivered to the last answer that named it, for each
// transport, and how many askers were sent away from a region nothing was done to,
// beside the phase of the same run in which nothing was done to any.
//
// It fails if an objective of routing isn't met; the scenarios' other objectives
// are in their report, and judged by `make drill`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meridian-video/meridian/bench/command"
	"github.com/meridian-video/meridian/drill/report"
	"github.com/meridian-video/meridian/drill/score"
)

// faults by their scenarios, in the order they are made: viewers return to a region
// that was slow over a minute, so that is the last.
var faults = []struct{ name, scenario string }{
	{"none", "control"}, {"kill", "kill-region"}, {"hang", "hang-region"}, {"silence", "silence-region"},
	{"deaf", "deaf-region"}, {"mute", "mute-region"}, {"full", "full-disk"}, {"slow", "slow-region"},
}

// asked are the objectives of routing, as the table has them.
var asked = []string{"reroute.redirect", "reroute.steering", "reroute.dns", "false_moves"}

// stopWithin is how long a drill may take to undo what it did.
const stopWithin = 5 * time.Minute

type options struct {
	faults, program, out, markdown string
	askers, rounds                 int
	viewers                        float64
}

func main() {
	var o options
	var names []string
	for _, f := range faults {
		names = append(names, f.name)
	}
	flag.StringVar(&o.faults, "faults", strings.Join(names, ","), "what happens to a region; none is a run without a fault")
	flag.IntVar(&o.askers, "askers", 200, "people near each region who ask")
	flag.Float64Var(&o.viewers, "viewers", 0.1, "share of the scenarios' viewers who watch meanwhile")
	flag.IntVar(&o.rounds, "rounds", 1, "runs of each; the table has the worst")
	flag.StringVar(&o.program, "program", "bin/meridian", "program to drill with")
	flag.StringVar(&o.out, "out", filepath.Join("drill-report", "failover"), "directory for the drills' reports, one for each round")
	flag.StringVar(&o.markdown, "markdown", "", "file for the table; it is also printed")
	flag.Parse()
	command.Main("bench/failover", 0, func(ctx context.Context) error { return measure(ctx, o) })
}

func measure(ctx context.Context, o options) error {
	args := []string{"drill", "run", "--own", "--askers", strconv.Itoa(o.askers), "--no-browsers", "--viewers", strconv.FormatFloat(o.viewers, 'g', -1, 64)}
	for name := range strings.SplitSeq(o.faults, ",") {
		i := slices.IndexFunc(faults, func(f struct{ name, scenario string }) bool { return f.name == name })
		if i < 0 {
			return fmt.Errorf("unknown fault %q: want some of %s", name, flag.Lookup("faults").DefValue)
		}
		args = append(args, faults[i].scenario)
	}
	if o.rounds < 1 {
		return errors.New("want at least one round")
	}
	var reports []report.Report
	for n := range o.rounds {
		r, err := drill(ctx, o, filepath.Join(o.out, strconv.Itoa(n+1)), args)
		if err != nil {
			return err
		}
		reports = append(reports, r)
	}
	text, met := table(reports)
	fmt.Print("\n", text)
	if o.markdown != "" {
		if err := os.WriteFile(o.markdown, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if !met {
		return errors.New("an objective of routing wasn't met")
	}
	return nil
}

// drill runs the scenarios once. That they failed is no error: the report says by what.
func drill(ctx context.Context, o options, out string, args []string) (report.Report, error) {
	// What an earlier drill left must not be taken for this one's.
	file := filepath.Join(out, "drill.json")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return report.Report{}, err
	}
	cmd := exec.CommandContext(ctx, o.program, append(args, "--out", out)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopWithin
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		return report.Report{}, err
	}
	if ctx.Err() != nil {
		return report.Report{}, ctx.Err()
	}
	return report.Load(file)
}

// table has a row for each scenario, with the worst of all rounds, and reports
// whether every objective was met in all of them.
func table(reports []report.Report) (string, bool) {
	var b strings.Builder
	b.WriteString("| Done to a region | Redirect | Steering | DNS | Goal | False moves | Without the fault | Sent elsewhere | Waited for a CPU |\n|---|---|---|---|---|---|---|---|---|\n")
	met := true
	for i, run := range reports[0].Runs {
		cells := map[string]score.Result{}
		waited, what := 0.0, run.Title
		for _, s := range run.Steps {
			what = s.What
		}
		for _, r := range reports {
			if i >= len(r.Runs) {
				met = false
				continue
			}
			x := r.Runs[i]
			waited = max(waited, x.PressureFault)
			if x.Error != "" || slices.ContainsFunc(x.Steps, func(s report.Step) bool { return s.Error != "" }) {
				met = false
			}
			for _, res := range x.Results {
				if !slices.Contains(asked, res.Name) {
					continue
				}
				met = met && (res.Verdict == score.Pass || res.Verdict == score.Measured)
				if have, ok := cells[res.Name]; !ok || have.Value != nil && (res.Value == nil || *res.Value > *have.Value) {
					cells[res.Name] = res
				}
			}
		}
		moves := cells["false_moves"]
		goal := "–"
		if g := cells["reroute.dns"].Goal; g != nil {
			goal = fmt.Sprintf("≤ %g s", *g)
		}
		elsewhere, _, _ := strings.Cut(moves.Note, " sent elsewhere")
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %.0f %% |\n", what, figure(cells["reroute.redirect"]), figure(cells["reroute.steering"]),
			figure(cells["reroute.dns"]), goal, report.Number(moves.Value, moves.Unit), report.Number(moves.Control, moves.Unit), elsewhere, 100*waited)
	}
	return b.String(), met
}

func figure(r score.Result) string { return report.Number(r.Value, r.Unit) }
