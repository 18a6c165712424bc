-- +goose Up

-- Whether it can do tasks of plans that grow; the version before can't.
ALTER TABLE workers ADD COLUMN grows boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE workers DROP COLUMN grows;
