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
-- How much there is to encode isn't known, 0, while the plan grows.
SELECT
    coalesce((SELECT u.received FROM uploads u WHERE u.asset = @asset), 0)::bigint AS bytes_received,
    coalesce((SELECT u.size FROM uploads u WHERE u.asset = @asset), 0)::bigint AS bytes_total,
    coalesce(sum(t.frames), 0)::bigint AS frames_done,
    CASE WHEN EXISTS (SELECT 1 FROM runs g WHERE g.asset = @asset AND g.state = 'encoding' AND g.plan @> '{"growing": true}') THEN 0
        ELSE coalesce(sum(t.frames_total), 0) END::bigint AS frames_total
FROM tasks t
WHERE t.asset = @asset AND t.kind IN ('video', 'audio') AND t.state <> 'cancelled'
  AND t.run = (SELECT max(r.n) FROM runs r WHERE r.asset = @asset);
