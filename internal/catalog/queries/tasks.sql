-- name: InsertTask :exec
INSERT INTO tasks (id, asset, run, owner, class, kind, track, chunk, spec, region, pinned, frames_total, needs, not_before)
VALUES (@id, @asset, @run, @owner, @class, @kind, @track, @chunk, @spec, @region, @pinned, @frames_total, @needs,
        now() + @delay::interval)
ON CONFLICT (id) DO NOTHING;

-- name: ReleaseTasks :exec
-- Tasks whose bytes of the source are there.
UPDATE tasks SET needs = 0, state = 'queued', not_before = now() WHERE asset = @asset AND state = 'queued' AND needs > 0 AND needs <= @received;

-- name: ReleaseArrived :exec
UPDATE tasks t SET needs = 0, state = 'queued', not_before = now() FROM uploads u
WHERE t.asset = @asset AND u.asset = t.asset AND t.state = 'queued' AND t.needs > 0 AND t.needs <= u.received;

-- name: AwaitBytes :execrows
-- Gives a task back until the source has so many bytes, or is complete. The upload's lock
-- comes first: whoever moves its offset releases the tasks that wait by then.
WITH u AS MATERIALIZED (
    SELECT uploads.asset, uploads.state, uploads.received FROM uploads WHERE uploads.asset = @asset FOR SHARE
)
UPDATE tasks t SET state = 'queued', lease_until = NULL, dispatched_at = NULL, dispatch = dispatch + 1,
    needs = CASE WHEN u.state = 'open' AND u.received < @needs::bigint THEN @needs::bigint ELSE 0 END
FROM u WHERE t.asset = u.asset AND t.id = @id AND t.attempt = @attempt AND t.state = 'running';

-- name: GetTask :one
SELECT * FROM tasks WHERE id = @id;

-- name: ClaimTask :one
-- A claim of a task whose lease has run out counts its last attempt as failed. What is
-- encoded is for workers of the run's build, as long as one was seen lately that may do it.
WITH held AS (
    UPDATE tasks t SET attempt = attempt + 1, state = 'running', worker = @worker, started_at = now(), begun_at = coalesce(begun_at, now()),
        failures = failures + (CASE WHEN state = 'running' THEN 1 ELSE 0 END),
        error_code = CASE WHEN state = 'running' THEN 'lost' ELSE error_code END,
        lease_until = now() + @lease::interval
    WHERE t.id = @id AND t.failures < @max_failures::integer
      AND (t.state = 'queued' AND t.needs = 0 AND t.not_before <= now() OR t.state = 'running' AND t.lease_until < now())
      AND (t.kind NOT IN ('video', 'audio') OR @build::text = '' OR NOT EXISTS (
          SELECT 1 FROM runs r JOIN workers w ON w.build = r.build
          WHERE r.asset = t.asset AND r.n = t.run AND r.build NOT IN ('', @build::text)
            AND w.seen_at > now() - @patience::interval AND (t.pinned = '{}' OR w.region = ANY (t.pinned))))
    RETURNING *
), builds AS (
    UPDATE runs r SET build = @build::text, mixed = r.mixed OR r.build <> '' FROM held
    WHERE r.asset = held.asset AND r.n = held.run AND @build::text NOT IN ('', r.build)
      AND (held.kind IN ('video', 'audio') OR held.kind = 'plan' AND r.build = '')
)
SELECT * FROM held;

-- name: LeaveToBuild :execrows
-- Gives a task that can't be claimed, for its run has another build, back for another message.
UPDATE tasks t SET dispatched_at = NULL, dispatch = dispatch + 1, not_before = now() + @delay::interval FROM runs r
WHERE t.id = @id AND t.state = 'queued' AND t.needs = 0 AND t.not_before <= now() AND t.kind IN ('video', 'audio')
  AND r.asset = t.asset AND r.n = t.run AND @build::text <> '' AND r.build NOT IN ('', @build::text);

-- name: BeatTask :execrows
UPDATE tasks SET lease_until = now() + @lease::interval, frames = greatest(frames, @frames)
WHERE id = @id AND attempt = @attempt AND state = 'running';

-- name: FinishTask :execrows
UPDATE tasks SET state = 'done', ended_at = now(), lease_until = NULL, frames = frames_total
WHERE id = @id AND attempt = @attempt AND state = 'running';

