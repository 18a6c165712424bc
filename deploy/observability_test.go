package deploy

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
)

// query is an expression of a dashboard or an alert.
type query struct {
	where, expr string
	// shown are the labels that its legend or summary names.
	shown []string
}

type dashboard struct {
	UID         string
	Title       string
	Description string
	Editable    bool
	Tags        []string
	Panels      []struct {
		ID          int
		Type, Title string
		Description string
		Datasource  source
		GridPos     struct{ X, Y, W, H int }
		FieldConfig struct{ Defaults struct{ Unit string } }
		Targets     []struct {
			RefID, Expr, LegendFormat string
			Datasource                source
		}
	}
	Annotations struct {
		List []struct {
			Expr       string
			Datasource source
		}
	}
}

type source struct{ Type, UID string }

type alert struct {
	Name        string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func readYAML(t *testing.T, into any, path ...string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	require.NoError(t, yaml.UnmarshalWithOptions(b, into, yaml.Strict()))
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("compose", "grafana", "dashboards", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	out := map[string]dashboard{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		var d dashboard
		require.NoError(t, json.Unmarshal(b, &d), f)
		out[filepath.Base(f)] = d
	}
	return out
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var rules struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	readYAML(t, &rules, "compose", "prometheus", "alerts.yml")
	var out []alert
	for _, g := range rules.Groups {
		out = append(out, g.Rules...)
	}
	return out
}

var (
	inLegend  = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
	inSummary = regexp.MustCompile(`\$labels\.(\w+)`)
	// As Grafana fills them in.
	variables = strings.NewReplacer("$__rate_interval", "20s", "$region", "eu|us")
)

// queries are all expressions, as Prometheus gets them.
func queries(t *testing.T) []query {
	t.Helper()
	names := func(re *regexp.Regexp, in string) []string {
		var out []string
		for _, m := range re.FindAllStringSubmatch(in, -1) {
			out = append(out, m[1])
		}
		return out
	}
	var out []query
	for file, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				out = append(out, query{file + ": " + p.Title + " " + q.RefID, variables.Replace(q.Expr), names(inLegend, q.LegendFormat)})
			}
		}
		for _, a := range d.Annotations.List {
			out = append(out, query{file + ": annotation", a.Expr, nil})
		}
	}
	for _, a := range alerts(t) {
		out = append(out, query{"alert " + a.Name, a.Expr, names(inSummary, a.Annotations["summary"])})
	}
	return out
}

// exports is what Prometheus knows of all components.
type exports map[string]family

// asScraped are the components' metrics with the labels that scraping adds;
// a metric's own label of the same name becomes exported_….
func asScraped(components map[string]families) exports {
	out := exports{"up": {dto.MetricType_GAUGE, map[string]bool{}}}
	for component, all := range components {
		target := []string{"job", "instance", "region", "component"}
		if component == "edge-cache" {
			target = append(target, "edge")
		}
		for name, f := range all {
			if _, ok := out[name]; !ok {
				out[name] = family{f.kind, map[string]bool{}}
			}
			for l := range f.labels {
				if slices.Contains(target, l) {
					l = "exported_" + l
				}
				out[name].labels[l] = true
			}
			for _, l := range target {
				out[name].labels[l] = true
				out["up"].labels[l] = true
			}
		}
	}
	out["ALERTS"] = family{dto.MetricType_GAUGE, map[string]bool{"alertname": true, "alertstate": true, "severity": true}}
	return out
}

// find returns the family of a series' name, and whether that is a counter's.
func (e exports) find(series string) (f family, counts, ok bool) {
	if f, ok := e[series]; ok && f.kind != dto.MetricType_HISTOGRAM {
		return f, f.kind == dto.MetricType_COUNTER, true
	}
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		name, cut := strings.CutSuffix(series, suffix)
		if f, ok := e[name]; cut && ok && f.kind == dto.MetricType_HISTOGRAM {
			if suffix == "_bucket" {
				f.labels = maps.Clone(f.labels)
				f.labels["le"] = true
			}
			return f, true, true
		}
	}
	return family{}, false, false
}

