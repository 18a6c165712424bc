package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/meridian-video/meridian/drill/report"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/drill/target"
)

// Command is `meridian drill`.
type Command struct {
	List    ListCommand    `cmd:"" help:"List the scenarios of this program, or print one."`
	Run     RunCommand     `cmd:"" help:"Run scenarios on the platform running here and write a report."`
	Random  RandomCommand  `cmd:"" help:"Run random faults, the same again for the same seed."`
	Report  ReportCommand  `cmd:"" help:"Write a report's page, JUnit XML and table anew from its JSON."`
	Compare CompareCommand `cmd:"" help:"Compare two reports; fails if something passed before and doesn't now."`
}

// platformFlags say what is drilled and how.
type platformFlags struct {
	State    string  `help:"Directory of all state of the platform, as given to up." env:"MERIDIAN_STATE" placeholder:"DIR"`
	Own      bool    `help:"Start an isolated platform for the drill, and remove it afterwards (root)."`
	Compose  string  `help:"Drill the containers of this compose file instead (root): docker-compose.multiregion.yml." placeholder:"FILE"`
	Out      string  `help:"Directory for the report: index.html, drill.json, junit.xml." default:"drill-report" placeholder:"DIR"`
	Previous string  `help:"With --own: begin with the services of this program, the version before, for scenarios that upgrade." type:"existingfile" placeholder:"FILE"`
	Viewers  float64 `help:"Multiply the number of viewers." default:"1" placeholder:"FACTOR"`
	Browsers bool    `help:"Have real browsers watch where scenarios say so (the package chromium)." default:"true" negatable:""`
	Askers   int     `help:"Ask the routers as so many people near each region, in place of as many as a scenario says." placeholder:"NUMBER"`
	Read     bool    `help:"At the end of each scenario, read every byte of every store, not only sizes."`
}

func (f *platformFlags) validate() error {
	if f.Own && os.Geteuid() != 0 {
		return errors.New("--own: only root may make isolated regions: run it as root, or start a platform with `meridian up` and drill that one")
	}
	if f.Compose != "" && (f.Own || f.State != "") {
		return errors.New("--compose: those are containers; leave out --own and --state")
	}
	if f.Previous != "" && !f.Own {
		return errors.New("--previous: only with --own; start your platform with `meridian up --isolated --program FILE` to begin with another version")
	}
	if f.Viewers <= 0 || f.Viewers > 50 {
		return fmt.Errorf("--viewers %v: want more than 0, at most 50", f.Viewers)
	}
	if f.Askers < 0 || f.Askers > scenario.MaxAskers {
		return fmt.Errorf("--askers %d: want 1 to %d", f.Askers, scenario.MaxAskers)
	}
	return nil
}

// ListCommand is `meridian drill list`.
type ListCommand struct {
	Name string `arg:"" optional:"" help:"Scenario to print as YAML."`

	// W defaults to standard output.
	W io.Writer `kong:"-"`
}

