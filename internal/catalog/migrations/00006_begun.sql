-- +goose Up

-- When its first attempt began; null for tasks begun before the column was there. started_at
-- is the last attempt's.
ALTER TABLE tasks ADD COLUMN begun_at timestamptz;

-- +goose Down
ALTER TABLE tasks DROP COLUMN begun_at;
