package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/meridian-video/meridian/drill/score"
)

//go:embed page.html
var page string

// HTML writes the report as one page that needs nothing else.
func (r Report) HTML(w io.Writer) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"word": word, "number": Number, "goal": goal, "value": func(x Run, name string) string { return x.figure(name) },
		"cards": cards, "viewers": viewersChart, "inhand": inHandChart, "failed": failedChart, "cpu": cpuChart,
		"secs": func(v float64) string { return fmt.Sprintf("%.1f s", v) },
		"span": func(from, to float64) string { return fmt.Sprintf("%.1f s", to-from) },
	}).Parse(page)
	if err != nil {
		return err
	}
	verdict := score.Pass
	if r.Err() != nil {
		verdict = score.Fail
	}
	headline := fmt.Sprintf("%d of %d passed", r.Passed(), len(r.Runs))
	if verdict == score.Pass {
		headline = "All passed"
	}
	var places []string
	for _, x := range r.Regions {
		places = append(places, x.Place)
	}
	return t.Execute(w, map[string]any{
		"Report": r, "Runs": r.Runs, "Verdict": verdict, "Headline": headline, "Places": strings.Join(places, ", "),
		"Date": r.Began.Format("2 January 2006, 15:04 MST"), "Took": (time.Duration(r.Seconds) * time.Second).String(),
	})
}

func word(v score.Verdict) string {
	switch v {
	case score.Pass:
		return "✓ passed"
	case score.Fail:
		return "✗ failed"
	case score.Unsure:
		return "? unsure"
	}
	return "measured"
}

func (r Run) result(name string) *score.Result {
	for i := range r.Results {
		if r.Results[i].Name == name {
			return &r.Results[i]
		}
	}
	return nil
}

// figure is a result's value, "–" without one.
func (r Run) figure(name string) string {
	x := r.result(name)
	if x == nil {
		return "–"
	}
	return Number(x.Value, x.Unit)
}

type card struct{ Label, Value, Class string }

// cards are the figures that people look for first.
func cards(r Run) []card {
	n := 0
	for _, v := range r.Viewers {
		n += v
	}
	out := []card{{Label: "viewers", Value: fmt.Sprint(n)}}
	for _, x := range []struct{ name, label string }{
		{"stalls", "stalls"}, {"browser_stalls", "stalls in browsers"}, {"reroute.redirect", "last wrong redirect"}, {"moved", "last viewer moved"},
		{"start_up", "start-up, 95 of 100"}, {"writes", "longest without writes"}, {"lost", "lost"}, {"recovery", "whole again"},
	} {
		res := r.result(x.name)
		if res == nil || res.Value == nil {
			continue
		}
		c := card{Label: x.label, Value: Number(res.Value, res.Unit)}
		if res.Verdict == score.Fail {
			c.Class = "fail"
		}
		out = append(out, c)
	}
	return out
}
