package hls

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestForms compares what is looked at byte by byte with expressions.
func TestForms(t *testing.T) {
	id := strings.Repeat("a", 25)
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.SampledFrom([]string{"", "r", "r1", "r0", "r123456", "r1234567", "a", "a-1", "1a", "-a", "A", "init-0123abcd.mp4", "init-0123abcD.mp4", "init-0123abcd.mp4x", id + "2", id + "8", id, id + "aa", "r1\n", strings.Repeat("a", 32), strings.Repeat("a", 33)}),
			rapid.StringMatching(`[a-c2-9r-]{0,3}`), rapid.StringMatching(`[a-z1-8]{26}`), rapid.StringMatching(`init-[0-9a-g]{7,9}\.mp[34]`), rapid.String()).Draw(t, "s")
		for expr, valid := range map[string]func(string) bool{`^[a-z2-7]{26}$`: ValidAssetID, `^r[1-9][0-9]{0,5}$`: ValidRun, `^[a-z][a-z0-9-]{0,31}$`: ValidName, `^init-[0-9a-f]{8}\.mp4$`: ValidInit} {
			require.Equal(t, regexp.MustCompile(expr).MatchString(s), valid(s), "%q, %s", s, expr)
		}
	})
}
