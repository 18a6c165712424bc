package repair

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
)

// What can be wrong with an object.
const (
	// Missing: placement asks for it in the region, and it isn't there.
	Missing = "missing"
	// Foreign: it is there, old enough, and the catalog doesn't name it.
	Foreign = "foreign"
	// Wrong: its bytes aren't those the catalog names.
	Wrong = "wrong"
	// Short: fewer reachable regions hold it than acknowledged it. Lost: none does.
	Short = "short"
	Lost  = "lost"
)

// Why an object is foreign.
const (
	reasonUnknown = "unknown asset"
	reasonRemoved = "asset or run is gone"
	reasonUnnamed = "named by no row"
	reasonForm    = "not a key of the platform's"
)

// Finding is one thing that isn't as it should be.
type Finding struct {
	Kind string `json:"kind"`
	// Region is empty for Short and Lost.
	Region string `json:"region,omitempty"`
	Key    string `json:"key"`
	Detail string `json:"detail,omitempty"`
}

// RegionReport is how one region's store compares with the catalog.
type RegionReport struct {
	Region string `json:"region"`
	// Reached: it could be listed. Otherwise Problem says why not, and nothing is counted.
	Reached bool   `json:"reached"`
	Problem string `json:"problem,omitempty"`
	Objects int64  `json:"objects"`
	Bytes   int64  `json:"bytes"`
	Missing int64  `json:"missing"`
	Foreign int64  `json:"foreign"`
	Wrong   int64  `json:"wrong"`
	// Young are objects the catalog doesn't name that may be of work under way.
	Young int64 `json:"young"`
	// Read is how many objects' bytes were read and compared.
	Read int64 `json:"read"`
}

// Report is how the stores compare with the catalog.
type Report struct {
	Began time.Time `json:"began"`
	// Seconds it took.
	Seconds float64 `json:"seconds"`
	Assets  int64   `json:"assets"`
	// Named is how many objects the catalog names.
	Named int64 `json:"named"`
	// Short and Lost count objects in too few reachable regions, and in none.
	Short   int64          `json:"short"`
	Lost    int64          `json:"lost"`
	Regions []RegionReport `json:"regions"`
	// Findings are the first ones, at most maxFindings.
	Findings []Finding `json:"findings"`
}

// maxFindings bounds a report; the counts are always whole.
const maxFindings = 1000

// Err says what isn't as it should be, nil if all is.
func (r Report) Err() error {
	var bad []string
	add := func(n int64, what string) {
		if n > 0 {
			bad = append(bad, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(r.Lost, "lost")
	add(r.Short, "in too few regions")
	var missing, foreign, wrong int64
	for _, x := range r.Regions {
		missing, foreign, wrong = missing+x.Missing, foreign+x.Foreign, wrong+x.Wrong
	}
	add(wrong, "wrong")
	add(missing, "missing")
	add(foreign, "foreign")
	if i := slices.IndexFunc(r.Regions, func(x RegionReport) bool { return !x.Reached }); i >= 0 {
		bad = append(bad, r.Regions[i].Region+" not reached")
	}
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("stores and catalog differ: %s", strings.Join(bad, ", "))
}

// Print writes the report for people.
func (r Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REGION\tOBJECTS\tSIZE\tMISSING\tFOREIGN\tWRONG\tYOUNG\tREAD")
	for _, x := range r.Regions {
		if !x.Reached {
			fmt.Fprintf(t, "%s\tnot reached: %s\n", x.Region, x.Problem)
			continue
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%d\t%d\t%d\t%d\n", x.Region, x.Objects, humanize.Bytes(uint64(x.Bytes)), x.Missing, x.Foreign, x.Wrong, x.Young, x.Read)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d assets, %d objects named: %d in too few regions, %d lost; compared in %.1f s\n", r.Assets, r.Named, r.Short, r.Lost, r.Seconds)
	for _, f := range r.Findings {
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%-7s %-3s %s  %s\n", f.Kind, f.Region, f.Key, f.Detail)
	}
	return err
}
