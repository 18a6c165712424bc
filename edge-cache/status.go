package edgecache

import (
	"bytes"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-video/meridian/edge-cache/cache"
	"github.com/meridian-video/meridian/edge-cache/origin"
)

// statusPage is the live status of an edge on one page, made from the metrics
// that /metrics gives, so that the two never differ.
type statusPage struct {
	edge    *edge
	metrics prometheus.Gatherer
	started time.Time
}

type statusRow struct{ Name, Value string }

type statusTable struct {
	Title string
	Rows  []statusRow
}

var statusTemplate = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="2">
<title>{{.Edge}}: {{.State}}</title>
<style>body{font:15px/1.5 system-ui,sans-serif;margin:2em;max-width:60em}h1{font-size:1.3em}h2{font-size:1em;margin:1.2em 0 .3em}
table{border-collapse:collapse}td{padding:.1em 1.5em .1em 0}td+td{text-align:right;font-variant-numeric:tabular-nums}main{display:grid;grid-template-columns:repeat(auto-fit,minmax(20em,1fr));gap:0 3em}</style>
<h1>{{.Edge}}, {{.Region}}: {{.State}}</h1>
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
	if err := s.edge.Ready(r.Context()); err != nil {
		state = err.Error()
	}
	self := s.edge.handler.sites
	var b bytes.Buffer
	if err := statusTemplate.Execute(&b, struct {
		Edge, Region, State string
		Tables              []statusTable
	}{self.self.Name, self.here.Place, state, tables}); err != nil {
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
	// by returns a metric's values, summed over all labels but one.
	by := func(name, label string) map[string]float64 {
		out := map[string]float64{}
		for _, f := range families {
			if f.GetName() != "meridian_edge_"+name {
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
	}
	one := func(name string) float64 { return by(name, "")[""] }
	count := func(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) }
	shares := func(title, name string) statusTable {
		all, total := by(name, "cache"), 0.0
		for _, v := range all {
			total += v
		}
		t := statusTable{Title: title}
		hits := 0.0
		for _, how := range []string{"memory", "disk", "collapsed", composedLabel} {
			hits += all[how]
		}
		if total > 0 {
			t.Rows = append(t.Rows, statusRow{"hits", fmt.Sprintf("%.2f %%", 100*hits/total)})
		}
		for _, how := range sortedKeys(all) {
			v := count(all[how])
			if name == "response_bytes_total" {
				v = bytesText(all[how])
			}
			t.Rows = append(t.Rows, statusRow{how, v})
		}
		return t
	}
	m := s.edge.meter
	load := statusTable{"Load", []statusRow{
		{"load", fmt.Sprintf("%.2f (%s)", m.Load(), m.Worst())}, {"new sessions refused", fmt.Sprintf("%.0f %%", 100*m.Share())},
		{"connections", count(one("connections_open"))}, {"requests being answered", count(one("requests_open"))},
		{"up for", time.Since(s.started).Round(time.Second).String()}}}
	store := statusTable{"Cache", []statusRow{
		{"memory", bytesText(one("memory_bytes")) + " of " + bytesText(one("memory_capacity_bytes"))}, {"objects in memory", count(one("memory_objects"))},
		{"evicted", count(one("memory_evictions_total"))},
		{"disk", bytesText(one("disk_bytes")) + " of " + bytesText(one("disk_capacity_bytes"))}, {"objects on disk", count(one("disk_objects"))},
		{"prefetched", count(one("prefetches_total"))}, {"last purge", count(one("purge_number"))}}}
	store.Rows = append(store.Rows, diskRows(s.edge.cache.Disk(), time.Now())...)
	refused := statusTable{Title: "Refused"}
	reasons := by("refused_total", "reason")
	for _, k := range sortedKeys(reasons) {
		refused.Rows = append(refused.Rows, statusRow{k, count(reasons[k])})
	}
	out := []statusTable{load, shares("Requests", "requests_total"), shares("Bytes", "response_bytes_total"), store, s.origins(by("handovers_total", "origin"))}
	if len(refused.Rows) > 0 {
		out = append(out, refused)
	}
	return out, nil
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

func (s *statusPage) origins(left map[string]float64) statusTable {
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
	for _, o := range s.edge.handler.origins.stores {
		add(o.Origin)
	}
	if p := s.edge.handler.origins.peers; p != nil {
		for _, o := range p.Origins() {
			add(o)
		}
	}
	return t
}

func sortedKeys(m map[string]float64) []string {
	return slices.Sorted(maps.Keys(m))
}

func bytesText(v float64) string {
	for i := len(units) - 1; i >= 0; i-- {
		if u := units[i]; v >= float64(u.bytes) {
			return fmt.Sprintf("%.1f %s", v/float64(u.bytes), u.suffix)
		}
	}
	return fmt.Sprintf("%.0f B", v)
}
