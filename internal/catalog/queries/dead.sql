-- name: Tasks :many
-- Tasks, the newest first; no states or assets given means any.
SELECT * FROM tasks
WHERE kind <> 'cleanup' AND (cardinality(@states::text[]) = 0 OR state = ANY (@states::text[]))
  AND (@asset::text = '' OR asset = @asset::text)
ORDER BY coalesce(ended_at, started_at, created_at) DESC, id LIMIT @max_rows;

-- name: DeadTasks :many
SELECT * FROM tasks WHERE state = 'failed' AND error_code = 'internal' ORDER BY ended_at DESC, id LIMIT @max_rows;

-- name: LayToRest :execrows
-- A dead task that was decided about: it stays as a row, no longer dead.
UPDATE tasks SET state = 'cancelled' WHERE id = @id AND state = 'failed' AND error_code = 'internal';

-- name: ReviveTask :execrows
UPDATE tasks SET state = 'queued', failures = 0, buried_at = NULL, ended_at = NULL, lease_until = NULL, dispatched_at = NULL,
    dispatch = dispatch + 1, not_before = now()
WHERE id = @id AND state = 'failed' AND error_code = 'internal';

-- name: ReviveAsset :execrows
UPDATE assets SET state = 'received', failed_at = NULL, failure_code = NULL, failure_detail = NULL
WHERE id = @id AND state = 'failed' AND deleted_at IS NULL;

-- name: CancelCleanup :execrows
-- A clean-up that hasn't begun, so that everything is there still.
UPDATE tasks SET state = 'cancelled', ended_at = now() WHERE id = @id AND kind = 'cleanup' AND state = 'queued' AND attempt = 0;

-- name: HastenCleanup :execrows
UPDATE tasks SET not_before = now() WHERE id = @id AND kind = 'cleanup' AND state = 'queued' AND not_before > now();

-- name: StuckTasks :many
-- Of every run without any progress for so long, the task that waits longest; of one that
-- nothing is left to do for, and nothing to publish, the first.
SELECT DISTINCT ON (r.asset, r.n) t.* FROM runs r
JOIN assets a ON a.id = r.asset AND coalesce(a.received_at, now()) < now() - @deadline::interval
JOIN tasks t ON t.asset = r.asset AND t.run = r.n AND t.kind IN ('plan', 'video', 'audio', 'text')
WHERE r.state IN ('planned', 'encoding', 'playable') AND r.created_at < now() - @deadline::interval
  AND NOT EXISTS (
    SELECT 1 FROM tasks x WHERE x.asset = r.asset AND x.run = r.n AND x.kind <> 'cleanup'
      AND (x.state = 'running' OR greatest(x.created_at, x.started_at, x.ended_at) > now() - @deadline::interval))
  AND (t.state = 'queued' OR NOT EXISTS (SELECT 1 FROM outbox o WHERE o.asset = r.asset AND o.done_at IS NULL))
ORDER BY r.asset, r.n, t.state <> 'queued', t.created_at, t.id LIMIT @max_rows;

-- name: FailStuck :execrows
-- Fails a task that waits, or one that has ended of a run that waits for nothing.
UPDATE tasks t SET state = 'failed', ended_at = now(), error_code = @code, error_detail = @detail
WHERE t.id = @id AND (t.state = 'queued' OR NOT EXISTS (
    SELECT 1 FROM tasks x WHERE x.asset = t.asset AND x.run = t.run AND x.kind <> 'cleanup' AND x.state IN ('queued', 'running'))
  AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.asset = t.asset AND o.done_at IS NULL)
  AND EXISTS (SELECT 1 FROM runs r WHERE r.asset = t.asset AND r.n = t.run AND r.state IN ('planned', 'encoding', 'playable')));

-- name: Oldest :many
-- How many things are in each state that must end, and the age of the oldest in seconds.
SELECT ('asset ' || state)::text AS what, count(*)::bigint AS n,
       coalesce(max(extract(epoch FROM now() - CASE state WHEN 'received' THEN received_at ELSE playable_at END)), 0)::float8 AS age
FROM assets WHERE state IN ('received', 'playable') AND deleted_at IS NULL GROUP BY state
UNION ALL
SELECT 'task ' || state, count(*), coalesce(max(extract(epoch FROM now() - CASE state WHEN 'running' THEN started_at ELSE greatest(created_at, not_before, started_at) END)), 0)::float8
FROM tasks WHERE state IN ('queued', 'running') AND kind <> 'cleanup' AND needs = 0 AND not_before <= now() GROUP BY state
UNION ALL
-- It should be complete, or have failed: nothing is left to do for it, and nothing to publish.
SELECT 'idle run', count(*), coalesce(max(extract(epoch FROM now() - coalesce((
    SELECT max(t.ended_at) FROM tasks t WHERE t.asset = r.asset AND t.run = r.n AND t.kind <> 'cleanup'), r.created_at))), 0)::float8
FROM runs r WHERE r.state IN ('planned', 'encoding', 'playable')
  AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.asset = r.asset AND t.run = r.n AND t.kind <> 'cleanup' AND t.state IN ('queued', 'running'))
  AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.asset = r.asset AND o.done_at IS NULL)
UNION ALL
SELECT 'outbox row', count(*), coalesce(max(extract(epoch FROM now() - created_at)), 0)::float8 FROM outbox WHERE done_at IS NULL
UNION ALL
SELECT 'clean-up', count(*), coalesce(max(extract(epoch FROM now() - not_before)), 0)::float8
FROM tasks WHERE kind = 'cleanup' AND state IN ('queued', 'running') AND not_before <= now()
UNION ALL
SELECT 'dead task', count(*), coalesce(max(extract(epoch FROM now() - ended_at)), 0)::float8
FROM tasks WHERE state = 'failed' AND error_code = 'internal';
