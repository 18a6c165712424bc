-- +goose Up

-- Path of the asset's poster below its objects, run first; null until its extras are made.
ALTER TABLE assets ADD COLUMN poster text;

-- +goose Down
ALTER TABLE assets DROP COLUMN poster;
