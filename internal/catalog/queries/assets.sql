-- name: EnsureOwner :exec
INSERT INTO owners (id) VALUES (@id) ON CONFLICT DO NOTHING;

-- name: InsertKey :one
INSERT INTO api_keys (id, owner, name, hash, prefix, role) VALUES (@id, @owner, @name, @hash, @prefix, @role)
ON CONFLICT (hash) DO UPDATE SET name = api_keys.name
RETURNING *;

-- name: KeyByHash :one
SELECT * FROM api_keys WHERE hash = @hash;

-- name: RevokeKey :execrows
UPDATE api_keys SET revoked_at = now() WHERE id = @id AND owner = @owner AND revoked_at IS NULL;

-- name: ListKeys :many
SELECT * FROM api_keys WHERE owner = @owner ORDER BY created_at, id;

-- name: InsertAsset :one
INSERT INTO assets (id, owner, title, visibility, placement, regions, region)
VALUES (@id, @owner, @title, @visibility, @placement, @regions, @region)
RETURNING *;

-- name: InsertIdempotencyKey :execrows
INSERT INTO idempotency_keys (owner, key, request, asset) VALUES (@owner, @key, @request, @asset)
ON CONFLICT DO NOTHING;

-- name: IdempotencyKey :one
SELECT request, asset FROM idempotency_keys WHERE owner = @owner AND key = @key;

-- name: GetAsset :one
SELECT * FROM assets WHERE id = @id;

-- name: LockAsset :one
-- Not FOR UPDATE: that would wait for, and deadlock with, rows being inserted that refer to the asset.
SELECT * FROM assets WHERE id = @id FOR NO KEY UPDATE;

-- name: ListAssets :many
SELECT * FROM assets
WHERE owner = @owner AND deleted_at IS NULL
  AND (sqlc.narg(state)::text IS NULL OR state = sqlc.narg(state))
  AND (sqlc.narg(before)::timestamptz IS NULL OR (created_at, id) < (sqlc.narg(before), @before_id::text))
ORDER BY created_at DESC, id DESC
LIMIT @max_rows;

-- name: UpdateAsset :exec
UPDATE assets SET title = @title, visibility = @visibility WHERE id = @id;

-- name: MarkUploading :execrows
UPDATE assets SET state = 'uploading', size = coalesce(sqlc.narg(size)::bigint, size) WHERE id = @id AND state = 'waiting';

-- name: MarkReceived :one
UPDATE assets SET state = 'received', received_at = now(), size = @size WHERE id = @id RETURNING *;

-- name: MarkPlayable :exec
UPDATE assets SET state = 'playable', playable_at = coalesce(playable_at, now()), current_run = @run
WHERE id = @id AND state = 'received';

-- name: MarkReady :exec
UPDATE assets SET state = 'ready', playable_at = coalesce(playable_at, now()), ready_at = coalesce(ready_at, now()), current_run = @run
WHERE id = @id AND state <> 'failed';

-- name: MarkFailed :exec
UPDATE assets SET state = 'failed', failed_at = now(), failure_code = @code, failure_detail = @detail WHERE id = @id;

-- name: MarkDeleted :exec
UPDATE assets SET deleted_at = now() WHERE id = @id;

-- name: SetDuration :exec
UPDATE assets SET duration_ms = @duration_ms WHERE id = @id;

-- name: SetPlayback :exec
UPDATE assets SET playback = @playback WHERE id = @id;

-- name: SetPoster :exec
UPDATE assets SET poster = @poster::text WHERE id = @id;

-- name: AssetProgress :one
-- How much there is to encode isn't known, 0, while the plan grows. Of each track: frames, the
-- pixels of one in all rungs, seconds since it was begun, and how long its tasks took in all.
WITH run AS (
    SELECT r.n, r.state, r.state IN ('encoding', 'playable') AND coalesce(r.plan @> '{"growing": true}', false) AS growing
    FROM runs r WHERE r.asset = @asset ORDER BY r.n DESC LIMIT 1
), paces AS (
    SELECT t.track, sum(t.frames)::bigint AS done, sum(t.frames_total)::bigint AS total,
        extract(epoch FROM now() - min(t.begun_at))::float8 AS since,
        sum(extract(epoch FROM coalesce(t.ended_at, now()) - t.begun_at))::float8 AS took,
        (SELECT sum((d.description ->> 'width')::bigint * (d.description ->> 'height')::bigint)
            FROM renditions d WHERE d.asset = @asset AND d.run = t.run AND d.track = t.track) AS pixels
    FROM tasks t JOIN run ON t.run = run.n
    WHERE t.asset = @asset AND t.kind = 'video' AND t.state <> 'cancelled'
    GROUP BY t.run, t.track
)
SELECT
    coalesce((SELECT u.received FROM uploads u WHERE u.asset = @asset), 0)::bigint AS bytes_received,
    coalesce((SELECT u.size FROM uploads u WHERE u.asset = @asset), 0)::bigint AS bytes_total,
    coalesce((SELECT sum(done) FROM paces), 0)::bigint AS frames_done,
    CASE WHEN (SELECT growing FROM run) THEN 0 ELSE coalesce((SELECT sum(total) FROM paces), 0) END::bigint AS frames_total,
    coalesce((SELECT jsonb_agg(to_jsonb(p)) FROM paces p WHERE (SELECT state FROM run) IN ('encoding', 'playable', 'complete')), '[]')::jsonb AS tracks;
