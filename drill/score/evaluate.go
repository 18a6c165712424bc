package score

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meridian-video/meridian/drill/creators"
	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/scenario"
)

// Verdict on an objective or a run.
type Verdict string

// The verdicts. Measured is a value nobody asked anything of.
const (
	Pass     Verdict = "pass"
	Fail     Verdict = "fail"
	Unsure   Verdict = "unsure"
	Measured Verdict = "measured"
)

// Result is one objective, judged.
type Result struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Unit is "s", or empty for a count.
	Unit string `json:"unit,omitempty"`
	// Goal is the most that is good; nil if nothing was asked.
	Goal *float64 `json:"goal,omitempty"`
	// Value in the phase with faults, Control without; nil if not measured.
	Value   *float64 `json:"value,omitempty"`
	Control *float64 `json:"control,omitempty"`
	Verdict Verdict  `json:"verdict"`
	Note    string   `json:"note,omitempty"`
}

const (
	// leastAnswers that a last wrong one is believed among.
	leastAnswers = 10
	// fullShare of the scenario's buffer is what half of the viewers must have had: a
	// full buffer goes below its size while the next segment comes.
	fullShare = 0.9
)

type judge struct {
	s       scenario.Scenario
	o       Observations
	results []Result
}

// Evaluate judges a run.
func Evaluate(s scenario.Scenario, o Observations) []Result {
	j := &judge{s: s, o: o}
	obj := s.Objectives
	j.stalls("stalls", "Stalls of steered viewers", obj.Stalls, func(e fleet.Event) bool { return e.Way != fleet.Plain && e.Way != fleet.Browser })
	j.counts("early_stalls", "Stalls of viewers who hadn't filled their buffers", nil, func(e fleet.Event) bool { return e.Kind == fleet.Stalled && !j.hadBuffer(e) })
	j.stalledSeconds()
	j.stalls("plain_stalls", "Stalls of viewers in the plain form", obj.PlainStalls, func(e fleet.Event) bool { return e.Way == fleet.Plain })
	j.browserStalls(obj.BrowserStalls)
	j.reroute("reroute.redirect", "Last wrong redirect of a living router", obj.Reroute.Redirect, fleet.ByRedirect)
	j.reroute("reroute.steering", "Last wrong steering answer", obj.Reroute.Steering, fleet.BySteering)
	j.reroute("reroute.dns", "Last wrong name server's answer", obj.Reroute.DNS, fleet.ByDNS)
	j.falseMoves(obj.FalseMoves)
	j.moved(obj.Moved)
	j.wrongRegion(obj.WrongRegion)
	j.moves(obj.Moves)
	j.startUp(obj.StartUp)
	j.counts("failed_opens", "Sessions that never began", obj.FailedOpens, func(e fleet.Event) bool { return e.Kind == fleet.FailedOpen || e.Kind == fleet.Refused })
	j.counts("corrupt", "Answers with other bytes than before", obj.Corrupt, func(e fleet.Event) bool { return e.Kind == fleet.Corrupt })
	j.counts("errors", "Requests of viewers that failed", nil, func(e fleet.Event) bool { return e.Kind == fleet.Failed })
	j.writes(obj.Writes)
	j.uploads(obj.Uploads)
	j.encoding(obj.Encoding)
	j.lost(obj.Lost)
	j.leaks(obj.Leaks)
	j.denied(obj.Denied)
	j.backlog()
	j.recovery(obj)
	return j.results
}

// Sum is the verdict on all.
func Sum(results []Result, steps []Happened) Verdict {
	out := Pass
	for _, h := range steps {
		if h.Err != "" {
			return Fail // what didn't happen was survived by nobody
		}
	}
	for _, r := range results {
		switch r.Verdict {
		case Fail:
			return Fail
		case Unsure:
			out = Unsure
		}
	}
	return out
}

// add judges a value; control is what the phase without faults had.
func (j *judge) add(r Result) {
	switch {
	case r.Goal == nil:
		r.Verdict = Measured
	case r.Value == nil:
		r.Verdict = Fail
		if r.Note == "" {
			r.Note = "nothing was measured"
		}
	case *r.Value <= *r.Goal:
		r.Verdict = Pass
	case r.Control != nil && *r.Control > *r.Goal:
		r.Verdict = Unsure
		r.Note = join(r.Note, "missed without a fault, too")
	default:
		r.Verdict = Fail
	}
	j.results = append(j.results, r)
}

func join(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return a + "; " + b
}

