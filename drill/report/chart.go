package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"
)

// Sizes of charts in their own units; the page scales them.
const (
	chartWidth  = 1000.0
	chartLeft   = 38.0
	chartBottom = 18.0
)

// chart draws one chart over the time of a run.
type chart struct {
	b      strings.Builder
	r      Run
	height float64
	end    float64 // seconds
	top    float64 // value
	unit   string
}

func newChart(r Run, height, top float64, unit string) *chart {
	c := &chart{r: r, height: height, top: nice(top), unit: unit, end: 1}
	if n := len(r.Series.At); n > 0 {
		c.end = max(c.end, r.Series.At[n-1])
	}
	fmt.Fprintf(&c.b, `<svg viewBox="0 0 %g %g" role="img">`, chartWidth, height+chartBottom)
	for i := range 3 {
		v := c.top * float64(i) / 2
		fmt.Fprintf(&c.b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="var(--grid)"/><text x="%g" y="%.1f" text-anchor="end">%s%s</text>`,
			chartLeft, chartWidth, c.y(v), c.y(v), chartLeft-6, c.y(v)+4, short(v), unit)
	}
	step := nice(c.end / 8)
	for t := 0.0; t <= c.end; t += step {
		fmt.Fprintf(&c.b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s s</text>`, c.x(t), height+14, short(t))
	}
	return c
}

// nice is the next number people like to read on an axis.
func nice(v float64) float64 {
	if v <= 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 4, 5, 10} {
		if v <= m*unit*1.0001 {
			return m * unit
		}
	}
	return 10 * unit
}

func short(v float64) string { return fmt.Sprintf("%g", math.Round(v*100)/100) }

func (c *chart) x(t float64) float64 {
	return chartLeft + (chartWidth-chartLeft)*min(1, max(0, t/c.end))
}
func (c *chart) y(v float64) float64 { return c.height * (1 - min(1, max(0, v/c.top))) }

// done adds what happened when, above the data.
func (c *chart) done(labels bool) template.HTML {
	for _, s := range c.r.Steps {
		to := s.Healing
		if to == 0 {
			to = s.Began
		}
		fmt.Fprintf(&c.b, `<rect x="%.1f" y="0" width="%.1f" height="%g" fill="var(--shade)"/><line x1="%.1f" x2="%.1f" y1="0" y2="%g" stroke="var(--edge)" stroke-width="1.5"/>`,
			c.x(s.Began), c.x(to)-c.x(s.Began), c.height, c.x(s.Began), c.x(s.Began), c.height)
		if labels {
			fmt.Fprintf(&c.b, `<text x="%.1f" y="11" style="fill:var(--edge);font-weight:600">%s</text>`, c.x(s.Began)+5, template.HTMLEscapeString(s.What))
		}
	}
	for _, m := range []struct {
		at   float64
		text string
	}{{c.r.ControlBegan, "counted from here"}, {c.r.Whole, "whole again"}} {
		if m.at <= 0 {
			continue
		}
		fmt.Fprintf(&c.b, `<line x1="%.1f" x2="%.1f" y1="0" y2="%g" stroke="var(--soft)" stroke-dasharray="3 4"/>`, c.x(m.at), c.x(m.at), c.height)
		if labels {
			fmt.Fprintf(&c.b, `<text x="%.1f" y="%.1f">%s</text>`, c.x(m.at)+5, 24.0, m.text)
		}
	}
	c.b.WriteString("</svg>")
	return template.HTML(c.b.String()) // built of numbers and escaped text only
}

func (c *chart) line(values []float64, colour string) {
	var p strings.Builder
	for i, v := range values {
		fmt.Fprintf(&p, "%.1f,%.1f ", c.x(c.r.Series.At[i]), c.y(v))
	}
	fmt.Fprintf(&c.b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2" stroke-linejoin="round"/>`, strings.TrimSpace(p.String()), colour)
}

// band fills between two lines.
func (c *chart) band(low, high []float64, colour string) {
	var p strings.Builder
	for i, v := range high {
		fmt.Fprintf(&p, "%.1f,%.1f ", c.x(c.r.Series.At[i]), c.y(v))
	}
	for i := len(low) - 1; i >= 0; i-- {
		fmt.Fprintf(&p, "%.1f,%.1f ", c.x(c.r.Series.At[i]), c.y(low[i]))
	}
	fmt.Fprintf(&c.b, `<polygon points="%s" fill="%s"/>`, strings.TrimSpace(p.String()), colour)
}

func viewersChart(r Run) template.HTML {
	n := 0
	for _, v := range r.Viewers {
		n += v
	}
	c := newChart(r, 170, float64(n), "")
	low := make([]float64, len(r.Series.At))
	stack := func(values []int, colour string) {
		high := make([]float64, len(low))
		for i := range low {
			high[i] = low[i]
			if i < len(values) {
				high[i] += float64(values[i])
			}
		}
		c.band(low, high, colour)
		low = high
	}
	standing := r.Series.Standing
	for i, by := range r.Series.By {
		stack(by, fmt.Sprintf("var(--c%d)", min(i, 3)))
	}
	stack(r.Series.Opening, "var(--c4)")
	// Those who stand are among those who are served: over them, from below.
	zero, bad := make([]float64, len(low)), make([]float64, len(low))
	for i := range bad {
		if i < len(standing) {
			bad[i] = float64(standing[i])
		}
	}
	c.band(zero, bad, "var(--bad)")
	return c.done(true)
}

func inHandChart(r Run) template.HTML {
	top := 1.0
	for _, v := range r.Series.Median {
		top = max(top, v)
	}
	c := newChart(r, 120, top, " s")
	c.line(r.Series.Median, "var(--c0)")
	c.line(r.Series.Least, "var(--c2)")
	return c.done(false)
}

func failedChart(r Run) template.HTML {
	top := 1.0
	for _, v := range r.Series.Errors {
		top = max(top, float64(v))
	}
	c := newChart(r, 70, top, "")
	width := max(1, (chartWidth-chartLeft)/float64(max(1, len(r.Series.At)))*0.7)
	for i, v := range r.Series.Errors {
		if v > 0 {
			fmt.Fprintf(&c.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="1.5" fill="var(--c3)"/>`,
				c.x(r.Series.At[i])-width/2, c.y(float64(v)), width, c.height-c.y(float64(v)))
		}
	}
	return c.done(false)
}

func cpuChart(r Run) template.HTML {
	values := make([]float64, len(r.Series.Pressure))
	for i, v := range r.Series.Pressure {
		values[i] = 100 * v
	}
	c := newChart(r, 70, 100, " %")
	c.line(values, "var(--c4)")
	return c.done(false)
}