// Run prints.
func (c *ListCommand) Run(context.Context) error {
	if c.W == nil {
		c.W = os.Stdout
	}
	all, err := scenario.BuiltIn()
	if err != nil {
		return err
	}
	if c.Name != "" {
		s, err := find(all, c.Name)
		if err != nil {
			return err
		}
		b, err := yaml.Marshal(s)
		if err == nil {
			_, err = c.W.Write(b)
		}
		return err
	}
	t := tabwriter.NewWriter(c.W, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SCENARIO\tCORE\tTAKES\tTITLE")
	for _, s := range all {
		core := "-"
		if s.Core {
			core = "core"
		}
		fmt.Fprintf(t, "%s\t%s\t%v\t%s\n", s.Name, core, s.Length(), s.Title)
	}
	return t.Flush()
}

func find(all []scenario.Scenario, name string) (scenario.Scenario, error) {
	i := slices.IndexFunc(all, func(s scenario.Scenario) bool { return s.Name == name })
	if i < 0 {
		var names []string
		for _, s := range all {
			names = append(names, s.Name)
		}
		return scenario.Scenario{}, fmt.Errorf("no scenario %q: want a file's path, or one of %s", name, strings.Join(names, ", "))
	}
	return all[i], nil
}

// RunCommand is `meridian drill run`.
type RunCommand struct {
	platformFlags `embed:""`
	Scenarios     []string `arg:"" optional:"" help:"Names of scenarios, or files; default: the core ones." placeholder:"SCENARIO"`
}

// Validate names every problem.
func (c *RunCommand) Validate() error { return c.validate() }

// Run runs the scenarios. It fails unless all pass.
func (c *RunCommand) Run(ctx context.Context) error {
	list, err := choose(c.Scenarios)
	if err != nil {
		return err
	}
	return c.drill(ctx, list)
}

// choose finds scenarios by name or file; none named are the core ones.
func choose(names []string) ([]scenario.Scenario, error) {
	all, err := scenario.BuiltIn()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(s scenario.Scenario) bool { return !s.Core }), nil
	}
	var out []scenario.Scenario
	var errs []error
	for _, name := range names {
		var s scenario.Scenario
		if strings.ContainsAny(name, "./") {
			s, err = scenario.Read(name)
		} else {
			s, err = find(all, name)
		}
		out, errs = append(out, s), append(errs, err)
	}
	return out, errors.Join(errs...)
}

// drill runs scenarios one after the other and writes the report, which holds
// also what was done of an interrupted drill.
func (f *platformFlags) drill(ctx context.Context, list []scenario.Scenario) (err error) {
	for _, s := range list {
		if s.Upgrades() && f.Own && f.Previous == "" {
			return fmt.Errorf("scenario %s begins with the version before: name its program with --previous", s.Name)
		}
	}
	if f.Own {
		p, started := startOwn(ctx, f.Out, f.Previous, list)
		if started != nil {
			return started
		}
		defer func() { err = errors.Join(err, p.stop(err != nil)) }()
		f.State = p.dir
	}
	t, err := f.open(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	say := func(line string) { fmt.Printf("%6.1f  %s\n", time.Since(began).Seconds(), line) }
	r, err := NewRunner(ctx, t, say)
	if err != nil {
		return err
	}
	defer func() {
		r.Wait()
		err = errors.Join(err, r.Close())
	}()
	r.Read = f.Read
	if err := r.Prepare(ctx); err != nil {
		return err
	}
	out := report.Report{Version: report.Version, Began: began.UTC(), Program: program(), Target: r.Desc.Name,
		Machine: report.Machine{CPUs: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH}}
	for _, x := range r.Desc.Table.Regions {
		out.Regions = append(out.Regions, report.Region{Name: x.Name, Place: x.Place})
	}
	var printed error
	for _, s := range list {
		if ctx.Err() != nil {
			break
		}
		if s = s.Scale(f.Viewers); !f.Browsers {
			s = s.WithoutBrowsers()
		}
		s.Load.Askers = cmp.Or(f.Askers, s.Load.Askers, scenario.UsualAskers)
		say("── " + s.Name + ": " + s.Title)
		if err := r.report(ctx, s, func(x report.Run) {
			out.Runs = append(out.Runs, x)
			printed = errors.Join(printed, x.Print(os.Stdout))
		}); err != nil {
			return err
		}
	}
	r.Wait()
	out.Seconds = time.Since(began).Seconds()
	return errors.Join(ctx.Err(), printed, write(f.Out, out), out.Err())
}

// open finds what is drilled.
func (f *platformFlags) open(ctx context.Context) (target.Target, error) {
	if f.Compose == "" {
		return target.OpenPlatform(ctx, f.State)
	}
	return target.OpenCompose(ctx, f.Compose)
}

// report runs a scenario as Run does and judges it.
func (r *Runner) report(ctx context.Context, s scenario.Scenario, done func(report.Run)) error {
	text, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	began := time.Now()
	r.Run(ctx, s, func(o score.Observations, err error) { done(report.NewRun(s, string(text), o, err, began)) })
	return nil
}

// program says which version of this program runs.
func program() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	out := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			out += " " + s.Value[:12]
		}
	}
	return out
}
