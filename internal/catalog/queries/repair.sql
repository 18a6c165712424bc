-- name: Holdings :many
SELECT id, placement, regions, (deleted_at IS NOT NULL OR state = 'failed')::boolean AS gone
FROM assets WHERE id = ANY (@ids::text[]);

-- name: DoneCleanups :many
SELECT id, asset, spec FROM tasks WHERE kind = 'cleanup' AND state = 'done' AND asset = ANY (@ids::text[]);

-- name: RepeatCleanup :execrows
UPDATE tasks SET state = 'queued', not_before = now(), failures = 0, lease_until = NULL, ended_at = NULL
WHERE id = @id AND kind = 'cleanup' AND state = 'done';

-- name: ChunkWinner :one
SELECT c.attempt FROM chunks c
JOIN renditions r ON r.asset = c.asset AND r.run = c.run AND r.track = c.track
WHERE c.asset = @asset AND c.run = @run AND r.id = @rendition AND c.chunk = @chunk;

-- name: PartID :one
SELECT id FROM parts WHERE asset = @asset AND n = @n;

-- name: InSequence :one
SELECT n FROM sequences WHERE scope = @scope;

-- name: SetSequence :exec
INSERT INTO sequences (scope, n) VALUES (@scope, @n)
ON CONFLICT (scope) DO UPDATE SET n = @n;
