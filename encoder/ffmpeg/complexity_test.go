package ffmpeg

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseComplexity(t *testing.T) {
	small, tiles, err := ParseComplexity(strings.NewReader("#software: Lavf\n#tb 0: 1/30\n0, -2, 0, 1, 1000, 0x1\n1, -2, 0, 1, 2000, 0x2\n0, -1, 3, 1, 10, 0x3, F=0x0\n0, 0, 1, 1, 20, 0x3\n1, -1, 3, 1, 5, 0x4, S=1, 8, 0x5\n"))
	require.NoError(t, err)
	require.Equal(t, Encoded{Key: 1000, Rest: 30, Frames: 2}, small)
	require.Equal(t, Encoded{Key: 2000, Rest: 5, Frames: 1}, tiles)
	for text, want := range map[string]string{
		"":                                   "no complexity",
		"0,0,0,1,9,0x1\n1,0,0,1,9,0x1\n":     "no complexity",
		"0,0,0,1\n":                          "six fields",
		"2,0,0,1,9,0x1\n":                    "stream 0 or 1",
		"x,0,0,1,9,0x1\n":                    "stream 0 or 1",
		"0,0,0,1,0,0x1\n":                    "size",
		"0,0,0,1,99999999999999999999,0x1\n": "size",
	} {
		_, _, err := ParseComplexity(strings.NewReader(text))
		require.ErrorContains(t, err, want, "%q", text)
	}
}

func FuzzParseComplexity(f *testing.F) {
	f.Add("#tb 0: 1/30\n0, 0, 0, 1, 1000, 0x1\n1, 0, 0, 1, 2000, 0x2\n0, 1, 1, 1, 10, 0x3\n1, 1, 1, 1, 5, 0x4\n")
	f.Fuzz(func(t *testing.T, s string) {
		small, tiles, err := ParseComplexity(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, e := range []Encoded{small, tiles} {
			if e.Key <= 0 || e.Rest <= 0 || e.Frames <= 0 {
				t.Fatalf("%+v", e)
			}
		}
	})
}