func (j *judge) inControl(t time.Time) bool {
	return !t.Before(j.o.ControlBegan) && t.Before(j.o.FaultBegan)
}
func (j *judge) inFault(t time.Time) bool { return !t.Before(j.o.FaultBegan) && !t.After(j.o.End) }

func (j *judge) counts(name, title string, goal *int, match func(fleet.Event) bool) {
	var value, control float64
	why := map[string]int{}
	for _, e := range j.o.Events {
		if !match(e) {
			continue
		}
		if j.inControl(e.At) {
			control++
		}
		if j.inFault(e.At) {
			value++
			if e.Text != "" {
				why[e.Text]++
			}
		}
	}
	r := Result{Name: name, Title: title, Value: &value, Control: &control, Note: most(why)}
	if goal != nil {
		g := float64(*goal)
		r.Goal = &g
		if len(j.o.Samples) == 0 {
			r.Value, r.Note = nil, "nobody watched"
		}
	}
	j.add(r)
}

// hadBuffer reports whether the viewer who stalled had the scenario's buffer in
// hand before: it promises them no stall, not those who have just begun.
func (j *judge) hadBuffer(e fleet.Event) bool { return e.Had >= j.s.Load.Buffer.Std().Seconds() }

// stalls counts those of viewers who had the scenario's buffer in hand. Where most
// never had, none is no proof.
func (j *judge) stalls(name, title string, goal *int, match func(fleet.Event) bool) {
	want := fullShare * j.s.Load.Buffer.Std().Seconds()
	if goal != nil && len(j.o.Samples) > 0 && !slices.ContainsFunc(j.o.Samples, func(s fleet.Sample) bool {
		return s.At.Before(j.o.FaultBegan) && s.Median >= want
	}) {
		g := float64(*goal)
		j.add(Result{Name: name, Title: title, Goal: &g, Note: fmt.Sprintf("half of the viewers never had %.0f s in hand before the fault", want)})
		return
	}
	j.counts(name, title, goal, func(e fleet.Event) bool { return e.Kind == fleet.Stalled && j.hadBuffer(e) && match(e) })
}

// browserStalls counts those of real players. One that never had the scenario's
// buffer in hand proves nothing.
func (j *judge) browserStalls(goal *int) {
	if goal == nil && len(j.o.Browsers) == 0 {
		return
	}
	var why []string
	for _, b := range j.o.Browsers {
		if b.Filled.IsZero() || b.Filled.After(j.o.FaultBegan) {
			why = append(why, fmt.Sprintf("the one near %s didn't have %v in hand before the fault", b.Near, j.s.Load.Buffer.Std()))
		}
		if b.Err != "" {
			why = append(why, b.Err)
		}
	}
	if len(j.o.Browsers) == 0 {
		why = append(why, "there were none")
	}
	const name, title = "browser_stalls", "Stalls of real browsers"
	if len(why) > 0 {
		r := Result{Name: name, Title: title, Note: strings.Join(why, "; ")}
		if goal != nil {
			g := float64(*goal)
			r.Goal = &g
		}
		j.add(r)
		return
	}
	j.counts(name, title, goal, func(e fleet.Event) bool { return e.Kind == fleet.Stalled && e.Way == fleet.Browser && j.hadBuffer(e) })
}

// most names the most frequent.
func most(why map[string]int) string {
	type count struct {
		text string
		n    int
	}
	var all []count
	for text, n := range why {
		all = append(all, count{text, n})
	}
	slices.SortFunc(all, func(a, b count) int {
		if a.n != b.n {
			return b.n - a.n
		}
		if a.text < b.text {
			return -1
		}
		return 1
	})
	out := ""
	for i, c := range all {
		if i == 4 {
			return join(out, fmt.Sprintf("%d others", len(all)-i))
		}
		text := c.text
		if len(text) > 80 {
			text = text[:80] + "…"
		}
		out = join(out, fmt.Sprintf("%d %s", c.n, text))
	}
	return out
}

func (j *judge) stalledSeconds() {
	var value, control float64
	for _, e := range j.o.Events {
		if e.Kind != fleet.Stalled {
			continue
		}
		if j.inControl(e.At) {
			control += e.Seconds
		}
		if j.inFault(e.At) {
			value += e.Seconds
		}
	}
	j.add(Result{Name: "stalled_seconds", Title: "Seconds stalled, of all viewers together", Unit: "s", Value: &value, Control: &control})
}

