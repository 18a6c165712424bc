package ffmpeg

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseLoudness(t *testing.T) {
	for in, want := range map[string]Level{
		"frame:0 pts:0\nlavfi.r128.I=-70.000\nframe:1\nlavfi.r128.I=-23.1\n": {-23.1, math.Inf(1)},
		"lavfi.r128.I=-inf\n": {-70, math.Inf(1)},
		"lavfi.r128.I=-23.1\nlavfi.r128.true_peaks_ch0=0.9\nlavfi.r128.true_peak=0.100\nlavfi.r128.I=-20\nlavfi.r128.true_peak=0.500\n": {-20, -6.0206},
		"lavfi.r128.I=-70\nlavfi.r128.true_peak=0.000\n": {-70, math.Inf(-1)},
		"lavfi.r128.I=-70\nlavfi.r128.true_peak=nan\n":   {-70, math.Inf(1)},
	} {
		got, err := ParseLoudness(strings.NewReader(in))
		require.NoError(t, err)
		require.InDelta(t, want.Integrated, got.Integrated, 1e-9)
		if math.IsInf(want.Peak, 0) {
			require.Equal(t, want.Peak, got.Peak)
			continue
		}
		require.InDelta(t, want.Peak, got.Peak, 1e-3)
	}
	for _, in := range []string{"", "lavfi.r128.I=nan\n", "lavfi.r128.I=x\n", "lavfi.r128.I=99\n", "lavfi.r128.true_peak=1\n", "lavfi.r128.I=-20\nlavfi.r128.true_peak=\n"} {
		_, err := ParseLoudness(strings.NewReader(in))
		require.Error(t, err, in)
	}
}

func FuzzParseLoudness(f *testing.F) {
	f.Add([]byte("lavfi.r128.I=-23.1\nlavfi.r128.true_peak=0.5\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := ParseLoudness(bytes.NewReader(b)); err == nil && (!(got.Integrated >= -70 && got.Integrated <= 30) || math.IsNaN(got.Peak)) {
			t.Fatal(got)
		}
	})
}