-- name: RetryTask :one
-- Gives a task back after a failure: queued again after a pause, or failed when it has used up its attempts.
UPDATE tasks SET failures = failures + 1, error_code = @code, error_detail = @detail, lease_until = NULL, dispatched_at = NULL, dispatch = dispatch + 1,
    state = CASE WHEN failures + 1 >= @max_failures::integer THEN 'failed' ELSE 'queued' END,
    ended_at = CASE WHEN failures + 1 >= @max_failures::integer THEN now() END,
    not_before = now() + @delay::interval
WHERE id = @id AND attempt = @attempt AND state = 'running'
RETURNING *;

-- name: ReturnTask :execrows
-- Gives a task back that was stopped through no fault of its own: nothing is counted.
UPDATE tasks SET state = 'queued', lease_until = NULL, dispatched_at = NULL, dispatch = dispatch + 1
WHERE id = @id AND attempt = @attempt AND state = 'running';

-- name: FailTask :execrows
UPDATE tasks SET state = 'failed', ended_at = now(), lease_until = NULL, failures = failures + 1, error_code = @code, error_detail = @detail
WHERE id = @id AND attempt = @attempt AND state = 'running';

-- name: CancelTasks :exec
UPDATE tasks SET state = 'cancelled', ended_at = now(), lease_until = NULL
WHERE asset = @asset AND kind <> 'cleanup' AND state IN ('queued', 'running')
  AND (sqlc.narg(run)::integer IS NULL OR run = sqlc.narg(run));

-- name: OpenTasks :one
SELECT count(*) FROM tasks WHERE asset = @asset AND run = @run AND kind IN ('plan', 'video', 'audio', 'text') AND state <> 'done';

-- name: CommitChunk :one
-- The whole commit of a chunk in one statement and one round trip: without the
-- attempts lease, or with another initialisation segment than a rendition has
-- already, none of it happens.
WITH held AS (
    UPDATE tasks t SET frames = least(t.frames_total, greatest(t.frames, @frames::bigint)),
        state = CASE WHEN @finished::boolean THEN 'done' ELSE t.state END,
        ended_at = CASE WHEN @finished::boolean THEN now() END,
        lease_until = CASE WHEN @finished::boolean THEN NULL ELSE t.lease_until END
    WHERE t.id = @task AND t.attempt = @attempt AND t.state = 'running'
      AND NOT EXISTS (
          SELECT 1 FROM renditions r JOIN jsonb_each_text(@inits::jsonb) i ON i.key = r.id
          WHERE r.asset = t.asset AND r.run = t.run AND r.init NOT IN ('', i.value))
    RETURNING t.asset, t.run, t.track
), chunk AS (
    INSERT INTO chunks (asset, run, track, chunk, attempt, last, record)
    SELECT held.asset, held.run, held.track, @chunk, @attempt, @last, @record FROM held
), described AS (
    UPDATE renditions r SET description = coalesce(d.value, r.description), init = i.value
    FROM held, jsonb_each_text(@inits::jsonb) i LEFT JOIN jsonb_array_elements(@renditions::jsonb) d(value) ON d.value ->> 'id' = i.key
    WHERE r.asset = held.asset AND r.run = held.run AND r.id = i.key AND (r.init <> i.value OR d.value IS NOT NULL)
)
INSERT INTO outbox (lane, asset, objects, event, effect, hold_until)
SELECT held.asset, held.asset, @objects, @event, @effect, now() + @hold::interval FROM held
RETURNING id;

-- name: Dispatchable :many
-- Tasks waiting for a message, oldest first within each owner and placement; lost messages count as never sent.
-- While there are workers of several builds, tasks are offered where those of their run's are.
SELECT waiting.id, waiting.owner, waiting.region, coalesce(able.regions, waiting.pinned)::text[] AS pinned, waiting.dispatch, waiting.frames_total FROM (
    SELECT t.*, row_number() OVER (PARTITION BY t.owner, t.pinned ORDER BY t.created_at, t.chunk, t.id) AS place
    FROM tasks t
    WHERE t.class = @class AND t.kind <> 'cleanup' AND t.state = 'queued' AND t.needs = 0 AND t.not_before <= now()
      AND (t.dispatched_at IS NULL OR t.dispatched_at < now() - @lost::interval)
) waiting
LEFT JOIN LATERAL (
    SELECT array_agg(DISTINCT w.region ORDER BY w.region) AS regions FROM runs r JOIN workers w ON w.build = r.build
    WHERE waiting.kind IN ('video', 'audio') AND r.asset = waiting.asset AND r.n = waiting.run AND r.build <> ''
      AND w.slots > 0 AND w.seen_at > now() - @seen::interval AND (waiting.pinned = '{}' OR w.region = ANY (waiting.pinned))
      AND EXISTS (SELECT 1 FROM workers o WHERE o.build <> r.build AND o.slots > 0 AND o.seen_at > now() - @seen::interval)
) able ON true
WHERE waiting.place <= @per_owner::integer
ORDER BY waiting.owner, waiting.place;

