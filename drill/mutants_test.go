package drill

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/drill/report"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/internal/testenv"
)

// mutant is a deliberately broken build.
type mutant struct {
	Name   string
	Breaks string
	// Fails are scenarios, each with the objective that it must fail by.
	Fails map[string]string
	// File has New in place of Old; a file that only the mutant has, if Old is empty.
	File, Old, New string
	// Clock builds it with a clock that can be wrong; Previous begins the drill with
	// the program as it is; Apart is for what it breaks for good, so that each
	// scenario has a platform of its own.
	Clock, Previous, Apart bool
}

func mutants(t *testing.T) []mutant {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "mutants.yaml"))
	require.NoError(t, err)
	var list []mutant
	require.NoError(t, yaml.UnmarshalWithOptions(b, &list, yaml.Strict()))
	return list
}

// source is the file with the mutant's text replaced.
func (m mutant) source(t *testing.T) []byte {
	t.Helper()
	if m.Old == "" {
		require.NoFileExists(t, filepath.Join("..", m.File), m.Name)
		return []byte(m.New)
	}
	b, err := os.ReadFile(filepath.Join("..", m.File))
	require.NoError(t, err, m.Name)
	require.Contains(t, string(b), m.Old, "%s: what it replaces has changed in %s", m.Name, m.File)
	return []byte(strings.ReplaceAll(string(b), m.Old, m.New))
}

// build builds the program with the mutant in it.
func (m mutant) build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	file, overlay, bin := filepath.Join(dir, "mutant"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "meridian")
	require.NoError(t, os.WriteFile(file, m.source(t), 0o600))
	original, err := filepath.Abs(filepath.Join("..", m.File))
	require.NoError(t, err)
	b, err := json.Marshal(map[string]any{"Replace": map[string]string{original: file}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, b, 0o600))
	if m.Clock {
		command(t, "..", "go", "run", "./drill/clockbuild", "-overlay", overlay, "-o", bin)
	} else {
		command(t, "..", "go", "build", "-overlay", overlay, "-o", bin, ".")
	}
	return bin
}

// TestEveryScenarioHasABrokenBuild that TestScenariosFailBrokenBuilds runs it against.
func TestEveryScenarioHasABrokenBuild(t *testing.T) {
	all, err := scenario.BuiltIn()
	require.NoError(t, err)
	failed := map[string]bool{}
	for _, m := range mutants(t) {
		require.NotEqual(t, m.Old, m.New, m.Name)
		require.NotEmpty(t, m.Breaks, m.Name)
		m.source(t)
		for name := range m.Fails {
			_, err := find(all, name)
			require.NoError(t, err, m.Name)
			failed[name] = true
		}
	}
	for _, s := range all {
		require.True(t, failed[s.Name], "no mutant fails %s", s.Name)
	}
}

// TestScenariosFailBrokenBuilds: a scenario that passes whatever is broken shows nothing.
func TestScenariosFailBrokenBuilds(t *testing.T) {
	testenv.Long(t)
	for _, m := range mutants(t) {
		t.Run(m.Name, func(t *testing.T) {
			names := slices.Sorted(maps.Keys(m.Fails))
			var more []string
			if m.Previous {
				bin := filepath.Join(t.TempDir(), "previous")
				command(t, "..", "go", "build", "-o", bin, ".")
				more = []string{"--previous", bin}
			}
			bin, most := m.build(t), len(names)
			if m.Apart {
				most = 1
			}
			var runs []report.Run
			for some := range slices.Chunk(names, most) {
				runs = append(runs, drillWith(t, bin, slices.Concat([]string{"run", "--no-browsers"}, some, more)...).Runs...)
			}
			for _, run := range runs {
				verdict := verdictOn(run, m.Fails[run.Name])
				testenv.Figure(t, "broken: "+m.Breaks+" "+run.Name, "%s by %s", verdict, m.Fails[run.Name])
				assert.Equal(t, score.Fail, verdict, "%s by %s", run.Name, m.Fails[run.Name])
			}
			require.Len(t, runs, len(names))
		})
	}
}

func verdictOn(r report.Run, objective string) score.Verdict {
	for _, res := range r.Results {
		if res.Name == objective {
			return res.Verdict
		}
	}
	return ""
}