// check returns the labels an expression's result can have, and every problem.
func (e exports) check(node parser.Expr) (map[string]bool, []error) {
	var errs []error
	var of func(parser.Expr) map[string]bool
	of = func(node parser.Expr) map[string]bool {
		switch n := node.(type) {
		case *parser.VectorSelector:
			f, _, ok := e.find(n.Name)
			if !ok {
				errs = append(errs, fmt.Errorf("%s: no service exports it", n.Name))
				return nil
			}
			for _, m := range n.LabelMatchers {
				if m.Name != labels.MetricName && !f.labels[m.Name] {
					errs = append(errs, fmt.Errorf("%s has no label %s", n.Name, m.Name))
				}
			}
			return f.labels
		case *parser.MatrixSelector:
			return of(n.VectorSelector)
		case *parser.SubqueryExpr:
			return of(n.Expr)
		case *parser.ParenExpr:
			return of(n.Expr)
		case *parser.UnaryExpr:
			return of(n.Expr)
		case *parser.AggregateExpr:
			in, out := of(n.Expr), map[string]bool{}
			if n.Without {
				out = maps.Clone(in)
			}
			for _, l := range n.Grouping {
				if !in[l] {
					errs = append(errs, fmt.Errorf("%s: there is no label %s to group by", n, l))
				}
				if n.Without {
					delete(out, l)
				} else {
					out[l] = true
				}
			}
			return out
		case *parser.BinaryExpr:
			left, right := of(n.LHS), of(n.RHS)
			switch {
			case n.LHS.Type() == parser.ValueTypeScalar:
				return right
			case n.VectorMatching != nil && n.Op == parser.LOR:
				both := maps.Clone(left)
				maps.Copy(both, right)
				return both
			case n.VectorMatching != nil && n.VectorMatching.On && n.VectorMatching.Card == parser.CardOneToOne && !n.Op.IsSetOperator():
				out := map[string]bool{}
				for _, l := range n.VectorMatching.MatchingLabels {
					out[l] = true
				}
				return out
			}
			return left
		case *parser.Call:
			var out map[string]bool
			for _, a := range n.Args {
				switch in := of(a); {
				case a.Type() == parser.ValueTypeVector || a.Type() == parser.ValueTypeMatrix:
					out = maps.Clone(in)
				}
				m, ok := a.(*parser.MatrixSelector)
				if !ok {
					continue
				}
				series := m.VectorSelector.(*parser.VectorSelector).Name
				_, counts, known := e.find(series)
				ofCounter := slices.Contains([]string{"rate", "irate", "increase"}, n.Func.Name)
				ofGauge := slices.Contains([]string{"delta", "idelta", "deriv", "changes", "min_over_time", "max_over_time", "avg_over_time"}, n.Func.Name)
				if known && (ofCounter && !counts || ofGauge && counts) {
					errs = append(errs, fmt.Errorf("%s: %s is another kind of metric", n, series))
				}
			}
			switch n.Func.Name {
			case "histogram_quantile":
				if !out["le"] {
					errs = append(errs, fmt.Errorf("%s: le is summed away", n))
				}
				delete(out, "le")
			case "scalar", "vector", "time", "absent":
				return map[string]bool{}
			}
			return out
		}
		return nil
	}
	return of(node), errs
}

// Every expression parses, and asks for metrics and labels that services export.
func TestQueriesAskForWhatServicesExport(t *testing.T) {
	c := startComponents(t, "nats://127.0.0.1:1", "")
	all := asScraped(c.exported(t))
	for _, q := range queries(t) {
		parsed, err := parser.ParseExpr(q.expr)
		if err != nil {
			t.Errorf("%s: %v\n%s", q.where, err, q.expr)
			continue
		}
		result, errs := all.check(parsed)
		for _, err := range errs {
			t.Errorf("%s: %v\n%s", q.where, err, q.expr)
		}
		for _, l := range q.shown {
			if !result[l] {
				t.Errorf("%s: shows label %s, which the result lacks\n%s", q.where, l, q.expr)
			}
		}
	}
	// What the check is worth: each of these has one mistake.
	for _, wrong := range []string{
		`meridian_edge_request_total`, `sum by (state) (meridian_edge_load)`, `rate(meridian_edge_load[1m])`, `meridian_edge_load{server="eu-1"}`,
		`histogram_quantile(0.9, sum by (region) (rate(meridian_edge_fill_seconds_bucket[1m])))`, `meridian_edge_fill_seconds`, `delta(meridian_edge_aborted_total[1m])`,
	} {
		parsed, err := parser.ParseExpr(wrong)
		require.NoError(t, err, wrong)
		_, errs := all.check(parsed)
		require.Len(t, errs, 1, wrong)
	}
}

