package viewers

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

var fenced = regexp.MustCompile("(?ms)^```\n(.*?)^```$")

// tour is the README's commands that lose a region and bring it back.
func tour(t *testing.T) (lose, back []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "README.md"))
	require.NoError(t, err)
	for _, m := range fenced.FindAllStringSubmatch(string(b), -1) {
		before, after, ok := strings.Cut(m[1], "region kill eu\n")
		if !ok {
			continue
		}
		lose = strings.Split(strings.TrimSpace(before+"region kill eu"), "\n")
		return lose, strings.Split(strings.TrimSpace(after), "\n")
	}
	t.Fatal("the README has no block with `region kill eu`")
	return nil, nil
}

// shell runs lines of the README as a reader would, at this platform's addresses.
func (s *isolated) shell(t *testing.T, lines []string) {
	t.Helper()
	at := strings.NewReplacer("bin/meridian", s.Bin, "127.1.0.1", "198.19.1.1", "127.2.0.1", "198.19.2.1", "127.3.0.1", "198.19.3.1",
		"127.11.0.", "198.19.11.", "curl ", "curl -fsS ")
	for _, line := range lines {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		cmd := exec.CommandContext(ctx, "bash", "-eo", "pipefail", "-c", at.Replace(line))
		cmd.Env = s.Env()
		out, err := cmd.CombinedOutput()
		cancel()
		require.NoError(t, err, "%s\n%s", line, out)
		t.Logf("$ %s\n%s", line, out)
	}
}
