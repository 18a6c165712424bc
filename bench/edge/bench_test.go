package main

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
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
	require.Equal(t, result{rate: 70739.55, p99: 2100 * time.Microsecond}, r)
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

const h2Report = `starting benchmark...
TLS Protocol: TLSv1.3
Cipher: TLS_AES_128_GCM_SHA256
Server Temp Key: X25519 253 bits
Application protocol: h2
Warm-up phase is over for thread #0.

finished in 3.00s, 128.50 req/s, 1.20MB/s
requests: 257 total, 257 started, 257 done, 257 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 257 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 2.40MB (2517393) total, 11.92KB (12201) headers (space savings 95.12%), 14.73MB (15446648) data
`

func TestParseH2load(t *testing.T) {
	r, err := parseH2load(h2Report)
	require.NoError(t, err)
	require.Equal(t, result{rate: 128.5}, r)
	for _, bad := range [][2]string{{"0 failed", "1 failed"}, {"0 timeout", "2 timeout"}, {"0 5xx", "9 5xx"}, {"257 2xx", "0 2xx"}, {"AES_128_GCM", "AES_256_GCM"}, {"X25519", "P-256"}, {"protocol: h2", "protocol: http/1.1"}, {"finished", "ended"}} {
		_, err := parseH2load(strings.Replace(h2Report, bad[0], bad[1], 1))
		require.Error(t, err, bad)
	}
	var log strings.Builder
	for i := range 200 {
		fmt.Fprintf(&log, "1795657068447058\t200\t%d\n", 200-i)
	}
	p99, err := h2loadP99(log.String())
	require.NoError(t, err)
	require.Equal(t, 199*time.Microsecond, p99)
	for _, bad := range []string{"", "1 200", "1 200 x"} {
		_, err := h2loadP99(bad)
		require.Error(t, err, bad)
	}
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
	servers := []*server{{name: "nginx"}, {name: "Varnish"}, {name: "Meridian"}}
	at := func(rates ...float64) (out []result) {
		for _, r := range rates {
			out = append(out, result{r, time.Millisecond, time.Duration(float64(time.Second) / r)})
		}
		return out
	}
	require.Equal(t, `| Size | nginx | Varnish | Meridian | ÷ best peer |
|---|---|---|---|---|
| 2KiB | 90/s, p99 1ms, 11.1111ms | 50/s, p99 1ms, 20ms | 120/s, p99 1ms, 8.3333ms | **1.20** (1.10–1.50), CPU **0.83** (0.67–0.91) |
`, hitTable(servers, []int{2048}, map[string][]result{
		"nginx/2KiB": at(100, 90, 80), "Varnish/2KiB": at(50, 100, 40), "Meridian/2KiB": at(110, 120, 120)}))
}

func TestIdleTable(t *testing.T) {
	require.Equal(t, `| Connections | nginx | Varnish | Meridian | ÷ best peer |
|---|---|---|---|---|
| HTTP/1.1 | 2.0 KiB | 1.0 KiB | 0.5 KiB | **0.50** |
| HTTP/1.1 over TLS 1.3 | 4.0 KiB | – | 8.0 KiB | **2.00** |
| HTTP/2 over TLS 1.3 | – | – | 8.0 KiB | no peer |
`, idleTable([]string{nameNginx, nameVarnish, nameMeridian}, map[string]float64{"nginx/hits": 2048, "Varnish/hits": 1024, "Meridian/hits": 512,
		"nginx/tls": 4096, "Meridian/tls": 8192, "Meridian/h2": 8192}))
}

func TestH3Row(t *testing.T) {
	of := func(rate float64, cpu time.Duration) result { return result{rate: rate, cpu: cpu} }
	two := []result{of(100, time.Millisecond), of(200, time.Millisecond), of(100, 2*time.Millisecond)}
	three := []result{of(50, 3*time.Millisecond), of(50, 2*time.Millisecond), of(40, 2*time.Millisecond)}
	require.Equal(t, "| Meridian, 256KiB | 100/s (1000 µs) | 50/s (2000 µs) | **0.40** (0.25–0.50) | **2.00** (1.00–3.00) |\n",
		h3Row(nameMeridian, 256<<10, [2][]result{two, three}))
	require.Contains(t, h3Row(nameMeridian, 256<<10, [2][]result{{of(0, 0)}, {of(1, 1)}}), "| – | – |")
}

