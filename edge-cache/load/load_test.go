package load

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMeterIsTheLargestSourceSmoothed(t *testing.T) {
	use := map[string]float64{"a": 0.2, "b": 0.5}
	known := true
	source := func(name string) Source {
		return Source{name, func(time.Duration) (float64, bool) { return use[name], known || name == "a" }}
	}
	m := New(source("a"), source("b"))
	require.Equal(t, []string{"0.00"}, m.Header())
	require.Empty(t, m.Worst())
	m.step(interval)
	require.Equal(t, []string{"0.50"}, m.Header())
	require.Equal(t, "b", m.Worst())

	// A burst of one sample moves it by a quarter, what lasts all the way.
	use["a"] = 1
	m.step(interval)
	use["a"] = 0.2
	require.InDelta(t, 0.5, m.Load(), 0.01)
	use["b"] = 0.9
	m.step(interval)
	require.InDelta(t, 0.588, m.Load(), 0.01)
	m.Advance(20 * time.Second)
	require.InDelta(t, 0.9, m.Load(), 0.01)

	// What isn't known any more isn't counted, and counts anew later.
	known = false
	m.step(interval)
	require.Equal(t, "a", m.Worst())
	require.InDelta(t, 0.2, m.Load(), 0.01)
	known, use["b"] = true, 0.4
	m.Advance(10 * time.Second)
	require.Equal(t, []string{"0.40"}, m.Header())
}

func TestRefusalGrowsRestsAndShrinks(t *testing.T) {
	use := 0.5
	m := New(Source{"x", func(time.Duration) (float64, bool) { return use, true }})
	m.Advance(10 * time.Second)
	require.Zero(t, m.Share())
	require.False(t, m.Refuse())
	use = 1
	m.Advance(20 * time.Second)
	grown := m.Share()
	require.Greater(t, grown, 0.3)
	require.Less(t, grown, 1.0)
	// Between the two limits it rests.
	use = 0.94
	m.Advance(10 * time.Second)
	rested := m.Share()
	require.InDelta(t, grown, rested, 0.05)
	m.Advance(time.Minute)
	require.Equal(t, rested, m.Share())
	use = 1
	m.Advance(time.Minute)
	require.Equal(t, 1.0, m.Share())
	require.True(t, m.Refuse())
	use = 0.5
	m.Advance(90 * time.Second)
	require.Zero(t, m.Share())
}

func TestRateAndLevel(t *testing.T) {
	var n int64
	r := Rate("r", func() int64 { return n }, 100)
	_, ok := r.Use(0)
	require.False(t, ok)
	n = 50
	use, ok := r.Use(time.Second)
	require.True(t, ok)
	require.Equal(t, 0.5, use)
	n = 250
	use, _ = r.Use(500 * time.Millisecond)
	require.Equal(t, 4.0, use)
	use, ok = Level("l", func() int64 { return 30 }, 40).Use(0)
	require.True(t, ok)
	require.Equal(t, 0.75, use)
}

func TestCPUUse(t *testing.T) {
	at := func(own, free float64) cpuTimes {
		return cpuTimes{own: time.Duration(own * float64(time.Second)), free: time.Duration(free * float64(time.Second))}
	}
	for name, c := range map[string]struct {
		now  cpuTimes
		want float64
	}{
		"idle":                       {at(0, 2), 0},
		"alone, half":                {at(1, 1), 0.5},
		"alone, all":                 {at(2, 0), 1},
		"a neighbour takes the rest": {at(0.1, 0), 0.1},
		"both want all":              {at(1, 0), 1},
		"leaves little":              {at(1.2, 0.2), 1.2 / 1.4},
		"ticks counted twice":        {at(1.5, 1), 0.75},
		"quota of half a processor":  {cpuTimes{own: 400 * time.Millisecond, free: 1600 * time.Millisecond, used: 400 * time.Millisecond, quota: 0.5}, 0.8},
	} {
		got, ok := (&cpu{cores: 2}).use(cpuTimes{}, c.now, time.Second)
		require.True(t, ok)
		require.InDelta(t, c.want, got, 1e-9, name)
	}
}

func TestCPUReadsThisMachine(t *testing.T) {
	s := CPU()
	_, ok := s.Use(0)
	require.False(t, ok, "nothing to compare with yet")
	until := time.Now().Add(200 * time.Millisecond)
	for started := time.Now(); time.Now().Before(until); {
		_ = started
	}
	use, ok := s.Use(200 * time.Millisecond)
	require.True(t, ok)
	require.Greater(t, use, 0.0)
}

func TestParse(t *testing.T) {
	free, ok := parseStat([]byte("cpu  10 20 30 400 5 6 7 8 0 0\ncpu0 1 2 3 4 5\n"), true)
	require.True(t, ok)
	require.Equal(t, 425*userHZ, free)
	free, ok = parseStat([]byte("cpu  10 20 30 400 5 6 7 8 0 0"), false)
	require.True(t, ok)
	require.Equal(t, 405*userHZ, free)
	for _, bad := range []string{"", "cpu", "cpu 1 2 3 4", "cpu0 1 2 3 4 5", "cpu 1 2 3 x 5", "cpu 1 2 3 -4 5"} {
		_, ok := parseStat([]byte(bad), true)
		require.False(t, ok, bad)
	}
	q, ok := parseQuota([]byte("150000 100000\n"))
	require.True(t, ok)
	require.Equal(t, 1.5, q)
	for _, bad := range []string{"", "max 100000", "0 100000", "1 0", "1"} {
		_, ok := parseQuota([]byte(bad))
		require.False(t, ok, bad)
	}
	u, ok := parseUsage([]byte("usage_usec 1500\nuser_usec 1\n"))
	require.True(t, ok)
	require.Equal(t, 1500*time.Microsecond, u)
	_, ok = parseUsage([]byte("user_usec 1\n"))
	require.False(t, ok)
}

func TestGroupDir(t *testing.T) {
	root := t.TempDir()
	self := filepath.Join(root, "self")
	write := func(path, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	require.Empty(t, groupDir(self, root))
	write(self, "1:cpu:/old\n0::/a/b\n")
	require.Empty(t, groupDir(self, root))
	write(filepath.Join(root, "cpu.max"), "max 100000")
	require.Equal(t, root, groupDir(self, root))
	write(filepath.Join(root, "a/b/cpu.max"), "max 100000")
	require.Equal(t, filepath.Join(root, "a/b"), groupDir(self, root))
}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	m := New(CPU())
	go func() { defer close(done); m.Run(ctx) }()
	cancel()
	<-done
}
