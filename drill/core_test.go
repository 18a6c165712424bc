package drill

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/drill/report"
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

// TestRandom runs random faults of a few seeds.
func TestRandom(t *testing.T) {
	testenv.Long(t)
	for _, seed := range []string{"1", "2", "3"} {
		r := ownDrill(t, "random", "--seed", seed, "--minutes", "3", "--read")
		require.NoError(t, r.Err(), "seed %s", seed)
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
