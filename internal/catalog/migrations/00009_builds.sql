-- +goose Up

-- What a worker encodes with; empty for the version before, which doesn't tell.
ALTER TABLE workers ADD COLUMN build text NOT NULL DEFAULT '';
-- What a run is encoded with, empty before its first task; and whether another build has
-- gone on where that was lost.
ALTER TABLE runs ADD COLUMN build text NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN mixed boolean NOT NULL DEFAULT false;
-- The initialisation segment of all its chunks, empty until one is committed.
ALTER TABLE renditions ADD COLUMN init text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE renditions DROP COLUMN init;
ALTER TABLE runs DROP COLUMN mixed;
ALTER TABLE runs DROP COLUMN build;
ALTER TABLE workers DROP COLUMN build;
