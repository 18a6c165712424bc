-- name: InsertRun :exec
INSERT INTO runs (asset, n, profile) VALUES (@asset, @n, @profile);

-- name: InsertEarlyRun :exec
-- The first run of an asset whose upload is under way, with its plan; none while a
-- worker was seen lately that doesn't know of such runs and would fail them.
WITH a AS (
    SELECT x.id, x.owner, x.region, x.regions FROM assets x WHERE x.id = @asset AND x.deleted_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM workers w WHERE NOT w.early AND w.slots > 0 AND w.seen_at > now() - interval '1 minute')
), r AS (
    INSERT INTO runs (asset, n, profile) SELECT a.id, 1, @profile FROM a ON CONFLICT DO NOTHING
)
INSERT INTO tasks (id, asset, run, owner, class, kind, region, pinned)
SELECT @task, a.id, 1, a.owner, @class, @kind, a.region, a.regions FROM a ON CONFLICT ON CONSTRAINT tasks_pkey DO NOTHING;

-- name: GetRun :one
SELECT * FROM runs WHERE asset = @asset AND n = @n;

-- name: NewestRun :one
SELECT * FROM runs WHERE asset = @asset ORDER BY n DESC LIMIT 1;

-- name: SetPlan :execrows
-- Ends a plan task with its plan, fenced by the attempt.
WITH held AS (
    UPDATE tasks t SET state = 'done', ended_at = now(), lease_until = NULL
    WHERE t.id = @task AND t.attempt = @attempt AND t.state = 'running'
      AND EXISTS (SELECT 1 FROM runs p WHERE p.asset = t.asset AND p.n = t.run
          AND (p.state = 'planned' OR p.state IN ('encoding', 'playable') AND p.plan @> '{"growing": true}'))
    RETURNING t.asset, t.run
)
UPDATE runs r SET plan = @plan, state = CASE WHEN r.state = 'planned' THEN 'encoding' ELSE r.state END FROM held WHERE r.asset = held.asset AND r.n = held.run;

-- name: SetGrowingPlan :execrows
-- The plan so far, fenced by the plan task's attempt; none while a worker was seen lately
-- that doesn't know of such plans.
UPDATE runs r SET plan = @plan, state = CASE WHEN r.state = 'planned' THEN 'encoding' ELSE r.state END FROM tasks t
WHERE t.id = @task AND t.attempt = @attempt AND t.state = 'running' AND r.asset = t.asset AND r.n = t.run
  AND (r.state = 'planned' AND NOT EXISTS (SELECT 1 FROM workers w WHERE NOT w.offers AND w.slots > 0 AND w.seen_at > now() - interval '1 minute')
    OR r.state IN ('encoding', 'playable') AND r.plan @> '{"growing": true}');

-- name: SetRunState :exec
UPDATE runs SET state = @state, ended_at = CASE WHEN @state IN ('complete', 'failed', 'cancelled') THEN now() END
WHERE asset = @asset AND n = @n AND state NOT IN ('complete', 'failed', 'cancelled', 'replaced');

-- name: FailRun :execrows
UPDATE runs SET state = 'failed', ended_at = now(), failure_code = @code, failure_detail = @detail
WHERE asset = @asset AND n = @n AND state NOT IN ('complete', 'failed', 'cancelled', 'replaced');

-- name: CancelRuns :exec
UPDATE runs SET state = 'cancelled', ended_at = now()
WHERE asset = @asset AND state NOT IN ('complete', 'failed', 'cancelled', 'replaced');

-- name: Runs :many
SELECT * FROM runs WHERE asset = @asset ORDER BY n;

-- name: CancelRun :execrows
UPDATE runs SET state = 'cancelled', ended_at = now()
WHERE asset = @asset AND n = @n AND state IN ('planned', 'encoding', 'playable');

-- name: ReplaceRun :execrows
-- The complete run that was shown until another one was.
UPDATE runs SET state = 'replaced' WHERE asset = @asset AND n = @n AND state = 'complete';

-- name: Offer :one
UPDATE runs SET master = master + 1, offered = @offered, final = @final WHERE asset = @asset AND n = @n RETURNING master;

-- name: InsertRendition :exec
INSERT INTO renditions (asset, run, id, track, description) VALUES (@asset, @run, @id, @track, @description);

-- name: DescribeRendition :exec
UPDATE renditions SET description = @description WHERE asset = @asset AND run = @run AND id = @id;

-- name: Renditions :many
SELECT * FROM renditions WHERE asset = @asset AND run = @run ORDER BY id;

-- name: TrackHeads :many
SELECT track,
       count(*)::integer AS published,
       bool_or(chunk = 0)::boolean AS started,
       coalesce(max(chunk) FILTER (WHERE last), -1)::integer AS last_chunk
FROM chunks WHERE asset = @asset AND run = @run AND published_at IS NOT NULL
GROUP BY track;

-- name: Chunks :many
SELECT record FROM chunks WHERE asset = @asset AND run = @run AND track = @track ORDER BY chunk;

-- name: MarkChunkPublished :exec
UPDATE chunks SET published_at = now() WHERE asset = @asset AND run = @run AND track = @track AND chunk = @chunk AND published_at IS NULL;

-- name: ChunkAttempt :one
SELECT attempt FROM chunks WHERE asset = @asset AND run = @run AND track = @track AND chunk = @chunk;

-- name: NextInSequence :one
INSERT INTO sequences (scope, n) VALUES (@scope, 1)
ON CONFLICT (scope) DO UPDATE SET n = sequences.n + 1
RETURNING n;
