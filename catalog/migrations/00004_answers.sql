-- +goose Up

-- Answers to requests that carried an idempotency key. status 0: the request is
-- under way, or its process ended.
CREATE TABLE answers (
    id          TEXT   NOT NULL PRIMARY KEY,
    fingerprint TEXT   NOT NULL,
    status      BIGINT NOT NULL,
    body        TEXT   NOT NULL,
    created_ms  BIGINT NOT NULL
);
CREATE INDEX answers_created ON answers (created_ms);

-- +goose Down
DROP TABLE answers;