-- name: Dispatched :many
SELECT dispatched_to, count(*)::integer AS tasks FROM tasks
WHERE class = @class AND kind <> 'cleanup' AND state = 'queued' AND dispatched_at >= now() - @lost::interval
GROUP BY dispatched_to;

-- name: MarkDispatched :exec
UPDATE tasks SET dispatch = dispatch + 1, dispatched_at = now(), dispatched_to = @target WHERE id = @id AND dispatch = @dispatch AND state = 'queued';

-- name: RequeueExpired :many
-- Leases that ran out and were not taken over through a redelivered message.
UPDATE tasks SET state = 'queued', failures = failures + 1, lease_until = NULL, dispatched_at = NULL, dispatch = dispatch + 1,
    error_code = 'lost', error_detail = 'the worker stopped renewing its lease'
WHERE id = ANY (ARRAY(
    SELECT t.id FROM tasks t
    WHERE t.state = 'running' AND t.kind <> 'cleanup' AND t.lease_until < now() - @grace::interval AND t.failures + 1 < @max_failures::integer
    ORDER BY t.lease_until LIMIT @max_rows FOR UPDATE SKIP LOCKED
))
RETURNING id;

-- name: ExpiredForGood :many
-- The same, but of tasks that have used up their attempts.
SELECT * FROM tasks
WHERE state = 'running' AND kind <> 'cleanup' AND lease_until < now() - @grace::interval AND failures + 1 >= @max_failures::integer
ORDER BY lease_until LIMIT @max_rows;

-- name: Unburied :many
SELECT * FROM tasks WHERE state = 'failed' AND error_code = 'internal' AND buried_at IS NULL ORDER BY id LIMIT @max_rows;

-- name: MarkBuried :exec
UPDATE tasks SET buried_at = now() WHERE id = @id;

-- name: HoldLease :execrows
INSERT INTO leases (name, holder, held_until) VALUES (@name, @holder, now() + @ttl::interval)
ON CONFLICT (name) DO UPDATE SET holder = @holder, held_until = now() + @ttl::interval
WHERE leases.holder = @holder OR leases.held_until < now();

-- name: DropLease :exec
DELETE FROM leases WHERE name = @name AND holder = @holder;

-- name: ClaimCleanup :one
UPDATE tasks SET attempt = attempt + 1, state = 'running', worker = @worker, started_at = now(),
    lease_until = now() + @lease::interval
WHERE id = (
    SELECT t.id FROM tasks t
    WHERE t.kind = 'cleanup' AND (t.state = 'queued' AND t.not_before <= now() OR t.state = 'running' AND t.lease_until < now())
    ORDER BY t.not_before LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING *;

-- name: RequeueCleanup :exec
UPDATE tasks SET state = 'queued', spec = @spec, failures = @failures, error_detail = @detail, lease_until = NULL,
    not_before = now() + @delay::interval
WHERE id = @id AND attempt = @attempt;

-- name: BeatWorker :exec
INSERT INTO workers (id, region, slots, build, early, grows, offers) VALUES (@id, @region, @slots, @build, true, true, true)
ON CONFLICT (id) DO UPDATE SET region = @region, slots = @slots, build = @build, early = true, grows = true, offers = true, seen_at = now();

-- name: LeaveWorker :exec
-- It takes nothing any more, but may be back in a moment: runs of its build wait for that.
UPDATE workers SET slots = 0 WHERE id = @id;

-- name: WorkerSlots :many
SELECT region, sum(slots)::integer AS slots FROM workers WHERE slots > 0 AND seen_at > now() - @within::interval GROUP BY region;

-- name: ForgetWorkers :exec
DELETE FROM workers WHERE seen_at < now() - interval '1 hour';
