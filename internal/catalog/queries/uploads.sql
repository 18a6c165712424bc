-- name: InsertUpload :one
INSERT INTO uploads (id, asset, size, filename, content_type, metadata, expires_at)
VALUES (@id, @asset, sqlc.narg(size), @filename, @content_type, @metadata, @expires_at)
RETURNING *;

-- name: UploadOfAsset :one
SELECT * FROM uploads WHERE asset = @asset;

-- name: GetUpload :one
SELECT u.*, a.owner, a.placement, a.regions FROM uploads u JOIN assets a ON a.id = u.asset
WHERE u.id = @id AND a.deleted_at IS NULL;

-- name: LockAssetOfUpload :one
SELECT a.* FROM assets a JOIN uploads u ON u.asset = a.id WHERE u.id = @id FOR NO KEY UPDATE OF a;

-- name: LockUpload :one
SELECT * FROM uploads WHERE id = @id FOR UPDATE;

-- name: LockUploadAndRun :one
-- With the asset's newest run, 0 for none; the asset is locked before, or that may be an older one.
SELECT u.state, u.size, u.received, u.metadata, coalesce(r.n, 0)::integer AS run, coalesce(r.state, '')::text AS run_state
FROM uploads u LEFT JOIN LATERAL (SELECT runs.n, runs.state FROM runs WHERE runs.asset = u.asset ORDER BY runs.n DESC LIMIT 1) r ON true
WHERE u.id = @id FOR UPDATE OF u;

-- name: SetUploadSize :execrows
UPDATE uploads SET size = @size::bigint WHERE id = @id AND (size IS NULL OR size = @size::bigint) AND received <= @size::bigint AND state = 'open';

-- name: AdvanceUpload :exec
UPDATE uploads SET received = received + @size::bigint, expires_at = @expires_at WHERE id = @id;

-- name: InsertPart :exec
INSERT INTO parts (asset, n, id, start, size, sha256, regions)
VALUES (@asset, @n, @id, @start, @size, @sha256, @regions);

-- name: PartAt :one
SELECT * FROM parts WHERE asset = @asset AND start = @start;

-- name: Source :many
-- A row for each part, one without if there is none yet.
SELECT u.filename, u.content_type, u.size, u.state, a.placement, a.regions,
    p.n, p.id, p.start, p.size AS part_size, p.sha256, p.regions AS part_regions
FROM uploads u JOIN assets a ON a.id = u.asset LEFT JOIN parts p ON p.asset = u.asset
WHERE u.asset = @asset ORDER BY p.n;

-- name: NextPart :one
SELECT count(*)::integer FROM parts WHERE asset = @asset;

-- name: SetUploadState :exec
UPDATE uploads SET state = @state WHERE id = @id;

-- name: CloseUploadOfAsset :exec
UPDATE uploads SET state = 'failed' WHERE asset = @asset AND state = 'open';

-- name: Unused :many
-- Assets that nobody has begun to upload anything to.
SELECT a.id FROM assets a
WHERE a.state = 'waiting' AND a.deleted_at IS NULL AND a.created_at < now() - @age::interval
  AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.asset = a.id)
ORDER BY a.created_at LIMIT @max_rows;

-- name: ExpiredUploads :many
SELECT u.id FROM uploads u JOIN assets a ON a.id = u.asset
WHERE u.state = 'open' AND u.expires_at < now() AND a.deleted_at IS NULL
ORDER BY u.expires_at LIMIT @max_rows;
