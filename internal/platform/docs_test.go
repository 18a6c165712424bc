package platform

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

var docCommand = regexp.MustCompile("(?m)(?:^|`)bin/meridian ([^`\n]+)")

// The guide to regions needs three of them, and root: its commands are parsed
// here, and what they do is shown by the tests of this package.
func TestCommandsOfTheGuideToRegions(t *testing.T) {
	b, err := os.ReadFile("../../docs/operate/regions.md")
	require.NoError(t, err)
	found := docCommand.FindAllStringSubmatch(string(b), -1)
	require.Greater(t, len(found), 8)
	for _, m := range found {
		parser, err := kong.New(&struct {
			Up     Command       `cmd:""`
			Status StatusCommand `cmd:""`
			Region RegionCommand `cmd:""`
		}{})
		require.NoError(t, err)
		_, err = parser.Parse(strings.Fields(m[1]))
		if os.Geteuid() != 0 && strings.Contains(m[1], "--isolated") {
			require.ErrorContains(t, err, "only root")
			continue
		}
		require.NoError(t, err, m[0])
	}
}