// startUp is the 95th percentile.
func (j *judge) startUp(goal *scenario.Duration) {
	var value, control []float64
	for _, e := range j.o.Events {
		if e.Kind != fleet.Started {
			continue
		}
		if j.inControl(e.At) {
			control = append(control, e.Seconds)
		}
		if j.inFault(e.At) {
			value = append(value, e.Seconds)
		}
	}
	r := Result{Name: "start_up", Title: "Start-up time, 95 of 100 sessions", Unit: "s", Goal: seconds(goal), Value: percentile(value, 0.95), Control: percentile(control, 0.95)}
	if p := percentile(value, 0.5); p != nil {
		r.Note = fmt.Sprintf("%d sessions; median %.2f s, slowest %.2f s", len(value), *p, value[len(value)-1])
	}
	j.add(r)
}

// percentile sorts list and takes the value that share of it doesn't exceed.
func percentile(list []float64, share float64) *float64 {
	if len(list) == 0 {
		return nil
	}
	slices.Sort(list)
	v := list[min(len(list)-1, int(share*float64(len(list))))]
	return &v
}

// writes is the longest time from one success to the next at a region that
// nothing was done to.
func (j *judge) writes(goal *scenario.Duration) {
	if len(j.o.Writes) == 0 && goal == nil {
		return
	}
	r := Result{Name: "writes", Title: "Longest time without a successful write", Unit: "s", Goal: seconds(goal)}
	wrong := map[string]int{}
	for region, list := range j.o.Writes {
		if slices.ContainsFunc(j.o.Steps, func(h Happened) bool {
			return h.Fault.Region == region && (h.Fault.Process == "" || h.Fault.Process == "api")
		}) {
			continue
		}
		keep(&r.Control, longest(list, j.o.ControlBegan, j.o.FaultBegan))
		keep(&r.Value, longest(list, j.o.FaultBegan, j.o.End))
		for _, w := range list {
			if w.Wrong != "" && j.inFault(w.At) {
				wrong[w.Wrong]++
			}
		}
	}
	if len(wrong) > 0 {
		r.Note = "worse than 503 with Retry-After: " + most(wrong)
	}
	j.add(r)
}

// uploads are how long creators waited until the platform had all of a video; one it
// never had took until the end.
func (j *judge) uploads(goal *scenario.Duration) {
	if j.o.Creators == 0 && goal == nil {
		return
	}
	r := Result{Name: "uploads", Title: "Longest until an upload was acknowledged", Unit: "s", Goal: seconds(goal)}
	never := 0
	for _, u := range j.o.Uploads {
		until := u.Acked
		if !u.Acknowledged() {
			until = j.o.End
			never++
		}
		if until.Before(j.o.FaultBegan) {
			keep(&r.Control, until.Sub(u.Began).Seconds())
		} else {
			keep(&r.Value, until.Sub(u.Began).Seconds())
		}
	}
	if never > 0 {
		r.Note = fmt.Sprintf("%d never", never)
	}
	j.add(r)
}

// encoding is the longest time in which uploads waited and nothing more of any was encoded.
func (j *judge) encoding(goal *scenario.Duration) {
	if j.o.Creators == 0 && goal == nil {
		return
	}
	r := Result{Name: "encoding", Title: "Longest that encoding stood still", Unit: "s", Goal: seconds(goal)}
	r.Control = j.stoodStill(j.o.ControlBegan, j.o.FaultBegan)
	r.Value = j.stoodStill(j.o.FaultBegan, j.o.End)
	j.add(r)
}

// stoodStill is nil where nothing waited.
func (j *judge) stoodStill(from, to time.Time) (most *float64) {
	for _, u := range j.o.Uploads {
		if !u.Acknowledged() {
			continue
		}
		since, until := u.Acked, to
		if since.Before(from) {
			since = from
		}
		if !u.Ready.IsZero() && u.Ready.Before(to) {
			until = u.Ready
		}
		if !since.Before(until) {
			continue
		}
		for _, at := range j.o.Advances {
			if at.After(since) && at.Before(until) {
				keep(&most, at.Sub(since).Seconds())
				since = at
			}
		}
		keep(&most, until.Sub(since).Seconds())
	}
	return most
}

func longest(list []creators.Write, from, to time.Time) float64 {
	last, out := from, time.Duration(0)
	for _, w := range list {
		if !w.OK() || w.At.Before(from) {
			continue
		}
		at := w.At
		if at.After(to) {
			at = to
		}
		out = max(out, at.Sub(last))
		if last = at; !w.At.Before(to) {
			break
		}
	}
	return max(out, to.Sub(last)).Seconds()
}

// keep makes *p the larger of itself and v.
func keep(p **float64, v float64) {
	if *p == nil || **p < v {
		*p = &v
	}
}

func seconds(d *scenario.Duration) *float64 {
	if d == nil {
		return nil
	}
	s := d.Std().Seconds()
	return &s
}
