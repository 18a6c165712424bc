package drill

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/drill/report"
	"github.com/meridian-video/meridian/drill/scenario"
	"github.com/meridian-video/meridian/drill/score"
	"github.com/meridian-video/meridian/internal/testenv"
)

// TestCore runs the core scenarios as `make drill` does, and they pass.
func TestCore(t *testing.T) {
	testenv.Long(t)
	r := ownDrill(t, "run")
	require.LessOrEqual(t, r.Seconds, (10 * time.Minute).Seconds())
	testenv.Figure(t, "core drills", "%d of %d passed in %.0f s", r.Passed(), len(r.Runs), r.Seconds)
	require.NoError(t, r.Err())
}

// TestAnswers: hundreds of askers near each region, while one is lost in every way
// or gets worse. What else the scenarios ask for is judged where fewer ask.
func TestAnswers(t *testing.T) {
	testenv.Long(t)
	r := ownDrill(t, "run", "--askers", "200", "--viewers", "0.1", "--no-browsers",
		"control", "kill-region", "hang-region", "silence-region", "deaf-region", "mute-region", "full-disk", "slow-region")
	require.Len(t, r.Runs, 8)
	for _, run := range r.Runs {
		for _, step := range run.Steps {
			require.Empty(t, step.Error)
		}
		judged := 0
		for _, res := range run.Results {
			if res.Name == "false_moves" || strings.HasPrefix(res.Name, "reroute.") {
				judged++
				require.Equal(t, score.Pass, res.Verdict, "%s: %+v", run.Name, res)
			}
		}
		require.Positive(t, judged, run.Name)
	}
}

// TestOthers runs all others but those that want another program.
func TestOthers(t *testing.T) {
	testenv.Long(t)
	all, err := scenario.BuiltIn()
	require.NoError(t, err)
	args := []string{"run"}
	for _, s := range all {
		if !s.Core && !s.Upgrades() && !s.SetsClocks() {
			args = append(args, s.Name)
		}
	}
	r := ownDrill(t, args...)
	testenv.Figure(t, "other drills", "%d of %d passed in %.0f s", r.Passed(), len(r.Runs), r.Seconds)
	require.NoError(t, r.Err())
}

// TestUpgrade: the version before and this one side by side.
func TestUpgrade(t *testing.T) {
	testenv.Long(t)
	b, err := os.ReadFile(filepath.Join("testdata", "previous"))
	require.NoError(t, err)
	commit, dir := strings.TrimSpace(string(b)), t.TempDir()
	tree, bin := filepath.Join(dir, "tree"), filepath.Join(dir, "previous")
	command(t, "..", "git", "worktree", "add", "--detach", tree, commit)
	t.Cleanup(func() {
		out, err := exec.Command("git", "worktree", "remove", "--force", tree).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	command(t, tree, "go", "build", "-o", bin, ".")
	require.NoError(t, ownDrill(t, "run", "upgrade", "--previous", bin).Err())
}

// TestWrongClocks needs a program whose clock can be wrong.
func TestWrongClocks(t *testing.T) {
	testenv.Long(t)
	bin := filepath.Join(t.TempDir(), "meridian")
	command(t, "..", "go", "run", "./drill/clockbuild", "-o", bin)
	require.NoError(t, drillWith(t, bin, "run", "wrong-clocks").Err())
}

func command(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

// TestRandom runs an hour of random faults.
func TestRandom(t *testing.T) {
	testenv.Long(t)
	for seed := range 20 {
		t.Run(strconv.Itoa(seed+1), func(t *testing.T) {
			require.NoError(t, ownDrill(t, "random", "--seed", strconv.Itoa(seed+1), "--minutes", "3", "--read").Err())
		})
	}
}

// ownDrill drills an isolated platform of its own and logs every figure.
func ownDrill(t *testing.T, args ...string) report.Report {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "meridian")
	built, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/meridian-video/meridian").CombinedOutput()
	require.NoError(t, err, "%s", built)
	r := drillWith(t, bin, args...)
	for _, x := range r.Runs {
		for _, res := range x.Results {
			if res.Goal != nil && res.Value != nil && (res.Unit == "s" || res.Verdict != score.Pass) {
				testenv.Figure(t, "drill "+x.Name+", "+res.Title, "%.2f %s (%s)", *res.Value, res.Unit, res.Verdict)
			}
		}
	}
	return r
}

// drillWith drills a platform of a program of ours.
func drillWith(t *testing.T, bin string, args ...string) report.Report {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: isolated regions need CAP_SYS_ADMIN and CAP_NET_ADMIN")
	}
	out := filepath.Join(t.TempDir(), "report")
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append([]string{"drill"}, append(args, "--own", "--out", out)...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Minute
	text, err := cmd.CombinedOutput()
	t.Logf("%s%v", text, err)
	r, err := report.Load(filepath.Join(out, fileJSON))
	require.NoError(t, err)
	return r
}
