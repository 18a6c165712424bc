package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
)

// debianPrometheus returns where the package's programs are: installed, or
// unpacked for this test.
func debianPrometheus(t *testing.T) string {
	t.Helper()
	if at, err := exec.LookPath("prometheus"); err == nil {
		return filepath.Dir(at)
	}
	dir := t.TempDir()
	command(t, dir, 5*time.Minute, "apt-get", "-qq", "download", "prometheus")
	packages, err := filepath.Glob(filepath.Join(dir, "prometheus_*.deb"))
	require.NoError(t, err)
	require.Len(t, packages, 1)
	command(t, dir, time.Minute, "dpkg-deb", "-x", packages[0], "unpacked")
	return filepath.Join(dir, "unpacked", "usr", "bin")
}

func command(t *testing.T, dir string, limit time.Duration, name string, args ...string) {
	t.Helper()
	_, err := output(t.Context(), dir, limit, name, args...)
	require.NoError(t, err)
}

// Alerts fire when they are to, and don't when not; each has a test.
func TestAlertsFire(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("compose", "prometheus", "alerts_test.yml"))
	require.NoError(t, err)
	for _, a := range alerts(t) {
		require.Contains(t, string(b), `labels: '{alertname="`+a.Name+`"}'`, "nothing tells when it fires")
	}
	testenv.Long(t)
	command(t, filepath.Join("compose", "prometheus"), 2*time.Minute, filepath.Join(debianPrometheus(t), "promtool"), "test", "rules", "alerts_test.yml")
}

// A real Prometheus runs every query over real services.
func TestPrometheusRunsEveryQuery(t *testing.T) {
	testenv.Long(t)
	bin := debianPrometheus(t)
	c := startComponents(t, testenv.NATS(t), testenv.Postgres(t))

	dir := t.TempDir()
	rules, err := filepath.Abs(filepath.Join("compose", "prometheus", "alerts.yml"))
	require.NoError(t, err)
	type target struct {
		Targets []string          `yaml:"targets"`
		Labels  map[string]string `yaml:"labels"`
	}
	var targets []target
	for name, at := range c.admin {
		labels := map[string]string{"region": "eu", "component": name}
		if name == "edge-cache" {
			labels["edge"] = "eu-1"
		}
		targets = append(targets, target{[]string{at}, labels})
	}
	config, err := yaml.Marshal(map[string]any{
		"global":         map[string]string{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{rules},
		"scrape_configs": []map[string]any{{"job_name": "meridian", "static_configs": targets}},
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), config, 0o600))
	at := freePorts(t, 1)[0]
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address="+at)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var log testenv.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = dir, &log, &log, 10*time.Second
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})

	require.Eventually(t, func() bool {
		n, err := ask(t.Context(), at, `count(count_over_time(up[1m]) > 5 and up == 1) == 4`)
		return err == nil && n == 1
	}, 2*time.Minute, 200*time.Millisecond, "not every service is scraped")
	all := queries(t)
	answered := 0
	for _, q := range all {
		n, err := ask(t.Context(), at, q.expr)
		if err != nil {
			t.Errorf("%s: %v\n%s", q.where, err, q.expr)
		}
		if n > 0 {
			answered++
		}
	}
	testenv.Figure(t, "queries of dashboards and alerts that Prometheus ran", "%d, of which %d had an answer on a platform with nothing to do", len(all), answered)

	var state struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	require.Eventually(t, func() bool {
		require.NoError(t, json.Unmarshal([]byte(get(t, "http://"+at+"/api/v1/rules")), &state))
		for _, g := range state.Data.Groups {
			for _, r := range g.Rules {
				if r.Health == "unknown" {
					return false
				}
			}
		}
		return len(state.Data.Groups) > 0
	}, time.Minute, 200*time.Millisecond)
	for _, g := range state.Data.Groups {
		for _, r := range g.Rules {
			require.Equal(t, "ok", r.Health, "%s: %s", r.Name, r.LastError)
		}
	}
}

// ask runs a query now and returns of how many series its answer is.
func ask(ctx context.Context, at, expr string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+at+"/api/v1/query", strings.NewReader(url.Values{"query": {expr}}.Encode()))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var answer struct {
		Status, Error string
		Warnings      []string
		Data          struct{ Result []json.RawMessage }
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if answer.Status != "success" || len(answer.Warnings) > 0 {
		return 0, fmt.Errorf("%s %v", answer.Error, answer.Warnings)
	}
	return len(answer.Data.Result), nil
}
