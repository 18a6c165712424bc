-- +goose Up

-- A complete run whose asset was encoded anew: its objects leave after a while.
ALTER TABLE runs DROP CONSTRAINT runs_state_check;
ALTER TABLE runs ADD CONSTRAINT runs_state_check
    CHECK (state IN ('planned', 'encoding', 'playable', 'complete', 'failed', 'cancelled', 'replaced'));

-- +goose Down
UPDATE runs SET state = 'cancelled' WHERE state = 'replaced';
ALTER TABLE runs DROP CONSTRAINT runs_state_check;
ALTER TABLE runs ADD CONSTRAINT runs_state_check
    CHECK (state IN ('planned', 'encoding', 'playable', 'complete', 'failed', 'cancelled'));
