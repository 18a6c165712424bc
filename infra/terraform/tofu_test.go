package terraform

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/testenv"
	"github.com/meridian-video/meridian/tools"
)

// tofu is OpenTofu on a copy of the tree, which it may leave files in.
type tofu struct {
	bin, root string
	env       []string
}

func newTofu(t *testing.T) *tofu {
	t.Helper()
	testenv.Long(t)
	bin, err := tools.Path("tofu")
	require.NoError(t, err, "go run ./tools/build tofu")
	root := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(root, "infra", "terraform"), os.DirFS(".")))
	// The one file from elsewhere.
	b, err := os.ReadFile("../../deploy/compose/services.yml")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "deploy", "compose"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "deploy", "compose", "services.yml"), b, 0o600))
	return &tofu{bin: bin, root: filepath.Join(root, "infra", "terraform"),
		env: append(os.Environ(), "TF_CLI_CONFIG_FILE="+os.DevNull, "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1")}
}

func (f *tofu) run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.bin, append([]string{"-chdir=" + filepath.Join(f.root, dir)}, args...)...)
	cmd.Env = f.env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "tofu %v in %s\n%s", args, dir, out)
	return string(out)
}

func TestFormat(t *testing.T) {
	newTofu(t).run(t, ".", "fmt", "-check", "-recursive", "-diff")
}

// The modules that need no provider are validated, and their own tests run.
func TestModulesWithoutProvider(t *testing.T) {
	f := newTofu(t)
	for _, dir := range []string{"modules/plan", "modules/machine"} {
		f.run(t, dir, "init", "-backend=false", "-no-color")
		f.run(t, dir, "validate", "-no-color")
		t.Log(f.run(t, dir, "test", "-no-color"))
	}
}
