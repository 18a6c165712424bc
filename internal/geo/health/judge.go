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

// witness is the last report of another router.
type witness struct {
	report
	arrived time.Time
}

func (w *witness) living(now time.Time) bool { return now.Sub(w.arrived) < reportLife }

// judge applies the witness rule to one target.
func judge(t Target, own tracker, witnesses map[string]*witness, now time.Time) Verdict {
	if !own.seen {
		return Verdict{Up: true, Why: "not probed yet"}
	}
	if !own.down {
		return Verdict{Up: true}
	}
	var reach []string
	for _, w := range witnesses {
		if !w.living(now) || w.Region == t.Region {
			continue
		}
		if v, ok := w.Targets[t.Name]; ok && v.Up && !slices.Contains(reach, w.Region) {
			reach = append(reach, w.Region)
		}
	}
	if len(reach) > 0 {
		slices.Sort(reach)
		return Verdict{Up: true, Why: fmt.Sprintf("not reached from here (%s), but from %s", own.why, strings.Join(reach, ", "))}
	}
	return Verdict{Why: own.why}
}
