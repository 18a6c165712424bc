package jobs

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
)

func TestCommand(t *testing.T) {
	e := newEnv(t)
	id := e.upload("ann")
	plan := id + "/r1/plan"
	var out bytes.Buffer
	at := access{Out: &out, catalog: e.cat}
	said := func() string {
		defer out.Reset()
		return out.String()
	}
	list := &ListCommand{access: at, State: []string{"queued", "running"}, Limit: 100}
	require.NoError(t, list.Validate())
	require.NoError(t, list.Run(t.Context()))
	require.Contains(t, said(), plan)
	dead := &DeadListCommand{access: at, Limit: 100}
	require.NoError(t, dead.Run(t.Context()))
	require.Equal(t, "No dead tasks.\n", said())

	task, err := e.cat.Claim(t.Context(), plan, "worker-1", "")
	require.NoError(t, err)
	require.NoError(t, e.cat.Fail(t.Context(), task, catalog.Failure{Code: catalog.InternalFailure, Detail: "ffmpeg: exit\nno such\x1b[31m encoder"}))
	require.NoError(t, dead.Run(t.Context()))
	text := said()
	require.Contains(t, text, plan+"\n")
	require.Contains(t, text, "  | no such [31m encoder\n")

	replay := &ReplayCommand{access: at, Tasks: []string{"none", plan}}
	require.ErrorContains(t, replay.Run(t.Context()), "none: no such task")
	require.Equal(t, plan+": under way again, in run r2\n", said())
	require.Equal(t, catalog.Received, e.state(id))

	list.All, list.JSON = true, true
	require.NoError(t, list.Run(t.Context()))
	require.Contains(t, said(), `"State":"cancelled"`)
	discard := &DiscardCommand{access: at, Tasks: []string{plan}}
	require.ErrorIs(t, discard.Run(t.Context()), catalog.ErrState)

	require.ErrorContains(t, (&ListCommand{State: []string{"lost"}, Limit: 0}).Validate(), "--state")
}
