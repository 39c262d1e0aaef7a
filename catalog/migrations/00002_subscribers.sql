-- +goose Up

-- The largest session of any subscriber that was deleted: a new one of the same
-- name goes on behind it.
INSERT INTO counters (name, last)
VALUES ('subscriber', 0), ('session', 0);

CREATE TABLE subscribers (
    id            BIGINT NOT NULL PRIMARY KEY,
    branch_id     BIGINT NOT NULL REFERENCES branches (id),
    name          TEXT   NOT NULL,
    consistency   TEXT   NOT NULL CHECK (consistency IN ('AT_LEAST_ONCE', 'EXACTLY_ONCE')),
    view_id       BIGINT NOT NULL REFERENCES views (id),
    next          TEXT   NOT NULL,
    checkpoint    BIGINT NOT NULL,
    generation    BIGINT NOT NULL,
    session       BIGINT NOT NULL,
    hold_ms       BIGINT NOT NULL,
    created_ms    BIGINT NOT NULL,
    committed_ms  BIGINT NOT NULL,
    UNIQUE (branch_id, name)
);
CREATE INDEX subscribers_view ON subscribers (view_id, consistency, checkpoint);

-- +goose Down
DROP TABLE subscribers;
DELETE FROM counters WHERE name IN ('subscriber', 'session');
