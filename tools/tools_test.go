package tools

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The table names files in the cache; the modules decide what is built. They must agree.
func TestTableAgreesWithModules(t *testing.T) {
	for _, tool := range All() {
		mod, err := os.ReadFile(filepath.Join(tool.Name, "go.mod"))
		require.NoError(t, err)
		require.Contains(t, string(mod), tool.Module+" "+tool.Version+" ", tool.Name)
		require.Regexp(t, `(?m)^(tool |\t)`+tool.Package+`$`, string(mod), tool.Name)
		_, err = os.Stat(filepath.Join(tool.Name, "go.sum"))
		require.NoError(t, err)
	}
	modules, err := filepath.Glob("*/go.mod")
	require.NoError(t, err)
	require.Len(t, modules, len(All()), "a module of tools is not in the table")
}

func TestPath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MERIDIAN_CACHE", dir)
	_, err := Path("minio")
	require.ErrorIs(t, err, ErrMissing)
	require.ErrorContains(t, err, "make tools")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	var want string
	for _, tool := range All() {
		if tool.Name == "minio" {
			want, err = tool.Target()
			require.NoError(t, err)
		}
	}
	require.NoError(t, os.WriteFile(want, nil, 0o755))
	got, err := Path("minio")
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.True(t, strings.HasPrefix(got, dir))
	_, err = Path("hammer")
	require.ErrorContains(t, err, "hammer")
}
