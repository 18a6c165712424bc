package edgecache

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/edge-cache/cmcd"
	"github.com/meridian-video/meridian/internal/playback"
	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/internal/token"
)

// values are what players' metrics count now: counters, and of histograms number
// and sum.
func (p *players) values(t *testing.T) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	read := func(m prometheus.Metric) *dto.Metric {
		var d dto.Metric
		require.NoError(t, m.Write(&d))
		return &d
	}
	for o, c := range p.requests {
		out[cmcd.Object(o).String()] = read(c).GetCounter().GetValue()
	}
	for name, c := range map[string]prometheus.Counter{"starved": p.starved, "startup": p.startup, "syntax": p.syntax, "value": p.value, "size": p.size} {
		out[name] = read(c).GetCounter().GetValue()
	}
	for name, h := range map[string]prometheus.Histogram{"buffer": p.buffer, "throughput": p.throughput, "bitrate": p.bitrate} {
		d := read(h).GetHistogram()
		out[name] = float64(d.GetSampleCount())
		out[name+" sum"] = d.GetSampleSum()
	}
	return out
}

func TestCutReport(t *testing.T) {
	for in, rest := range map[string]string{"": "", "p=eu-1": "p=eu-1", "CMCD=bs": "", "CMCD=bs&p=1": "p=1", "p=1&CMCD=bs": "p=1", "p=1&CMCD=bs&r=eu": "p=1&r=eu", "CMCD=bs&p=1&CMCD=bs": "p=1"} {
		got, told := cutReport(in)
		require.Equal(t, rest, got, in)
		require.Equal(t, in != "" && in != "p=eu-1", told.any, in)
	}
	_, told := cutReport("CMCD=bs&p=1&CMCD=bs")
	require.ErrorIs(t, told.err, errTwice)
}

// TestPlayersReports: what players say is counted on both ways of answering, and
// neither the answer nor what the origin is asked depends on it.
func TestPlayersReports(t *testing.T) {
	w := newWorld(t, testenv.S3(t, 1))
	w.video(record0(), 2)
	private := record0()
	private.Asset, private.Visibility = foreign, playback.Private
	w.video(private, 1)
	w.start("eu-1")
	tok := mint(t, w, token.PlaybackKeyFile, token.Claims{Asset: foreign})
	const slow = "X-Unknown"
	said := "?CMCD=bl%3D12300%2Cbr%3D6000%2Cbs%2Ccid%3D%22a%22%2Cmtp%3D25400%2Cot%3Dv%2Csid%3D%22x%3By%22%2Csu"
	counted := map[string]float64{"video": 1, "starved": 1, "startup": 1, "buffer": 1, "buffer sum": 12.3, "throughput": 1, "throughput sum": 25.4e6, "bitrate": 1, "bitrate sum": 6e6}
	for _, c := range []struct {
		name, path string
		header     []string
		status     int
		want       map[string]float64
	}{
		{"nothing", segURL("-", 0), nil, 200, nil},
		{"query", segURL("-", 0) + said, nil, 200, counted},
		{"query beside others", segURL("-", 0) + said + "&p=eu-1", []string{slow, "x"}, 200, counted},
		{"query before fields", segURL("-", 0) + said, []string{"CMCD-Status", "bs", "CMCD-Object", "ot=a"}, 200, counted},
		{"fields", segURL("-", 0), []string{"CMCD-Request", "bl=12300,mtp=25400,su", "CMCD-Object", "br=6000,ot=v", "CMCD-Status", "bs", "CMCD-Session", `sid="x"`}, 200, counted},
		{"fields, by the handler", segURL("-", 0), []string{"CMCD-Request", "bl=12300,mtp=25400,su", "CMCD-Object", "br=6000,ot=v", "CMCD-Status", "bs", slow, "x"}, 200, counted},
		{"range", segURL("-", 0) + said, []string{"Range", "bytes=0-9"}, 206, counted},
		{"private", "/v/" + tok + "/" + foreign + "/r1/v1080/00000-1/00000.m4s" + said, nil, 200, counted},
		{"master", "/v/-/" + asset + "/master.m3u8?p=eu-1&CMCD=ot%3Dm%2Csu", nil, 200, map[string]float64{"manifest": 1, "startup": 1}},
		{"playlist", "/v/-/" + asset + "/r1/v1080/index.m3u8?CMCD=bl%3D100%2Cbr%3D6000%2Cmtp%3D100%2Cot%3Dm", nil, 200, map[string]float64{"manifest": 1, "throughput": 1, "throughput sum": 1e5}},
		{"version 2", segURL("-", 0) + "?CMCD=bl%3D(12300)%2Cot%3Dv%2Cv%3D2", nil, 200, map[string]float64{"video": 1, "buffer": 1, "buffer sum": 12.3}},
		{"no object", segURL("-", 0) + "?CMCD=bs", nil, 200, map[string]float64{"unsaid": 1, "starved": 1}},
		{"syntax", segURL("-", 0) + "?CMCD=bl%3D1%2C", nil, 200, map[string]float64{"syntax": 1}},
		{"not even a query", segURL("-", 0) + "?CMCD=bl=1;a%zz", nil, 200, map[string]float64{"syntax": 1}},
		{"twice", segURL("-", 0) + said + "&CMCD=bs", nil, 200, map[string]float64{"syntax": 1}},
		{"value", segURL("-", 0), []string{"CMCD-Object", "ot=whatever"}, 200, map[string]float64{"value": 1}},
		{"size", segURL("-", 0) + "?CMCD=nor%3D%22" + strings.Repeat("x", 3000) + "%22", nil, 200, map[string]float64{"size": 1}},
		{"refused", "/v/-/" + foreign + "/r1/v1080/00000-1/00000.m4s" + said, nil, 401, nil},
		{"missing", segURL("-", 9) + said, nil, 404, nil},
		{"bad query beside it", segURL("-", 0) + said + "&a;b", nil, 400, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := w.edge.handler.metrics.players
			before := p.values(t)
			res, body := w.get(c.path, c.header...)
			require.Equal(t, c.status, res.StatusCode, string(body))
			// The handler counts when the response may have arrived already.
			require.EventuallyWithT(t, func(ct *assert.CollectT) {
				for k, v := range p.values(t) {
					assert.InDelta(ct, c.want[k], v-before[k], 1e-3, k)
				}
			}, 10*time.Second, time.Millisecond)
			if c.status == http.StatusOK && c.path[:len(segURL("-", 0))] == segURL("-", 0) {
				require.Equal(t, w.content[segKey(0)], body)
			}
		})
	}
	require.Equal(t, 1, w.proxies[0].gets(segKey(0)), "one object, whatever players say")
	w.proxies[0].mu.Lock()
	defer w.proxies[0].mu.Unlock()
	require.Zero(t, w.proxies[0].reports, "what they say stays here")
}
