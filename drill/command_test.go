package drill

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/drill/report"
	"github.com/meridian-video/meridian/drill/scenario"
)

// TestGrammar: every subcommand is there and takes what the guide says.
func TestGrammar(t *testing.T) {
	for _, args := range [][]string{
		{"list"}, {"list", "control"}, {"run"}, {"run", "control", "--state", "x", "--viewers", "3", "--read", "--out", "y"},
		{"random", "--seed", "7", "--minutes", "3", "--print"}, {"report"}, {"report", "x"}, {"compare", "a", "b"},
	} {
		k, err := kong.New(&Command{})
		require.NoError(t, err)
		_, err = k.Parse(args)
		require.NoError(t, err, "%v", args)
	}
	k, err := kong.New(&Command{})
	require.NoError(t, err)
	_, err = k.Parse([]string{"run", "--viewers", "0"})
	require.ErrorContains(t, err, "--viewers 0: want more than 0")
}

func TestList(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, (&ListCommand{W: &out}).Run(t.Context()))
	require.Contains(t, out.String(), "kill-region")
	out.Reset()
	require.NoError(t, (&ListCommand{W: &out, Name: "kill-region"}).Run(t.Context()))
	s, err := scenario.Parse("printed", out.Bytes())
	require.NoError(t, err, "what is printed can be run")
	require.Equal(t, "kill-region", s.Name)
	require.ErrorContains(t, (&ListCommand{W: &out, Name: "x"}).Run(t.Context()), "want a file's path, or one of control")
}

func TestChoose(t *testing.T) {
	core, err := choose(nil)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(core), 9)
	file := filepath.Join(t.TempDir(), "own.yaml")
	var out bytes.Buffer
	require.NoError(t, (&ListCommand{W: &out, Name: "control"}).Run(t.Context()))
	require.NoError(t, os.WriteFile(file, out.Bytes(), 0o600))
	list, err := choose([]string{"kill-edge", file})
	require.NoError(t, err)
	require.Equal(t, "kill-edge", list[0].Name)
	require.Equal(t, "control", list[1].Name)
	_, err = choose([]string{"none", file + ".none"})
	require.ErrorContains(t, err, "no scenario")
	require.ErrorIs(t, err, os.ErrNotExist, "every problem is named")
}

func TestReportsAreWrittenAndCompared(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	require.NoError(t, write(a, report.Report{Version: report.Version}))
	require.NoError(t, write(b, report.Report{Version: report.Version}))
	for _, name := range []string{fileJSON, fileHTML, fileJUnit} {
		st, err := os.Stat(filepath.Join(a, name))
		require.NoError(t, err)
		require.NotZero(t, st.Size())
	}
	require.ErrorIs(t, (&ReportCommand{Dir: a}).Run(t.Context()), report.ErrNotPassed)
	var out bytes.Buffer
	require.NoError(t, (&CompareCommand{Before: a, After: b, W: &out}).Run(t.Context()))
	require.Error(t, (&CompareCommand{Before: a, After: t.TempDir(), W: &out}).Run(t.Context()))
}
