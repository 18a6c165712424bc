package jobs

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/internal/catalog"
	"github.com/meridian-video/meridian/internal/testenv"
)

// alarm is a line of a janitor's log.
type alarm struct {
	Level, Msg, What, Asset string
	Number                  int
}

func alarms(t *testing.T, log *testenv.Buffer) (out []alarm) {
	t.Helper()
	for line := range strings.Lines(log.String()) {
		var a alarm
		require.NoError(t, json.Unmarshal([]byte(line), &a), "%s", line)
		out = append(out, a)
	}
	return out
}

// What waits for longer than it may is complained about and counted, long before it is failed;
// then its end is told, and counted too.
func TestWhatWaitsForTooLong(t *testing.T) {
	e := newEnv(t)
	var log testenv.Buffer
	m := NewMetrics(prometheus.NewRegistry())
	j := &Janitor{Catalog: e.cat, Conn: e.conn, Objects: e.store, Name: "j", Log: slog.New(slog.NewJSONHandler(&log, nil)), Metrics: m}
	id := e.upload("ann")
	oldest := func(what string) float64 { return testutil.ToFloat64(m.oldest.WithLabelValues(what)) }
	// ago makes as if all had happened so much earlier.
	ago := func(d time.Duration) {
		sql[int](e, `WITH a AS (UPDATE assets SET received_at = now() - $1::interval), r AS (UPDATE runs SET created_at = now() - $1::interval),
			t AS (UPDATE tasks SET created_at = now() - $1::interval, not_before = now() - $1::interval) SELECT 1`, d)
	}

	ago(alarmAfter - time.Minute)
	require.NoError(t, j.overdue(t.Context()))
	require.Empty(t, alarms(t, &log), "it may take so long")
	require.InDelta(t, (alarmAfter - time.Minute).Seconds(), oldest("asset received"), 30)

	ago(alarmAfter + time.Minute)
	require.NoError(t, j.overdue(t.Context()))
	const slow = "janitor: something waits for too long"
	for _, what := range []string{"asset received", "task queued"} {
		require.Contains(t, alarms(t, &log), alarm{Level: "WARN", Msg: slow, What: what, Number: 1})
		require.InDelta(t, (alarmAfter + time.Minute).Seconds(), oldest(what), 30)
		require.EqualValues(t, 1, testutil.ToFloat64(m.waiting.WithLabelValues(what)))
	}
	require.Equal(t, catalog.Received, e.state(id))

	ago(stuckAfter + time.Minute)
	require.NoError(t, j.overdue(t.Context()))
	require.Equal(t, catalog.Failed, e.state(id))
	require.EqualValues(t, 1, testutil.ToFloat64(m.swept.WithLabelValues("stuck")))
	require.NoError(t, j.sweep(t.Context()))
	require.Contains(t, alarms(t, &log), alarm{Level: "ERROR", Msg: "task failed for good", Asset: id})
	require.EqualValues(t, 1, testutil.ToFloat64(m.swept.WithLabelValues("dead")))
	require.NoError(t, j.overdue(t.Context()))
	require.EqualValues(t, 1, testutil.ToFloat64(m.waiting.WithLabelValues("dead task")), "until somebody replays or discards it")
	require.EqualValues(t, 0, testutil.ToFloat64(m.waiting.WithLabelValues("asset received")))
	require.EqualValues(t, 0, testutil.ToFloat64(m.waiting.WithLabelValues("idle run")))

	// A run without a task, as there should be none.
	e.upload("ann")
	sql[int](e, `WITH o AS (UPDATE outbox SET done_at = now()),
		t AS (UPDATE tasks SET state = 'done', ended_at = now() - $1::interval WHERE state = 'queued' AND kind = 'plan') SELECT 1`, alarmAfter+time.Minute)
	require.NoError(t, j.overdue(t.Context()))
	require.Contains(t, alarms(t, &log), alarm{Level: "WARN", Msg: slow, What: "idle run", Number: 1})
	require.InDelta(t, (alarmAfter + time.Minute).Seconds(), oldest("idle run"), 30)
}
