package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const report = `Running 3s test @ http://127.0.0.1:40141/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   470.17us  412.34us   9.13ms   92.31%
    Req/Sec    71.10k     3.91k   77.23k    73.33%
  Latency Distribution
     50%  391.00us
     75%  530.00us
     90%  790.00us
     99%    2.10ms
  212223 requests in 3.00s, 480.02MB read
Requests/sec:  70739.55
Transfer/sec:    160.00MB
`

func TestParseWrk(t *testing.T) {
	r, err := parseWrk(report)
	require.NoError(t, err)
	require.Equal(t, result{70739.55, 2100 * time.Microsecond}, r)
	r, err = parseWrk(strings.Replace(report, "2.10ms", "1.29s ", 1))
	require.NoError(t, err)
	require.Equal(t, 1290*time.Millisecond, r.p99)
	_, err = parseWrk(report + "  Non-2xx or 3xx responses: 4\n")
	require.ErrorContains(t, err, "Non-2xx")
	_, err = parseWrk("  Socket errors: connect 0, read 3, write 0, timeout 0\n" + report)
	require.ErrorContains(t, err, "read 3")
	_, err = parseWrk("")
	require.Error(t, err)
}

func TestSizes(t *testing.T) {
	got, err := parseSizes("2KiB,1MiB")
	require.NoError(t, err)
	require.Equal(t, []int{2048, 1 << 20}, got)
	require.Equal(t, "2KiB", sizeName(2048))
	require.Equal(t, "1MiB", sizeName(1<<20))
	for _, bad := range []string{"", "2", "xKiB", "64MiB", "-1KiB"} {
		_, err := parseSizes(bad)
		require.Error(t, err, bad)
	}
}

func TestHitTable(t *testing.T) {
	servers := []*server{{name: "nginx"}, {name: "Varnish"}, {name: "Meridian", ours: true}}
	at := func(rates ...float64) (out []result) {
		for _, r := range rates {
			out = append(out, result{r, time.Millisecond})
		}
		return out
	}
	require.Equal(t, `| Size | nginx | Varnish | Meridian | ÷ best peer |
|---|---|---|---|---|
| 2KiB | 90/s, p99 1ms | 50/s, p99 1ms | 120/s, p99 1ms | **1.20** (1.10–1.50) |
`, hitTable(servers, []int{2048}, map[string][]result{
		"nginx/2KiB": at(100, 90, 80), "Varnish/2KiB": at(50, 100, 40), "Meridian/2KiB": at(110, 120, 120)}))
}
