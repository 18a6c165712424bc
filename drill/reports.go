package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml"

	"github.com/meridian-video/meridian/drill/report"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/internal/durable"
)

// Files of a report.
const (
	fileJSON  = "drill.json"
	fileHTML  = "index.html"
	fileJUnit = "junit.xml"
)

// RandomCommand is `meridian drill random`.
type RandomCommand struct {
	platformFlags `embed:""`
	Seed          uint64 `help:"What happens; 0 takes a new one, and says it." default:"0"`
	Minutes       int    `help:"For how long." default:"5"`
	Print         bool   `help:"Print the scenario and run nothing."`
}

// Validate names every problem.
func (c *RandomCommand) Validate() error { return c.validate() }

// Run runs the scenario of a seed. It fails unless all invariants hold.
func (c *RandomCommand) Run(ctx context.Context) error {
	if c.Seed == 0 {
		c.Seed = 1 + rand.Uint64N(1<<32)
	}
	s, err := scenario.Random(c.Seed, c.Minutes)
	if err != nil {
		return err
	}
	if !c.Own {
		// Nobody's disk fills up but those of a platform made for it.
		s.Steps = slices.DeleteFunc(s.Steps, func(x scenario.Step) bool { return x.Fault == scenario.Fill })
	}
	if c.Print {
		b, err := yaml.Marshal(s)
		if err == nil {
			_, err = os.Stdout.Write(b)
		}
		return err
	}
	fmt.Printf("seed %d; the same again: meridian drill random --seed %[1]d --minutes %d\n", c.Seed, c.Minutes)
	return c.drill(ctx, []scenario.Scenario{s})
}

// ReportCommand is `meridian drill report`.
type ReportCommand struct {
	Dir string `arg:"" optional:"" help:"Directory of the report." default:"drill-report" placeholder:"DIR"`
}

// Run reads a report and writes it anew.
func (c *ReportCommand) Run(context.Context) error {
	r, err := report.Load(filepath.Join(c.Dir, fileJSON))
	if err != nil {
		return err
	}
	for _, x := range r.Runs {
		if err := x.Print(os.Stdout); err != nil {
			return err
		}
	}
	return errors.Join(write(c.Dir, r), r.Err())
}

// CompareCommand is `meridian drill compare`.
type CompareCommand struct {
	Before string `arg:"" help:"Directory of the earlier report." placeholder:"BEFORE"`
	After  string `arg:"" help:"Directory of the later report." placeholder:"AFTER"`

	// W defaults to standard output.
	W io.Writer `kong:"-"`
}

// Run compares.
func (c *CompareCommand) Run(context.Context) error {
	if c.W == nil {
		c.W = os.Stdout
	}
	before, err := report.Load(filepath.Join(c.Before, fileJSON))
	if err != nil {
		return err
	}
	after, err := report.Load(filepath.Join(c.After, fileJSON))
	if err != nil {
		return err
	}
	return report.PrintDiff(c.W, report.Diff(before, after))
}

// write writes the report in all its forms.
func write(dir string, r report.Report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	var text, page, junit bytes.Buffer
	if err := errors.Join(json.NewEncoder(&text).Encode(r), r.HTML(&page), r.JUnit(&junit)); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	var errs []error
	for name, b := range map[string]*bytes.Buffer{fileJSON: &text, fileHTML: &page, fileJUnit: &junit} {
		errs = append(errs, durable.Write(filepath.Join(dir, name), b.Bytes(), 0o644))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	fmt.Printf("report: %s\n", filepath.Join(dir, fileHTML))
	return nil
}
