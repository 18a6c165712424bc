package cmd

import (
	"errors"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/client"
)

func TestGrammar(t *testing.T) {
	for line, fails := range map[string]string{
		"upload a.mp4 b.mp4 --json --no-wait":    "",
		"upload --title T a.mp4":                 "",
		"upload --title T a.mp4 b.mp4":           "--title: give it with one file",
		"upload --visibility secret a.mp4":       "must be one of",
		"upload":                                 "expected",
		"assets":                                 "",
		"assets list --state ready --limit 3":    "",
		"assets list --state gone":               "must be one of",
		"assets show x --json":                   "",
		"assets delete x y --api http://a.test":  "",
		"assets encode x y --profile archive":    "",
		"assets encode --profile archive":        "expected",
		"assets runs x --json":                   "",
		"assets cancel x r2":                     "",
		"assets cancel x":                        "expected",
		"tokens create x --expires 10m":          "",
		"tokens create":                          "expected",
		"tokens revoke x a b --json":             "",
		"tokens revoke x":                        "expected",
		"assets list --api-key @/does/not/exist": "secret file",
	} {
		t.Run(line, func(t *testing.T) {
			var grammar struct {
				Upload Upload `cmd:""`
				Assets Assets `cmd:""`
				Tokens Tokens `cmd:""`
			}
			p, err := kong.New(&grammar, kong.Exit(func(int) {}))
			require.NoError(t, err)
			_, err = p.Parse(strings.Fields(line))
			if fails == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, fails)
			}
		})
	}
}

func TestErrorsSayWhatToDoNext(t *testing.T) {
	for _, err := range []error{
		&client.Problem{Status: 401, Code: "unauthorized"}, &client.Problem{Status: 413, Code: "upload-too-large"},
		&client.Problem{Status: 503, Code: "unavailable"}, &assetFailure{asset: "x", Failure: client.Failure{Code: "not-a-video", Detail: "d"}},
	} {
		require.ErrorContains(t, explain(err, "/a/b.mp4"), "b.mp4")
		require.ErrorContains(t, explain(err, "b.mp4"), "Next: ")
		require.ErrorIs(t, explain(err, "b.mp4"), err)
	}
	require.EqualError(t, explain(errors.New("x"), "b"), "b: x")
	profile := explain(&assetFailure{asset: "x", Failure: client.Failure{Code: "unknown-profile", Detail: "ask for one of [default]"}}, "b.mp4")
	require.ErrorContains(t, profile, "ask for one of [default]")
	require.ErrorContains(t, profile, "--profile", "nothing is wrong with the file")
	require.NotContains(t, profile.Error(), "export")
	require.Equal(t, "ab", plain("a\x1b\u009bb"))
}
