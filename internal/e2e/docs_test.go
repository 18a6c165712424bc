package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	assetInOutput = regexp.MustCompile(`[a-z2-7]{26}`)
	command       = regexp.MustCompile(`(?m)^    ((?:bin/meridian|curl|dig|ffmpeg|ffprobe|make) .*)$`)
)

// TestDocsCommands runs every command the README and the guides show, in order,
// with the addresses and names of this platform in place of the ones shown.
// Commands that start or stop a whole platform are run by TestMain and CI.
func TestDocsCommands(t *testing.T) {
	root := filepath.Join("..", "..")
	files := []string{"README.md"}
	for _, dir := range []string{"guide", "operate", "reference"} {
		found, err := filepath.Glob(filepath.Join(root, "docs", dir, "*.md"))
		require.NoError(t, err)
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			require.NoError(t, err)
			files = append(files, rel)
		}
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(root, file))
			require.NoError(t, err)
			asset := ""
			for _, m := range command.FindAllStringSubmatch(string(b), -1) {
				line, _, _ := strings.Cut(m[1], "  #")
				if strings.HasPrefix(line, "make ") || strings.HasPrefix(line, "bin/meridian up ") {
					continue
				}
				require.False(t, strings.Contains(line, "ASSET") && asset == "", "%q comes before any asset", line)
				line = strings.NewReplacer("bin/meridian", platform.Bin, "127.1.0.1", host(platform.api), "127.1.0.2", host(platform.region().Edges[1].URL),
					"ASSET", asset, "API_KEY", platform.Key).Replace(line)
				out := shell(t, root, line)
				if strings.Contains(line, " upload ") {
					found := assetInOutput.FindString(out)
					require.NotEmpty(t, found, "%s\n%s", line, out)
					asset = found
				}
			}
		})
	}
}

func host(url string) string {
	h := strings.TrimPrefix(url, "http://")
	h, _, _ = strings.Cut(h, ":")
	return h
}

func shell(t *testing.T, dir, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eo", "pipefail", "-c", strings.Replace(line, "curl ", "curl -fsS ", 1))
	cmd.Dir = dir
	cmd.Env = platform.Env()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", line, out)
	return string(out)
}
