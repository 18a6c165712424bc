-- name: InventoryAssets :many
SELECT id, placement, regions, (deleted_at IS NOT NULL OR state = 'failed')::boolean AS gone
FROM assets WHERE id > @after ORDER BY id LIMIT @max_rows;

-- name: InventoryParts :many
SELECT asset, n, id, size, sha256 FROM parts WHERE asset = ANY (@ids::text[]) ORDER BY asset, n;

-- name: InventoryRuns :many
SELECT asset, n, state, master FROM runs WHERE asset = ANY (@ids::text[]) ORDER BY asset, n;

-- name: InventoryChunks :many
SELECT c.asset, c.run, c.track, c.chunk, c.record FROM chunks c
JOIN runs r ON r.asset = c.asset AND r.n = c.run
WHERE c.asset = ANY (@ids::text[]) AND r.state NOT IN ('failed', 'cancelled', 'replaced')
ORDER BY c.asset, c.run, c.track, c.chunk;

-- name: InventoryRecords :many
SELECT scope, n FROM sequences WHERE scope = ANY (@scopes::text[]);

-- name: InventoryPending :many
-- Objects that are to be stored, by a publisher that has their bytes.
SELECT asset, objects FROM outbox WHERE asset = ANY (@ids::text[]) AND done_at IS NULL;

-- name: InventoryCleanups :many
-- Clean-ups that haven't ended: what lies below their prefixes is on its way out.
SELECT asset, spec FROM tasks WHERE asset = ANY (@ids::text[]) AND kind = 'cleanup' AND state IN ('queued', 'running');

-- name: InventoryUnfinished :many
-- Runs with extras that are still to be made.
SELECT DISTINCT asset, run FROM tasks WHERE asset = ANY (@ids::text[]) AND kind = 'extra' AND state IN ('queued', 'running');

-- name: UnfinishedUploads :many
-- Complete uploads nobody has marked so: whoever took the last part died right after.
SELECT u.id FROM uploads u JOIN assets a ON a.id = u.asset
WHERE u.state = 'open' AND u.size = u.received AND u.size > 0 AND u.expires_at < now() + @rest::interval AND a.deleted_at IS NULL
ORDER BY u.expires_at LIMIT @max_rows;
