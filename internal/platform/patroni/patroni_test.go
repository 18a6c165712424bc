package patroni

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Which base backup is due, by what pgBackRest tells of those there are.
func TestBaseBackupsDue(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run_patroni.py"), Program, 0o600))
	cmd := exec.Command(Interpreter, "-c", `
import run_patroni as r
now = 100 * r.DAY
def info(*backups):
    return [{"backup": [{"type": kind, "error": error, "timestamp": {"stop": now - days * r.DAY}} for kind, days, error in backups]}]
for want, got in [
    ("full", r.due([], now)),
    ("full", r.due([{"backup": []}], now)),
    (None, r.due(info(("full", 0.5, False)), now)),
    ("diff", r.due(info(("full", 1.5, False)), now)),
    (None, r.due(info(("full", 1.5, False), ("diff", 0.5, False)), now)),
    ("full", r.due(info(("full", 7.5, False), ("diff", 0.5, False)), now)),
    ("full", r.due(info(("full", 0.5, True)), now)),
]:
    assert want == got, (want, got)
`)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+dir, "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}
