package health

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Verdict is what is believed about a target, all views taken together.
type Verdict struct {
	Up bool
	// Why in a few words; empty for a target that is simply up.
	Why string
}

// lateLife is how long a report counts for a target from which nothing is heard. The
// way out of here may be bad, reports come by it, too, and what is sent again on it
// keeps back all that follows.
const lateLife = 3 * time.Second

// witness is the last report of another router.
type witness struct {
	report
	arrived time.Time
}

func (w *witness) living(now time.Time) bool { return now.Sub(w.arrived) < reportLife }

// late reports whether the next report may yet come.
func (w *witness) late(now time.Time) bool { return now.Sub(w.arrived) < lateLife }

// judge applies the witness rule to one target.
func judge(t Target, own tracker, witnesses map[string]*witness, now time.Time) Verdict {
	if !own.seen {
		return Verdict{Up: true, Why: "not probed yet"}
	}
	if !own.down {
		return Verdict{Up: true}
	}
	var reach, reached []string // by the living, by the late
	denied := false
	for _, w := range witnesses {
		v, ok := w.Targets[t.Name]
		switch {
		case !ok || w.Region == t.Region || !w.late(now):
		case w.living(now) && v.Up:
			reach = append(reach, w.Region)
		case v.Up:
			reached = append(reached, w.Region)
		case w.living(now):
			denied = true
		}
	}
	if len(reach) > 0 {
		return Verdict{Up: true, Why: fmt.Sprintf("not reached from here (%s), but from %s", own.why, names(reach))}
	}
	// A refusal came by a way that is well.
	if len(reached) > 0 && !denied && own.mute {
		return Verdict{Up: true, Why: fmt.Sprintf("not reached from here (%s), but from %s, whose next report is late", own.why, names(reached))}
	}
	return Verdict{Why: own.why}
}

// names lists regions, each once.
func names(regions []string) string {
	slices.Sort(regions)
	return strings.Join(slices.Compact(regions), ", ")
}
