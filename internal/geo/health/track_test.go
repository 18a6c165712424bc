package health

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTracker(t *testing.T) {
	for name, c := range map[string]struct {
		in   []outcome
		down []bool
	}{
		"one refusal counts":           {[]outcome{good, refused}, []bool{false, true}},
		"a timeout counts twice":       {[]outcome{good, timedOut, timedOut}, []bool{false, false, true}},
		"an answer between resets":     {[]outcome{good, timedOut, good, timedOut}, []bool{false, false, false, false}},
		"bad answers count twice":      {[]outcome{good, bad, timedOut}, []bool{false, false, true}},
		"back after two good answers":  {[]outcome{refused, good, good}, []bool{true, true, false}},
		"one good answer is too few":   {[]outcome{refused, good, bad, good, good}, []bool{true, true, true, true, false}},
		"void says nothing":            {[]outcome{good, timedOut, void, void, timedOut}, []bool{false, false, false, false, true}},
		"dead from the start":          {[]outcome{timedOut, timedOut}, []bool{false, true}},
		"void leaves the first unseen": {[]outcome{void, void}, []bool{false, false}},
	} {
		var tr tracker
		for i, o := range c.in {
			before := tr
			changed := tr.observe(o, "why", time.Millisecond, time.Unix(0, 0))
			require.Equal(t, c.down[i], tr.down, "%s: step %d", name, i)
			require.Equal(t, before.down != tr.down || !before.seen && tr.seen, changed, "%s: step %d", name, i)
		}
	}
}

// TestRule shows the witness rule for every own view and all that others may say.
func TestRule(t *testing.T) {
	type said struct {
		name    string
		age     time.Duration
		targets map[string]view
	}
	says := func(up bool) map[string]view { return map[string]view{"eu-1": {Up: up}} }
	reports := []said{
		{"silent", 0, nil}, {"reaches it", 0, says(true)}, {"does not", 0, says(false)},
		{"reached it too long ago", reportLife, says(true)}, {"has not looked", 0, map[string]view{}},
		{"reached it far too long ago", lateLife, says(true)},
	}
	now := time.Now()
	var out strings.Builder
	line := func(own, us, ap, sibling, verdict string) {
		fmt.Fprintf(&out, "%-11s | %-27s | %-27s | %-10s | %s\n", own, us, ap, sibling, verdict)
	}
	line("own view", "us", "ap", "eu's own", "eu-1 is")
	for _, own := range []struct {
		name string
		tracker
	}{{"not probed", tracker{}}, {"reached", tracker{seen: true}}, {"not reached", tracker{seen: true, down: true, why: "refused"}},
		{"silent", tracker{seen: true, down: true, mute: true, why: "timed out twice"}}} {
		for _, us := range reports {
			for _, ap := range reports {
				for _, eu := range reports[:2] {
					ws := map[string]*witness{}
					for region, r := range map[string]said{"us": us, "ap": ap, "eu": eu} {
						if r.targets != nil {
							ws[region] = &witness{report: report{Region: region, Targets: r.targets}, arrived: now.Add(-r.age)}
						}
					}
					v := judge(Target{Name: "eu-1", Region: "eu"}, own.tracker, ws, now)
					verdict := map[bool]string{true: "up", false: "DOWN"}[v.Up]
					if v.Why != "" {
						verdict += ": " + v.Why
					}
					line(own.name, us.name, ap.name, eu.name, verdict)
				}
			}
		}
	}
	const path = "testdata/rule.txt"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(out.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run with -update to make it")
	require.Equal(t, string(want), out.String())
}

var update = flag.Bool("update", false, "rewrite golden files")

func TestReportRoundTrips(t *testing.T) {
	r := report{Router: "x", Region: "eu", Targets: map[string]view{"us-1": {Up: true}, "ap-1": {Why: "refused"}}}
	b, err := r.encode()
	require.NoError(t, err)
	require.Equal(t, `{"v":1,"router":"x","region":"eu","targets":{"ap-1":{"up":false,"why":"refused"},"us-1":{"up":true}}}`, string(b))
	got, err := parseReport(b)
	require.NoError(t, err)
	require.Equal(t, r.Targets, got.Targets)
	for _, s := range []string{"", "{}", `{"v":2,"router":"x","region":"eu"}`, `{"v":1,"router":"","region":"eu"}`, "null", "[]"} {
		_, err := parseReport([]byte(s))
		require.Error(t, err, s)
	}
	_, err = parseReport(make([]byte, maxReportBytes+1))
	require.ErrorContains(t, err, "bytes")
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"v":1,"router":"x","region":"eu","targets":{"us-1":{"up":true}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReport(b)
		if err == nil && (r.Region == "" || len(r.Router) > maxNameBytes) {
			t.Fatalf("accepted %+v", r)
		}
	})
}

func TestClassifyUnknown(t *testing.T) {
	o, why := classify(errors.New("EOF"))
	require.Equal(t, bad, o)
	require.Equal(t, "connection broken", why)
}

// TestALossIsNoPartialFailure: an edge that was silent for long and answers again
// is whole again.
func TestALossIsNoPartialFailure(t *testing.T) {
	var tr tracker
	at := begin
	run := func(n int, o outcome) {
		for range n {
			at = at.Add(500 * time.Millisecond)
			tr.observe(o, "timed out twice", 10*time.Millisecond, at)
		}
	}
	run(2*failWindow, good)
	run(60, timedOut)
	require.True(t, tr.down)
	run(goodsUp, good)
	require.False(t, tr.down)
	require.Zero(t, tr.quality.failing())
	require.False(t, tr.quality.slow(slowHigh))
}
