-- +goose Up

-- How many bytes of its source must be there before a task is dispatched; 0 when they are.
ALTER TABLE tasks ADD COLUMN needs bigint NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE tasks DROP COLUMN needs;
