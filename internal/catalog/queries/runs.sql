-- name: InsertRun :exec
INSERT INTO runs (asset, n, profile) VALUES (@asset, @n, @profile);

-- name: GetRun :one
SELECT * FROM runs WHERE asset = @asset AND n = @n;

-- name: NewestRun :one
SELECT * FROM runs WHERE asset = @asset ORDER BY n DESC LIMIT 1;

-- name: SetPlan :execrows
UPDATE runs SET plan = @plan, state = 'encoding' WHERE asset = @asset AND n = @n AND state = 'planned';

-- name: SetRunState :exec
UPDATE runs SET state = @state, ended_at = CASE WHEN @state IN ('complete', 'failed', 'cancelled') THEN now() END
WHERE asset = @asset AND n = @n AND state NOT IN ('complete', 'failed', 'cancelled');

-- name: FailRun :execrows
UPDATE runs SET state = 'failed', ended_at = now(), failure_code = @code, failure_detail = @detail
WHERE asset = @asset AND n = @n AND state NOT IN ('complete', 'failed', 'cancelled');

-- name: CancelRuns :exec
UPDATE runs SET state = 'cancelled', ended_at = now()
WHERE asset = @asset AND state NOT IN ('complete', 'failed', 'cancelled');

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
