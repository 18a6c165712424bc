package report

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/meridian-video/meridian/drill/score"
)

// Change is one figure in two reports.
type Change struct {
	Run, Name, Unit string
	Before, After   *float64
	// Was and Is are the verdicts; empty where a report lacks the figure.
	Was, Is score.Verdict
	// Worse: it passed before and doesn't now.
	Worse bool
}

// ErrWorse is a comparison in which something passed before and doesn't now.
var ErrWorse = errors.New("what passed before doesn't now")

// Diff compares the figures of two reports, those of the first first.
func Diff(before, after Report) []Change {
	var out []Change
	at := map[string]int{}
	for _, r := range before.Runs {
		for _, x := range r.Results {
			at[r.Name+"\x00"+x.Name] = len(out)
			out = append(out, Change{Run: r.Name, Name: x.Name, Unit: x.Unit, Before: x.Value, Was: x.Verdict})
		}
	}
	ran := map[string]bool{}
	for _, r := range after.Runs {
		ran[r.Name] = true
		for _, x := range r.Results {
			i, ok := at[r.Name+"\x00"+x.Name]
			if !ok {
				i = len(out)
				out = append(out, Change{Run: r.Name, Name: x.Name, Unit: x.Unit})
			}
			out[i].After, out[i].Is = x.Value, x.Verdict
		}
	}
	for i := range out {
		c := &out[i]
		// What wasn't run isn't worse; what was and has no figure any more is.
		c.Worse = c.Was == score.Pass && c.Is != score.Pass && ran[c.Run]
	}
	return out
}

// PrintDiff writes changes for a terminal. The error is ErrWorse if any is worse.
func PrintDiff(w io.Writer, changes []Change) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SCENARIO\tFIGURE\tBEFORE\tAFTER\tCHANGE\tVERDICT")
	worse := 0
	for _, c := range changes {
		change := ""
		if c.Before != nil && c.After != nil && *c.Before != *c.After {
			change = fmt.Sprintf("%+.4g", *c.After-*c.Before)
		}
		verdict := string(c.Is)
		if c.Was != c.Is {
			verdict = fmt.Sprintf("%s → %s", orDash(c.Was), orDash(c.Is))
		}
		if c.Worse {
			worse++
			verdict += "  WORSE"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Run, c.Name, Number(c.Before, c.Unit), Number(c.After, c.Unit), change, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if worse > 0 {
		return fmt.Errorf("%w: %d figures", ErrWorse, worse)
	}
	return nil
}

func orDash(v score.Verdict) string {
	if v == "" {
		return "–"
	}
	return string(v)
}
