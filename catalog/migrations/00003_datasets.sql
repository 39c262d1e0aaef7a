-- +goose Up

-- DATASET: a dataset without a stream. It has branches like a stream, each with
-- an ACTIVE view that the hot buffer does not open, and one schema row without
-- fields: the schema is in the table's own metadata.
ALTER TABLE streams ADD COLUMN kind TEXT NOT NULL DEFAULT 'STREAM' CHECK (kind IN ('STREAM', 'DATASET'));

CREATE TABLE namespaces (
    name       TEXT   NOT NULL PRIMARY KEY,
    properties TEXT   NOT NULL,
    created_ms BIGINT NOT NULL
);
INSERT INTO namespaces (name, properties, created_ms) VALUES ('default', '{}', 0);
INSERT INTO namespaces (name, properties, created_ms)
SELECT namespace, '{}', min(created_ms) FROM streams
WHERE deleted_ms = 0 AND namespace <> 'default' GROUP BY namespace;

-- +goose Down
DROP TABLE namespaces;
ALTER TABLE streams DROP COLUMN kind;
