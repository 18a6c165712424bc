package score

import (
	"fmt"
	"slices"
	"time"

	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/scenario"
)

// hits are the faults that take edges away until they are undone, with the edges.
// A killed process is back before long, and nobody tells when.
func (j *judge) hits(f func(h Happened, edges []string)) {
	for _, h := range j.o.Steps {
		if edges := h.Fault.Hits(j.o.Table); len(edges) > 0 && h.Err == "" && h.Fault.Heals() {
			f(h, edges)
		}
	}
}

// routerLives reports whether nothing was being done to a region's router then.
func (j *judge) routerLives(region string, at time.Time) bool {
	for _, h := range j.o.Steps {
		gone := h.Healed
		if gone.IsZero() {
			gone = j.o.End
		}
		if h.Fault.Region == region && h.Fault.HitsRouter() && !at.Before(h.Began) && !at.After(gone) {
			return false
		}
	}
	return true
}

// reroute is when the last answer came that named what was lost.
func (j *judge) reroute(name, title string, goal *scenario.Duration, by fleet.Transport) {
	r := Result{Name: name, Title: title, Unit: "s", Goal: seconds(goal)}
	wrong, answers, silent := 0, 0, 0
	j.hits(func(h Happened, edges []string) {
		last, n := 0.0, 0
		for _, a := range j.o.Answers {
			if a.Transport != by || !a.At.After(h.Began) || !a.At.Before(h.until(j.o.End)) || !j.routerLives(a.Router, a.At) || !j.routerLives(a.Router, a.Asked) {
				continue
			}
			if a.Err != "" {
				silent++
				continue
			}
			n++
			if slices.ContainsFunc(a.Edges, func(e string) bool { return slices.Contains(edges, e) }) {
				wrong++
				last = max(last, a.At.Sub(h.Began).Seconds())
			}
		}
		answers += n
		if n >= leastAnswers {
			keep(&r.Value, last)
		}
	})
	if answers > 0 {
		r.Note = fmt.Sprintf("%d of %d answers wrong, %d questions unanswered", wrong, answers, silent)
	}
	if r.Goal != nil || r.Value != nil {
		j.add(r)
	}
}

// moved is when the last steered viewer of what was lost had media from elsewhere.
func (j *judge) moved(goal *scenario.Duration) {
	r := Result{Name: "moved", Title: "Last steered viewer served from elsewhere", Unit: "s", Goal: seconds(goal)}
	served := map[int][]fleet.Event{}
	for _, e := range j.o.Events {
		if e.Kind == fleet.Served && e.Way != fleet.Plain {
			served[e.Viewer] = append(served[e.Viewer], e)
		}
	}
	affected, never := 0, 0
	var took []float64
	j.hits(func(h Happened, edges []string) {
		until := h.until(j.o.End)
		for _, list := range served {
			before := ""
			var after time.Time
			for _, e := range list {
				if e.At.Before(h.Began) {
					before = e.Edge
				} else if after.IsZero() && e.At.Before(until) && !slices.Contains(edges, e.Edge) {
					after = e.At
				}
			}
			if !slices.Contains(edges, before) {
				continue
			}
			affected++
			if after.IsZero() {
				never++
				took = append(took, until.Sub(h.Began).Seconds())
			} else {
				took = append(took, after.Sub(h.Began).Seconds())
			}
		}
	})
	if p := percentile(took, 0.5); p != nil {
		r.Value = &took[len(took)-1]
		r.Note = fmt.Sprintf("%d viewers; median %.2f s", affected, *p)
		if never > 0 {
			r.Note += fmt.Sprintf("; %d weren't while it lasted", never)
		}
	}
	if r.Goal != nil || r.Value != nil {
		j.add(r)
	}
}

// moves are steered viewers who were served from another region than the nearest.
func (j *judge) moves(goal *int) {
	during, before := map[int]bool{}, map[int]bool{}
	for _, e := range j.o.Events {
		if e.Kind != fleet.Served || e.Way == fleet.Plain || e.Region == e.Near {
			continue
		}
		if j.inControl(e.At) {
			before[e.Viewer] = true
		}
		if j.inFault(e.At) {
			during[e.Viewer] = true
		}
	}
	value, control := float64(len(during)), float64(len(before))
	r := Result{Name: "moves", Title: "Steered viewers served from another region than the nearest", Value: &value, Control: &control}
	if goal != nil {
		g := float64(*goal)
		r.Goal = &g
		if len(j.o.Samples) == 0 {
			r.Value, r.Note = nil, "nobody watched"
		}
	}
	j.add(r)
}

// wrongRegion is how long viewers are served from another region than the
// nearest that lives, on average where it is worst.
func (j *judge) wrongRegion(goal *scenario.Duration) {
	from, to := j.o.FaultBegan, j.o.End
	for _, h := range j.o.Steps {
		// What is undone is returned to gently; that isn't wrong.
		if at := h.until(j.o.End); at.Before(to) {
			to = at
		}
	}
	r := Result{Name: "wrong_region", Title: "Seconds a viewer was served from another region than the nearest", Unit: "s", Goal: seconds(goal)}
	r.Value = j.wrongIn(from, to)
	r.Control = j.wrongIn(j.o.ControlBegan, j.o.FaultBegan)
	j.add(r)
}

func (j *judge) wrongIn(from, to time.Time) *float64 {
	sums := make([]float64, len(j.o.Viewers))
	seen := false
	last := from
	for _, s := range j.o.Samples {
		if s.At.Before(from) || s.At.After(to) {
			continue
		}
		seen = true
		passed := s.At.Sub(last).Seconds()
		last = s.At
		for i, n := range s.Wrong {
			if i < len(sums) {
				sums[i] += float64(n) * passed
			}
		}
	}
	if !seen {
		return nil
	}
	var worst float64
	for i, sum := range sums {
		if n := j.o.Viewers[i]; n > 0 {
			worst = max(worst, sum/float64(n))
		}
	}
	return &worst
}
