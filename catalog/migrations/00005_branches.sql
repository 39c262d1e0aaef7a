-- What a branch began with, what is kept of it, and when it was last changed.

-- +goose Up
ALTER TABLE branches ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE branches ADD COLUMN policy TEXT NOT NULL DEFAULT '{}';
ALTER TABLE branches ADD COLUMN changed_ms BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE branches DROP COLUMN changed_ms;
ALTER TABLE branches DROP COLUMN policy;
ALTER TABLE branches DROP COLUMN origin;
