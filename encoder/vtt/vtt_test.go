package vtt

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseAndCut(t *testing.T) {
	cues, err := Parse([]byte("\uFEFFWEBVTT - x\r\n\r\nNOTE nothing\r\n\r\n1\r\n00:01.500 --> 00:04.000 line:0\r\nOne\r\n<i>two</i>\r\n\r\n" +
		"01:00:00.000 --> 01:00:01.000\nlate\n\n00:05.000 --> 00:05.000\nnever\n\n00:00.500 --> 00:01.000\nfirst\n\n00:07.000 --> 00:08.000\n\n"))
	require.NoError(t, err)
	require.Equal(t, []Cue{
		{Start: 500 * time.Millisecond, End: time.Second, Text: "first"},
		{Start: 1500 * time.Millisecond, End: 4 * time.Second, Settings: "line:0", Text: "One\n<i>two</i>"},
		{Start: time.Hour, End: time.Hour + time.Second, Text: "late"},
	}, cues)
	const head = "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000\n"
	parts := Cut(cues, time.Second, 4500*time.Millisecond, 2*time.Second)
	require.Len(t, parts, 3)
	both := "\n00:00:00.500 --> 00:00:03.000 line:0\nOne\n<i>two</i>\n"
	require.Equal(t, head+both, string(parts[0]))
	require.Equal(t, head+both, string(parts[1]))
	require.Equal(t, head, string(parts[2]))
}

func TestRefusals(t *testing.T) {
	for _, s := range []string{"", "1\n00:00.000 --> 00:01.000\nx", "WEBVTT\n\n0:0.0 --> 1\nx", "WEBVTT\n\n99999:00:00.000 --> 00:01.000\nx"} {
		_, err := Parse([]byte(s))
		require.ErrorContains(t, err, "webvtt", "%q", s)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("WEBVTT\n\n00:01.000 --> 00:02.000 align:start\nHi\n"))
	f.Add([]byte("WEBVTT\n\nx\n01:00:01.000 --> 01:00:02.000\na --> b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		cues, err := Parse(b)
		if err != nil {
			return
		}
		for _, p := range Cut(cues, time.Second, time.Hour, 30*time.Second) {
			require.True(t, bytes.HasPrefix(p, []byte("WEBVTT\n")))
			again, err := Parse(p)
			require.NoError(t, err)
			for _, c := range again {
				require.LessOrEqual(t, c.End, time.Hour)
			}
		}
	})
}
