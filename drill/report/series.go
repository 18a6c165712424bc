package report

import (
	"math"
	"slices"
	"time"

	"github.com/meridian-video/meridian/drill/fleet"
	"github.com/meridian-video/meridian/drill/score"
)

// round keeps milliseconds: a report is read, and compared by people.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }

func (r *Run) series(o score.Observations, began time.Time) {
	s := &r.Series
	regions := len(o.Table.Regions)
	s.By = make([][]int, regions)
	var last fleet.Sample
	for n, x := range o.Samples {
		s.At = append(s.At, round(x.At.Sub(began).Seconds()))
		for i := range regions {
			s.By[i] = append(s.By[i], x.By[i])
		}
		s.Opening, s.Standing = append(s.Opening, x.Opening), append(s.Standing, x.Standing)
		s.Least, s.Median = append(s.Least, round(x.Least)), append(s.Median, round(x.Median))
		rate := 0.0
		if n > 0 {
			rate = float64(x.Bytes-last.Bytes) * 8 / 1e6 / x.At.Sub(last.At).Seconds()
		}
		s.Megabits = append(s.Megabits, round(rate))
		backlog := 0
		for _, u := range o.Uploads {
			if u.Acknowledged() && !u.Acked.After(x.At) && (u.Ready.IsZero() || u.Ready.After(x.At)) {
				backlog++
			}
		}
		s.Backlog = append(s.Backlog, backlog)
		last = x
	}
	s.Errors, s.Pressure = make([]int, len(s.At)), make([]float64, len(s.At))
	at := func(t time.Time) int {
		i, _ := slices.BinarySearch(s.At, t.Sub(began).Seconds())
		return min(i, len(s.At)-1)
	}
	for _, e := range o.Events {
		if i := at(e.At); e.Kind == fleet.Failed && i >= 0 {
			s.Errors[i]++
		}
	}
	var control, fault, nControl, nFault float64
	for _, p := range o.Pressure {
		if i := at(p.At); i >= 0 {
			s.Pressure[i] = round(p.Some)
		}
		switch {
		case p.At.Before(o.ControlBegan):
		case p.At.Before(o.FaultBegan):
			control, nControl = control+p.Some, nControl+1
		default:
			fault, nFault = fault+p.Some, nFault+1
		}
	}
	if nControl > 0 {
		r.PressureControl = round(control / nControl)
	}
	if nFault > 0 {
		r.PressureFault = round(fault / nFault)
	}
}
