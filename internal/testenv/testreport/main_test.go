package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const passing = `{"Action":"run","Package":"github.com/meridian-video/meridian/a","Test":"TestX"}
{"Action":"output","Package":"github.com/meridian-video/meridian/a","Test":"TestX","Output":"    x_test.go:1: figure: time to recover: 1.5 s\n"}
{"Action":"pass","Package":"github.com/meridian-video/meridian/a","Test":"TestX","Elapsed":1}
{"Action":"output","Package":"github.com/meridian-video/meridian/a","Output":"ok  \tgithub.com/meridian-video/meridian/a\t1.0s\n"}
{"Action":"pass","Package":"github.com/meridian-video/meridian/a","Elapsed":1}
`

const failing = `{"Action":"output","Package":"github.com/meridian-video/meridian/b","Test":"TestY","Output":"    y_test.go:1: wrong\n"}
{"Action":"fail","Package":"github.com/meridian-video/meridian/b","Test":"TestY","Elapsed":1}
{"Action":"output","Package":"github.com/meridian-video/meridian/b","Output":"FAIL\n"}
{"Action":"fail","Package":"github.com/meridian-video/meridian/b","Elapsed":1}
`

func TestReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.md")
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	var out bytes.Buffer
	require.NoError(t, run(strings.NewReader(passing), &out, file, "Good", at))
	require.Equal(t, "ok  \tgithub.com/meridian-video/meridian/a\t1.0s\n", out.String())
	out.Reset()
	require.ErrorContains(t, run(strings.NewReader(passing+failing), &out, file, "Bad", at), "TestY")
	require.Contains(t, out.String(), "y_test.go:1: wrong")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(b), "## Good\n\n2026-03-04, ")
	require.Contains(t, string(b), "1 passed, 0 failed, 0 skipped.")
	require.Contains(t, string(b), "| time to recover | 1.5 s | a TestX |")
	require.Contains(t, string(b), "## Bad")
	require.Contains(t, string(b), "- failed: github.com/meridian-video/meridian/b TestY")
}

func TestReportOfNothingFails(t *testing.T) {
	var out bytes.Buffer
	file := filepath.Join(t.TempDir(), "report.md")
	require.Error(t, run(strings.NewReader(""), &out, file, "None", time.Now()))
	unended := strings.Split(passing, "\n")[0] + "\n" + `{"Action":"start","Package":"x"}` + "\n"
	require.Error(t, run(strings.NewReader(unended), &out, file, "None", time.Now()), "a crash of the tool chain must not pass")
}
