-- +goose Up

ALTER TABLE tasks DROP CONSTRAINT tasks_kind_check,
    ADD CONSTRAINT tasks_kind_check CHECK (kind IN ('plan', 'video', 'audio', 'text', 'extra', 'cleanup'));

-- +goose Down
DELETE FROM tasks WHERE kind = 'text';
ALTER TABLE tasks DROP CONSTRAINT tasks_kind_check,
    ADD CONSTRAINT tasks_kind_check CHECK (kind IN ('plan', 'video', 'audio', 'extra', 'cleanup'));
