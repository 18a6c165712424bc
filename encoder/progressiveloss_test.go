package encoder

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
)

// Over PostgreSQL, JetStream and object stores: a worker is killed while it remuxes a source
// whose plan grows meanwhile. Another one goes on with the same run; what was stored and
// committed stays.
func TestRemuxWorkerKilled(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	const times = 4
	data := readFile(t, makeFile(t, "long.flv", "-stream_loop", "3", "-i", makeFile(t, "film.mp4", tiny("6M")...), "-map", "0", "-c", "copy"))
	require.Greater(t, len(data), remuxPart, "a shorter one is remuxed as a whole")
	s := q.send(t, data)
	s.frames = times * denseFrames
	s.until(t, q.cat, 8<<20, len(data))
	_, err := q.cat.FinishUpload(t.Context(), s.id)
	require.NoError(t, err)

	w := q.process(t, "eu")
	stored := func() (offered bool, parts int) {
		q.sql(t, "SELECT coalesce(plan @> '{\"offered\": true}', false), coalesce(jsonb_array_length(plan -> 'encoder' -> 'parts'), 0) FROM runs WHERE asset = $1 AND n = 1",
			[]any{s.asset}, &offered, &parts)
		return offered, parts
	}
	require.Eventually(t, func() bool { offered, _ := stored(); return offered }, 3*time.Minute, 10*time.Millisecond)
	w.signal(t, syscall.SIGSTOP)
	offered, parts := stored()
	require.True(t, offered, "the remux had ended before its worker was stopped")
	state, attempt, _, _ := s.planTask(t)
	require.Equal(t, "running", state)
	before := append([]int{}, s.committed(t)...)
	w.kill(t)

	q.process(t, "us")
	s.whole(t, before)
	_, again, failures, _ := s.planTask(t)
	require.Greater(t, again, attempt)
	require.Equal(t, 1, failures)
	var first string
	q.sql(t, "SELECT plan -> 'encoder' -> 'parts' -> $2::int ->> 'key' FROM runs WHERE asset = $1 AND n = 1", []any{s.asset, parts - 1}, &first)
	require.Contains(t, first, "-1", "what was stored stays")
	require.Equal(t, catalog.Ready, q.asset(t, s.asset).State)
}
