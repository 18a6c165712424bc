-- +goose Up

-- How many bytes of its source must be there before a task is dispatched; 0 when they are.
ALTER TABLE tasks ADD COLUMN needs bigint NOT NULL DEFAULT 0;
-- Whether it can do tasks of sources that are not complete; the version before can't.
ALTER TABLE workers ADD COLUMN early boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE workers DROP COLUMN early;
ALTER TABLE tasks DROP COLUMN needs;
