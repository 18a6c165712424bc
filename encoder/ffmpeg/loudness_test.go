package ffmpeg

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseLoudness(t *testing.T) {
	for in, want := range map[string]float64{
		"frame:0 pts:0\nlavfi.r128.I=-70.000\nframe:1\nlavfi.r128.I=-23.1\n": -23.1,
		"lavfi.r128.I=-inf\n": -70,
	} {
		got, err := ParseLoudness([]byte(in))
		require.NoError(t, err)
		require.InDelta(t, want, got, 1e-9)
	}
	for _, in := range []string{"", "lavfi.r128.I=nan\n", "lavfi.r128.I=x\n", "lavfi.r128.I=99\n"} {
		_, err := ParseLoudness([]byte(in))
		require.Error(t, err, in)
	}
}

func FuzzParseLoudness(f *testing.F) {
	f.Add([]byte("lavfi.r128.I=-23.1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := ParseLoudness(b); err == nil && !(got >= -70 && got <= 30) {
			t.Fatal(got)
		}
	})
}
