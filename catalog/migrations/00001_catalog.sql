-- Portable SQL: the same text runs on SQLite and PostgreSQL. Ids come from
-- counters, not from the engine's own sequences, so that they are never reused.
-- Times are milliseconds since 1970 UTC; 0 means never.

-- +goose Up
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE counters (
    name TEXT   NOT NULL PRIMARY KEY,
    last BIGINT NOT NULL
);
INSERT INTO counters (name, last)
VALUES ('stream', 0), ('branch', 0), ('view', 0), ('schema', 0), ('trash', 0);

-- A deleted stream keeps its row, so that its schemas still have an owner.
CREATE TABLE streams (
    id               BIGINT NOT NULL PRIMARY KEY,
    namespace        TEXT   NOT NULL,
    name             TEXT   NOT NULL,
    next_field_id    BIGINT NOT NULL,
    last_view_number BIGINT NOT NULL,
    created_ms       BIGINT NOT NULL,
    deleted_ms       BIGINT NOT NULL
);
CREATE UNIQUE INDEX streams_live_name ON streams (namespace, name) WHERE deleted_ms = 0;

CREATE TABLE schemas (
    id         BIGINT NOT NULL PRIMARY KEY,
    stream_id  BIGINT NOT NULL REFERENCES streams (id),
    body       TEXT   NOT NULL,
    created_ms BIGINT NOT NULL
);

CREATE TABLE branches (
    id             BIGINT NOT NULL PRIMARY KEY,
    stream_id      BIGINT NOT NULL REFERENCES streams (id),
    name           TEXT   NOT NULL,
    version        BIGINT NOT NULL,
    settings       TEXT   NOT NULL,
    schema_id      BIGINT NOT NULL REFERENCES schemas (id),
    schema_version BIGINT NOT NULL,
    table_uuid     TEXT   NOT NULL UNIQUE,
    created_ms     BIGINT NOT NULL,
    UNIQUE (stream_id, name)
);

CREATE TABLE branch_schemas (
    branch_id  BIGINT NOT NULL REFERENCES branches (id),
    version    BIGINT NOT NULL,
    schema_id  BIGINT NOT NULL REFERENCES schemas (id),
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (branch_id, version)
);

CREATE TABLE views (
    id              BIGINT NOT NULL PRIMARY KEY,
    stream_id       BIGINT NOT NULL REFERENCES streams (id),
    branch_id       BIGINT NOT NULL REFERENCES branches (id),
    number          BIGINT NOT NULL,
    state           TEXT   NOT NULL CHECK (state IN ('ACTIVE', 'DRAINING', 'RETIRED')),
    partitions      BIGINT NOT NULL,
    schema_id       BIGINT NOT NULL REFERENCES schemas (id),
    last_checkpoint BIGINT NOT NULL,
    created_ms      BIGINT NOT NULL,
    UNIQUE (stream_id, number)
);
CREATE INDEX views_branch ON views (branch_id, number);
-- The branch's current view is its ACTIVE one: there is never a second.
CREATE UNIQUE INDEX views_active ON views (branch_id) WHERE state = 'ACTIVE';
CREATE INDEX views_live ON views (id) WHERE state <> 'RETIRED';

CREATE TABLE checkpoints (
    view_id      BIGINT NOT NULL REFERENCES views (id),
    number       BIGINT NOT NULL,
    cut          TEXT   NOT NULL,
    timestamp_ms BIGINT NOT NULL,
    created_ms   BIGINT NOT NULL,
    PRIMARY KEY (view_id, number)
);
CREATE INDEX checkpoints_created ON checkpoints (created_ms);

-- A released lease keeps its row: the epoch must go on from there.
CREATE TABLE leases (
    view_id    BIGINT NOT NULL PRIMARY KEY REFERENCES views (id),
    owner      TEXT   NOT NULL,
    epoch      BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

CREATE TABLE table_pointers (
    table_uuid TEXT   NOT NULL PRIMARY KEY REFERENCES branches (table_uuid),
    location   TEXT   NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX table_pointers_location ON table_pointers (location);

CREATE TABLE trash (
    id            BIGINT NOT NULL PRIMARY KEY,
    stream_id     BIGINT NOT NULL REFERENCES streams (id),
    table_uuid    TEXT   NOT NULL,
    location      TEXT   NOT NULL,
    not_before_ms BIGINT NOT NULL
);
CREATE INDEX trash_due ON trash (not_before_ms, id);

-- +goose Down
DROP TABLE trash;
DROP TABLE table_pointers;
DROP TABLE leases;
DROP TABLE checkpoints;
DROP TABLE views;
DROP TABLE branch_schemas;
DROP TABLE branches;
DROP TABLE schemas;
DROP TABLE streams;
DROP TABLE counters;
DROP TABLE meta;