// TestAskOn tells a connection that stayed from a new one.
func TestAskOn(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, idleSize)) }))
	defer srv.Close()
	clients := []*http.Client{{Transport: &http.Transport{}}, {Transport: &http.Transport{}}}
	require.NoError(t, askAll(t.Context(), clients, srv.URL, false))
	require.NoError(t, askAll(t.Context(), clients, srv.URL, true))
	require.ErrorContains(t, askAll(t.Context(), clients, srv.URL, false), "there before: true")
	srv.CloseClientConnections()
	require.Error(t, askAll(t.Context(), clients, srv.URL, true))
	for _, c := range clients {
		require.NoError(t, closeClient(c))
	}
}

// TestTrace: a trace is what it says, and every policy makes something of it.
func TestTrace(t *testing.T) {
	seed := func() *rand.Rand { return rand.New(rand.NewPCG(1, 1)) }
	tr := zipfTrace(seed(), 0.9, 20_000)
	require.Equal(t, tr, zipfTrace(seed(), 0.9, 20_000))
	for _, pattern := range patterns {
		x := pattern.make(seed(), 1000)
		require.Len(t, x.requests, 1000, pattern.name)
		require.Less(t, slices.Max(x.requests), len(x.sizes), pattern.name)
		require.GreaterOrEqual(t, slices.Min(x.requests), 0, pattern.name)
	}
	sum, counts := 0, make([]int, len(tr.sizes))
	for _, size := range tr.sizes {
		sum += size
	}
	require.InDelta(t, traceTimes*traceMemory, sum, maxObject)
	for _, n := range tr.requests {
		counts[n]++
	}
	require.Greater(t, counts[0], 3*counts[9], "the tenth is asked for an eighth as often")

	l := &lru{at: map[string]*list.Element{}}
	for _, c := range []struct {
		key string
		hit bool
	}{{"a", false}, {"b", false}, {"a", true}, {"c", false}, {"a", true}, {"b", false}} {
		hit, err := l.get(c.key, traceMemory/2)
		require.NoError(t, err)
		require.Equal(t, c.hit, hit, c.key)
	}
	require.Equal(t, traceMemory, l.bytes)

	for _, name := range policyNames {
		p, err := newPolicy(t.Context(), name)
		require.NoError(t, err)
		s, err := tr.run(t.Context(), p)
		require.NoError(t, errors.Join(err, p.close()))
		require.Greater(t, s.bytes, 0.2, name)
		require.Less(t, s.bytes, 0.8, name)
		require.InDelta(t, s.objects, s.bytes, 0.05, name)
	}
	// Two viewers, one after the other: the second's segments are all there.
	videos := trace{sizes: []int{maxObject, maxObject, maxObject}, requests: []int{0, 1, 2, 0, 1, 2, 0, 1, 2}, next: 3}
	for _, name := range policyNames {
		p, err := newPolicy(t.Context(), name)
		require.NoError(t, err)
		s, err := videos.run(t.Context(), p)
		require.NoError(t, errors.Join(err, p.close()))
		require.Equal(t, share{1, 1}, s, name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := tr.run(ctx, l)
	require.ErrorIs(t, err, context.Canceled)
}

func TestTraceTable(t *testing.T) {
	require.Equal(t, `| Requests | LRU | otter | Meridian | ÷ LRU | ÷ otter |
|---|---|---|---|---|---|
| Zipf 0.9 | 50.00 % (40.00 %) | 60.00 % (50.00 %) | 60.00 % (50.00 %) | **1.200** (1.200–1.200) | **1.000** (1.000–1.000) |
`, traceTable(map[string]map[string][]share{"Zipf 0.9": {"LRU": {{0.4, 0.5}}, "otter": {{0.5, 0.6}}, "Meridian": {{0.5, 0.6}}}}))
}
