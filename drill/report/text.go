package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/meridian-video/meridian/drill/score"
)

// Number is a value as people read it: "0", "1.25 s", "–".
func Number(v *float64, unit string) string {
	switch {
	case v == nil:
		return "–"
	case unit == "s":
		return fmt.Sprintf("%.2f s", *v)
	}
	return fmt.Sprintf("%g", *v)
}

// goal is "≤ 2 s", or "–" where nothing was asked.
func goal(r score.Result) string {
	if r.Goal == nil {
		return "–"
	}
	if r.Unit == "" {
		return fmt.Sprintf("≤ %g", *r.Goal)
	}
	return fmt.Sprintf("≤ %g %s", *r.Goal, r.Unit)
}

// Print writes a run for a terminal.
func (r Run) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s  %s\n", r.Name, strings.ToUpper(string(r.Verdict)))
	if r.Error != "" {
		fmt.Fprintln(t, "  "+strings.ReplaceAll(r.Error, "\n", "\n  "))
	}
	for _, s := range r.Steps {
		if s.Error != "" {
			fmt.Fprintf(t, "  %s\t\t\t\t%s\n", s.What, s.Error)
		}
	}
	fmt.Fprintln(t, "  OBJECTIVE\tVERDICT\tVALUE\tGOAL\tCONTROL\tNOTE")
	for _, x := range r.Results {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\n", x.Name, x.Verdict, Number(x.Value, x.Unit), goal(x), Number(x.Control, x.Unit), x.Note)
	}
	fmt.Fprintf(t, "  work waited for a CPU\t\t%.0f %%\t\t%.0f %%\t\n", 100*r.PressureFault, 100*r.PressureControl)
	return t.Flush()
}
