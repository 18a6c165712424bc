-- name: InsertOutbox :exec
INSERT INTO outbox (lane, asset, objects, event, effect) VALUES (@lane, sqlc.narg(asset), @objects, sqlc.narg(event), @effect);

-- name: MarkStored :exec
UPDATE outbox SET stored_at = now(), hold_until = now() WHERE id = @id AND done_at IS NULL AND stored_at IS NULL;

-- name: ClaimOutbox :many
-- The heads of lanes nobody else is at, due since age. Holding one is a lease: a publisher
-- that freezes loses it, and what it PUTs afterwards are the same bytes.
UPDATE outbox SET hold_until = now() + @lease::interval
WHERE id = ANY (ARRAY(
    SELECT o.id FROM outbox o
    WHERE o.done_at IS NULL AND o.hold_until <= now() - @age::interval
      AND NOT EXISTS (SELECT 1 FROM outbox p WHERE p.lane = o.lane AND p.done_at IS NULL AND p.id < o.id)
    ORDER BY o.id LIMIT @max_rows FOR UPDATE SKIP LOCKED
))
RETURNING id, lane, asset, objects, event, effect, failures, created_at, (stored_at IS NOT NULL)::boolean AS stored,
    coalesce((SELECT a.placement FROM assets a WHERE a.id = outbox.asset), '')::text AS placement,
    (SELECT a.regions FROM assets a WHERE a.id = outbox.asset) AS regions;

-- name: MarkDone :one
UPDATE outbox SET done_at = now(), stored_at = coalesce(stored_at, now()), event = sqlc.narg(event), objects = '[]',
    sent_at = CASE WHEN sqlc.narg(event)::jsonb IS NULL THEN now() END
WHERE id = @id AND done_at IS NULL
RETURNING id;

-- name: DelayOutbox :exec
UPDATE outbox SET failures = failures + 1, error = @error, hold_until = now() + @delay::interval
WHERE id = @id AND done_at IS NULL;

-- name: UnsentOfLane :many
SELECT id, event FROM outbox WHERE lane = @lane AND done_at IS NOT NULL AND sent_at IS NULL ORDER BY id LIMIT 100;

-- name: UnsentLanes :many
SELECT DISTINCT lane FROM outbox WHERE done_at < now() - interval '1 second' AND sent_at IS NULL LIMIT 100;

-- name: MarkSent :exec
UPDATE outbox SET sent_at = now() WHERE id = @id AND sent_at IS NULL;

-- name: ForgetSent :execrows
DELETE FROM outbox WHERE id IN (SELECT o.id FROM outbox o WHERE o.sent_at < now() - interval '1 day' LIMIT 1000);

-- name: Replayed :one
SELECT (NOT pg_is_in_recovery() OR coalesce(pg_last_wal_replay_lsn() >= (@lsn::text)::pg_lsn, false))::boolean;

-- name: ForgetIdempotencyKeys :exec
DELETE FROM idempotency_keys WHERE created_at < now() - interval '7 days';
