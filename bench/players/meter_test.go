package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// feed adds samples: milliseconds and positions in turn.
func feed(m *meter, begin time.Time, points ...float64) {
	for i := 0; i < len(points); i += 2 {
		m.add(sample{at: begin.Add(time.Duration(points[i]) * time.Millisecond), position: points[i+1]})
	}
}

func TestMeter(t *testing.T) {
	begin := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		points []float64
		stalls int
		stood  time.Duration
		skip   float64
		unseen time.Duration
	}{
		"plays":          {[]float64{0, 1, 100, 1.1, 200, 1.2, 300, 1.3}, 0, 0, 0, 0},
		"a hiccup":       {[]float64{0, 1, 100, 1.1, 300, 1.1, 500, 1.1, 550, 1.2}, 0, 0, 0, 0},
		"a stall":        {[]float64{0, 1, 100, 1.1, 400, 1.1, 700, 1.1, 1000, 1.1, 1100, 1.2}, 1, 900 * time.Millisecond, 0, 0},
		"two":            {[]float64{0, 1, 300, 1, 600, 1, 700, 1.1, 1000, 1.1, 1300, 1.1, 1400, 1.2}, 2, 1200 * time.Millisecond, 0, 0},
		"a skip":         {[]float64{0, 1, 100, 1.1, 200, 3.1, 300, 3.2}, 0, 0, 2, 0},
		"catches up":     {[]float64{0, 1, 100, 1.1, 300, 1.1, 400, 1.5}, 0, 0, 0, 0},
		"stall and skip": {[]float64{0, 1, 300, 1, 600, 1, 700, 5, 800, 5.1}, 1, 600 * time.Millisecond, 4, 0},
		"nobody looked":  {[]float64{0, 1, 100, 1.1, 60100, 1.1, 60200, 1.2}, 0, 0, 0, time.Minute},
		"blind in stall": {[]float64{0, 1, 300, 1, 600, 1, 60600, 1, 60700, 1, 60800, 1.1}, 1, 700 * time.Millisecond, 0, time.Minute},
	} {
		m := &meter{}
		// Standing still before the loss counts for nothing.
		feed(m, begin, -3000, 0.9, -100, 0.9)
		m.begin(begin)
		feed(m, begin, c.points...)
		m.end()
		feed(m, begin, 100000, 99, 200000, 99)
		got := m.read()
		require.Equal(t, []any{c.stalls, c.stood, c.unseen}, []any{got.stalls, got.stood, got.unseen}, name)
		require.InDelta(t, c.skip, got.skip, 1e-6, name)
	}
}

// TestMeterTellsAFrozenPlayerFromAStalledOne: what was in hand at the time decides.
func TestMeterTellsAFrozenPlayerFromAStalledOne(t *testing.T) {
	begin := time.Unix(1000, 0)
	for ahead, want := range map[float64][2]int{-1: {1, 0}, 0: {1, 0}, 0.3: {1, 0}, 5: {0, 600}} {
		m := &meter{}
		m.add(sample{begin.Add(-100 * time.Millisecond), 0.9, ahead})
		m.begin(begin)
		for i := range 11 {
			m.add(sample{begin.Add(time.Duration(i) * 100 * time.Millisecond), 1, ahead})
		}
		got := m.read()
		require.Equal(t, want, [2]int{got.stalls, int(got.frozen.Milliseconds())}, "%v s in hand", ahead)
	}
}

func TestFFplaysLine(t *testing.T) {
	for line, want := range map[string]struct {
		at      float64
		starved bool
	}{
		"  12.34 A-V: -0.012 fd=   0 aq=   16KB vq=   87KB sq=    0B f=0/0":   {12.34, false},
		"   0.07 M-V:  0.000 fd=   0 aq=    0KB vq=    0KB sq=    0B f=0/0  ": {0.07, true},
		"  61.20 A-V:  0.000 fd=  12 aq=    0KB vq=   10KB sq=    0B f=0/0  ": {61.2, false},
	} {
		at, starved, ok := statistics(line)
		require.True(t, ok, line)
		require.InDelta(t, want.at, at, 1e-9)
		require.Equal(t, want.starved, starved, line)
	}
	for _, line := range []string{"", "    nan    :  0.000 fd=   0 aq=    0KB", "[hls @ 0x7f] Failed to reload playlist 0", "12"} {
		_, _, ok := statistics(line)
		require.False(t, ok, line)
	}
}

func TestTapReadsPackets(t *testing.T) {
	packet := []byte{
		0x45, 0, 0x05, 0x28, 0, 0, 0, 0, 64, 6, 0, 0, 198, 19, 33, 1, 198, 19, 43, 7,
		0x1f, 0x92, 0x9c, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0,
	}
	p, ok := parse(packet)
	require.True(t, ok)
	require.Equal(t, "198.19.33.1", p.from.String())
	require.Equal(t, "198.19.43.7", p.to.String())
	require.Equal(t, 8082, p.port)
	require.Equal(t, 0x528-40, p.bytes)
	for n := range packet {
		_, ok := parse(packet[:n])
		require.False(t, ok, "%d bytes", n)
	}
	udp := append([]byte(nil), packet...)
	udp[9] = 17
	_, ok = parse(udp)
	require.False(t, ok)
}
