package score

import (
	"fmt"
	"time"

	"github.com/meridian-video/meridian/drill/scenario"
)

// lost is everything acknowledged that is gone.
func (j *judge) lost(goal *int) {
	r := Result{Name: "lost", Title: "Acknowledged uploads, writes and objects lost"}
	acked, value := 0, 0.0
	for _, u := range j.o.Uploads {
		if !u.Acknowledged() {
			continue
		}
		acked++
		if u.Ready.IsZero() {
			value++
			r.Note = join(r.Note, fmt.Sprintf("%s is %s %s", u.Asset, u.State, u.Failure))
		}
	}
	for _, w := range j.o.LostWrites {
		value++
		r.Note = join(r.Note, w)
	}
	known := true
	if j.o.Stores != nil {
		value += float64(j.o.Stores.Lost)
		var wrong int64
		for _, x := range j.o.Stores.Regions {
			wrong += x.Wrong
		}
		value += float64(wrong)
		r.Note = join(r.Note, fmt.Sprintf("%d uploads acknowledged; of %d objects named %d lost, %d wrong", acked, j.o.Stores.Named, j.o.Stores.Lost, wrong))
	} else {
		known = false
		r.Note = join(r.Note, "the stores weren't compared")
	}
	if j.o.Creators > 0 && acked == 0 {
		known = false
		r.Note = join(r.Note, "no upload was acknowledged")
	}
	if known || value > 0 {
		r.Value = &value
	}
	if goal != nil {
		g := float64(*goal)
		r.Goal = &g
	}
	j.add(r)
}

// leaks are answers that gave a private video to somebody without a token.
func (j *judge) leaks(goal *int) {
	var g Guarded
	if j.o.Guarded != nil {
		g = *j.o.Guarded
	}
	j.guarded("leaks", "Private video given without a token", goal, g.Given, g.Refused, "refused", "last by "+g.By)
}

// denied are refusals of a private video to somebody with a token.
func (j *judge) denied(goal *int) {
	var g Guarded
	if j.o.Guarded != nil {
		g = *j.o.Guarded
	}
	j.guarded("denied", "Private video refused with a token", goal, g.Denied, g.Admitted, "given", "last refused by "+g.DeniedBy)
}

// guarded judges how often a request for the private video was answered wrongly;
// where nobody asked, nothing was measured.
func (j *judge) guarded(name, title string, goal *int, wrong, right int, how, last string) {
	r := Result{Name: name, Title: title}
	if j.o.Guarded != nil {
		r.Note = fmt.Sprintf("%d times %s", right, how)
	}
	if wrong > 0 {
		r.Note = join(r.Note, last)
	}
	if wrong+right > 0 {
		v := float64(wrong)
		r.Value = &v
	}
	if goal != nil {
		v := float64(*goal)
		r.Goal = &v
	}
	if r.Goal != nil || r.Value != nil {
		j.add(r)
	}
}

// backlog is the most uploads that waited for their encoding at a time.
func (j *judge) backlog() {
	if j.o.Creators == 0 {
		return
	}
	at := func(from, to time.Time) *float64 {
		most := 0.0
		for t := from; t.Before(to); t = t.Add(time.Second) {
			n := 0.0
			for _, u := range j.o.Uploads {
				if u.Acknowledged() && !u.Acked.After(t) && (u.Ready.IsZero() || u.Ready.After(t)) {
					n++
				}
			}
			most = max(most, n)
		}
		return &most
	}
	j.add(Result{Name: "backlog", Title: "Most uploads waiting to be encoded", Value: at(j.o.FaultBegan, j.o.End), Control: at(j.o.ControlBegan, j.o.FaultBegan)})
}

// recovery is how long it took until all was well again.
func (j *judge) recovery(obj scenario.Objectives) {
	var from time.Time
	for _, h := range j.o.Steps {
		at := h.Healing
		if at.IsZero() {
			at = h.Began
		}
		if at.After(from) {
			from = at
		}
	}
	why := ""
	for _, w := range j.o.Why {
		why = join(why, w)
	}
	since := func(name, title string, goal *scenario.Duration, from, at time.Time) {
		r := Result{Name: name, Title: title, Unit: "s", Goal: seconds(goal)}
		if from.IsZero() || at.IsZero() {
			r.Note = join("never", why)
		} else {
			v := max(0, at.Sub(from).Seconds())
			r.Value = &v
		}
		if r.Goal != nil || r.Value != nil {
			j.add(r)
		}
	}
	if len(j.o.Steps) > 0 {
		since("recovery", "Platform whole after the last fault was undone", obj.Recovery, from, j.o.Whole)
	}
	if j.o.Creators > 0 {
		since("ready", "Last acknowledged upload ready after that", obj.Ready, j.o.Whole, j.o.AllReady)
	}
	last := j.o.Whole
	if j.o.AllReady.After(last) {
		last = j.o.AllReady
	}
	since("reconciled", "All stores as the catalog says after that", obj.Reconciled, last, j.o.Reconciled)
}
