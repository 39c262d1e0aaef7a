-- +goose Up

-- Up to which data sequence number of the branch's table guest rows belong to a
-- checkpoint, and are behind a subscriber.
ALTER TABLE checkpoints ADD COLUMN guests BIGINT NOT NULL DEFAULT 0;
ALTER TABLE subscribers ADD COLUMN guests BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE checkpoints DROP COLUMN guests;
ALTER TABLE subscribers DROP COLUMN guests;
