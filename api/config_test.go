package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConfigurationNamesEveryProblem(t *testing.T) {
	c := Command{Listen: "nowhere", RootPublicKey: "x", RecordKey: "x", PlaybackKey: "x", BootstrapAPIKey: "mk_short"}
	c.Upload.SpoolDir = "/does/not/exist"
	err := c.Validate()
	for _, flag := range []string{"--listen", "--root-public-key", "--record-key", "--playback-key", "--bootstrap-api-key", "--event-streams",
		"--upload-max-bytes", "--upload-max-open", "--upload-part-bytes", "--upload-spool-dir", "--repair-interval", "--repair-parallel", "region table"} {
		require.ErrorContains(t, err, flag)
	}
	require.NotContains(t, err.Error(), "mk_short")
}
