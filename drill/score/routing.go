package score

import (
	"fmt"
	"slices"
	"time"

	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/internal/region"
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

// stopsWithin is when what was lost has delivered the last it was asked for before.
const stopsWithin = time.Second

// lostAt is when edges were last asked for something that they delivered, and what
// is wrong with that. A region that ends in order has said so when that begins.
func (j *judge) lostAt(h Happened, edges []string) (at time.Time, wrong string) {
	at = h.Began
	if h.Fault.Fault == scenario.Stop {
		return at, ""
	}
	for _, d := range j.o.Delivered {
		if d.At.After(at) && d.At.Before(h.until(j.o.End)) && slices.Contains(edges, d.Edge) {
			at = d.At
		}
	}
	if late := at.Sub(h.Applied); late > stopsWithin {
		wrong = fmt.Sprintf("%s delivered for %.1f s more", h.Fault, late.Seconds())
	}
	return at, wrong
}

// reroute is when the last answer came that named what was lost, after that had
// last delivered anything.
func (j *judge) reroute(name, title string, goal *scenario.Duration, by fleet.Transport) {
	r := Result{Name: name, Title: title, Unit: "s", Goal: seconds(goal)}
	wrong, answers, silent := 0, 0, 0
	alive := ""
	j.hits(func(h Happened, edges []string) {
		until := h.until(j.o.End)
		from, still := j.lostAt(h, edges)
		alive = join(alive, still)
		last, n := 0.0, 0
		for _, a := range j.o.Answers {
			if a.Transport != by || !a.At.After(from) || !a.At.Before(until) {
				continue
			}
			if a.Err != "" {
				silent++
				continue
			}
			n++
			if slices.ContainsFunc(a.Edges, func(e string) bool { return slices.Contains(edges, e) }) {
				wrong++
				last = max(last, a.At.Sub(from).Seconds())
			}
		}
		answers += n
		if n >= leastAnswers && still == "" {
			keep(&r.Value, last)
		}
	})
	if answers > 0 {
		r.Note = fmt.Sprintf("%d of %d answers wrong, %d questions unanswered", wrong, answers, silent)
	}
	if alive != "" {
		r.Value, r.Note = nil, join(alive, r.Note)
	}
	if r.Goal != nil || r.Value != nil {
		j.add(r)
	}
}

// falseMoves are askers whom a router sent to another region than the nearest,
// though nothing was done to that, or farther than to the next nearest. A region
// may be returned to gently after its fault: until the end all is excused.
func (j *judge) falseMoves(goal *int) {
	excused := map[string]bool{}
	for _, h := range j.o.Steps {
		f := h.Fault
		// A full disk or a process alone is no reason to leave a region.
		if f.Fault == scenario.Slow && f.Process == "" || f.TakesRegion(j.o.Table) {
			excused[f.Region] = true
		}
	}
	right := map[string][]string{} // by where askers are; nil is anywhere
	for _, r := range j.o.Table.Regions {
		right[r.Name] = []string{r.Name}
		if !excused[r.Name] {
			continue
		}
		near := j.o.Table.Nearest(r.Name)
		next := slices.IndexFunc(near, func(x region.Region) bool { return !excused[x.Name] })
		if next < 0 {
			right[r.Name] = nil
		} else {
			right[r.Name] = append(right[r.Name], near[next].Name)
		}
	}
	type asker struct {
		near string
		n    int
	}
	count := func(from, to time.Time, right map[string][]string, why map[string]int, moved map[asker]bool) float64 {
		strayed := map[asker]bool{}
		for _, a := range j.o.Answers {
			if a.Err != "" || a.At.Before(from) || a.At.After(to) {
				continue
			}
			_, to, _ := j.o.Table.Edge(a.Edges[0])
			who := asker{a.Near, a.Asker}
			if to.Name != a.Near {
				moved[who] = true
			}
			if list := right[a.Near]; list != nil && !slices.Contains(list, to.Name) {
				strayed[who] = true
				why[fmt.Sprintf("answers by %s of %s: from %s to %s", a.Transport, a.Router, a.Near, to.Name)]++
			}
		}
		return float64(len(strayed))
	}
	home := map[string][]string{}
	for _, r := range j.o.Table.Regions {
		home[r.Name] = []string{r.Name}
	}
	why, moved := map[string]int{}, map[asker]bool{}
	control := count(j.o.ControlBegan, j.o.FaultBegan, home, map[string]int{}, map[asker]bool{})
	value := count(j.o.FaultBegan, j.o.End, right, why, moved)
	r := Result{Name: "false_moves", Title: "Askers sent away from a region nothing was done to", Value: &value, Control: &control,
		Note: join(fmt.Sprintf("%d sent elsewhere at all", len(moved)), most(why))}
	if goal != nil {
		g := float64(*goal)
		r.Goal = &g
	}
	if len(j.o.Answers) == 0 {
		r.Value, r.Note = nil, "nobody asked"
	}
	j.add(r)
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
