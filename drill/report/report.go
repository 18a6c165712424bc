package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/meridian-video/meridian/drill/creators"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/score"
)

// Version of the JSON format.
const Version = 1

// Report is what `meridian drill run` found.
type Report struct {
	Version int       `json:"version"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	// Program is the version of this program, Target what it drilled.
	Program string  `json:"program"`
	Target  string  `json:"target"`
	Machine Machine `json:"machine"`
	// Regions in table order.
	Regions []Region `json:"regions"`
	Runs    []Run    `json:"runs"`
}

// Machine that everything ran on.
type Machine struct {
	CPUs   int    `json:"cpus"`
	System string `json:"system"`
}

// Region of the platform.
type Region struct {
	Name  string `json:"name"`
	Place string `json:"place"`
}

// Run of one scenario.
type Run struct {
	Name    string        `json:"name"`
	Title   string        `json:"title"`
	Shows   string        `json:"shows"`
	Began   time.Time     `json:"began"`
	Seconds float64       `json:"seconds"`
	Verdict score.Verdict `json:"verdict"`
	// Error is why it couldn't be run as written.
	Error    string         `json:"error,omitempty"`
	Viewers  []int          `json:"viewers"`
	Askers   int            `json:"askers"`
	Creators int            `json:"creators"`
	Results  []score.Result `json:"results"`
	Steps    []Step         `json:"steps"`
	// ControlBegan, FaultBegan, Whole and End are seconds since the run began, 0 if
	// it didn't come to that.
	ControlBegan float64 `json:"control_began"`
	FaultBegan   float64 `json:"fault_began"`
	Whole        float64 `json:"whole"`
	End          float64 `json:"end"`
	// Pressure is the share of time in which work waited for a CPU, 0 to 1, without
	// and with faults.
	PressureControl float64           `json:"pressure_control"`
	PressureFault   float64           `json:"pressure_fault"`
	Series          Series            `json:"series"`
	Uploads         []creators.Upload `json:"uploads"`
	// Dropped counts what there was no room for; figures are incomplete if it isn't 0.
	Dropped int `json:"dropped,omitempty"`
	// Scenario as it was run.
	Scenario string `json:"scenario"`
}

// Step as it was done; seconds since the run began.
type Step struct {
	What    string  `json:"what"`
	Region  string  `json:"region"`
	Began   float64 `json:"began"`
	Applied float64 `json:"applied"`
	Healing float64 `json:"healing,omitempty"`
	Healed  float64 `json:"healed,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// Series are values each second; At is seconds since the run began.
type Series struct {
	At       []float64 `json:"at"`
	By       [][]int   `json:"by"` // viewers by serving region, for each region
	Opening  []int     `json:"opening"`
	Standing []int     `json:"standing"`
	Least    []float64 `json:"least_in_hand"`
	Median   []float64 `json:"median_in_hand"`
	Megabits []float64 `json:"megabits"`
	Errors   []int     `json:"errors"`
	Backlog  []int     `json:"backlog"`
	Pressure []float64 `json:"pressure"`
}

// NewRun writes down a run.
func NewRun(s scenario.Scenario, text string, o score.Observations, err error, began time.Time) Run {
	since := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return round(t.Sub(began).Seconds())
	}
	r := Run{Name: s.Name, Title: s.Title, Shows: s.Shows, Began: began.UTC(), Seconds: round(time.Since(began).Seconds()), Viewers: o.Viewers, Askers: s.Load.Askers, Creators: o.Creators,
		ControlBegan: since(o.ControlBegan), FaultBegan: since(o.FaultBegan), Whole: since(o.Whole), End: since(o.End),
		Uploads: o.Uploads, Dropped: o.Dropped, Scenario: text, Steps: []Step{}}
	for _, h := range o.Steps {
		r.Steps = append(r.Steps, Step{What: h.Fault.String(), Region: h.Fault.Region, Began: since(h.Began), Applied: since(h.Applied), Healing: since(h.Healing), Healed: since(h.Healed), Error: h.Err})
	}
	switch {
	case errors.Is(err, context.Canceled):
		r.Error, r.Verdict = "ended by hand before all was judged: run it again", score.Unsure
	case err != nil:
		r.Error, r.Verdict = err.Error(), score.Fail
	}
	if !o.End.IsZero() {
		r.Results = score.Evaluate(s, o)
		if err == nil {
			r.Verdict = score.Sum(r.Results, o.Steps)
		}
		r.series(o, began)
	}
	return r
}

// Passed is how many runs passed.
func (r Report) Passed() int {
	n := 0
	for _, x := range r.Runs {
		if x.Verdict == score.Pass {
			n++
		}
	}
	return n
}

// ErrNotPassed is a report with a run that failed or showed nothing.
var ErrNotPassed = errors.New("not all scenarios passed")

// Err is nil when there is a run and all have passed.
func (r Report) Err() error {
	if n := r.Passed(); n == 0 || n < len(r.Runs) {
		return fmt.Errorf("%w: %d of %d did", ErrNotPassed, n, len(r.Runs))
	}
	return nil
}

const maxReport = 256 << 20

// Load reads a report's JSON.
func Load(path string) (Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	defer f.Close()
	var r Report
	if err := json.NewDecoder(io.LimitReader(f, maxReport)).Decode(&r); err != nil {
		return r, fmt.Errorf("report %s: want the drill.json of `meridian drill run`: %w", path, err)
	}
	if r.Version != Version {
		return r, fmt.Errorf("report %s has format %d, this program reads %d: use the program that wrote it", path, r.Version, Version)
	}
	return r, nil
}
