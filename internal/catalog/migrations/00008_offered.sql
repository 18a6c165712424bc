-- +goose Up

-- Whether it can do tasks of plans that are offered while they grow; the version before can't.
ALTER TABLE workers ADD COLUMN offers boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE workers DROP COLUMN offers;