func TestDashboardsAreWhole(t *testing.T) {
	var datasources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, Access, URL string
			IsDefault                    bool `yaml:"isDefault"`
			Editable                     bool
			JSONData                     map[string]any `yaml:"jsonData"`
		}
	}
	readYAML(t, &datasources, "compose", "grafana", "provisioning", "datasources", "prometheus.yml")
	require.Len(t, datasources.Datasources, 1)
	from := source{"prometheus", datasources.Datasources[0].UID}
	require.Equal(t, "http://prometheus:9090", datasources.Datasources[0].URL)

	// Both places that Grafana reads are mounted where it is told to look.
	var providers struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Folder, Type string
			DisableDeletion    bool `yaml:"disableDeletion"`
			AllowUIUpdates     bool `yaml:"allowUiUpdates"`
			Options            struct{ Path string }
		}
	}
	readYAML(t, &providers, "compose", "grafana", "provisioning", "dashboards", "meridian.yml")
	mounts := map[string]string{}
	var environment map[string]*string
	for _, s := range composeProject(t).Services {
		if s.Labels[componentLabel] == "grafana" {
			environment = s.Environment
			for _, v := range s.Volumes {
				mounts[v.Target] = filepath.Base(v.Source)
			}
		}
	}
	require.Equal(t, "dashboards", mounts[providers.Providers[0].Options.Path])
	require.Equal(t, "provisioning", mounts["/etc/grafana/provisioning"])
	require.Equal(t, "Viewer", *environment["GF_AUTH_ANONYMOUS_ORG_ROLE"])

	all := dashboards(t)
	home := filepath.Base(*environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
	require.Contains(t, all, home)
	taken := map[string]string{}
	for file, d := range all {
		for _, unique := range []string{d.UID, d.Title} {
			require.NotEmpty(t, unique, file)
			require.Empty(t, taken[unique], "%s and %s share %q", file, taken[unique], unique)
			taken[unique] = file
		}
		require.NotEmpty(t, d.Description, file)
		require.Contains(t, d.Tags, "meridian", "%s: the links between dashboards go by it", file)
		ids, places, titles := map[int]bool{}, map[[2]int]string{}, map[string]bool{}
		for _, p := range d.Panels {
			at := file + ": " + p.Title
			require.NotEmpty(t, p.Title, file)
			require.False(t, ids[p.ID], "%s: id %d is another panel's", at, p.ID)
			ids[p.ID] = true
			g := p.GridPos
			require.LessOrEqual(t, g.X+g.W, 24, at)
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					require.Empty(t, places[[2]int{x, y}], "%s lies over another panel", at)
					places[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			require.False(t, titles[p.Title], "%s: twice", at)
			titles[p.Title] = true
			require.Contains(t, []string{"timeseries", "stat"}, p.Type, at)
			require.NotEmpty(t, p.Description, at)
			require.NotEmpty(t, p.FieldConfig.Defaults.Unit, at)
			require.Equal(t, from, p.Datasource, at)
			require.NotEmpty(t, p.Targets, at)
			for _, q := range p.Targets {
				require.Equal(t, from, q.Datasource, at)
			}
		}
	}
}

// Every alert tells what it means for whom, and has a section in the runbooks.
func TestEveryAlertHasARunbook(t *testing.T) {
	const file = "docs/operate/runbooks.md"
	b, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(file)))
	require.NoError(t, err)
	sections := map[string]string{}
	for _, s := range strings.Split("\n"+string(b), "\n### ")[1:] {
		name, text, _ := strings.Cut(s, "\n")
		sections[name] = text
	}
	for _, a := range alerts(t) {
		require.Contains(t, []string{"page", "ticket"}, a.Labels["severity"], a.Name)
		require.NotEmpty(t, a.Annotations["summary"], a.Name)
		require.Equal(t, file+"#"+strings.ToLower(a.Name), a.Annotations["runbook_url"])
		text, ok := sections[a.Name]
		require.True(t, ok, "%s has no section in %s, or its name is another alert's too", a.Name, file)
		require.NotEmpty(t, strings.TrimSpace(text), a.Name)
		delete(sections, a.Name)
	}
	require.Empty(t, slices.Sorted(maps.Keys(sections)), "sections of alerts that don't exist")
}
