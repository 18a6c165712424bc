package health

import (
	"errors"
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

func TestJudge(t *testing.T) {
	now := time.Now()
	target := Target{Name: "eu-1", Region: "eu"}
	up := map[string]view{"eu-1": {Up: true}}
	w := func(region string, age time.Duration, v map[string]view) *witness {
		return &witness{report: report{Region: region, Targets: v}, arrived: now.Add(-age)}
	}
	down := tracker{seen: true, down: true, why: "refused"}
	for name, c := range map[string]struct {
		own  tracker
		w    []*witness
		want Verdict
	}{
		"not probed":                   {tracker{}, nil, Verdict{Up: true, Why: "not probed yet"}},
		"reached":                      {tracker{seen: true}, []*witness{w("us", 0, map[string]view{"eu-1": {}})}, Verdict{Up: true}},
		"alone, trust yourself":        {down, nil, Verdict{Why: "refused"}},
		"a witness reaches it":         {down, []*witness{w("us", 0, up)}, Verdict{Up: true, Why: "not reached from here (refused), but from us"}},
		"all agree":                    {down, []*witness{w("us", 0, map[string]view{"eu-1": {}})}, Verdict{Why: "refused"}},
		"its own region is no witness": {down, []*witness{w("eu", 0, up)}, Verdict{Why: "refused"}},
		"an old report is no witness":  {down, []*witness{w("us", reportLife, up)}, Verdict{Why: "refused"}},
		"a report without the target":  {down, []*witness{w("us", 0, map[string]view{})}, Verdict{Why: "refused"}},
	} {
		ws := map[string]*witness{}
		for i, x := range c.w {
			ws[string(rune('a'+i))] = x
		}
		require.Equal(t, c.want, judge(target, c.own, ws, now), name)
	}
}

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
	require.Less(t, tr.quality.failing(), failHigh)
	require.False(t, tr.quality.slow())
}
