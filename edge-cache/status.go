package edgecache

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/load"
	"github.com/meridian-video/meridian/edge-cache/origin"
)

// statusPage is the live status of an edge, or of `meridian cache`, on one page, made
// from the metrics that /metrics gives, so that the two never differ.
type statusPage struct {
	// name and place are its title.
	name, place string
	component   string // in the metrics' names
	// hits are how the cache answers without asking for the object elsewhere.
	hits    []string
	ready   func(context.Context) error
	meter   *load.Meter
	cache   *cache.Cache
	metrics prometheus.Gatherer
	started time.Time
	// more has the tables that only one of them has.
	more func(by metricValues) []statusTable
}

// metricValues returns a metric's values, summed over all labels but one.
type metricValues func(name, label string) map[string]float64

// one is the value of a metric without labels.
func (by metricValues) one(name string) float64 { return by(name, "")[""] }

type statusRow struct{ Name, Value string }

type statusTable struct {
	Title string
	Rows  []statusRow
}

var statusTemplate = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="2">
<title>{{.Name}}: {{.State}}</title>
<style>body{font:15px/1.5 system-ui,sans-serif;margin:2em;max-width:60em}h1{font-size:1.3em}h2{font-size:1em;margin:1.2em 0 .3em}
table{border-collapse:collapse}td{padding:.1em 1.5em .1em 0}td+td{text-align:right;font-variant-numeric:tabular-nums}main{display:grid;grid-template-columns:repeat(auto-fit,minmax(20em,1fr));gap:0 3em}</style>
<h1>{{.Name}}, {{.Place}}: {{.State}}</h1>
<main>{{range .Tables}}<section><h2>{{.Title}}</h2><table>{{range .Rows}}<tr><td>{{.Name}}<td>{{.Value}}{{end}}</table></section>{{end}}</main>
</html>
`))

func (s *statusPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tables, err := s.tables()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	state := "serving"
	if err := s.ready(r.Context()); err != nil {
		state = err.Error()
	}
	var b bytes.Buffer
	if err := statusTemplate.Execute(&b, struct {
		Name, Place, State string
		Tables             []statusTable
	}{s.name, s.place, state, tables}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_, _ = w.Write(b.Bytes())
}

func (s *statusPage) tables() ([]statusTable, error) {
	families, err := s.metrics.Gather()
	if err != nil {
		return nil, err
	}
	by := metricValues(func(name, label string) map[string]float64 {
		out := map[string]float64{}
		for _, f := range families {
			if f.GetName() != "meridian_"+s.component+"_"+name {
				continue
			}
			for _, m := range f.GetMetric() {
				key := ""
				for _, l := range m.GetLabel() {
					if l.GetName() == label {
						key = l.GetValue()
					}
				}
				out[key] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		return out
	})
	shares := func(title, name string) statusTable {
		all, total := by(name, "cache"), 0.0
		for how, v := range all {
			if how != "purge" { // which asks for nothing
				total += v
			}
		}
		t := statusTable{Title: title}
		hits := 0.0
		for _, how := range s.hits {
			hits += all[how]
		}
		if total > 0 {
			t.Rows = append(t.Rows, statusRow{"hits", fmt.Sprintf("%.2f %%", 100*hits/total)})
		}
		for _, how := range sortedKeys(all) {
			v := countText(all[how])
			if name == "response_bytes_total" {
				v = bytesText(all[how])
			}
			t.Rows = append(t.Rows, statusRow{how, v})
		}
		return t
	}
	load := statusTable{"Load", []statusRow{
		{"load", fmt.Sprintf("%.2f (%s)", s.meter.Load(), s.meter.Worst())},
		{"connections", countText(by.one("connections_open"))}, {"connections refused", countText(by.one("connections_refused_total"))},
		{"requests being answered", countText(by.one("requests_open"))}, {"up for", time.Since(s.started).Round(time.Second).String()}}}
	store := statusTable{"Cache", []statusRow{
		{"memory", bytesText(by.one("memory_bytes")) + " of " + bytesText(by.one("memory_capacity_bytes"))}, {"objects in memory", countText(by.one("memory_objects"))},
		{"evicted", countText(by.one("memory_evictions_total"))},
		{"disk", bytesText(by.one("disk_bytes")) + " of " + bytesText(by.one("disk_capacity_bytes"))}, {"objects on disk", countText(by.one("disk_objects"))}}}
	store.Rows = append(store.Rows, diskRows(s.cache.Disk(), time.Now())...)
	out := []statusTable{load, shares("Requests", "requests_total"), shares("Bytes", "response_bytes_total"), store}
	return append(out, s.more(by)...), nil
}

// countTable has a metric's values by a label.
func countTable(title string, values map[string]float64) statusTable {
	t := statusTable{Title: title}
	for _, k := range sortedKeys(values) {
		t.Rows = append(t.Rows, statusRow{k, countText(values[k])})
	}
	return t
}

// statusTables are an edge's own.
func (e *edge) statusTables(by metricValues) []statusTable {
	ahead := statusTable{"Viewers", []statusRow{{"new sessions refused", fmt.Sprintf("%.0f %%", 100*e.meter.Share())},
		{"prefetched", countText(by.one("prefetches_total"))}, {"last purge", countText(by.one("purge_number"))}}}
	out := []statusTable{ahead, e.handler.origins.statusTable(by("handovers_total", "origin"))}
	if refused := countTable("Refused", by("refused_total", "reason")); len(refused.Rows) > 0 {
		out = append(out, refused)
	}
	return out
}

// diskRows tell of a disk that fails, or has.
func diskRows(d cache.DiskState, now time.Time) []statusRow {
	if d.Failures == 0 {
		return nil
	}
	rows := []statusRow{{"disk failures", fmt.Sprintf("%d, works again after %d", d.Failures, d.Recoveries)}}
	if d.Err != nil {
		text := fmt.Sprintf("for %s, looked at %d times, again in %s: %v", now.Sub(d.Since).Round(time.Second), d.Tries, max(0, d.Next.Sub(now)).Round(time.Second), d.Err)
		rows = append(rows, statusRow{"disk has failed", text})
	}
	return rows
}

func (f *origins) statusTable(left map[string]float64) statusTable {
	t := statusTable{Title: "Origins: 95 of 100 answers within"}
	add := func(o *origin.Origin) {
		v := "unknown"
		if d, ok := o.Usual(); ok {
			v = d.Round(100 * time.Microsecond).String()
		}
		if state := o.State(); state != "closed" {
			v += ", left out"
		}
		if n := left[o.Name]; n > 0 {
			v += fmt.Sprintf(", left in mid-object %.0f times", n)
		}
		t.Rows = append(t.Rows, statusRow{o.Name, v})
	}
	for _, o := range f.stores {
		add(o.Origin)
	}
	if p := f.peers; p != nil {
		for _, o := range p.Origins() {
			add(o)
		}
	}
	return t
}

func sortedKeys(m map[string]float64) []string {
	return slices.Sorted(maps.Keys(m))
}

func countText(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) }

func bytesText(v float64) string {
	for i := len(units) - 1; i >= 0; i-- {
		if u := units[i]; v >= float64(u.bytes) {
			return fmt.Sprintf("%.1f %s", v/float64(u.bytes), u.suffix)
		}
	}
	return fmt.Sprintf("%.0f B", v)
}
